"""What the cache holds for a request and would make of an answer, in sentences for `explain`."""

from __future__ import annotations

from edgeproxy.cache.entry import Entry
from edgeproxy.cache.rfc9111 import assess, fresh_by
from edgeproxy.cache.rule import CacheRule
from edgeproxy.http.message import Headers, Request

_REFUSALS = {
    "status": "answers with this status are never stored",
    "no-store": "the origin forbids it with no-store, or with a Cache-Control that cannot be read",
    "private": "it is private: for this client alone",
    "request-no-store": "the request says no-store",
    "authorization": "it answers credentials, and says neither public, s-maxage nor must-revalidate",
    "set-cookie": "it sets a cookie, and the route does not strip cookies",
    "vary": "its Vary has no bound: *, Cookie, User-Agent, X-Forwarded-For, Forwarded or too many fields",
    "no-freshness": "nothing says for how long it is fresh, neither the origin nor the route",
    "no-cache": "it may never be used unasked, and has no validator to ask with",
    "already-stale": "it is stale from the start, and has no validator",
    "too-large": "its body is larger than cache.object_size of the route and the cache allow",
    "too-many-tags": "it has more cache tags than one answer may have",
    "error": "the origin fails, and what is stored stays",
    "type-mismatch": "its Content-Type is not what the extension of the path says, and only we call it fresh",
}


def held(rule: CacheRule, entry: Entry, now: float) -> str:
    """How fresh a stored response is and by what, and for how long it may be served stale. Times in steady
    seconds."""
    age, left = entry.age(now), entry.fresh_until - now
    if entry.must_validate:
        said = f"age {age} s, validated before each use"
    elif left > 0:
        said = f"age {age} s, fresh for {left:.0f} s more{_by(rule, entry)}"
    else:
        said = f"age {age} s, stale for {-left:.0f} s{_by(rule, entry)}"
    if not entry.never_stale:
        if entry.stale_until > max(now, entry.fresh_until):
            said += f", served while it is revalidated for {entry.stale_until - now:.0f} s more"
        if entry.error_until > max(now, entry.fresh_until):
            said += f", served if the origin fails for {entry.error_until - now:.0f} s more"
    if entry.names:
        said += f", chosen by {b', '.join(entry.names).decode()}"
    return said


def facts(entry: Entry, now: float) -> dict[str, object]:
    """The same for programs; seconds, and below 0 what is over."""
    return {
        "status": entry.response.status,
        "age": entry.age(now),
        "fresh_for": round(entry.fresh_until - now, 3),
        "stale_while_revalidate_for": round(entry.stale_until - now, 3),
        "stale_if_error_for": round(entry.error_until - now, 3),
        "must_validate": entry.must_validate,
        "vary": [name.decode() for name in entry.names],
        "tags": sorted(tag.decode("utf-8", "backslashreplace") for tag in entry.tags),
    }


def _by(rule: CacheRule, entry: Entry) -> str:
    """What its freshness comes from; nothing when its fields do not say: some are not kept, and a soft purge
    or an unsafe request ends it early."""
    lifetime, why = fresh_by(rule, entry.response.status, Headers(list(entry.response.fields)), entry.born)
    real = entry.fresh_until - entry.born
    return f" ({why})" if why and lifetime * (1 - rule.jitter) - 1 <= real <= lifetime + 1 else ""


def refusal(reason: str) -> str:
    """Why an answer is not stored, by the word of `rfc9111.assess` or of the edge, as a sentence."""
    return f"not stored: {_REFUSALS.get(reason, reason)}"


def filled(rule: CacheRule, request: Request, status: int, fields: Headers, now: float) -> str:
    """Whether the route would store this answer: for how long and by what, or why not."""
    if request.method != b"GET" or request.has_body:
        return "not stored: only answers to GET without a body are"
    verdict = assess(rule, request, status, fields, now, now)
    if isinstance(verdict, str):
        return refusal(verdict)
    why = fresh_by(rule, status, fields, now)[1]
    said = f"stored, fresh for {max(0.0, verdict.fresh_until - now):.0f} s" + (f" ({why})" if why else "")
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
