"""One spelling of a request target: route, cache key and origin see the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeproxy.errors import RequestError
from edgeproxy.http.target import normalise_host, normalise_path, split_target, without_parameters


@pytest.mark.parametrize(
    ("target", "host", "path", "query"),
    [
        ("/a?b=c?d", "example.com", "/a", "b=c?d"),
        ("http://Other.example:80/a/../b?q", "other.example", "/b", "q"),
        ("http://other.example", "other.example", "/", ""),
        ("http://other.example?q", "other.example", "/", "q"),
    ],
)
def test_a_target_is_split_and_an_absolute_one_names_the_host(
    target: str, host: str, path: str, query: str
) -> None:
    found = split_target(target.encode(), b"example.com", secure=False)
    assert found == (host.encode(), path.encode(), query.encode())


@pytest.mark.parametrize(
    "target", ["", "a", "ftp://x/", "http:///", "/a b", "/a#b", "/a\\b", "http://x/a b", "/%zz", "/%00"]
)
def test_what_two_servers_could_read_in_two_ways_is_refused(target: str) -> None:
    with pytest.raises(RequestError) as caught:
        split_target(target.encode(), b"example.com", secure=False)
    assert caught.value.status == 400


@pytest.mark.parametrize("host", ["", "a b", "a:99999", "a:b", ".", "[::1", "a/b", "user@a"])
@pytest.mark.parametrize("target", ["/", "*", "http://good.example/"])
def test_a_host_that_is_none_is_refused_even_where_it_is_not_used(host: str, target: str) -> None:
    with pytest.raises(RequestError, match="Host"):
        split_target(target.encode(), host.encode(), secure=False, method=b"OPTIONS")


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("*", (b"example.com", b"*", b"")),
        ("http://b.example", (b"b.example", b"*", b"")),
        ("http://b.example/", (b"b.example", b"/", b"")),
        ("http://b.example?q", (b"b.example", b"/", b"q")),
    ],
)
def test_options_may_be_about_all_of_a_server(target: str, found: tuple[bytes, bytes, bytes]) -> None:
    assert split_target(target.encode(), b"example.com", secure=False, method=b"OPTIONS") == found
    if target == "*":
        with pytest.raises(RequestError):
            split_target(b"*", b"example.com", secure=False)


def test_a_host_is_needed() -> None:
    with pytest.raises(RequestError, match="exactly one Host"):
        normalise_host(None, secure=False)


@pytest.mark.parametrize(
    ("host", "secure", "expected"),
    [
        ("Example.COM.", False, "example.com"),
        ("example.com:80", False, "example.com"),
        ("example.com:80", True, "example.com:80"),
        ("example.com:443", True, "example.com"),
        ("[::1]:8080", False, "[::1]:8080"),
    ],
)
def test_one_spelling_of_a_host(host: str, secure: bool, expected: str) -> None:
    assert normalise_host(host.encode(), secure=secure) == expected.encode()


def test_strange_hosts_do_not_grow_the_memo(monkeypatch: pytest.MonkeyPatch) -> None:
    memo: dict[tuple[bytes, bool], bytes] = {}
    monkeypatch.setattr("edgeproxy.http.target._host_memo", memo)
    monkeypatch.setattr("edgeproxy.http.target._HOST_MEMO_CAP", 3)
    for number in range(10):
        assert normalise_host(b"h%d" % number, secure=False) == b"h%d" % number
        assert len(memo) <= 3


def test_no_host_is_longer_than_a_name_can_be() -> None:
    longest = b"a" * 255
    assert normalise_host(longest + b":65535", secure=False) == longest + b":65535"
    with pytest.raises(RequestError):
        normalise_host(b"a" * 262, secure=False)


@given(st.from_regex(rb"(/[a-z.%~2Ff5Ee\-]{0,6}){1,5}", fullmatch=True))
def test_a_normal_path_is_normal_already(path: bytes) -> None:
    try:
        once = normalise_path(path)
    except RequestError:
        return
    assert normalise_path(once) == once
    assert b"//" not in once
    assert not {b".", b".."} & set(once.split(b"/"))


@pytest.mark.parametrize(
    ("path", "expected"), [("/a;x=1/b;y", "/a/b"), ("/a%3Bx/b", "/a/b"), ("/a/b", "/a/b")]
)
def test_parameters_hide_nothing_from_routes(path: str, expected: str) -> None:
    assert without_parameters(path.encode()) == expected.encode()
