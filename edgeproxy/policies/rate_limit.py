"""`rate_limit`: token buckets per client, identity, route or a mix, shared by all workers.

Several limits in one policy are spent all or nothing: what the first ones gave is given back when
a later one refuses. Answers and refusals carry `RateLimit` and `RateLimit-Policy`
(draft-ietf-httpapi-ratelimit-headers-11); they are added after the cache, so a hit has fresh ones.

Rule: a bucket's name is made of the limit's name and the values it counts by, each with its
length before it. Routes that use one limit share its buckets, and a reload keeps them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Literal

from pydantic import Field, field_validator, model_validator

from edgeproxy.context import Context, Edit, Op, Verdict
from edgeproxy.http.message import Field as FieldLine
from edgeproxy.http.message import Request, Response
from edgeproxy.http.replies import problem
from edgeproxy.policies.bucket_table import SECOND, BucketKey, BucketTable, Grant
from edgeproxy.policies.identify import Source, SourceField, source
from edgeproxy.units import Model, Rate, RateField

_REMEMBERED = 16_384  # keys per limit whose digest is kept
_LONGEST_REMEMBERED = 256  # longer values are hashed each time, so that memory stays bounded
_TOLD = 4096  # rendered RateLimit fields per limit
_LONGEST_REFILL = 400 * 86_400
_BY_CLIENT = ("client_ip",)
_FOUND, _STAND_IN = "v", "c"  # first character of a value that may have been replaced
_PRINTABLE = re.compile(r"[ -~]+")


class RateLimit(Model):
    """A token bucket: `burst` requests at once, regained at `rate`."""

    rate: RateField
    """How fast requests are regained: `100/s`, `600/m`, `5000/h`, `10000/d`. At most 1000000/s."""
    burst: int | None = Field(default=None, ge=1)
    """How many requests may come at once. Default: what `rate` gives in one second, at least 1."""
    by: SourceField | tuple[SourceField, ...] = "client_ip"
    """Who is counted: `client_ip`, `route`, `header:NAME`, `claim:PATH`, `cookie:NAME`, or a list of them
    for the combination. Headers and cookies are the client's to choose: combine them with `client_ip`."""
    ipv6_prefix: int = Field(default=64, ge=32, le=128)
    """IPv6 clients are counted by network of this length, because one customer gets a whole /64."""
    on_missing: Literal["skip", "client_ip", "deny"] = "client_ip"
    """When a header, claim or cookie to count by is absent: do not count, count by client address in its
    place, or refuse with 403."""
    on_error: Literal["allow", "deny"] = "allow"
    """What to do with a request when the limiter itself fails."""

    @field_validator("by")
    @classmethod
    def _names_somebody(cls, by: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not by:
            raise ValueError(
                "an empty list counts nobody; write at least one of client_ip, route, header:NAME"
            )
        return by

    @model_validator(mode="after")
    def _fits_the_bucket(self) -> RateLimit:
        rate: Rate = self.rate
        if rate.per_second > 1e6:
            raise ValueError("the rate is above 1000000/s, which the bucket cannot count exactly")
        if self.burst_size / rate.per_second > _LONGEST_REFILL:
            raise ValueError("the burst takes more than 400 days to be regained; lower it or raise the rate")
        return self

    @property
    def burst_size(self) -> int:
        """`burst`, or its default."""
        return self.burst or max(1, int(self.rate.per_second))

    @property
    def sources(self) -> tuple[str, ...]:
        """What `by` names, always as a tuple."""
        return (self.by,) if isinstance(self.by, str) else self.by


class _Limit:
    """One limit made ready: its numbers, its fields, and where the bucket of a request is."""

    __slots__ = (
        "_told",
        "burst",
        "denies_missing",
        "fields",
        "interval",
        "key",
        "key_of",
        "name",
        "policy",
        "shown",
        "sources",
    )

    def __init__(self, name: str, config: RateLimit, table: BucketTable) -> None:
        rate: Rate = config.rate
        self.name = name
        self._told: dict[int, Edit] = {}
        self.burst = config.burst_size
        self.interval = round(rate.seconds * SECOND / rate.count)
        self.denies_missing = config.on_missing == "deny"
        self.sources = _sources(config)
        quoted = _quoted(name)
        window = -(-self.burst * self.interval // SECOND)
        self.policy = Edit(Op.ADD, b"RateLimit-Policy", b"%b;q=%d;w=%d" % (quoted, self.burst, window))
        self.shown = quoted.replace(b"%", b"%%") + b";r=%d;t=%d"
        self.key_of = _namer(name.encode(), config, table)
        self.key: Callable[[Request, Context], BucketKey | None] = (
            self._key_of_client if config.sources == _BY_CLIENT else self._key_of_parts
        )

    def _key_of_client(self, request: Request, ctx: Context) -> BucketKey | None:
        return self.key_of(ctx.client)

    def _key_of_parts(self, request: Request, ctx: Context) -> BucketKey | None:
        """None when something to count by is missing and nothing may stand in for it."""
        values: list[str] = []
        for read in self.sources:
            value = read(request, ctx)
            if value is None:
                return None
            values.append(value)
        return self.key_of(*values)

    def state(self, grant: Grant) -> bytes:
        """The member of `RateLimit`: `r` left for `t` seconds, after which it is more."""
        return self.shown % (grant.remaining, grant.reset if grant.allowed else grant.retry_after)

    def told(self, grant: Grant) -> Edit:
        """The `RateLimit` field of an answer that was allowed. Remembered: the same few come all the time."""
        number = grant.remaining << 32 | grant.reset
        edit = self._told.get(number)
        if edit is None:
            if len(self._told) >= _TOLD:
                self._told.clear()
            edit = self._told[number] = Edit(Op.ADD, b"RateLimit", self.state(grant))
        return edit


class RateLimiter:
    """The policy. `limits` are checked in their order; `table` is shared by all workers."""

    name = "rate_limit"
    asserted: tuple[bytes, ...] = ()

    def __init__(self, limits: Mapping[str, RateLimit], table: BucketTable) -> None:
        self.fails_open = all(limit.on_error == "allow" for limit in limits.values())
        self._table = table
        self._take = table.take
        self._limits = tuple([_Limit(name, limit, table) for name, limit in limits.items()])
        self._only = self._limits[0] if len(self._limits) == 1 else None

    def __call__(self, request: Request, ctx: Context, /) -> Response | None:
        """None when every limit allows; else 429, or 403 when there is nothing to count by."""
        if ctx.notes is not None:
            return self._explain(request, ctx)
        now = int(ctx.now * SECOND)
        only = self._only
        if only is not None:  # the usual case: nothing to undo
            key = only.key(request, ctx)
            if key is not None:
                grant = self._take(key, 1, only.interval, only.burst, now)
                if not grant.allowed:
                    return _refuse(request, ctx, only, grant)
                ctx.to_client.append(only.policy)
                ctx.to_client.append(only.told(grant))
                return None
        spent: list[tuple[_Limit, BucketKey]] = []
        edits: list[Edit] = []
        for limit in self._limits:
            key = limit.key(request, ctx)
            if key is None:
                if not limit.denies_missing:
                    continue
                self._give_back(spent)
                return _missing(request, ctx, limit)
            grant = self._take(key, 1, limit.interval, limit.burst, now)
            if not grant.allowed:
                self._give_back(spent)
                return _refuse(request, ctx, limit, grant)
            spent.append((limit, key))
            edits.append(limit.policy)
            edits.append(limit.told(grant))
        ctx.to_client += edits
        return None

    def _give_back(self, spent: list[tuple[_Limit, BucketKey]]) -> None:
        for limit, key in spent:
            self._table.give_back(key, 1, limit.interval)

    def _explain(self, request: Request, ctx: Context) -> Response | None:
        """What the call would answer; looks at every bucket, spends from none."""
        now = int(ctx.now * SECOND)
        answer: Response | None = None
        for limit in self._limits:
            key = limit.key(request, ctx)
            if key is None:
                verdict = Verdict.REFUSE if limit.denies_missing else Verdict.ALLOW
                ctx.note(self.name, verdict, f"{limit.name}: what it counts by is missing")
                refusal = _missing(request, ctx, limit) if limit.denies_missing else None
            else:
                grant = self._table.peek(key, 1, limit.interval, limit.burst, now)
                verdict = Verdict.ALLOW if grant.allowed else Verdict.REFUSE
                ctx.note(self.name, verdict, _why(limit, grant))
                refusal = None if grant.allowed else _refuse(request, ctx, limit, grant)
                if grant.allowed:
                    ctx.to_client += (limit.policy, limit.told(grant))
            answer = answer or refusal
        return answer


def bucket_address(client: str, ipv6_prefix: int) -> bytes:
    """The address that is counted: IPv4 whole (also when mapped into IPv6), IPv6 by its network.

    Text that is no address (a Unix socket's peer) counts as itself.
    """
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return b"=" + client.encode("utf-8", "surrogatepass")
    if isinstance(address, ipaddress.IPv4Address):
        return b"4" + address.packed
    if address.ipv4_mapped is not None:
        return b"4" + address.ipv4_mapped.packed
    network = int(address) >> (128 - ipv6_prefix)
    return b"6" + network.to_bytes(16, "big")


def _sources(config: RateLimit) -> tuple[Source, ...]:
    """The readers of `by`. When the client's address may stand in for a value, each says which it is."""

    def or_client(read: Source) -> Source:
        def either(request: Request, ctx: Context) -> str | None:
            value = read(request, ctx)
            return _STAND_IN + ctx.client if value is None else _FOUND + value

        return either

    readers = [source(text) for text in config.sources]
    return tuple([or_client(read) for read in readers] if _marked(config) else readers)


def _marked(config: RateLimit) -> bool:
    return config.on_missing == "client_ip" and config.sources != _BY_CLIENT


def _namer(name: bytes, config: RateLimit, table: BucketTable) -> Callable[..., BucketKey]:
    """values -> bucket, remembered for short values. What is hashed cannot collide: lengths are in it."""
    kinds = config.sources
    prefix = config.ipv6_prefix
    marked = _marked(config)

    def part(kind: str, value: str) -> bytes:
        mark = value[:1] if marked else ""
        text = value.removeprefix(mark)
        if kind == "client_ip" or mark == _STAND_IN:
            return mark.encode() + bucket_address(text, prefix)
        return mark.encode() + text.encode("utf-8", "surrogatepass")

    def compute(*values: str) -> BucketKey:
        parts = [name, *[part(kind, value) for kind, value in zip(kinds, values, strict=True)]]
        return table.key(b"".join([len(p).to_bytes(4, "big") + p for p in parts]))

    remembered = lru_cache(_REMEMBERED)(compute)

    def bounded(*values: str) -> BucketKey:
        return remembered(*values) if sum(map(len, values)) <= _LONGEST_REMEMBERED else compute(*values)

    return remembered if kinds == _BY_CLIENT else bounded


def _quoted(name: str) -> bytes:
    """`name` as a structured-field string (RFC 9651 §3.3.3). Raises ValueError if it is not printable."""
    if not _PRINTABLE.fullmatch(name):
        raise ValueError(f"the rate limit {name!r} is named in a header field: use printable ASCII")
    return b'"%b"' % name.replace("\\", "\\\\").replace('"', '\\"').encode()


def _refuse(request: Request, ctx: Context, limit: _Limit, grant: Grant) -> Response:
    fields: list[FieldLine] = [
        (b"Retry-After", b"%d" % grant.retry_after),
        (limit.policy.name, limit.policy.value),
        (b"RateLimit", limit.state(grant)),
    ]
    detail = f"The limit {limit.name} is used up. Try again in {grant.retry_after} s."
    return problem(request, ctx, 429, "quota-exceeded", detail, fields)


def _missing(request: Request, ctx: Context, limit: _Limit) -> Response:
    detail = f"The limit {limit.name} cannot tell who is asking."
    return problem(request, ctx, 403, "identity-missing", detail)


def _why(limit: _Limit, grant: Grant) -> str:
    rate = f"{limit.burst} at once, one more each {limit.interval / SECOND:g} s"
    if grant.allowed:
        return f"{limit.name}: {grant.remaining} left after this one ({rate})"
    return f"{limit.name}: used up, allowed again in {grant.retry_after} s ({rate})"
