"""Answers that are compressed on their way to the client, or to the cache and all who read along."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from edgeproxy.http.coders import CODERS, Coder, MakeCoder
from edgeproxy.http.coding import IDENTITY, CodingRule, coded_fields, varied, weakened
from edgeproxy.http.message import Headers
from edgeproxy.observe.cells import Slot
from edgeproxy.observe.compression import CodingMeters
from edgeproxy.routes import Compression, Route

if TYPE_CHECKING:
    from edgeproxy.cache.body import Body
    from edgeproxy.door import Door
    from edgeproxy.errors import OriginError
    from edgeproxy.trip import Trip

SLICE = 32 * 1024  # bytes compressed in one turn of the loop
SHORT = 128 * 1024  # bytes of a body that is through before its client could stall


def compressing(route: Route, rule: CodingRule, slot: Slot) -> Route:
    """The route with what it compresses. The one coding that a request is left with is part of its key."""
    cache = route.rule
    if cache is not None and b"accept-encoding" not in cache.headers:
        cache = replace(cache, headers=(*cache.headers, b"accept-encoding"))
    meters = {coding: CodingMeters(slot, route.name, coding.decode()) for coding in rule.codings}
    return replace(route, rule=cache, compression=Compression(rule, meters))


class Press:
    """The coder of one answer, and what it took and gave."""

    __slots__ = ("_coder", "_length", "_make", "_meters", "given", "taken")

    def __init__(self, make: MakeCoder, length: int | None, meters: CodingMeters) -> None:
        """`length` of the plain form, when that is known."""
        self._make, self._length, self._meters = make, length, meters
        self._coder: Coder | None = None
        self.taken = self.given = 0

    def begin(self, *, shared: bool) -> None:
        """Make the coder; a slim one for a long body of one client, who may stall."""
        short = self._length is not None and self._length <= SHORT
        self._coder = self._make(slim=not (shared or short))

    def feed(self, data: bytes, *, more: bool) -> bytes:
        assert self._coder is not None  # noqa: S101 - begun
        self.taken += len(data)
        out = self._coder.feed(data, more=more or self.taken == self._length)
        self.given += len(out)
        return out

    def end(self) -> bytes:
        assert self._coder is not None  # noqa: S101 - begun
        out = self._coder.end()
        self._meters.pressed(self.taken, self.given + len(out))
        return out


def prepare(trip: Trip) -> Press | None:
    """Rewrite the head of an answer whose route compresses; what its body has to go through, if anything."""
    visit = trip.job.visit
    compression = visit.route.compression
    if compression is None:
        return None
    coding = visit.request.headers.index.get(b"accept-encoding", IDENTITY)
    coder = CODERS.get(coding)
    if trip.status == 304 and coder is not None:  # of an answer that was compressed when the client got it
        trip.headers = Headers([weakened(field) for field in varied(trip.headers.raw)])
        return None
    if not compression.rule.compresses(trip.status, trip.headers):
        return None
    if coder is None:
        trip.headers = Headers(varied(trip.headers.raw))
        return None
    length, trip.length = trip.length, None
    trip.headers = coded_fields(trip.headers, coding)
    if visit.request.method == b"HEAD":
        return None
    return Press(coder, length, compression.meters[coding])


class Sliced:
    """Feeds a press so much in each turn of the event loop: others have theirs, and the origin waits."""

    def __init__(self, press: Press) -> None:
        self._press = press
        self._rest = b""  # at most what came in one read
        self._due = False
        self._ending = False

    def add(self, data: bytes) -> None:
        self._rest = self._rest + data if self._rest else data
        if not self._due:
            self._turn()

    def end(self, *, broken: bool = False) -> None:
        if broken:
            self._rest = b""
            self._end(broken=True)
        elif self._rest:
            self._ending = True
        else:
            self._end(broken=False)

    def _turn(self) -> None:
        if not self._rest or not self._takes():
            return
        data, self._rest = self._rest[:SLICE], self._rest[SLICE:]
        if out := self._press.feed(data, more=bool(self._rest)):
            self._give(out)
        if self._rest:
            self._hold()
            self._due = True
            asyncio.get_running_loop().call_soon(self._next)
        elif self._ending:
            self._end(broken=False)
        else:
            self._release()

    def _next(self) -> None:
        self._due = False
        self._turn()

    def _takes(self) -> bool:
        """Is anybody there who takes more now?"""
        raise NotImplementedError

    def _give(self, out: bytes) -> None:
        raise NotImplementedError

    def _hold(self) -> None:
        """The origin has to wait."""
        raise NotImplementedError

    def _release(self) -> None:
        raise NotImplementedError

    def _end(self, *, broken: bool) -> None:
        raise NotImplementedError


class PressedBody(Sliced):
    """The way into a body that is recorded. `done` is told how it ended, when all of it is in the body."""

    def __init__(
        self, body: Body, press: Press, brake: Brake, done: Callable[[OriginError | None], None]
    ) -> None:
        super().__init__(press)
        press.begin(shared=True)
        self._body, self._brake, self._done = body, brake, done

    def flush(self) -> None:
        self._body.flush()

    def end(self, *, broken: bool = False) -> None:
        self._brake.take_off()
        super().end(broken=broken)

    def over(self, error: OriginError | None) -> None:
        """The origin has nothing more to send."""
        if error is not None or not self._ending:
            self._done(error)

    def _takes(self) -> bool:
        return not self._body.ended  # all its readers may have left

    def _give(self, out: bytes) -> None:
        self._body.add(out)

    def _hold(self) -> None:
        self._brake.hold("press")

    def _release(self) -> None:
        self._brake.release("press")

    def _end(self, *, broken: bool) -> None:
        if not broken:
            self._body.add(self._press.end())
        self._body.end(broken=broken)
        if self._ending and not broken:
            self._done(None)


class PressedDoor(Sliced):
    """The way to one client."""

    def __init__(self, trip: Trip, door: Door, press: Press) -> None:
        super().__init__(press)
        press.begin(shared=False)
        self._trip, self._door = trip, door
        door.on_drain = self._turn_unless_due

    def add(self, data: bytes) -> None:
        super().add(data)
        if not self._door.writable:
            self._hold()

    def flush(self) -> None:
        self._door.flush()

    def _turn_unless_due(self) -> None:
        if not self._rest:
            self._release()
        elif not self._due:
            self._turn()

    def _takes(self) -> bool:
        return self._door.writable and not self._door.gone

    def _give(self, out: bytes) -> None:
        self._door.write(out)

    def _hold(self) -> None:
        if self._trip.connection is not None:
            self._trip.connection.pause()

    def _release(self) -> None:
        if self._trip.connection is not None and self._door.writable:
            self._trip.connection.resume()

    def _end(self, *, broken: bool) -> None:
        door = self._door
        door.on_drain = door.on_gone = None
        if broken:
            door.abort()
        else:
            door.write(self._press.end())
            door.end()


class Brake:
    """Lets the origin wait as long as anybody wants that."""

    def __init__(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        self._pause, self._resume = pause, resume
        self._held: set[str] = set()

    def hold(self, who: str) -> None:
        if not self._held:
            self._pause()
        self._held.add(who)

    def release(self, who: str) -> None:
        if who in self._held:
            self._held.remove(who)
            if not self._held:
                self._resume()

    def take_off(self) -> None:
        """The connection is somebody else's from now on."""
        self._pause = self._resume = _nothing


def _nothing() -> None:
    """Nobody waits."""
