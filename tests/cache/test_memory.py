"""The memory tier: bounded in bytes, SIEVE, purges."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeproxy.cache.directives import Directives, parse_cache_control
from edgeproxy.cache.entry import Entry
from edgeproxy.cache.key import normalised_query, primary_key, without_parameters
from edgeproxy.cache.memory import VARIANTS, MemoryStore
from edgeproxy.cache.purge import apply_purges
from edgeproxy.cache.rule import CacheSection
from edgeproxy.context import Place
from edgeproxy.http.message import Headers
from edgeproxy.http.wire import response
from edgeproxy.purge_log import PurgeKind, PurgeLog
from tests.helpers.requests import NOW, context, headers, request, rule

NOBODY = Headers([])


def entry(
    key: str,
    size: int = 0,
    *,
    names: tuple[bytes, ...] = (),
    variant: bytes = b"",
    path: str = "",
    tags: str = "",
):
    return Entry(
        key.encode(), names, variant, response(200, [], b"x" * size), NOW, NOW + 60, NOW + 60, NOW + 60,
        must_validate=False, never_stale=False, position=0, tags=frozenset(tags.encode().split()),
        location=(b"example.com", (path or f"/{key}").encode(), b""),
    )  # fmt: skip


for _ in range(3):
    entry("warm")  # what entries have in common is kept once: from now on equal ones are of equal size


def test_what_does_not_fit_is_not_stored() -> None:
    store = MemoryStore(5000)
    assert not store.put(entry("a", 6000))
    assert len(store) == store.bytes == 0


def test_sieve_spares_what_was_asked_again() -> None:
    size = entry("a", 100).size
    store = MemoryStore(3 * size)
    for key in "abc":
        store.put(entry(key, 100))
    store.find(b"a", NOBODY)
    store.put(entry("d", 100))
    assert store.find(b"a", NOBODY)[0] is not None
    assert store.find(b"b", NOBODY)[0] is None, "the oldest that nobody asked for"
    assert store.evictions == 1
    for key in "efgh":
        store.put(entry(key, 100))
    assert len(store) == 3


def test_a_new_answer_takes_the_place_of_the_old_one() -> None:
    store = MemoryStore(10**6)
    store.put(entry("a", 10))
    store.put(entry("a", 20))
    assert len(store) == 1
    assert store.bytes == sum([one.size for one in store])


def test_variants_are_bounded() -> None:
    store = MemoryStore(10**7)
    for number in range(VARIANTS + 5):
        store.put(entry("a", names=(b"x",), variant=b"1:%c" % (33 + number)))
    assert len(store) == VARIANTS


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 3000), st.booleans()), max_size=80))
def test_bytes_are_accounted_exactly_and_never_above_the_bound(work: list[tuple[str, int, bool]]) -> None:
    store = MemoryStore(12_000)
    for key, size, reads in work:
        if reads:
            store.find(key.encode(), NOBODY)
        else:
            store.put(entry(key, size))
        assert store.bytes == sum(one.size for one in store) <= 12_000
        assert len(store) == len(list(store))
    store.resize(3000)
    assert store.bytes <= 3000
    store.clear()
    assert (store.bytes, len(store), store._locations, store._keys) == (0, 0, {}, {})


@pytest.mark.parametrize(
    ("kind", "value", "left"),
    [
        (PurgeKind.URL, b"example.com/a", {b"b", b"c", b"d"}),
        (PurgeKind.PREFIX, b"example.com/x", {b"a", b"b"}),
        (PurgeKind.HOST, b"example.com", set[bytes]()),
        (PurgeKind.HOST, b"other.example", {b"a", b"b", b"c", b"d"}),
        (PurgeKind.TAG, b"red", {b"a", b"c", b"d"}),
        (PurgeKind.ALL, b"", set[bytes]()),
    ],
    ids=["url", "prefix", "host", "other host", "tag", "all"],
)
def test_purges(kind: PurgeKind, value: bytes, left: set[bytes]) -> None:
    store, log = MemoryStore(10**6), PurgeLog()
    for one in (entry("a"), entry("b", tags="red"), entry("c", path="/x/1"), entry("d", path="/x/2")):
        store.put(one)
    log.append(kind, value)
    apply_purges(store, log, NOW)
    assert {one.key for one in store} == left
    assert store.position == log.position


def test_a_soft_purge_makes_stale_and_a_lost_log_forgets_everything() -> None:
    store, log = MemoryStore(10**6), PurgeLog()
    store.put(entry("a"))
    log.append(PurgeKind.ALL, b"", soft=True)
    apply_purges(store, log, NOW)
    assert store.find(b"a", NOBODY)[0].fresh_until == NOW  # type: ignore[union-attr]
    for _ in range(200):
        log.append(PurgeKind.URL, b"h/" + b"x" * 8000)
    apply_purges(store, log, NOW)
    assert len(store) == 0
    assert store.position == log.position


def test_invalidation_forgets_every_variant_of_a_url() -> None:
    store = MemoryStore(10**6)
    store.put(entry("a1", path="/a"))
    store.put(entry("a2", path="/a"))
    store.put(entry("b"))
    assert store.invalidate((b"example.com", b"/a", b"")) == 2
    assert store.invalidate((b"example.com", b"/none", b"")) == 0
    assert len(store) == 1


def key_of(
    rules: dict[str, object],
    path: str = "/a",
    query: str = "",
    values: dict[str, str] | None = None,
    **more: object,
):
    ctx = context()
    ctx.place = more.get("place")  # type: ignore[assignment]
    ctx.key_parts = more.get("parts", ())  # type: ignore[assignment]
    compiled = rule(**rules)
    return primary_key(compiled, request(path, values, query=query), query.encode(), ctx)


def test_dimensions_are_part_of_the_key() -> None:
    plain = key_of({})
    assert key_of({"vary_on": ["country"]}, place=Place(country="DE")) != key_of({"vary_on": ["country"]})
    assert key_of({"vary_on": ["header:X-A"]}, values={"X-A": ""}) != key_of({"vary_on": ["header:X-A"]})
    assert key_of({"vary_on": ["cookie:c"]}, values={"Cookie": "b=1; c=2"}) != key_of(
        {"vary_on": ["cookie:c"]}
    )
    assert key_of({}, parts=(b"variant:x=a",)) != plain
    assert key_of({"vary_on": ["variant"]}) == plain


@pytest.mark.parametrize(
    ("rules", "query", "kept"),
    [
        ({}, "b=2&a=1", b"b=2&a=1"),
        ({"query": {"sort": True}}, "b=2&a=1&b=1", b"a=1&b=2&b=1"),
        ({"query": {"deny": ["utm_*", "x"]}}, "utm_a=1&x=2&y=3&%75tm_b=4", b"y=3"),
        ({"query": {"allow": ["y"]}}, "utm_a=1&y=3&", b"y=3"),
    ],
    ids=["as it is", "sorted", "denied, escaped too (A48)", "allowed"],
)
def test_queries(rules: dict[str, object], query: str, kept: bytes) -> None:
    assert normalised_query(rule(**rules), query.encode()) == kept
    assert without_parameters(b"a=1&token=x&b=2", (b"token",)) == b"a=1&b=2"


@given(
    st.lists(
        st.tuples(st.binary(max_size=8), st.binary(max_size=8), st.binary(max_size=8)), min_size=2, max_size=2
    )
)
def test_keys_are_injective(pair: list[tuple[bytes, bytes, bytes]]) -> None:
    keys = []
    for path, query, part in pair:
        ctx = context()
        ctx.key_parts = (part,)
        one = request()
        one = type(one)(one.method, one.host, path, query, one.headers, one.peer)
        keys.append(primary_key(rule(), one, query, ctx))
    assert (keys[0] == keys[1]) == (pair[0] == pair[1])


@given(st.binary(max_size=60) | st.text('no-cachestrepivu=", 0123456789max', max_size=60).map(str.encode))
def test_cache_control_of_any_bytes_is_read_or_forbids(value: bytes) -> None:
    assert isinstance(parse_cache_control(value), Directives)


def test_cache_control_too_long_to_read_forbids_storing() -> None:
    assert parse_cache_control(b"a," * 40_000).no_store
    assert parse_cache_control(None) == Directives()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"max-stale", {"max_stale": 2**31}),
        (b"min-fresh=5, min-fresh=9", {"min_fresh": 9}),
        (b'no-cache="a, B"', {"no_cache_fields": frozenset({b"a", b"b"})}),
        (b"no-cache=", {"no_cache": True}),
        (b"@@, public", {"public": True}),
        (b"only-if-cached,, ,immutable", {"only_if_cached": True, "immutable": True}),
        (b"private; max-age=60", {"private": True, "max_age": 0}),
        (b"max-age=60; no-store, public", {"max_age": 0, "no_store": True, "public": True}),
        (b"private=x-a, no-cache=x-a", {"private": True, "no_cache": True}),
        (rb'private="x\-a"', {"private_fields": frozenset({b"x-a"})}),
    ],
)
def test_directives(value: bytes, expected: dict[str, object]) -> None:
    assert parse_cache_control(value) == Directives(**expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"vary_on": ["colour"]}, "'colour' is not a part of the key"),
        ({"negative": {200: "1s"}}, "200 is not an error status"),
        ({"negative": {403: "1s"}}, "403 is never stored"),
        ({"freshness": {"206": {"set": "1s"}}}, "206 is never stored"),
        ({"freshness": {"2xy": {"set": "1s"}}}, "'2xy' is no status"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_sections_that_make_no_sense_are_refused(section: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CacheSection.model_validate(section)


def test_headers_keep_what_was_received() -> None:
    one = headers([("A", "1"), ("a", "2"), ("Cookie", "x=1"), ("cookie", "y=2")])
    assert one.get(b"a") == b"1, 2"
    assert one.get(b"cookie") == b"x=1; y=2"
    assert one.get_all(b"a") == [b"1", b"2"]
    assert one.get_all(b"none") == []
    assert (b"a" in one, len(one), len(list(one))) == (True, 4, 4)
    assert "x=1" in repr(one)
