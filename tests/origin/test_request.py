"""What crosses the edge: nothing of the hop, all of the rest, and nothing a client made up for us."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeproxy.context import Edit, Op
from edgeproxy.errors import OriginError
from edgeproxy.http.fields import FRAMING, HOP_BY_HOP
from edgeproxy.http.forwarding import UNTRUSTED_NAMES
from edgeproxy.http.last_hop import max_forwards
from edgeproxy.http.message import Field, Headers, Request
from edgeproxy.origin.request import (
    CONDITIONAL,
    forwarding,
    is_loop,
    request_head,
    response_fields,
    trailer_fields,
)

SIGNATURE = [b"Via: 1.1 ams1-a", b"CDN-Loop: ams1-a", b'Surrogate-Capability: ams1-a="Surrogate/1.0"']
PLAIN = forwarding("ams1-a")


def request(*fields: Field, method: bytes = b"GET") -> Request:
    return Request(
        method, b"a.example", b"/p", b"q=1", Headers([(b"Host", b"A.example"), *fields]), "192.0.2.1"
    )


def lines(head: bytes) -> list[bytes]:
    """The lines of a head, its form checked."""
    assert head.endswith(b"\r\n\r\n")
    assert head.count(b"\r\n\r\n") == 1
    return head[:-4].split(b"\r\n")


def forwarded(head: bytes) -> list[bytes]:
    """The field lines but for the ones that are always there."""
    found = lines(head)
    assert found[1].startswith(b"Host: ")
    assert found[-3:] == SIGNATURE
    return found[2:-3]


def test_the_head_has_the_target_as_given_and_the_host_first() -> None:
    head = request_head(request((b"Accept", b"*/*")), b"/p%2F;x?q=1", PLAIN)
    assert lines(head) == [b"GET /p%2F;x?q=1 HTTP/1.1", b"Host: a.example", b"Accept: */*", *SIGNATURE]


def test_the_servers_own_host_replaces_the_clients() -> None:
    head = request_head(request(), b"/", PLAIN, host=b"origin.example:81")
    assert lines(head)[1] == b"Host: origin.example:81"


def test_order_case_duplicates_and_8_bit_bytes_are_kept() -> None:
    fields = [(b"x-LOWER", b"1"), (b"Cookie", b"a=\xff"), (b"X-Lower", b"2"), (b"Cookie", b"b"), (b"E", b"")]
    head = request_head(request(*fields), b"/", PLAIN)
    assert forwarded(head) == [b"x-LOWER: 1", b"Cookie: a=\xff", b"X-Lower: 2", b"Cookie: b", b"E: "]


@pytest.mark.parametrize("name", sorted({*HOP_BY_HOP, *FRAMING, b"expect", b"trailer", b"host"}))
@pytest.mark.parametrize("spelling", ["lower", "upper", "title"])
def test_what_belongs_to_one_hop_is_not_sent_on(name: bytes, spelling: str) -> None:
    written = getattr(name, spelling)()
    head = request_head(request((written, b"x"), (b"Accept", b"*/*"), (written, b"y")), b"/", PLAIN)
    assert forwarded(head) == [b"Accept: */*"]


@pytest.mark.parametrize(
    ("connection", "left"),
    [
        (b"close", [b"X-A: 1", b"X-B: 2"]),
        (b"keep-alive", [b"X-A: 1", b"X-B: 2"]),
        (b"X-A", [b"X-B: 2"]),
        (b"close, x-a ,,X-B", []),
        (b"x_a", [b"X-B: 2"]),
        (b"x-c", [b"X-A: 1", b"X-B: 2"]),
    ],
)
def test_nominated_fields_end_here(connection: bytes, left: list[bytes]) -> None:
    head = request_head(request((b"Connection", connection), (b"X-A", b"1"), (b"X-B", b"2")), b"/", PLAIN)
    assert forwarded(head) == left


def test_a_second_connection_line_nominates_too() -> None:
    fields = [(b"Connection", b"close"), (b"X-A", b"1"), (b"connection", b"X-A")]
    assert forwarded(request_head(request(*fields), b"/", PLAIN)) == []


def test_what_we_assert_cannot_be_nominated_away() -> None:
    nominated = (
        b"close, X-Forwarded-For, X-Real-IP, Via, CDN-Loop, Authorization, X-User, X-Geo-Country, Host"
    )
    head = request_head(
        request((b"Connection", nominated), (b"X-User", b"root"), (b"Authorization", b"Bearer x")),
        b"/",
        forwarding("ams1-a", [b"x-user", b"x-geo-country", *UNTRUSTED_NAMES]),
        edits=[Edit(Op.SET, b"X-User", b"bob"), Edit(Op.ADD, b"X-Geo-Country", b"NO")],
        extra=[(b"X-Forwarded-For", b"192.0.2.1")],
    )
    assert forwarded(head) == [b"X-Forwarded-For: 192.0.2.1", b"X-User: bob", b"X-Geo-Country: NO"]


@pytest.mark.parametrize(
    "name", [b"X-User", b"x-user", b"X_User", b"X.User", b"x_USER", b"X-user", b"X._User", b"X_.User"]
)
def test_inbound_copies_are_stripped_in_every_alias(name: bytes) -> None:
    rule = forwarding("ams1-a", [b"X-User", b"x--user"])
    head = request_head(request((name, b"root"), (name, b"root")), b"/", rule)
    assert forwarded(head) == []


def test_names_with_an_underscore_are_dropped() -> None:
    head = request_head(request((b"a_b", b"1"), (b"a-b", b"2"), (b"a.b", b"3")), b"/", PLAIN)
    assert forwarded(head) == [b"a-b: 2", b"a.b: 3"]


@pytest.mark.parametrize("name", sorted(UNTRUSTED_NAMES))
def test_what_other_proxies_assert_can_be_stripped(name: bytes) -> None:
    rule = forwarding("ams1-a", UNTRUSTED_NAMES)
    assert forwarded(request_head(request((name.title(), b"6.6.6.6")), b"/", rule)) == []


@pytest.mark.parametrize(
    ("edits", "left"),
    [
        ([Edit(Op.SET, b"X-A", b"new")], [b"B: 1", b"X-A: new"]),
        ([Edit(Op.ADD, b"X-A", b"new")], [b"X-A: old", b"B: 1", b"x-a: old", b"X-A: new"]),
        ([Edit(Op.REMOVE, b"x-A")], [b"B: 1"]),
        ([Edit(Op.ADD, b"C", b"1"), Edit(Op.SET, b"c", b"2")], [b"X-A: old", b"B: 1", b"x-a: old", b"c: 2"]),
        ([Edit(Op.SET, b"C", b"1"), Edit(Op.REMOVE, b"c")], [b"X-A: old", b"B: 1", b"x-a: old"]),
        ([Edit(Op.SET, b"Content-Length", b"9")], [b"X-A: old", b"B: 1", b"x-a: old"]),
        ([Edit(Op.ADD, b"Host", b"evil"), Edit(Op.ADD, b"TE", b"x")], [b"X-A: old", b"B: 1", b"x-a: old"]),
    ],
    ids=["set", "add", "remove", "set after add", "remove after set", "framing", "host"],
)
def test_edits_come_after_stripping(edits: list[Edit], left: list[bytes]) -> None:
    fields = [(b"X-A", b"old"), (b"B", b"1"), (b"x-a", b"old")]
    assert forwarded(request_head(request(*fields), b"/", PLAIN, edits=edits)) == left


def test_edits_apply_to_what_we_add() -> None:
    head = request_head(
        request(), b"/", PLAIN, edits=[Edit(Op.SET, b"x-real-ip", b"2")], extra=[(b"X-Real-IP", b"1")]
    )
    assert forwarded(head) == [b"x-real-ip: 2"]


def test_our_conditions_replace_the_clients() -> None:
    fields = [(b"If-None-Match", b'"theirs"'), (b"If-Modified-Since", b"then"), (b"Range", b"bytes=0-1")]
    head = request_head(
        request(*fields), b"/", PLAIN, drop=CONDITIONAL | {b"range"}, extra=[(b"If-None-Match", b'"ours"')]
    )
    assert forwarded(head) == [b'If-None-Match: "ours"']


@pytest.mark.parametrize(
    ("method", "length", "framing"),
    [
        (b"GET", 0, []),
        (b"DELETE", 0, []),
        (b"POST", 0, [b"Content-Length: 0"]),
        (b"PUT", 0, [b"Content-Length: 0"]),
        (b"POST", 7, [b"Content-Length: 7"]),
        (b"GET", 7, [b"Content-Length: 7"]),
        (b"POST", None, [b"Transfer-Encoding: chunked"]),
    ],
)
def test_framing_is_ours_whatever_was_received(
    method: bytes, length: int | None, framing: list[bytes]
) -> None:
    received = [(b"Content-Length", b"3"), (b"Transfer-Encoding", b"chunked"), (b"content_length", b"5")]
    head = request_head(request(*received, method=method), b"/", PLAIN, length=length)
    assert forwarded(head) == framing


def test_an_expectation_is_sent_when_the_caller_says_so() -> None:
    theirs = request((b"Expect", b"100-continue"), method=b"POST")
    assert b"Expect" not in request_head(theirs, b"/", PLAIN, length=7)
    head = request_head(theirs, b"/", PLAIN, length=7, expect_continue=True)
    assert forwarded(head) == [b"Content-Length: 7", b"Expect: 100-continue"]


def test_via_and_cdn_loop_of_others_stay_before_ours() -> None:
    fields = [(b"Via", b"1.1 shield"), (b"CDN-Loop", b"other; v=1")]
    assert forwarded(request_head(request(*fields), b"/", PLAIN)) == [
        b"Via: 1.1 shield",
        b"CDN-Loop: other; v=1",
    ]


@pytest.mark.parametrize(
    "evil", [b"a\r\nX: y", b"a\nX: y", b"a\rb", b"a\0b", b"\n", b"\r\n\r\nGET / HTTP/1.1"]
)
@pytest.mark.parametrize("where", ["edit", "name", "extra", "target", "host", "field"])
def test_a_line_end_from_anywhere_is_never_written(where: str, evil: bytes) -> None:
    with pytest.raises(OriginError) as refused:
        request_head(
            request(*([(b"A", evil)] if where == "field" else [])),
            evil if where == "target" else b"/",
            PLAIN,
            host=evil if where == "host" else None,
            edits=[Edit(Op.SET, b"X", evil)] if where == "edit" else [],
            extra=[(evil, b"x")] if where == "name" else [(b"X", evil)] if where == "extra" else [],
        )
    assert (refused.value.error, refused.value.status) == ("proxy_internal_error", 500)


token = st.text("abcXYZ-._!", min_size=1, max_size=12).map(str.encode)
value = st.binary(max_size=12)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(token, value), max_size=8), st.sampled_from([None, 0, 5]))
def test_whatever_the_fields_a_head_is_one_head_or_an_error(fields: list[Field], length: int | None) -> None:
    try:
        head = request_head(request(*fields), b"/", PLAIN, length=length)
    except OriginError:
        assert any(byte in value for _, value in fields for byte in b"\r\n\0")
        return
    rendered = lines(head)
    assert sum(line.lower().startswith((b"content-length", b"transfer-encoding")) for line in rendered) == (
        length != 0
    )
    assert sum(line.lower().startswith(b"host:") for line in rendered) == 1


@pytest.mark.parametrize(
    ("fields", "drop", "left"),
    [
        ([(b"A", b"1"), (b"Content-Length", b"2"), (b"a", b"3")], frozenset[bytes](), [b"A", b"a"]),
        ([(b"Transfer-Encoding", b"chunked"), (b"TE", b"x"), (b"Upgrade", b"h2c")], frozenset[bytes](), []),
        ([(b"Keep-Alive", b"5"), (b"Connection", b"keep-alive"), (b"B", b"")], frozenset[bytes](), [b"B"]),
        ([(b"Connection", b"close, X-Hop"), (b"x-hop", b"1"), (b"B", b"")], frozenset[bytes](), [b"B"]),
        ([(b"Set-Cookie", b"a"), (b"Set-Cookie", b"b")], frozenset[bytes](), [b"Set-Cookie"] * 2),
        ([(b"Server", b"x"), (b"B", b"")], frozenset([b"server"]), [b"B"]),
        ([(b"x_y", b"\xff"), (b"Trailer", b"X")], frozenset[bytes](), [b"x_y", b"Trailer"]),
        ([(b"Proxy-Authenticate", b"x"), (b"Proxy-Connection", b"x")], frozenset[bytes](), []),
    ],
    ids=["framing", "hop", "usual", "nominated", "duplicates", "drop", "kept", "proxy"],
)
def test_what_of_a_response_is_for_the_client(
    fields: list[Field], drop: frozenset[bytes], left: list[bytes]
) -> None:
    kept = response_fields(Headers(fields), drop)
    assert [name for name, _ in kept] == left
    assert all(field in fields for field in kept)


def test_trailers_cannot_frame_route_or_authenticate() -> None:
    trailers = [(b"X-Sum", b"1"), (b"Content-Length", b"5"), (b"Set-Cookie", b"a"), (b"Host", b"x")]
    assert trailer_fields(trailers) == [(b"X-Sum", b"1")]


@pytest.mark.parametrize(
    ("fields", "loop"),
    [
        ([], False),
        ([(b"Via", b"1.1 ams1-a")], True),
        ([(b"Via", b"1.1 shield, HTTP/1.1 ams1-a (edgeproxy)")], True),
        ([(b"Via", b"1.1 ams1-a2")], False),
        ([(b"Via", b"1.1 xams1-a")], False),
        ([(b"Via", b"ams1-a other")], False),
        ([(b"Via", b"1.1 x (ams1-a)")], False),
        ([(b"Via", b",, ,1.1")], False),
        ([(b"CDN-Loop", b"ams1-a")], True),
        ([(b"CDN-Loop", b"other; v=1 , ams1-a;x=y")], True),
        ([(b"CDN-Loop", b"other; by=ams1-a")], False),
        ([(b"CDN-Loop", b"other"), (b"cdn-loop", b"ams1-a")], True),
        ([(b"Via", b"1.1 x"), (b"CDN-Loop", b"ams1-a")], True),
        ([(b"Via", b"1.1 ams1-ab"), (b"CDN-Loop", b"ams1-a")], True),
    ],
)
def test_a_request_that_was_here_before_is_a_loop(fields: list[Field], loop: bool) -> None:
    assert is_loop(Headers(fields), b"ams1-a") is loop


def test_what_we_send_is_a_loop_when_it_comes_back() -> None:
    head = request_head(request(), b"/", PLAIN)
    fields = [tuple(line.split(b": ", 1)) for line in lines(head)[1:]]
    assert is_loop(Headers(fields), b"ams1-a")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "value", "hops", "sent"),
    [
        (b"OPTIONS", b"3", 3, [b"Max-Forwards: 2"]),
        (b"TRACE", b"1", 1, [b"Max-Forwards: 0"]),
        (b"OPTIONS", b"0", 0, [b"Max-Forwards: 0"]),
        (b"GET", b"3", None, [b"Max-Forwards: 3"]),
        (b"OPTIONS", b"-1", None, []),
        (b"OPTIONS", b"9" * 5000, None, []),
        (b"OPTIONS", b"3, 3", None, []),
    ],
)
def test_max_forwards_counts_down_where_it_counts(
    method: bytes, value: bytes, hops: int | None, sent: list[bytes]
) -> None:
    asked = request((b"Max-Forwards", value), method=method)
    assert max_forwards(method, asked.headers) == hops
    assert forwarded(request_head(asked, b"/", PLAIN)) == sent


def test_options_without_max_forwards_has_no_limit() -> None:
    assert max_forwards(b"OPTIONS", Headers([])) is None
    assert forwarded(request_head(request(method=b"OPTIONS"), b"/", PLAIN)) == []
