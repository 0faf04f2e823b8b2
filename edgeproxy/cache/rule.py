"""`routes[].cache` in the YAML, and the compiled rule that the cache works with."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from pydantic import Field, field_validator

from edgeproxy.record import record
from edgeproxy.units import Duration, Model, Size

_STATUS = re.compile(r"[1-5]\d\d|[1-5]xx|any")
_DIMENSION = re.compile(r"variant|country|group|device|claim:.+|(header|cookie):[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Never stored: partial and validation answers, and errors that a crafted request provokes (A52)
NEVER = frozenset(
    {
        206, 304, 400, 401, 403, 406, 407, 408, 411, 412, 413, 414, 415, 416, 417, 421, 422, 425, 426, 428,
        429, 431, 511,
    }
)  # fmt: skip
HEURISTIC_CAP = 86400.0  # seconds a response may be fresh that does not say for how long


class QueryRule(Model):
    """Which query parameters belong to the key. What is left out is not sent to the origin either."""

    sort: bool = False
    """Order parameters by name, so that `?a=1&b=2` and `?b=2&a=1` are one object."""
    allow: list[str] | None = None
    """Only these parameters count; all others are dropped."""
    deny: list[str] = Field(default_factory=list)
    """These parameters are dropped; a `*` at the end matches the rest of a name, like utm_*."""


class Freshness(Model):
    """What to make of the freshness that an origin gives, in this order: ignore, set or extend, cap."""

    ignore: bool = False
    """Do as if the origin had said nothing about caching, not even `no-store`; `private` still counts."""
    set: Duration | None = None
    """Fresh for this long, whatever the origin says."""
    extend: Duration | None = None
    """Fresh for at least this long."""
    cap: Duration | None = None
    """Fresh for at most this long."""

    def apply(self, lifetime: float | None) -> float | None:
        """The lifetime in seconds after this rule; None stays None unless the rule gives one."""
        if self.set is not None:
            lifetime = self.set
        if self.extend is not None:
            lifetime = max(lifetime or 0.0, self.extend)
        if self.cap is not None and lifetime is not None:
            lifetime = min(lifetime, self.cap)
        return lifetime


class CacheSection(Model):
    """How a route's answers are cached; freshness from the origin always comes first."""

    ttl: Duration | None = None
    """How long an answer is fresh whose origin says nothing about it."""
    stale_while_revalidate: Duration | None = None
    """How long after that it is served at once while one refresh runs behind (RFC 5861 §3)."""
    stale_if_error: Duration | None = None
    """How long it may be served while the origin fails (RFC 5861 §4)."""
    negative: dict[int, Duration] = Field(default_factory=dict[int, float])
    """Freshness by status for errors without their own, like {404: 10s}."""
    freshness: dict[str, Freshness] = Field(default_factory=dict[str, Freshness])
    """Freshness by rule: for a status (`404`), a class (`3xx`) or `any`; the most specific one counts."""
    set_cookie: Literal["keep_out", "strip"] = "keep_out"
    """An answer that sets a cookie is not stored, or stored without its cookies."""
    vary_on: list[str] = Field(default_factory=list)
    """More parts of the key: variant, country, group (those of `geo` that the country is in), device,
    claim:PATH, header:NAME, cookie:NAME."""
    unkeyed: Literal["pass", "drop"] = "pass"
    """drop: what is not in the key the origin is not told, where its answer may be stored. It gets Accept,
    Accept-Encoding, Accept-Language, Authorization, and the fields and cookies of vary_on."""
    accept_encoding: Literal["keep", "normalise"] = "keep"
    """normalise: of Accept-Encoding the origin is told br, gzip and zstd, in one order, and no more."""
    min_uses: int = Field(default=1, ge=1, le=1000)
    """An answer is stored when it was asked for so many times; counted per worker."""
    jitter: float = Field(default=0.0, ge=0.0, le=0.5)
    """A share of its freshness that an answer may lose, so that what came together does not go together."""
    x_cache: bool = False
    """Say X-Cache too: HIT, STALE, REVALIDATED, MISS or BYPASS."""
    query: QueryRule = QueryRule()
    """Which query parameters count."""
    ranges: Literal["fill", "pass"] = "fill"
    """A range of what is not stored: fetch the whole once, when it can be stored, or pass the request on."""
    request_directives: bool = True
    """Obey Cache-Control of requests (no-cache, max-age, only-if-cached …)."""
    object_size: Size = Field(default=8 * 2**20, gt=0)
    """The largest body that is stored."""

    @field_validator("vary_on")
    @classmethod
    def _are_dimensions(cls, value: list[str]) -> list[str]:
        for one in value:
            if _DIMENSION.fullmatch(one) is None:
                raise ValueError(
                    f"{one!r} is not a part of the key; "
                    "write variant, country, group, device, claim:PATH, header:NAME or cookie:NAME"
                )
        return value

    @field_validator("freshness")
    @classmethod
    def _are_statuses(cls, value: dict[str, Freshness]) -> dict[str, Freshness]:
        for status in value:
            if not _STATUS.fullmatch(status):
                raise ValueError(f"{status!r} is no status; write one like 404, a class like 3xx, or any")
            if status.isdigit() and int(status) in NEVER:
                raise ValueError(f"{status} is never stored, whatever is said of its freshness")
        return value

    @field_validator("negative")
    @classmethod
    def _are_errors(cls, value: dict[int, float]) -> dict[int, float]:
        for status in value:
            if not 400 <= status <= 599:
                raise ValueError(
                    f"{status} is not an error status; negative takes 400 to 599, like {{404: 10s}}"
                )
            if status in NEVER:
                raise ValueError(f"{status} is never stored: it is about one request of one client")
        return value


