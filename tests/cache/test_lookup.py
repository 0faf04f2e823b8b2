"""RFC 9111 §4: what a stored response is good for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edgeproxy.cache.cache_status import cache_status
from edgeproxy.cache.entry import Entry
from edgeproxy.cache.invalidation import invalidation_targets
from edgeproxy.cache.key import primary_key
from edgeproxy.cache.lookup import lookup
from edgeproxy.cache.memory import MemoryStore
from edgeproxy.cache.settle import (
    Again,
    Keep,
    Pass,
    Revalidated,
    UseStale,
    build_entry,
    on_failure,
    serve_entry,
    settle,
)
from edgeproxy.cache.tags import TAGS
from edgeproxy.decision import Cause, Fetch, Serve, ServeStale
from edgeproxy.pipeline import IF_CHANGED, NOT_SIMPLE
from tests.helpers.requests import NOW, context, headers, request, rule

RULE = rule()
KEY = primary_key(RULE, request("/a"), b"", context())
BASE = {
    "Date": "Fri, 15 Jan 2027 08:00:00 GMT",
    "ETag": '"v1"',
    "Last-Modified": "Fri, 01 Jan 2027 08:00:00 GMT",
}


def stored(
    control: str = "max-age=60",
    values: dict[str, str] | None = None,
    asked: dict[str, str] | None = None,
    status: int = 200,
):
    """A store that holds /a, and the entry."""
    store = MemoryStore(10**6)
    wish = request("/a", asked)
    key = primary_key(RULE, wish, b"", context())
    answer = headers({**BASE, "Cache-Control": control, **(values or {})})
    verdict = settle(RULE, wish, Fetch(Cause.URI_MISS, key), status, answer, NOW, NOW)
    assert isinstance(verdict, Keep)
    entry = build_entry(verdict, b"body", 0)
    assert store.put(entry)
    return store, entry


def ask(store: MemoryStore, values: dict[str, str] | None = None, at: float = 0, **what: object):
    """The decision; the short way of simple requests comes to the same."""
    wish = request("/a", values, **what)  # type: ignore[arg-type]
    key, index = primary_key(RULE, wish, b"", context()), wish.headers.index
    decision = lookup(store, RULE, key, wish, context(NOW + at))
    if wish.method == b"GET" and not wish.has_body and NOT_SIMPLE.isdisjoint(index):
        plain = IF_CHANGED.isdisjoint(index)
        assert lookup(store, RULE, key, wish, context(NOW + at), simple=True, plain=plain) == decision
    return decision


def test_a_fresh_response_is_served_with_its_age() -> None:
    store, entry = stored()
    decision = ask(store, at=10)
    assert isinstance(decision, Serve)
    assert decision.response is entry.response
    assert decision.stamp.fields == ((b"Age", b"10"), (b"Cache-Status", b"edge; hit; ttl=50"))
    assert ask(store, at=10.5).stamp is decision.stamp, "made once a second"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("values", "at", "cause"),
    [
        pytest.param({}, 61, Cause.STALE, id="§4.2 stale"),
        pytest.param({"Cache-Control": "no-cache"}, 1, Cause.REQUEST, id="§5.2.1.4 no-cache"),
        pytest.param({"Pragma": "no-cache"}, 1, Cause.REQUEST, id="§5.4 Pragma"),
        pytest.param({"Cache-Control": "max-age=5"}, 6, Cause.REQUEST, id="§5.2.1.1 max-age"),
        pytest.param({"Cache-Control": "min-fresh=30"}, 40, Cause.REQUEST, id="§5.2.1.3 min-fresh"),
        pytest.param({"Cache-Control": "max-stale=5"}, 66, Cause.STALE, id="§5.2.1.2 max-stale"),
    ],
)
def test_the_origin_is_asked_when(values: dict[str, str], at: float, cause: Cause) -> None:
    store, entry = stored()
    decision = ask(store, values, at)
    assert isinstance(decision, Fetch)
    assert decision.cause is cause
    assert decision.entry is entry


@pytest.mark.parametrize(
    ("values", "at"),
    [
        pytest.param({"Cache-Control": "max-age=5"}, 4, id="young enough"),
        pytest.param({"Cache-Control": "min-fresh=5"}, 50, id="fresh enough"),
        pytest.param({"Cache-Control": "max-stale"}, 999, id="max-stale without a value"),
        pytest.param({"Cache-Control": "max-stale=10"}, 65, id="stale, but not more than wanted"),
        pytest.param({"Pragma": "x"}, 1, id="another Pragma"),
        pytest.param({"Cache-Control": "only-if-cached"}, 1, id="only-if-cached, and it is"),
    ],
)
def test_the_stored_response_is_good_enough_when(values: dict[str, str], at: float) -> None:
    assert isinstance(ask(stored()[0], values, at), Serve)


@pytest.mark.parametrize(
    ("control", "asked", "at", "served"),
    [
        pytest.param("max-age=60, immutable", "max-age=0", 9, True, id="RFC 8246 §2 a reload asks nobody"),
        pytest.param("max-age=60, immutable", "max-age=5", 59, True, id="RFC 8246 §2 however old"),
        pytest.param("max-age=60, immutable", "no-cache", 9, False, id="RFC 8246 §2 no-cache does"),
        pytest.param("max-age=60, immutable", "min-fresh=55", 9, False, id="RFC 8246 §2 min-fresh too"),
        pytest.param("max-age=60, immutable", "max-age=0", 61, False, id="RFC 8246 §2 only while fresh"),
        pytest.param(
            "max-age=60, immutable", "max-age=0, max-stale", 61, False, id="RFC 8246 §2 nor with it"
        ),
        pytest.param(
            "no-cache, immutable", "max-age=0", 0.5, False, id="RFC 8246 §2 no freshness of its own"
        ),
        pytest.param('max-age=60, x="immutable"', "max-age=0", 9, False, id="RFC 8246 §2 a word in quotes"),
        pytest.param("max-age=60, immutable=1", "max-age=0", 9, True, id="RFC 8246 §2 arguments are ignored"),
    ],
)
def test_what_is_immutable_is_validated_for_no_cache_alone(
    control: str, asked: str, at: float, served: bool
) -> None:
    assert isinstance(ask(stored(control)[0], {"Cache-Control": asked}, at), Serve) is served


@pytest.mark.parametrize(("control", "cause"), [("no-cache", Cause.REQUEST), ("max-age=99", Cause.STALE)])
def test_a_head_that_is_passed_on_says_why(control: str, cause: Cause) -> None:
    store, entry = stored()
    decision = ask(store, {"Cache-Control": control}, 70 if cause is Cause.STALE else 1, method="HEAD")
    assert decision == Fetch(cause, None, entry)


def test_request_directives_can_be_switched_off() -> None:
    store, _ = stored()
    deaf = rule(request_directives=False)
    wish = request("/a", {"Cache-Control": "no-cache"})
    assert isinstance(
        lookup(store, deaf, primary_key(deaf, wish, b"", context()), wish, context(NOW + 1)), Serve
    )


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_stale_while_revalidate_serves_at_once_and_refreshes_behind(method: str) -> None:
    store, entry = stored("max-age=60, stale-while-revalidate=30")
    decision = ask(store, at=70, method=method)
    assert isinstance(decision, ServeStale)
    assert decision.serve.cause is Cause.STALE_HIT
    assert b"ttl=-10" in decision.serve.stamp.lines
    assert decision.refresh == Fetch(Cause.STALE, entry.key, entry)
    assert isinstance(ask(store, at=91, method=method), Fetch), "after the window somebody waits"
    assert isinstance(ask(store, {"Cache-Control": "no-cache"}, 70, method=method), Fetch)


@pytest.mark.parametrize("make_stale", [Entry.expire, Entry.end])
def test_what_is_made_stale_says_so_within_the_same_second(
    make_stale: Callable[[Entry, float], None],
) -> None:
    _, entry = stored("max-age=60, stale-while-revalidate=30")
    assert b"ttl=59" in entry.hit(RULE, NOW + 1).stamp.lines
    make_stale(entry, NOW + 1)
    assert b"ttl=0" in entry.hit(RULE, NOW + 1).stamp.lines


def test_no_cache_responses_are_validated_every_time() -> None:
    store, _ = stored("max-age=60, no-cache")
    assert isinstance(ask(store), Fetch)
    assert isinstance(ask(store, {"Cache-Control": "max-stale"}), Fetch)


@pytest.mark.parametrize(
    ("what", "cause"),
    [({"method": "POST"}, Cause.METHOD), ({"body": True}, Cause.BYPASS)],
    ids=["unsafe methods", "A47 a GET with a body"],
)
def test_the_cache_is_not_asked_for(what: dict[str, object], cause: Cause) -> None:
    decision = ask(stored()[0], **what)  # type: ignore[arg-type]
    assert isinstance(decision, Fetch)
    assert (decision.cause, decision.key) == (cause, None)


def test_what_is_not_stored() -> None:
    empty = MemoryStore(10**6)
    miss = ask(empty)
    assert isinstance(miss, Fetch)
    assert miss.cause is Cause.URI_MISS
    assert miss.key is not None
    for values, section in (
        ({"Range": "bytes=0-1"}, {"ranges": "pass"}),
        ({"Cache-Control": "no-store"}, {}),
    ):
        passed = lookup(empty, rule(**section), b"k", request("/a", values), context())
        assert isinstance(passed, Fetch)
        assert passed.key is None, "its answer must not be stored"
    head = ask(empty, method="HEAD")
    assert isinstance(head, Fetch)
    assert head.key is None
    refused = ask(empty, {"Cache-Control": "only-if-cached"})
    assert isinstance(refused, Serve)
    assert refused.response.status == 504
    assert refused.stamp.lines == b"Cache-Status: edge; detail=only-if-cached\r\n"
    stale = ask(stored()[0], {"Cache-Control": "only-if-cached, max-age=0"}, 70)
    assert isinstance(stale, Serve)
    assert stale.response.status == 504
    assert isinstance(ask(stored()[0], at=70, method="HEAD"), Fetch)


def test_variants_are_told_apart_by_the_fields_that_vary_names() -> None:
    store, _ = stored(
        values={"Vary": "Accept-Encoding, X-A"}, asked={"Accept-Encoding": "gzip, br", "X-A": "1"}
    )
    assert isinstance(ask(store, {"Accept-Encoding": "br;q=1.0, gzip", "X-A": "1"}), Serve), "A65 normalised"
    for values in (
        {"X-A": "1"},
        {"Accept-Encoding": "gzip, br", "X-A": "2"},
        {"Accept-Encoding": "gzip;q=0, br", "X-A": "1"},
    ):
        other = ask(store, values)
        assert isinstance(other, Fetch)
        assert other.cause is Cause.VARY_MISS


@pytest.mark.parametrize(
    ("values", "status"),
    [
        pytest.param({"If-None-Match": '"v1"'}, 304, id="§13.1.2 the same tag"),
        pytest.param({"If-None-Match": 'W/"v1"'}, 304, id="§13.1.2 weak comparison"),
        pytest.param({"If-None-Match": '"x", "v1"'}, 304, id="a list"),
        pytest.param({"If-None-Match": "*"}, 304, id="any"),
        pytest.param({"If-None-Match": '"x"'}, 200, id="another tag"),
        pytest.param({"If-Modified-Since": "Fri, 01 Jan 2027 08:00:00 GMT"}, 304, id="§13.1.3 not since"),
        pytest.param({"If-Modified-Since": "Thu, 31 Dec 2026 08:00:00 GMT"}, 200, id="since"),
        pytest.param({"If-Modified-Since": "yesterday"}, 200, id="no date"),
        pytest.param(
            {"If-None-Match": '"x"', "If-Modified-Since": "Fri, 01 Jan 2027 08:00:00 GMT"},
            200,
            id="§13.2.2 tag first",
        ),
    ],
)
def test_preconditions_of_clients(values: dict[str, str], status: int) -> None:
    decision = ask(stored()[0], values)
    assert isinstance(decision, Serve)
    assert decision.response.status == status
    if status == 304:
        assert decision.response.body == b""
        assert b"content-length" not in decision.response.names
        assert b"etag" in decision.response.names


@pytest.mark.parametrize(
    "values", [{"If-None-Match": '"v1"'}, {"If-Modified-Since": "Fri, 01 Jan 2027 08:00:00 GMT"}]
)
def test_a_precondition_is_about_what_would_be_200_only(values: dict[str, str]) -> None:
    """RFC 9110 §13.2.1: an error is no representation that the client could hold."""
    decision = ask(stored(status=404)[0], values)
    assert isinstance(decision, Serve)
    assert decision.response.status == 404


def test_an_answer_to_a_precondition_is_for_the_same_validator_and_second_only() -> None:
    store, _ = stored(values={"ETag": '"1"'})
    seen: list[tuple[int, bytes]] = []
    for at in (10.0, 10.2, 11.0):
        for validator in ('"1"', '"2"', None, '"1"', 'W/"1"', '"2"', '"1"' + " " * 300, '"1"'):
            decision = ask(store, {"If-None-Match": validator} if validator else {}, at=at)
            assert isinstance(decision, Serve)
            seen.append((decision.response.status, dict(decision.stamp.fields)[b"Age"]))
    statuses = [304, 200, 200, 304, 304, 200, 304, 304]
    assert [status for status, _ in seen] == statuses * 3
    assert [age for _, age in seen] == [b"10"] * 16 + [b"11"] * 8


def test_a_hostile_if_none_match_costs_no_more_than_its_length() -> None:
    """Would take minutes if each of its spaces were looked at from each of them."""
    store, _ = stored()
    for number in range(300):
        decision = ask(store, {"If-None-Match": f"{number}{' ' * 8000}x"})
        assert isinstance(decision, Serve)
        assert decision.response.status == 200


def test_without_last_modified_the_date_counts_however_its_name_is_spelled() -> None:
    """RFC 9111 §4.3.2; HTTP/2 origins write names in lower case."""
    wish = request("/a")
    answer = headers({"date": BASE["Date"], "cache-control": "max-age=60"})
    verdict = settle(RULE, wish, Fetch(Cause.URI_MISS, KEY), 200, answer, NOW, NOW)
    assert isinstance(verdict, Keep)
    store = MemoryStore(10**6)
    assert store.put(build_entry(verdict, b"body", 0))
    decision = ask(store, {"If-Modified-Since": BASE["Date"]})
    assert isinstance(decision, Serve)
    assert decision.response.status == 304


def fetch_of(entry: Entry) -> Fetch:
    return Fetch(Cause.STALE, entry.key, entry)


def test_a_304_makes_the_stored_response_fresh_again() -> None:
    store, entry = stored(values={"X-Old": "1"})
    news = headers(
        {
            "Cache-Control": "max-age=100",
            "ETag": '"v1"',
            "X-New": "2",
            "Date": BASE["Date"],
            "Content-Length": "0",
        }
    )
    settled = settle(RULE, request(), fetch_of(entry), 304, news, NOW, NOW)
    assert isinstance(settled, Revalidated)
    fresh = settled.entry
    assert fresh.fresh_until == NOW + 100
    assert fresh.response.body == b"body"
    assert {b"x-old", b"x-new"} <= fresh.response.names
    assert (b"Content-Length", b"4") in fresh.response.fields
    assert store.put(fresh)
    assert len(store) == 1
    served = serve_entry(RULE, request(), fresh, Cause.STALE, 304, NOW)
    assert b"fwd=stale; fwd-status=304" in served.stamp.lines


def test_a_304_brings_tags_and_takes_none() -> None:
    _, entry = stored(values={"Cache-Tag": "a b"})
    news = headers({"Cache-Tag": "b c", "ETag": '"v1"'})
    settled = settle(RULE, request(), fetch_of(entry), 304, news, NOW, NOW)
    assert isinstance(settled, Revalidated)
    assert settled.entry.tags == {b"a", b"b", b"c"}
    flood = headers({"Cache-Tag": ",".join(f"x{number}" for number in range(TAGS)), "ETag": '"v1"'})
    settled = settle(RULE, request(), fetch_of(entry), 304, flood, NOW, NOW)
    assert isinstance(settled, Revalidated)
    assert len(settled.entry.tags) == TAGS


@pytest.mark.parametrize(
    ("ours", "theirs", "kept"), [('W/"v1"', '"v1"', b'W/"v1"'), ('"v1"', 'W/"v1"', b'W/"v1"')]
)
def test_a_304_never_makes_a_weak_tag_strong(ours: str, theirs: str, kept: bytes) -> None:
    """RFC 9110 §8.8.1: what was compared weakly may be other bytes."""
    _, entry = stored(values={"ETag": ours})
    settled = settle(RULE, request(), fetch_of(entry), 304, headers({"ETag": theirs}), NOW, NOW)
    assert isinstance(settled, Revalidated)
    assert settled.entry.etag == kept


def test_a_304_for_another_version_is_asked_again_without_a_condition() -> None:
    _, entry = stored()
    for other in ({"ETag": '"v2"'}, {"Last-Modified": "Sat, 02 Jan 2027 08:00:00 GMT"}):
        assert isinstance(settle(RULE, request(), fetch_of(entry), 304, headers(other), NOW, NOW), Again)


def test_a_304_that_forbids_storing_is_good_for_this_once() -> None:
    _, entry = stored()
    settled = settle(RULE, request(), fetch_of(entry), 304, headers({"Cache-Control": "no-store"}), NOW, NOW)
    assert isinstance(settled, Revalidated)
    assert settled.entry.must_validate


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_failing_origin_is_stood_in_for(status: int) -> None:
    _, entry = stored("max-age=60, stale-if-error=100")
    late = NOW + 100
    assert isinstance(settle(RULE, request(), fetch_of(entry), status, headers(), late, late), UseStale)
    assert on_failure(entry, late)
    assert not on_failure(entry, NOW + 161)
    assert isinstance(settle(RULE, request(), fetch_of(entry), status, headers(), NOW + 161, NOW + 161), Pass)
    served = serve_entry(RULE, request(), entry, Cause.STALE_ERROR, status, late)
    assert b"Age: 100" in served.stamp.lines
    assert b"fwd=stale; fwd-status=%d; ttl=-40" % status in served.stamp.lines


def test_must_revalidate_is_never_stood_in_for() -> None:
    _, entry = stored("max-age=60, stale-if-error=100, must-revalidate")
    assert not on_failure(entry, NOW + 61)


def test_what_is_too_large_is_passed() -> None:
    small = rule(object_size=10)
    answer = headers({**BASE, "Cache-Control": "max-age=9", "Content-Length": "11"})
    settled = settle(small, request(), Fetch(Cause.URI_MISS, KEY), 200, answer, NOW, NOW)
    assert settled == Pass("too-large")
    assert settle(small, request(), Fetch(Cause.BYPASS), 200, answer, NOW, NOW) == Pass("", remember=False)


def test_cache_status_of_a_miss() -> None:
    value = cache_status(b"edge", Cause.URI_MISS, 200, stored=True, collapsed=True, ttl=9, detail="x")
    assert value == b"edge; fwd=uri-miss; fwd-status=200; stored; collapsed; ttl=9; detail=x"
    assert cache_status(b"edge", Cause.MISS, 0, detail="y") == b"edge; fwd=miss; detail=y", (
        "nothing came back"
    )


@pytest.mark.parametrize(
    ("method", "status", "answer", "paths"),
    [
        ("POST", 200, {}, [b"/a"]),
        ("DELETE", 204, {}, [b"/a"]),
        ("POST", 500, {}, []),
        ("GET", 200, {}, []),
        ("POST", 201, {"Location": "/b?x=1"}, [b"/a", b"/b"]),
        ("POST", 201, {"Location": "http://example.com/c"}, [b"/a", b"/c"]),
        ("POST", 201, {"Location": "http://evil.example/c", "Content-Location": "//evil.example/d"}, [b"/a"]),
        ("PUT", 200, {"Content-Location": "http://example.com"}, [b"/a", b"/"]),
    ],
)
def test_unsafe_methods_invalidate(
    method: str, status: int, answer: dict[str, str], paths: list[bytes]
) -> None:
    """RFC 9111 §4.4: the target, and what the answer names on the same origin."""
    targets = invalidation_targets(request("/a", method=method), status, headers(answer))
    assert [path for _, path, _ in targets] == paths


def test_a_follower_with_other_selecting_fields_is_not_served_this_answer() -> None:
    answer = headers({**BASE, "Cache-Control": "max-age=60", "Vary": "X-A"})
    settled = settle(RULE, request("/a", {"X-A": "1"}), Fetch(Cause.URI_MISS, KEY), 200, answer, NOW, NOW)
    assert isinstance(settled, Keep)
    assert settled.suits(request("/a", {"X-A": "1"}))
    assert not settled.suits(request("/a", {"X-A": "2"}))


@pytest.mark.parametrize(
    ("control", "decision"),
    [
        pytest.param("max-age=60", Fetch, id="no window: asked before it is served"),
        pytest.param("max-age=60, stale-while-revalidate=30", ServeStale, id="within its window"),
        pytest.param("max-age=60, must-revalidate", Fetch, id="§5.2.2.2 never stale"),
    ],
)
def test_what_is_made_stale_early_is_stale_as_if_its_time_had_come(control: str, decision: type) -> None:
    store, entry = stored(control)
    entry.expire(NOW + 10)
    assert isinstance(ask(store, at=20), decision)
    entry.expire(NOW + 50)
    assert isinstance(ask(store, at=20), decision), "what is stale already does not come back"
    assert isinstance(ask(store, at=45), Fetch), "the window began when it was made stale"
