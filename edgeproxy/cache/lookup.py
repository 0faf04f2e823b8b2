"""What the cache says to a request: serve, serve stale and refresh, or ask the origin (RFC 9111 §4)."""

from __future__ import annotations

from edgeproxy.cache.conditional import answer
from edgeproxy.cache.directives import NONE, Directives, parse_cache_control
from edgeproxy.cache.entry import Entry, status_stamp
from edgeproxy.cache.memory import MemoryStore
from edgeproxy.cache.rule import CacheRule
from edgeproxy.context import Context
from edgeproxy.decision import Cause, Decision, Fetch, Serve, ServeStale
from edgeproxy.http.message import Request
from edgeproxy.http.replies import problem

LONGEST_ASKED = 256  # bytes of an If-None-Match that is remembered


def lookup(
    store: MemoryStore,
    rule: CacheRule,
    key: bytes,
    request: Request,
    ctx: Context,
    simple: bool = False,
    plain: bool = False,
) -> Decision:
    """The decision for a request that its policies let through. `simple`: it is a GET that asks for no more
    than the stored response or its 304; `plain`: not even for that. What is fresh is then served without
    looking at its fields again."""
    if simple:
        entry, varied = store.find(key, request.headers)
        if entry is None:
            return Fetch(Cause.VARY_MISS if varied else Cause.URI_MISS, key)
        if ctx.now < entry.fresh_until and not entry.must_validate:
            return entry.hit(rule, ctx.now) if plain else _asked_again(rule, request, entry, ctx.now)
    if request.method != b"GET" and request.method != b"HEAD":
        return Fetch(Cause.METHOD)
    if request.has_body:
        return Fetch(Cause.BYPASS)  # a body may change the answer, and is not in the key (A47)
    wishes = _wishes(rule, request)
    if wishes.no_store or (_for_origins(request) and not wishes.only_if_cached):
        return Fetch(Cause.REQUEST)
    entry, varied = store.find(key, request.headers)
    if entry is None:
        if wishes.only_if_cached:
            return _not_cached(rule, request, ctx)
        if request.method == b"HEAD" or (b"range" in request.headers and not rule.fill_ranges):
            return Fetch(Cause.VARY_MISS if varied else Cause.URI_MISS)  # neither fills the cache
        return Fetch(Cause.VARY_MISS if varied else Cause.URI_MISS, key)
    now = ctx.now
    if now >= entry.fresh_until:
        entry = store.renewed(entry, request.headers)
    if wishes is NONE:
        if now < entry.fresh_until and not entry.must_validate:
            return hit(rule, request, entry, now)
    elif _satisfies(wishes, entry, now):
        return hit(rule, request, entry, now)
    if wishes.only_if_cached:
        return _not_cached(rule, request, ctx)
    fresh = now < entry.fresh_until and not entry.must_validate
    if fresh and ctx.notes is None and not store.forced.allows(key, now):
        return hit(rule, request, entry, now)
    cause = Cause.REQUEST if fresh else Cause.STALE
    must_ask = _anew(wishes) or entry.must_validate
    if not fresh and now < entry.stale_until and not must_ask:
        return ServeStale(hit(rule, request, entry, now, Cause.STALE_HIT), Fetch(cause, key, entry))
    # an answer to HEAD fills nothing, but what is stored may stand in for it
    return Fetch(cause, None if request.method == b"HEAD" else key, entry)


def hit(rule: CacheRule, request: Request, entry: Entry, now: float, cause: Cause = Cause.HIT) -> Serve:
    """The stored response, part of it, or the 304 that the client's precondition asks for."""
    stamp = entry.hit(rule, now).stamp
    return Serve(answer(request, entry), cause, stamp)


def _asked_again(rule: CacheRule, request: Request, entry: Entry, now: float) -> Serve:
    """The same for a request that may have a precondition. Clients hold the same validator: what one got
    within this second is for all of them."""
    wanted = request.headers.index.get(b"if-none-match")
    stamp, last = entry.hit(rule, now).stamp, entry.answered
    if last is not None and last[0] == wanted and last[1].stamp is stamp:
        return last[1]
    serve = Serve(answer(request, entry), Cause.HIT, stamp)
    if wanted is not None and len(wanted) <= LONGEST_ASKED and entry.stored:
        entry.answered = (wanted, serve)
    return serve


def asked_anew(rule: CacheRule, request: Request) -> bool:
    """Does the client want the origin's word, rather than what somebody stored a moment ago?"""
    return _anew(_wishes(rule, request))


def _anew(wishes: Directives) -> bool:
    return wishes.no_cache or wishes.max_age is not None or wishes.min_fresh is not None


def _for_origins(request: Request) -> bool:
    """Has it a precondition that no cache evaluates (RFC 9111 §4.3.2)?"""
    index = request.headers.index
    return b"if-match" in index or b"if-unmodified-since" in index


def _wishes(rule: CacheRule, request: Request) -> Directives:
    """The request's directives; Pragma counts only without Cache-Control (§5.4)."""
    if not rule.request_directives:
        return NONE
    control = request.headers.get(b"cache-control")
    if control is not None:
        return parse_cache_control(control)
    pragma = request.headers.get(b"pragma")
    if pragma is not None and b"no-cache" in pragma.lower():
        return parse_cache_control(b"no-cache")
    return NONE


def _satisfies(wishes: Directives, entry: Entry, now: float) -> bool:
    """May this entry be used for these request directives without asking (§5.2.1)?"""
    if wishes.no_cache or entry.must_validate:
        return False
    left = entry.fresh_until - now
    if (
        wishes.max_age is not None
        and entry.age(now) > wishes.max_age
        and not (left > 0 and _immutable(entry))
    ):
        return False
    if wishes.min_fresh is not None and left < wishes.min_fresh:
        return False
    if left > 0:
        return True
    return wishes.max_stale is not None and not entry.never_stale and -left <= wishes.max_stale


def _immutable(entry: Entry) -> bool:
    """Has the origin promised that it stays as it is while it is fresh? Only `no-cache` asks again then
    (RFC 8246 §2)."""
    values = [value for name, value in entry.response.fields if name.lower() == b"cache-control"]
    return any(parse_cache_control(value).immutable for value in values)


def _not_cached(rule: CacheRule, request: Request, ctx: Context) -> Serve:
    answer = problem(
        request, ctx, 504, "only-if-cached", "The cache has no usable answer, and no other was wanted."
    )
    stamp = status_stamp(rule.ident + b"; detail=only-if-cached")  # not forwarded, and no hit (RFC 9211 §2)
    return Serve(answer, Cause.REQUEST, stamp, policy="cache", reason="only-if-cached")