_NEVER_CHANGED = (206, 304)  # what they mean depends on what is stored already


@record
class CacheRule:
    """A compiled section. Durations in seconds; `ident` is the cache's name in Cache-Status."""

    ident: bytes
    ttl: float | None
    stale_while_revalidate: float | None
    stale_if_error: float | None
    negative: dict[int, float]
    headers: tuple[bytes, ...]  # lower-case names whose values are part of the key
    cookies: tuple[bytes, ...]
    country: bool
    device: bool
    claims: tuple[str, ...]
    told: frozenset[bytes] | None  # the only request fields that origins of what is stored get; None: all
    tag_fields: tuple[bytes, ...]  # lower-case names of response fields with tags
    hidden: frozenset[bytes]  # lower-case names of response fields that are not for clients
    known_codings: bool  # of Accept-Encoding only the codings we know count, here and at the origin
    min_uses: int
    jitter: float  # share of a lifetime
    x_cache: bool
    plain_query: bool  # the query is taken as it is
    sort: bool
    allow: frozenset[bytes] | None
    deny: frozenset[bytes]
    deny_prefixes: tuple[bytes, ...]
    request_directives: bool
    object_size: int
    file_size: int  # bytes of a body that may go to a file of its own; 0 for none
    strip_cookies: bool
    fill_ranges: bool
    freshness: dict[str, Freshness]

    def freshness_of(self, status: int) -> Freshness | None:
        """The rule for answers of this status, if there is one."""
        if not self.freshness or status in _NEVER_CHANGED:
            return None
        by = self.freshness
        return by.get(str(status)) or by.get(f"{status // 100}xx") or by.get("any")


_ALWAYS_TOLD = frozenset({b"accept", b"accept-encoding", b"accept-language", b"authorization"})
TAG_FIELDS = ("Surrogate-Key", "Cache-Tag")


def compile_rule(
    section: CacheSection,
    ident: bytes,
    largest: int,
    *,
    tag_fields: Iterable[str] = TAG_FIELDS,
    strip_tags: bool = False,
    file_size: int = 0,
) -> CacheRule:
    """The rule of a section; `largest` bytes is what memory takes at most, `file_size` what files do."""
    query = section.query
    named = [one.partition(":") for one in section.vary_on]
    headers = tuple(name.lower().encode() for kind, _, name in named if kind == "header")
    tags = tuple(name.lower().encode() for name in tag_fields)
    hidden = {b"surrogate-control", *(tags if strip_tags else ())}
    if section.x_cache:
        hidden.add(b"x-cache")  # an origin's own would contradict ours
    return CacheRule(
        ident=ident,
        ttl=section.ttl,
        stale_while_revalidate=section.stale_while_revalidate,
        stale_if_error=section.stale_if_error,
        negative=dict(section.negative),
        headers=headers,
        told=_ALWAYS_TOLD.union(headers) if section.unkeyed == "drop" else None,
        cookies=tuple(name.encode() for kind, _, name in named if kind == "cookie"),
        country="country" in section.vary_on,
        device="device" in section.vary_on,
        claims=tuple(dict.fromkeys(name for kind, _, name in named if kind == "claim")),
        tag_fields=tags,
        hidden=frozenset(hidden),
        known_codings=section.accept_encoding == "normalise",
        min_uses=section.min_uses,
        jitter=section.jitter,
        x_cache=section.x_cache,
        plain_query=not query.sort and query.allow is None and not query.deny,
        sort=query.sort,
        allow=None if query.allow is None else frozenset(name.encode() for name in query.allow),
        deny=frozenset(name.encode() for name in query.deny if not name.endswith("*")),
        deny_prefixes=tuple(name[:-1].encode() for name in query.deny if name.endswith("*")),
        request_directives=section.request_directives,
        object_size=min(section.object_size, largest),
        file_size=file_size if section.object_size >= largest else 0,
        strip_cookies=section.set_cookie == "strip",
        fill_ranges=section.ranges == "fill",
        freshness=dict(section.freshness),
    )
