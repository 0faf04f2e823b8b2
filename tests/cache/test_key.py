"""The cache key: what tells requests apart, and that nothing else can be made to (A44, A45, A48, A65)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeproxy.cache.key import location_of, normalised_query, primary_key, shown_key, variant_key
from edgeproxy.context import Place
from edgeproxy.http.codings import canonical_codings
from edgeproxy.http.device import device_class
from tests.helpers.requests import context, headers, request, rule

PARTS = st.binary(max_size=12) | st.sampled_from([b":", b"1:a", b"=", b"0:", b"3:a:b"])


@pytest.mark.parametrize(
    ("section", "query", "kept"),
    [
        pytest.param({}, "b=2&a=1&utm_x=3", b"b=2&a=1&utm_x=3", id="as it is"),
        pytest.param(
            {"sort": True}, "b=2&a=1&b=1", b"a=1&b=2&b=1", id="sorted; repeated names keep their order"
        ),
        pytest.param({"deny": ["utm_*"]}, "utm_source=x&a=1&utm_x", b"a=1", id="a prefix is left out"),
        pytest.param({"deny": ["utm_*"]}, "%75tm_x=1&a=1", b"a=1", id="however it is written"),
        pytest.param({"deny": ["utm_*"]}, "utm_x=1;callback=evil&a=1", b"a=1", id="A48 ; is no delimiter"),
        pytest.param({"deny": ["id"]}, "ids=1&id=2", b"ids=1", id="a name is the whole name"),
        pytest.param({"allow": ["a", "b"]}, "c=1&b=2&a=3", b"b=2&a=3", id="only these"),
        pytest.param({"allow": ["a"], "deny": ["a"]}, "a=1", b"", id="denied wins"),
        pytest.param({"allow": []}, "a=1", b"", id="none at all"),
        pytest.param({"sort": True}, "&&a=1&", b"a=1", id="empty parts go"),
        pytest.param({"deny": ["a"]}, "b=1%26a=2", b"b=1%26a=2", id="A48 an encoded & is no delimiter"),
    ],
)
def test_the_query_that_counts(section: dict[str, object], query: str, kept: bytes) -> None:
    assert normalised_query(rule(query=section), query.encode()) == kept


def key_of(
    values: dict[str, str] | list[tuple[str, str]] | None = None, country: str | None = None, *vary_on: str
) -> bytes:
    ctx = context()
    ctx.place = None if country is None else Place(country)
    wish = request("/a", values)
    return primary_key(rule(vary_on=list(vary_on)), wish, b"", ctx)


@pytest.mark.parametrize(
    ("vary_on", "one", "other", "same"),
    [
        ("header:X-A", {"X-A": "1"}, {"X-A": "2"}, False),
        ("header:X-A", {"x-a": "1"}, {"X-A": "1"}, True),
        ("header:X-A", {}, {"X-A": ""}, False),
        ("header:X-A", {"X-B": "1"}, {"X-B": "2"}, True),
        ("cookie:c", {"Cookie": "c=1; d=1"}, {"Cookie": "d=2; c=1"}, True),
        ("cookie:c", {"Cookie": "c=1"}, {"Cookie": "c=2"}, False),
        ("cookie:c", {"Cookie": "c="}, {}, False),
        ("cookie:c", {"Cookie": "c=1; c=2"}, {"Cookie": "c=1"}, False),
        ("cookie:c", {"Cookie": "cc=1"}, {}, True),
    ],
)
def test_a_chosen_part_tells_requests_apart(
    vary_on: str, one: dict[str, str], other: dict[str, str], same: bool
) -> None:
    assert (key_of(one, None, vary_on) == key_of(other, None, vary_on)) is same
    assert key_of(one) == key_of(other), "only where it was chosen"


def test_country_is_a_part_where_it_was_chosen() -> None:
    assert len({key_of(None, place, "country") for place in ("NL", "DE", "", None)}) == 3
    assert len({key_of(None, place) for place in ("NL", "DE", None)}) == 1


def test_the_method_and_its_body_are_no_part_but_the_scheme_is() -> None:
    plain, secure = request("/a"), request("/a")
    object.__setattr__(secure, "secure", True)
    ctx = context()
    assert primary_key(rule(), plain, b"", ctx) != primary_key(rule(), secure, b"", ctx)


@given(
    one=st.tuples(PARTS, PARTS, PARTS, st.lists(PARTS, max_size=3)),
    other=st.tuples(PARTS, PARTS, PARTS, st.lists(PARTS, max_size=3)),
)
def test_no_two_requests_share_a_key(
    one: tuple[bytes, bytes, bytes, list[bytes]], other: tuple[bytes, bytes, bytes, list[bytes]]
) -> None:
    """A45: lengths come first, so a delimiter inside a part forges nothing."""
    assert (_key(*one) == _key(*other)) is (one == other)


def _key(host: bytes, path: bytes, query: bytes, parts: list[bytes]) -> bytes:
    wish = request()
    object.__setattr__(wish, "host", host)
    object.__setattr__(wish, "path", path)
    ctx = context()
    ctx.key_parts = tuple(parts)
    return primary_key(rule(), wish, query, ctx)


@pytest.mark.parametrize(
    ("accepted", "canonical", "known"),
    [
        ("gzip, br", "br, gzip", "br, gzip"),
        ("br;q=0.1,GZIP;q=1.0", "br, gzip", "br, gzip"),
        ("gzip;q=0, br", "br", "br"),
        ("gzip;q=0.000", "identity", "identity"),
        ("*", "br, gzip, zstd", "br, gzip, zstd"),
        ("*, gzip;q=0", "br, zstd", "br, zstd"),
        ("x-new, gzip", "gzip, x-new", "gzip"),
        ("identity;q=0, gzip", "gzip, identity;q=0", "gzip"),
        ("*;q=0", "identity;q=0", "identity"),
        ("", "identity", "identity"),
    ],
)
def test_accept_encoding_in_one_spelling(accepted: str, canonical: str, known: str) -> None:
    assert canonical_codings(accepted.encode()).decode() == canonical
    assert canonical_codings(accepted.encode(), known_only=True).decode() == known


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"Accept-Encoding": "gzip, br"}, {"Accept-Encoding": "br,gzip;q=0.5"}, True),
        ({"Accept-Encoding": "gzip"}, {}, False),
        ({"Accept-Encoding": ""}, {}, False),
        ({"Accept-Encoding": "x-a"}, {"Accept-Encoding": "x-b"}, False),
    ],
)
def test_spellings_of_accept_encoding_are_one_variant(
    one: dict[str, str], other: dict[str, str], same: bool
) -> None:
    names = (b"accept-encoding",)
    assert (variant_key(names, headers(one)) == variant_key(names, headers(other))) is same


@pytest.mark.parametrize(
    ("values", "device"),
    [
        ({}, b"desktop"),
        ({"User-Agent": "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0"}, b"desktop"),
        ({"User-Agent": "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0) Version/18 Mobile/15E148"}, b"mobile"),
        ({"User-Agent": "Mozilla/5.0 (iPad; CPU OS 18_0) Version/18 Mobile/15E148"}, b"tablet"),
        ({"User-Agent": "Mozilla/5.0 (Linux; Android 15; Pixel) Chrome/130 Mobile"}, b"mobile"),
        ({"User-Agent": "Mozilla/5.0 (Linux; Android 15; SM-X900) Chrome/130"}, b"tablet"),
        ({"User-Agent": "x", "Sec-CH-UA-Mobile": "?1"}, b"mobile"),
        ({"User-Agent": "Some Mobile thing", "Sec-CH-UA-Mobile": "?0"}, b"desktop"),
        ({"User-Agent": "x" * 600 + "Mobi"}, b"desktop"),
    ],
)
def test_the_class_of_a_device(values: dict[str, str], device: bytes) -> None:
    assert device_class(headers(values)) == device


@pytest.mark.parametrize(
    ("section", "query", "shown"),
    [
        ({}, "", "http example.com /a"),
        ({"query": {"deny": ["utm_*"]}}, "utm_x=1&b=2", "http example.com /a?b=2"),
        ({"vary_on": ["header:X-A", "cookie:c"]}, "", "http example.com /a header:x-a=1 cookie:c"),
    ],
)
def test_a_key_can_be_shown(section: dict[str, object], query: str, shown: str) -> None:
    wish, made = request("/a", {"X-A": "1"}, query=query), rule(**section)
    key = primary_key(made, wish, wish.query, context())
    assert shown_key(key) == shown
    assert location_of(key) == (b"example.com", b"/a", shown.partition("?")[2].encode())
