"""A purge names stored responses exactly as requests for them are normalised."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeproxy.admin.purge import PurgeError, PurgeRequest, parse_purge
from edgeproxy.purge_log import PurgeKind


@pytest.mark.parametrize(
    ("parameters", "kind", "value"),
    [
        ({"url": "http://A.example/x"}, PurgeKind.URL, b"a.example/x"),
        ({"url": "https://a.example:443/x?b=1"}, PurgeKind.URL, b"a.example/x?b=1"),
        ({"url": "HTTP://a.example:8080"}, PurgeKind.URL, b"a.example:8080/"),
        ({"url": "http://a.example/a/../%7Eb//c"}, PurgeKind.URL, b"a.example/~b/c"),
        ({"url": "http://a.example/café"}, PurgeKind.URL, b"a.example/caf%C3%A9"),
        ({"url": "http://a.example/x?"}, PurgeKind.URL, b"a.example/x"),
        ({"prefix": " http://a.example/img/ "}, PurgeKind.PREFIX, b"a.example/img/"),
        ({"host": "WWW.Example.com."}, PurgeKind.HOST, b"www.example.com"),
        ({"host": "bücher.example"}, PurgeKind.HOST, b"xn--bcher-kva.example"),
        ({"tag": "news-42"}, PurgeKind.TAG, b"news-42"),
        ({"all": True}, PurgeKind.ALL, b""),
        ({"all": ""}, PurgeKind.ALL, b""),
    ],
    ids=[
        "host in capitals", "default port and query", "other port, no path", "odd path", "not ASCII",
        "empty query", "prefix", "host", "international host", "tag", "all", "all in a query string",
    ],
)  # fmt: skip
def test_what_is_named_is_normalised_as_requests_are(parameters, kind, value):
    assert parse_purge(parameters) == PurgeRequest(kind, value, soft=False)


@pytest.mark.parametrize(
    ("soft", "expected"),
    [(True, True), (False, False), ("1", True), ("no", False), ("", True), ("FALSE", False)],
)
def test_soft_is_a_flag_in_json_and_in_a_query(soft, expected):
    assert parse_purge({"tag": "a", "soft": soft}).soft is expected


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"soft": True},
        {"url": "http://a.example/", "all": True},
        {"urls": "http://a.example/"},
        {"url": "/x"},
        {"url": "ftp://a.example/x"},
        {"url": "http://a.example/../.."},
        {"url": "http://a.example/x#fragment"},
        {"url": "http:///x"},
        {"url": ["http://a.example/"]},
        {"url": "  "},
        {"prefix": "http://a.example/x?y"},
        {"host": "http://a.example"},
        {"host": "a..\u0131" * 40},
        {"tag": "two words"},
        {"tag": "x" * 1025},
        {"all": False},
        {"all": "maybe"},
        {"all": 1},
        {"tag": "a", "soft": None},
    ],
    ids=str,
)
def test_what_cannot_be_understood_is_refused_with_a_sentence(parameters):
    with pytest.raises(PurgeError, match=r"\.$"):
        parse_purge(parameters)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3),
)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["url", "prefix", "host", "tag", "all", "soft"]), json_values, max_size=2)
    | st.builds(lambda text: {"url": f"http://{text}"}, st.text(max_size=60))
)
def test_any_parameters_are_a_purge_or_a_purge_error(parameters):
    with suppress(PurgeError):
        assert isinstance(parse_purge(parameters), PurgeRequest)
