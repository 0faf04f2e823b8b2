"""`rate_limit`: limits per client, identity, route or a mix, shared by all workers.

Several limits in one policy are spent all or nothing: what the first ones gave is given back when
a later one refuses. Answers and refusals carry `RateLimit` and `RateLimit-Policy`; they are added
after the cache, so a hit has fresh ones. One plain token bucket, the usual case, takes a short way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from edgeproxy.context import Context, Edit, Verdict
from edgeproxy.http.message import Field, Request, Response
from edgeproxy.http.replies import problem
from edgeproxy.policies.bucket_table import SECOND, BucketKey, BucketTable
from edgeproxy.policies.condition_facts import Fact
from edgeproxy.policies.in_flight_table import InFlightTable
from edgeproxy.policies.rate_limit_gate import (
    WHY,
    BucketGate,
    FlightGate,
    Gate,
    Groups,
    Held,
    Passed,
    told_of,
    whole_seconds,
)
from edgeproxy.policies.rate_limit_key import key_finder
from edgeproxy.policies.rate_limit_rule import RateLimit


class _Plain:
    """A limit that is one token bucket, and every request costs one."""

    __slots__ = (
        "_capacity", "_edits", "_first", "_spend", "_told", "denies_missing", "interval", "key", "name",
    )  # fmt: skip

    def __init__(self, name: str, config: RateLimit, table: BucketTable) -> None:
        self.name = name
        self.denies_missing = config.on_missing == "deny"
        self.interval = config.interval
        self._capacity = config.burst_size * self.interval
        self.key = key_finder(name, config, table)
        self._spend = table.spend
        self._told = told_of(name, config)
        self._edits = self._told.edits
        self._first = self._edits(config.burst_size - 1, whole_seconds(self.interval))

    def take(self, key: BucketKey, now: int) -> tuple[Edit, Edit] | Held:
        """Spend one: what to tell the client."""
        interval, capacity = self.interval, self._capacity
        owed = self._spend(key, interval, capacity, capacity, now)
        if owed == 0:  # most clients stay far below their rate
            return self._first
        after = owed + interval
        if after <= capacity:
            return self._edits((capacity - after) // interval, whole_seconds(after))
        retry_after = max(1, whole_seconds(after - capacity))
        fields = self._told.fields(max(0, capacity - owed) // interval, retry_after)
        return Held("quota-exceeded", "is used up", retry_after, fields)


class RateLimiter:
    """The policy. `limits` are checked in their order; the tables are shared by all workers, of which this
    process is number `slot`."""

    name = "rate_limit"
    reasons: ClassVar[tuple[str, ...]] = (*WHY, "identity-missing")
    asserted: ClassVar[tuple[bytes, ...]] = ()

    def __init__(
        self,
        limits: Mapping[str, RateLimit],
        table: BucketTable,
        flights: InFlightTable,
        slot: int = 0,
        groups: Groups | None = None,
    ) -> None:
        """`groups` are the words for countries that conditions may use."""
        self.fails_open = all(limit.on_error == "allow" for limit in limits.values())
        places = groups or {}
        self._gates: tuple[Gate, ...] = tuple(
            [
                FlightGate(name, limit, table, flights, slot, places)
                if limit.in_flight is not None
                else BucketGate(name, limit, table, places)
                for name, limit in limits.items()
            ]
        )
        self.needs_place = any("country" in gate.kinds for gate in self._gates)
        plain = [_Plain(name, limit, table) for name, limit in limits.items() if limit.plain]
        self._plain = tuple(plain) if len(plain) == len(limits) else ()
        self._only = plain[0] if len(self._plain) == 1 else None
        self._give_back = table.give_back

    def __call__(self, request: Request, ctx: Context, /) -> Response | None:
        """None when every limit allows; else 429, or 403 when there is nothing to count by."""
        only = self._only
        if only is None or ctx.notes is not None:
            return (
                self._several(request, ctx) if self._plain and ctx.notes is None else self._all(request, ctx)
            )
        key = only.key(request, ctx)
        if key is None:
            return self._all(request, ctx)
        told = only.take(key, int(ctx.now * SECOND))
        if isinstance(told, Held):
            return _refuse(request, ctx, only, told)
        ctx.to_client += told
        return None

    def _several(self, request: Request, ctx: Context) -> Response | None:
        """The same for some plain ones, of which none may be counted when one refuses."""
        now = int(ctx.now * SECOND)
        spent: list[tuple[_Plain, BucketKey]] = []
        edits: list[Edit] = []
        for limit in self._plain:
            key = limit.key(request, ctx)
            if key is None and not limit.denies_missing:
                continue
            told = limit.take(key, now) if key is not None else None
            if key is None or told is None or isinstance(told, Held):
                for other, its_key in spent:
                    self._give_back(its_key, 1, other.interval)
                if isinstance(told, Held):
                    return _refuse(request, ctx, limit, told)
                return _missing(request, ctx, limit)
            spent.append((limit, key))
            edits += told
        ctx.to_client += edits
        return None

    def _all(self, request: Request, ctx: Context) -> Response | None:
        """Through every gate, or through none."""
        now = int(ctx.now * SECOND)
        look = ctx.notes is not None
        through: list[Passed] = []
        answer: Response | None = None
        for gate in self._gates:
            if gate.exempt is not None and gate.exempt.holds(request, ctx):
                if look:
                    values = gate.exempt.values(request, ctx)
                    ctx.note(self.name, Verdict.SKIP, f"{gate.name}: exempt", gate.exempt.text, values)
                continue
            key = gate.find_key(request, ctx)
            outcome = None if key is None else gate.enter(request, ctx, key, now, look=look)
            if look:
                self._tell(request, ctx, gate, outcome)
            if isinstance(outcome, Passed):
                through.append(outcome)
                continue
            if isinstance(outcome, Held):
                answer = answer or _refuse(request, ctx, gate, outcome)
            elif gate.config.on_missing == "deny":
                answer = answer or _missing(request, ctx, gate)
            if answer is not None and not look:
                break
        if answer is not None:
            for passed in reversed(through):
                if passed.undo is not None:
                    passed.undo()
            return answer
        _let_through(ctx, through)
        return None

    def _tell(self, request: Request, ctx: Context, gate: Gate, outcome: Passed | Held | None) -> None:
        rule = f"rate_limits.{gate.name}"
        values = tuple([(text, _shown(text, request, ctx)) for text in gate.config.sources])
        if outcome is None:
            verdict = Verdict.REFUSE if gate.config.on_missing == "deny" else Verdict.ALLOW
            ctx.note(self.name, verdict, f"{gate.name}: what it counts by is missing", rule, values)
            return
        rule += f" where {outcome.rule}" if outcome.rule else ""
        if isinstance(outcome, Passed):
            ctx.note(self.name, Verdict.ALLOW, f"{gate.name}: {outcome.why}", rule, values)
        else:
            why = f"{gate.name} {outcome.why}; allowed again in {outcome.retry_after} s"
            ctx.note(self.name, Verdict.REFUSE, why, rule, values)


def _let_through(ctx: Context, through: list[Passed]) -> None:
    for passed in through:
        ctx.to_client += passed.edits
        if passed.ending is not None:
            ctx.endings += (passed.ending,)
        if ctx.notes is None and passed.wait:
            ctx.delay(passed.wait, "rate_limit")


def _shown(text: str, request: Request, ctx: Context) -> str:
    """What a source reads now, for people."""
    if text in ("client_ip", "route"):
        return ctx.client if text == "client_ip" else ctx.route
    kind, _, name = text.partition(":")
    return Fact(kind, name).shown(request, ctx)


def _refuse(request: Request, ctx: Context, gate: Gate | _Plain, held: Held) -> Response:
    fields: list[Field] = [(b"Retry-After", b"%d" % held.retry_after), *held.fields]
    detail = f"The limit {gate.name} {held.why}. Try again in {held.retry_after} s."
    return problem(request, ctx, 429, held.reason, detail, fields)


def _missing(request: Request, ctx: Context, gate: Gate | _Plain) -> Response:
    detail = f"The limit {gate.name} cannot tell who is asking."
    return problem(request, ctx, 403, "identity-missing", detail)
