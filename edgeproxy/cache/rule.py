"""`routes[].cache` in the YAML, and the compiled rule that the cache works with."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from edgeproxy.record import record
from edgeproxy.units import Duration, Model, Size

_DIMENSION = re.compile(r"variant|country|(header|cookie):[!#$%&'*+.^_`|~0-9A-Za-z-]+")
HEURISTIC_CAP = 86400.0  # seconds a response may be fresh that does not say for how long


class QueryRule(Model):
    """Which query parameters belong to the key. What is left out is not sent to the origin either."""

    sort: bool = False
    """Order parameters by name, so that `?a=1&b=2` and `?b=2&a=1` are one object."""
    allow: list[str] | None = None
    """Only these parameters count; all others are dropped."""
    deny: list[str] = Field(default_factory=list)
    """These parameters are dropped; a `*` at the end matches the rest of a name, like utm_*."""


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
    vary_on: list[str] = Field(default_factory=list)
    """More parts of the key: variant, country, header:NAME, cookie:NAME."""
    query: QueryRule = QueryRule()
    """Which query parameters count."""
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
                    f"{one!r} is not a part of the key; write variant, country, header:NAME or cookie:NAME"
                )
        return value

    @field_validator("negative")
    @classmethod
    def _are_errors(cls, value: dict[int, float]) -> dict[int, float]:
        for status in value:
            if not 400 <= status <= 599:
                raise ValueError(
                    f"{status} is not an error status; negative takes 400 to 599, like {{404: 10s}}"
                )
        return value


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
    plain_query: bool  # the query is taken as it is
    sort: bool
    allow: frozenset[bytes] | None
    deny: frozenset[bytes]
    deny_prefixes: tuple[bytes, ...]
    request_directives: bool
    object_size: int


def compile_rule(section: CacheSection, ident: bytes, largest: int) -> CacheRule:
    """The rule of a section; `largest` bytes is what the store takes at most."""
    query = section.query
    named = [one.partition(":") for one in section.vary_on]
    return CacheRule(
        ident=ident,
        ttl=section.ttl,
        stale_while_revalidate=section.stale_while_revalidate,
        stale_if_error=section.stale_if_error,
        negative=dict(section.negative),
        headers=tuple(name.lower().encode() for kind, _, name in named if kind == "header"),
        cookies=tuple(name.encode() for kind, _, name in named if kind == "cookie"),
        country="country" in section.vary_on,
        plain_query=not query.sort and query.allow is None and not query.deny,
        sort=query.sort,
        allow=None if query.allow is None else frozenset(name.encode() for name in query.allow),
        deny=frozenset(name.encode() for name in query.deny if not name.endswith("*")),
        deny_prefixes=tuple(name[:-1].encode() for name in query.deny if name.endswith("*")),
        request_directives=section.request_directives,
        object_size=min(section.object_size, largest),
    )
