"""A limit at work, whatever its kind: a gate that lets a request through or holds it.

Rule 1: what a gate spent can be undone in the same instant, because a later gate may hold the request.
Rule 2: with `look` it answers alike, and spends, counts and queues nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Protocol

from edgeproxy.context import Context, Edit, Ending
from edgeproxy.http.message import Field, Request
from edgeproxy.policies.bucket_table import SECOND, BucketKey, BucketTable
from edgeproxy.policies.condition import Condition, condition
from edgeproxy.policies.in_flight_table import InFlightTable
from edgeproxy.policies.rate_limit_fields import Told
from edgeproxy.policies.rate_limit_key import FindKey, key_finder, related
from edgeproxy.policies.rate_limit_rule import Override, Penalty, RateLimit
from edgeproxy.record import record

_DEBT = 100  # bursts that costs known afterwards may run ahead
Groups = Mapping[str, Iterable[str]]


@record
class Passed:
    """Let through: what to tell the client, how to undo it, what to do when the request is over."""

    edits: tuple[Edit, ...]
    why: str
    undo: Callable[[], None] | None = None
    ending: Ending | None = None
    wait: float = 0.0  # seconds until its turn
    rule: str = ""  # of the override that applies


@record
class Held:
    """Not let through. `reason` is of a closed set, `why` a sentence."""

    reason: str
    why: str
    retry_after: int
    fields: tuple[Field, ...]
    rule: str = ""


class Gate(Protocol):
    """One limit. `kinds` are the kinds of facts that its conditions read."""

    name: str
    config: RateLimit
    find_key: FindKey
    exempt: Condition | None
    kinds: frozenset[str]

    def enter(
        self, request: Request, ctx: Context, key: BucketKey, now: int, *, look: bool
    ) -> Passed | Held: ...


@record
class _Plan:
    """The figures of a limit, or of one of its overrides. Times are in nanoseconds."""

    when: Condition | None
    interval: int
    burst: int
    capacity: int
    window: int  # of a quota; 0 for a bucket
    told: Told


class PenaltyBox:
    """Keys that were refused too often, in the table of the buckets."""

    def __init__(self, rule: Penalty, table: BucketTable) -> None:
        self._table = table
        self._strikes = related(table, b"strikes")
        self._box = related(table, b"box")
        self._time = round(rule.time * SECOND)
        self._step = max(1, round(rule.within * SECOND / rule.after))
        self._most = self._step * (rule.after - 1)

    def left(self, key: BucketKey, now: int) -> int:
        """Nanoseconds that the key must stay in it; 0 when it is not."""
        return self._table.owed(self._box(key), now)

    def strike(self, key: BucketKey, now: int) -> None:
        """The key was refused."""
        owed = self._table.spend(self._strikes(key), self._step, self._most, self._most, now)
        if owed + self._step > self._most:
            self._table.charge(self._box(key), self._time, self._time, now)


class BucketGate:
    """A token bucket, or a quota: the same bucket, whose clock stands at the end of the calendar's window."""

    def __init__(self, name: str, config: RateLimit, table: BucketTable, groups: Groups) -> None:
        self.name = name
        self.config = config
        self.find_key = key_finder(name, config, table)
        self.exempt = condition(config.exempt, groups) if config.exempt else None
        self.kinds = kinds_of(config)
        self._table = table
        self._plans = tuple([_plan(name, other, groups) for other in (*config.overrides, config)])
        self._price = config.price
        self._methods = {method.encode(): price for method, price in self._price.methods.items()}
        self._delay = round(config.delay * SECOND)
        self._box = PenaltyBox(config.penalty, table) if config.penalty is not None else None
        self._queue: list[int] = []  # when those who wait may go on

    def enter(self, request: Request, ctx: Context, key: BucketKey, now: int, *, look: bool) -> Passed | Held:
        plan = next(each for each in self._plans if each.when is None or each.when.holds(request, ctx))
        rule = plan.when.text if plan.when is not None else ""
        boxed = self._box.left(key, now) if self._box is not None else 0
        if boxed:
            return self._held("penalty-box", plan, 0, boxed, rule)
        cost = self._methods.get(request.method, self._price.request)
        at = (now // plan.window + 1) * plan.window if plan.window else now
        step, most = cost * plan.interval, plan.capacity + self._delay
        if look:
            owed = min(self._table.owed(key, at), self._ceiling(plan))
        else:
            owed = self._table.spend(key, step, most, self._ceiling(plan), at)
        after = owed + step
        if after > most:
            if self._box is not None and not look:
                self._box.strike(key, now)
            left = max(0, plan.capacity - owed) // plan.interval
            return self._held("quota-exceeded", plan, left, at - now or after - most, rule)
        undo = None if look else partial(self._table.give_back, key, cost, plan.interval)
        wait = after - plan.capacity
        if wait > 0 and not look and not self._queued(now, now + wait):
            self._table.give_back(key, cost, plan.interval)
            return self._held("queue-full", plan, 0, wait, rule)
        remaining = max(0, plan.capacity - after) // plan.interval
        return Passed(
            plan.told.edits(remaining, whole_seconds(at - now or after)),
            self._why(plan, remaining, wait),
            undo,
            partial(self._charge, key, plan) if self._price.later and not look else None,
            max(0, wait) / SECOND,
            rule,
        )

    def _ceiling(self, plan: _Plan) -> int:
        return plan.capacity * (_DEBT if self._price.later else 1) + self._delay

    def _queued(self, now: int, until: int) -> bool:
        """Find a place among those who wait."""
        queue = self._queue
        while queue and queue[0] <= now:
            heapq.heappop(queue)
        if len(queue) >= self.config.delay_queue:
            return False
        heapq.heappush(queue, until)
        return True

    def _charge(self, key: BucketKey, plan: _Plan, now: float, sent: int, waited: float) -> None:
        """What only shows when the request is over."""
        price = self._price
        units = sent // price.per_size if price.per_size else 0
        units += int(waited / price.per_origin_time) if price.per_origin_time else 0
        if units:
            instant = int(now * SECOND)
            at = (instant // plan.window + 1) * plan.window if plan.window else instant
            self._table.charge(key, units * plan.interval, self._ceiling(plan), at)

    def _held(self, reason: str, plan: _Plan, left: int, wait: int, rule: str) -> Held:
        after = max(1, whole_seconds(wait))
        return Held(reason, WHY[reason], after, plan.told.fields(left, after), rule)

    def _why(self, plan: _Plan, remaining: int, wait: int) -> str:
        if plan.window:
            rate = f"{plan.burst} each {plan.window // SECOND} s of the calendar"
        else:
            rate = f"{plan.burst} at once, one more each {plan.interval / SECOND:g} s"
        waits = f", waits {wait / SECOND:.3g} s for its turn" if wait > 0 else ""
        return f"{remaining} left after this one ({rate}){waits}"


class FlightGate:
    """So many requests under way at once."""

    def __init__(
        self,
        name: str,
        config: RateLimit,
        table: BucketTable,
        flights: InFlightTable,
        slot: int,
        groups: Groups,
    ) -> None:
        self.name = name
        self.config = config
        self.find_key = key_finder(name, config, table)
        self.exempt = condition(config.exempt, groups) if config.exempt else None
        self.kinds = kinds_of(config)
        self._flights, self._slot = flights, slot
        self._plans = tuple(
            [
                (
                    condition(each.when, groups) if isinstance(each, Override) else None,
                    each.in_flight or 1,
                    Told(name, each.in_flight or 1, None),
                )
                for each in (*config.overrides, config)
            ]
        )
        self._box = PenaltyBox(config.penalty, table) if config.penalty is not None else None

    def enter(self, request: Request, ctx: Context, key: BucketKey, now: int, *, look: bool) -> Passed | Held:
        when, most, told = next(
            each for each in self._plans if each[0] is None or each[0].holds(request, ctx)
        )
        rule = when.text if when is not None else ""
        boxed = self._box.left(key, now) if self._box is not None else 0
        if boxed:
            after = whole_seconds(boxed)
            return Held("penalty-box", WHY["penalty-box"], after, told.fields(0, None), rule)
        flying, entered = self._look(key, most) if look else self._flights.enter(key, self._slot, most)
        if not entered:
            if self._box is not None and not look:
                self._box.strike(key, now)
            return Held("too-many-in-flight", WHY["too-many-in-flight"], 1, told.fields(0, None), rule)
        left = most - max(flying, 0) - 1
        leave = partial(self._flights.leave, key, self._slot) if flying >= 0 and not look else None
        why = f"{left} more may be under way ({most} at once)"
        ending = partial(self._leave, key) if leave is not None else None
        return Passed(told.edits(left, None), why, leave, ending, 0.0, rule)

    def _leave(self, key: BucketKey, _now: float, _sent: int, _waited: float) -> None:
        self._flights.leave(key, self._slot)

    def _look(self, key: BucketKey, most: int) -> tuple[int, bool]:
        flying = self._flights.flying(key)
        return flying, flying < most


WHY = {
    "quota-exceeded": "is used up",
    "penalty-box": "was overrun too often",
    "queue-full": "is used up, and too many wait already",
    "too-many-in-flight": "has as many requests under way as it takes",
}


def _plan(name: str, figures: RateLimit | Override, groups: Groups) -> _Plan:
    when = condition(figures.when, groups) if isinstance(figures, Override) else None
    burst, interval = figures.burst_size, figures.interval
    if figures.quota is not None:
        window = round(figures.quota.seconds) * SECOND
        return _Plan(when, interval, burst, burst * interval, window, Told(name, burst, window // SECOND))
    return _Plan(when, interval, burst, burst * interval, 0, told_of(name, figures))


def kinds_of(config: RateLimit) -> frozenset[str]:
    """The kinds of facts that the conditions of a limit read."""
    return frozenset([kind for text in config.conditions() for kind in condition(text).kinds])


def told_of(name: str, figures: RateLimit | Override) -> Told:
    """The fields of a bucket, whose window is the time in which it is filled."""
    return Told(name, figures.burst_size, whole_seconds(figures.burst_size * figures.interval))


def whole_seconds(nanoseconds: int) -> int:
    """Seconds, rounded up, because header fields have whole ones."""
    return -(-nanoseconds // SECOND)
