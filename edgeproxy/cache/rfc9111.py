"""May a response be stored, and for how long is it fresh? (RFC 9111 §3, §4.2, RFC 5861)"""

from __future__ import annotations

from zlib import crc32

from edgeproxy.cache.deception import is_unlike
from edgeproxy.cache.directives import FOREVER, Directives, parse_cache_control
from edgeproxy.cache.rule import HEURISTIC_CAP, NEVER, CacheRule, Freshness
from edgeproxy.cache.targeted import response_control
from edgeproxy.http.dates import parse_date
from edgeproxy.http.message import Headers, Request
from edgeproxy.record import record

# RFC 9110 §15.1, less those that tell one client about its own request (reliability A52)
HEURISTIC = frozenset({200, 203, 204, 300, 301, 308, 404, 410})
UNDERSTOOD = frozenset({200, 203, 204, 300, 301, 302, 303, 307, 308, 404, 405, 410, 501})
BY_ANSWER = frozenset({"status", "no-store", "private"})  # words for what the answer alone decides
VARY_NAMES = 16  # a Vary of more names is not worth storing
# as many variants as clients (A64); and what the edge tells of the client is in no field that the client sent
UNBOUNDED_VARY = frozenset({b"*", b"cookie", b"user-agent", b"forwarded", b"x-forwarded-for"})


@record
class Assessment:
    """A response that may be stored, and its times in steady seconds."""

    names: tuple[bytes, ...]
    born: float
    fresh_until: float
    stale_until: float
    error_until: float
    must_validate: bool
    never_stale: bool
    left_out: frozenset[bytes] = frozenset()  # lower-case names of fields that must not be stored
    ahead: float = 0.0  # by how many seconds the wall clock is ahead of the steady one


def assess(
    rule: CacheRule,
    request: Request,
    status: int,
    headers: Headers,
    requested_at: float,
    responded_at: float,
    ahead: float = 0.0,
) -> Assessment | str:
    """What storing the response would mean, or the word for why it must not be stored. `ahead`: by how many
    seconds the wall clock, which origins go by, is ahead of the steady one."""
    override = rule.freshness_of(status)
    control, targeted = response_control(headers, rule.ident)
    if override is not None and override.ignore:
        control, targeted = Directives(private=control.private, private_fields=control.private_fields), True
    refused = _must_not_store(rule, request, status, headers, control)
    if refused:
        return refused
    names = vary_names(headers)
    if names is None:
        return "vary"
    if rule.headers:  # what is in the key need not be compared again
        names = tuple([name for name in names if name not in rule.headers])
    date = parse_date(headers.get(b"date"))
    age = corrected_age(headers, date, requested_at, responded_at, ahead)
    said = _lifetime(rule, status, headers, control, date, responded_at + ahead, targeted=targeted)
    lifetime = None if said is None else said[0]
    if override is not None:
        lifetime = override.apply(lifetime)
    if lifetime is None:
        return "no-freshness"
    if _is_ours(override, headers, control, targeted=targeted) and is_unlike(
        request.path, headers.get(b"content-type")
    ):
        return "type-mismatch"
    validators = b"etag" in headers or b"last-modified" in headers
    must_validate = control.no_cache
    strict = control.must_revalidate or control.proxy_revalidate or must_validate
    windows = not strict and (control.stale_while_revalidate or control.stale_if_error)
    if not validators and (must_validate or (lifetime <= 0 and not windows)):
        return "no-cache" if must_validate else "already-stale"
    if rule.jitter:
        lifetime -= lifetime * rule.jitter * _share(request.path, responded_at)
    born = responded_at - age
    fresh_until = born + lifetime
    swr = _window(control.stale_while_revalidate, rule.stale_while_revalidate)
    sie = _window(control.stale_if_error, rule.stale_if_error)
    explicit = control.stale_while_revalidate is not None or control.stale_if_error is not None
    never_stale = strict or (control.s_maxage is not None and not explicit)
    return Assessment(
        names,
        born,
        fresh_until,
        fresh_until if never_stale else fresh_until + swr,
        fresh_until if never_stale else fresh_until + sie,
        must_validate,
        never_stale,
        _left_out(rule, control),
        ahead,
    )


def _left_out(rule: CacheRule, control: Directives) -> frozenset[bytes]:
    """Fields that `private` and `no-cache` name (§5.2.2.4, §5.2.2.7), cookies, what clients do not get."""
    names = control.private_fields | control.no_cache_fields | rule.hidden
    return names | {b"set-cookie"} if rule.strip_cookies else names


