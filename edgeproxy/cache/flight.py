"""One origin fetch that several clients wait for (request collapsing, RFC 9211 `collapsed`).

The first miss of a key leads, later ones follow. Once the answer is known to be shareable all of
them read the same chunks, each at its own pace, while the fill still runs. Synchronous: the fetch
tells a flight what arrived, a flight tells doors what to write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from edgeproxy.cache.body_file import BodyFile
from edgeproxy.door import Door

J = TypeVar("J")

AHEAD = 256 * 1024  # bytes held for the slowest reader once the body is no longer recorded


class Spool(Protocol):
    """A file that a body is written to. `add` never waits."""

    def add(self, data: bytes) -> None: ...
    def finish(self, done: Callable[[BodyFile | None], None]) -> None: ...
    def drop(self) -> None: ...


class Reader:
    """Where one door stands in the body."""

    __slots__ = ("_flight", "door", "position")

    def __init__(self, flight: Body, door: Door) -> None:
        self._flight = flight
        self.door = door
        self.position = flight.dropped
        door.on_drain = self.pump
        door.on_gone = flight.trim

    def pump(self) -> None:
        """Write what the door has not had yet, as long as it takes it."""
        body, door = self._flight, self.door
        while door.writable and not door.gone and self.position < body.dropped + len(body.chunks):
            data = body.chunks[self.position - body.dropped]
            self.position += 1
            door.write(data)
        if body.ended and self.position == body.dropped + len(body.chunks):
            door.on_drain = door.on_gone = None
            if body.broken:
                door.abort()
            else:
                door.end()
        body.trim()


class Body:
    """A response body while it arrives: recorded for the cache and read by any number of doors.

    When it grows over `cap` it is not recorded any more: what all readers had is dropped, and the
    origin is paused while the slowest is more than AHEAD bytes behind.
    """

    __slots__ = (
        "_pause",
        "_resume",
        "_stop",
        "_throttled",
        "_waiting",
        "broken",
        "cap",
        "chunks",
        "dropped",
        "ended",
        "kept",
        "readers",
        "recording",
        "size",
        "spool",
    )

    def __init__(
        self,
        cap: int,
        pause: Callable[[], None],
        resume: Callable[[], None],
        stop: Callable[[], None] | None = None,
    ) -> None:
        """`stop` is called when it is too large to be kept and nobody reads it any more."""
        self.cap = cap
        self.chunks: list[bytes] = []
        self.dropped = 0  # chunks no longer held
        self.size = 0  # bytes received
        self.recording = True
        self.kept = True  # to be stored when it is whole, not only shared
        self.ended = False
        self.broken = False
        self.readers: list[Reader] = []
        self._pause, self._resume, self._throttled = pause, resume, False
        self._stop = stop
        self.spool: Spool | None = None  # where all of it goes when it is too large for memory
        self._waiting = False  # nothing of it came with the head

    def read_by(self, door: Door) -> None:
        """Let `door` have the body from the start; only while recording."""
        reader = Reader(self, door)
        self.readers.append(reader)
        if self.chunks or self.ended:
            reader.pump()
        elif self._waiting:
            door.flush()

    def flush(self) -> None:
        """There is no more for now."""
        self._waiting = True
        for reader in self.readers:
            reader.door.flush()

    def add(self, data: bytes) -> None:
        """Bytes from the origin."""
        self.size += len(data)
        self.chunks.append(data)
        if self.spool is not None:
            self.spool.add(data)
        if self.size > self.cap:
            self.recording = False
        for reader in tuple(self.readers):
            reader.pump()
        self.trim()

    def end(self, *, broken: bool = False) -> None:
        """The body is complete, or broke off: then readers are aborted, never ended (RFC 9112 §8)."""
        self.ended, self.broken = True, broken
        for reader in tuple(self.readers):
            reader.pump()

    def content(self) -> bytes:
        """All of the body; only while recording."""
        return self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)

    def trim(self) -> None:
        """Drop what nobody needs, and hold back the origin for the slowest reader."""
        if self.recording:
            return
        self.readers = [reader for reader in self.readers if not reader.door.gone]
        if not self.readers and not self.ended and self._stop is not None and self.spool is None:
            self.ended = self.broken = True
            self.chunks.clear()
            self._stop()
            return
        if self.readers:
            behind = min(reader.position for reader in self.readers) - self.dropped
        else:
            behind = len(self.chunks)
        if behind > 0:
            del self.chunks[:behind]
            self.dropped += behind
        held = sum(map(len, self.chunks))
        if held > AHEAD and not self._throttled and not self.ended:
            self._throttled = True
            self._pause()
        elif held <= AHEAD // 2 and self._throttled:
            self._throttled = False
            self._resume()


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
    )

    def __init__(self, key: bytes, began: float = 0.0, position: int = 0) -> None:
        self.key = key
        self.position = position  # of the purge log when it began
        self.began = began  # steady seconds
        self.landed = False
        self.leader = -1  # the slot of another worker that is asked for it
        self.refreshes = False  # an entry that clients are served from meanwhile
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

    def share(self, body: Body, join: Callable[[J], None]) -> None:
        """The answer can be shared: later jobs are handed to `join`, while all of the body is there."""
        self._body, self._join = body, join

    @property
    def join(self) -> Callable[[J], None] | None:
        """How to serve a job from this flight now; None while the head is awaited."""
        return self._join

    @property
    def joinable(self) -> bool:
        """Whether a job may still come along: before the head, or while the whole body is held."""
        return self._body is None or (self._body.recording and not self._body.broken)


class Flights(Generic[J]):
    """All flights of a worker by key, and the keys known not to be worth waiting for.

    `passes` (hit-for-miss) remembers for `PASS_FOR` seconds that a key's answer could not be shared, so
    that its clients never queue behind one another (A68). Both maps are bounded.
    """

    PASS_FOR = 120.0
    PASS_CAP = 10_000

    __slots__ = ("flights", "passes")

    def __init__(self) -> None:
        self.flights: dict[bytes, Flight[J]] = {}
        self.passes: dict[int, float] = {}  # by hash of the key: two that share one only wait for nobody

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

    def must_pass(self, key: bytes, now: float) -> bool:
        until = self.passes.get(hash(key))
        if until is None:
            return False
        if until > now:
            return True
        del self.passes[hash(key)]
        return False

    def remember_pass(self, key: bytes, now: float) -> None:
        if len(self.passes) >= self.PASS_CAP:
            self.passes.pop(next(iter(self.passes)))
        self.passes[hash(key)] = now + self.PASS_FOR
