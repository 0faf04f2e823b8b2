"""A share of the requests goes to a shadow origin as well; its answers are thrown away.

Rule 1: the client's own request neither waits for a copy nor hears of it.
Rule 2: a copy is sent once, and only while there is room: a slow shadow is not asked more and more.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

from edgeproxy.decision import Fetch
from edgeproxy.errors import OriginError
from edgeproxy.job import Job
from edgeproxy.observe.outcome import OriginMeters
from edgeproxy.origin.connection import OriginConnection
from edgeproxy.origin.upstream import Upstream
from edgeproxy.routes import MirrorRule
from edgeproxy.trip import TRIES, Sender, Trip

MOST = 128  # copies under way at once, per worker
LONGEST = 1024 * 1024  # bytes that are read of an answer; more of it closes the connection


class Mirror:
    """The copies of one worker. Its `Upstream`s have pools, deadlines and breakers of their own."""

    def __init__(self, draw: Callable[[], float] = random.random) -> None:
        """`draw`: a number from 0 to 1, without 1."""
        self._draw = draw
        self.running = 0

    def copy(self, sender: Sender, job: Job, rule: MirrorRule, to: Upstream, meters: OriginMeters) -> None:
        """Send a copy of this request, when it is drawn, may go there, has no body, and there is room."""
        if job.sibling is not None or job.visit.request.has_body or 100 * self._draw() >= rule.percent:
            return
        if not rule.may_reach(job.ctx):
            return
        if self.running >= MOST:
            meters.failed("-", "connection_limit_reached")
            return
        self.running += 1
        shadow = Trip(
            _Shadow(self, sender), Job(job.visit, job.ctx, Fetch(job.fetch.cause), None), to, meters
        )
        shadow.report.tries = TRIES  # the last there is
        shadow.begin()


class _Shadow:
    """The `Sender` of one copy, and the `Target` of its answer."""

    def __init__(self, mirror: Mirror, sender: Sender) -> None:
        self.forwarded, self.clock = sender.forwarded, sender.clock
        self._spawn = sender.spawn
        self._mirror = mirror
        self._left = LONGEST
        self._trip: Trip | None = None

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._spawn(coroutine)

    def answered(self, trip: Trip, now: float) -> None:
        self._trip = trip
        trip.on_done = self._done
        trip.flow_to(self)

    def failed(self, trip: Trip, error: OriginError) -> None:
        self._over()

    def abandoned(self, trip: Trip) -> None:
        self._over()

    def switched(self, trip: Trip, connection: OriginConnection, rest: bytes) -> None:
        """Never: a copy asks for no other protocol."""

    def add(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0 and self._trip is not None:
            self._trip.abandon()
            self._over()

    def flush(self) -> None:
        """Nothing is held."""

    def end(self, *, broken: bool = False) -> None:
        """`_done` follows."""

    def _done(self, error: OriginError | None) -> None:
        self._over()

    def _over(self) -> None:
        self._trip = None
        self._mirror.running -= 1