def _is_ours(override: Freshness | None, headers: Headers, control: Directives, *, targeted: bool) -> bool:
    """Is the lifetime our guess or our rule, rather than what the origin said?"""
    if override is not None and (override.ignore or override.set is not None or override.extend is not None):
        return True
    said = control.s_maxage is not None or control.max_age is not None
    return not said and (targeted or b"expires" not in headers)


def _share(path: bytes, at: float) -> float:
    """A number from 0 to 1 that another path, or the same at another time, does not have."""
    return crc32(b"%b %f" % (path, at)) / 0xFFFFFFFF


def _window(from_origin: int | None, from_rule: float | None) -> float:
    return float(from_origin) if from_origin is not None else from_rule or 0.0


def _must_not_store(
    rule: CacheRule, request: Request, status: int, headers: Headers, control: Directives
) -> str:
    """RFC 9111 §3 and §3.5, and what a shared cache has no business keeping."""
    if status < 200 or status in NEVER:
        return "status"
    if control.no_store and not (control.must_understand and status in UNDERSTOOD):
        return "no-store"
    if control.must_understand and status not in UNDERSTOOD:
        return "status"
    if control.private:
        return "private"
    if parse_cache_control(request.headers.get(b"cache-control")).no_store:
        return "request-no-store"
    if b"authorization" in request.headers and not (
        control.public or control.s_maxage is not None or control.must_revalidate
    ):
        return "authorization"
    if b"set-cookie" in headers and not rule.strip_cookies:
        return "set-cookie"
    return ""


def vary_names(headers: Headers) -> tuple[bytes, ...] | None:
    """The names of Vary, sorted; None when the response can never be chosen again (§4.1)."""
    vary = headers.get(b"vary")
    if vary is None:
        return ()
    names = {part.strip().lower() for part in vary.split(b",")} - {b""}
    if len(names) > VARY_NAMES or names & UNBOUNDED_VARY:
        return None
    return tuple(sorted(names))


def corrected_age(
    headers: Headers, date: float | None, requested_at: float, responded_at: float, ahead: float = 0.0
) -> float:
    """Corrected initial age (§4.2.3), from our clocks and the origin's Date and Age."""
    apparent = max(0.0, responded_at + ahead - date) if date is not None else 0.0
    stated = _stated_age(headers.get(b"age"))
    delay = max(0, int(responded_at - requested_at))  # like all ages in whole seconds
    return max(apparent, stated + delay)


def _stated_age(value: bytes | None) -> float:
    if value is None:
        return 0.0
    first = value.partition(b",")[0].strip()  # of several the first (§5.1)
    # what cannot be read was said by a cache, so the answer is not new: take it for old
    return float(min(int(first[:12]), FOREVER)) if first.isdigit() else float(FOREVER)


def fresh_by(rule: CacheRule, status: int, headers: Headers, now: float) -> tuple[float, str]:
    """(freshness lifetime in seconds, what says so) of an answer that may be stored, for people."""
    control, targeted = response_control(headers, rule.ident)
    override = rule.freshness_of(status)
    if override is not None and override.ignore:
        control, targeted = Directives(), True
    said = _lifetime(rule, status, headers, control, parse_date(headers.get(b"date")), now, targeted=targeted)
    lifetime, why = (None, "") if said is None else said
    if override is not None and (ruled := override.apply(lifetime)) != lifetime:
        lifetime, why = ruled, "cache.freshness of the route"
    return lifetime or 0.0, why


def _lifetime(
    rule: CacheRule,
    status: int,
    headers: Headers,
    control: Directives,
    date: float | None,
    now: float,
    *,
    targeted: bool,
) -> tuple[float, str] | None:
    """(freshness lifetime in seconds, what says so): the answer (§4.2.1), the rule, or a guess (§4.2.2)."""
    if control.s_maxage is not None:
        return float(control.s_maxage), "s-maxage"
    if control.max_age is not None:
        return float(control.max_age), "max-age" if not targeted else "max-age of a field for caches"
    if b"expires" in headers and not targeted:
        expires = parse_date(headers.get(b"expires"))
        left = 0.0 if expires is None else min(max(0.0, expires - (now if date is None else date)), FOREVER)
        return left, "Expires"
    if status in rule.negative:
        return rule.negative[status], "cache.negative of the route"
    if status not in HEURISTIC and not control.public:
        return None
    if rule.ttl is not None and status < 400:
        return rule.ttl, "cache.ttl of the route"
    modified = parse_date(headers.get(b"last-modified"))
    if modified is not None and status not in (404, 410):
        tenth = max(0.0, (date if date is not None else now) - modified) * 0.1
        return min(tenth, HEURISTIC_CAP), "a tenth of the time since Last-Modified"
    if control.no_cache or b"etag" in headers:
        return 0.0, "nothing says for how long: stored to be validated"
    return None
