"""What the cache holds for a request and would make of an answer, in sentences for `explain`."""

from __future__ import annotations

from edgeproxy.cache.entry import Entry
from edgeproxy.cache.rfc9111 import assess
from edgeproxy.cache.rule import CacheRule
from edgeproxy.http.message import Headers, Request

_REFUSALS = {
    "status": "answers with this status are never stored",
    "no-store": "the origin forbids it with no-store, or with a Cache-Control that cannot be read",
    "private": "it is private: for this client alone",
    "request-no-store": "the request says no-store",
    "authorization": "it answers credentials, and says neither public, s-maxage nor must-revalidate",
    "set-cookie": "it sets a cookie, and the route does not strip cookies",
    "vary": "its Vary has no bound: *, Cookie, User-Agent or too many fields",
    "no-freshness": "nothing says for how long it is fresh, neither the origin nor the route",
    "no-cache": "it may never be used unasked, and has no validator to ask with",
    "already-stale": "it is stale from the start, and has no validator",
    "type-mismatch": "its Content-Type is not what the extension of the path says, and only we call it fresh",
}


def held(entry: Entry, now: float) -> str:
    """How fresh a stored response is, and for how long it may be served stale. Times in steady seconds."""
    age, left = entry.age(now), entry.fresh_until - now
    if entry.must_validate:
        said = f"age {age} s, validated before each use"
    elif left > 0:
        said = f"age {age} s, fresh for {left:.0f} s more"
    else:
        said = f"age {age} s, stale for {-left:.0f} s"
    if not entry.never_stale:
        if entry.stale_until > max(now, entry.fresh_until):
            said += f", served while it is revalidated for {entry.stale_until - now:.0f} s more"
        if entry.error_until > max(now, entry.fresh_until):
            said += f", served if the origin fails for {entry.error_until - now:.0f} s more"
    if entry.names:
        said += f", chosen by {b', '.join(entry.names).decode()}"
    return said


def filled(rule: CacheRule, request: Request, status: int, fields: Headers, now: float) -> str:
    """Whether the route would store this answer: for how long, or why not."""
    if request.method != b"GET" or request.has_body:
        return "not stored: only answers to GET without a body are"
    verdict = assess(rule, request, status, fields, now, now)
    if isinstance(verdict, str):
        return f"not stored: {_REFUSALS.get(verdict, verdict)}"
    said = f"stored, fresh for {max(0.0, verdict.fresh_until - now):.0f} s"
    if verdict.must_validate:
        said = "stored, validated before each use"
    for until, when in (
        (verdict.stale_until, "while revalidated"),
        (verdict.error_until, "if the origin fails"),
    ):
        if until > verdict.fresh_until:
            said += f", then stale for {until - verdict.fresh_until:.0f} s {when}"
    if verdict.never_stale:
        said += ", never served stale (s-maxage, must-revalidate, proxy-revalidate or no-cache says so)"
    return said + (f", chosen by {b', '.join(verdict.names).decode()}" if verdict.names else "")
