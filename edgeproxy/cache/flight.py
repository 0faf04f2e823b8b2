"""One origin fetch that several clients wait for (request collapsing, RFC 9211 `collapsed`).

The first miss of a key leads, later ones follow. Once the answer is known to be shareable all of
them read the same chunks, each at its own pace, while the fill still runs. Synchronous: the fetch
tells a flight what arrived, a flight tells doors what to write.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Generic, TypeVar

from edgeproxy.cache.body import Body

J = TypeVar("J")


class Flight(Generic[J]):
    """The jobs that wait for one key. Once the answer is shared, `join` serves a late one at once."""

    __slots__ = (
        "_body",
        "_join",
        "began",
        "jobs",
        "key",
        "landed",
        "leader",
        "partial",
        "position",
        "refreshes",
        "until",
    )

    def __init__(self, key: bytes, began: float = 0.0, position: int = 0) -> None:
        self.key = key
        self.position = position  # of the purge log when it began
        self.began = began  # steady seconds
        self.landed = False
        self.leader = -1  # the slot of another worker that is asked for it
        self.refreshes = False  # an entry that clients are served from meanwhile
        self.until = inf  # nobody may come along from then on: the answer must not be reused
        self.jobs: list[J] = []
        self.partial: list[J] = []  # want a part of the body, and wait for the whole
        self._body: Body | None = None
        self._join: Callable[[J], None] | None = None

    @classmethod
    def of(cls, key: bytes, job: J) -> Flight[J]:
        """One that nobody else can find."""
        flight = cls(key)
        flight.jobs.append(job)
        flight.landed = True
        return flight

    def share(self, body: Body, join: Callable[[J], None], until: float = inf) -> None:
        """The answer can be shared: later jobs are handed to `join` while all of the body is there, `until`
        it must not be used unasked any more."""
        self._body, self._join, self.until = body, join, until

    @property
    def join(self) -> Callable[[J], None] | None:
        """How to serve a job from this flight now; None while the head is awaited."""
        return self._join

    @property
    def joinable(self) -> bool:
        """Whether a job may still come along: before the head, or while the whole body is at hand."""
        return self._body is None or self._body.shareable


class Flights(Generic[J]):
    """All flights of a worker by key, and the keys known not to be worth waiting for.

    `passes` (hit-for-miss) remembers for `PASS_FOR` seconds that a key's answer could not be shared, so
    that its clients never queue behind one another (A68), and why. Both maps are bounded.
    """

    PASS_FOR = 120.0
    PASS_CAP = 10_000

    __slots__ = ("flights", "passes")

    def __init__(self) -> None:
        self.flights: dict[bytes, Flight[J]] = {}
        # until when, and why; by hash of the key: two that share one only wait for nobody
        self.passes: dict[int, tuple[float, str]] = {}

    def find(self, key: bytes) -> Flight[J] | None:
        return self.flights.get(key)

    def lead(self, key: bytes, now: float, position: int = 0) -> Flight[J]:
        """A new flight that later misses of this key will find. `position` is that of the purge log."""
        flight = self.flights[key] = Flight[J](key, now, position)
        return flight

    def land(self, flight: Flight[J]) -> bool:
        """Later misses start their own. False when it had landed before."""
        if self.flights.get(flight.key) is flight:
            del self.flights[flight.key]
        before, flight.landed = flight.landed, True
        return not before

    def stalled(self, before: float) -> list[Flight[J]]:
        """Those that began before that moment, and still keep several waiting for the head."""
        return [
            flight
            for flight in self.flights.values()
            if flight.began < before and flight.join is None and len(flight.jobs) > 1
        ]

    def older(self, before: float) -> list[Flight[J]]:
        """Those that began before that moment, and can be joined."""
        return [flight for flight in self.flights.values() if flight.began < before and flight.joinable]

    def must_pass(self, key: bytes, now: float) -> bool:
        passing = self.passes.get(hash(key))
        if passing is None:
            return False
        if passing[0] > now:
            return True
        del self.passes[hash(key)]
        return False

    def remember_pass(self, key: bytes, now: float, reason: str) -> None:
        if len(self.passes) >= self.PASS_CAP:
            self.passes.pop(next(iter(self.passes)))
        self.passes[hash(key)] = now + self.PASS_FOR, reason

    def why_pass(self, key: bytes) -> str:
        """The word for why the last answer of a key that must pass could not be shared."""
        return self.passes[hash(key)][1]
