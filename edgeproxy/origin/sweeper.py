"""Deadlines without timers: one loop per worker looks at every origin connection ten times a second.

Rule: a connection states its next deadline as a number; setting it costs an assignment. A timer per
request would cost more than the rest of a pass.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Protocol

from edgeproxy.context import Clock

INTERVAL = 0.1  # seconds: how late a deadline may be noticed
NEVER = float("inf")
_log = logging.getLogger("edgeproxy.origin")


class Expiring(Protocol):
    """Something with a deadline, in seconds of the sweeper's clock."""

    deadline: float

    def expire(self, now: float) -> None: ...


class Sweeper:
    """All origin connections of one worker. Bounded by the pools, which own the connections."""

    __slots__ = ("_members", "clock")

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self.clock = clock
        self._members: set[Expiring] = set()

    def __len__(self) -> int:
        return len(self._members)

    def add(self, member: Expiring) -> None:
        """Watch `member` until it is discarded."""
        self._members.add(member)

    def discard(self, member: Expiring) -> None:
        """Watch it no longer."""
        self._members.discard(member)

    def sweep(self, now: float) -> None:
        """Tell everyone whose deadline has passed."""
        late = [member for member in self._members if member.deadline <= now]
        for member in late:
            if member.deadline <= now:  # an earlier one may have closed or reset it
                try:
                    member.expire(now)
                except Exception:  # a fault with one is none of the others'
                    _log.exception("a deadline could not be kept")

    async def run(self) -> None:
        """Sweep until cancelled; the worker's task."""
        while True:
            await asyncio.sleep(INTERVAL)
            self.sweep(self.clock())
