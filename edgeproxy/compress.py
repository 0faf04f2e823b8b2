"""Answers that are compressed on their way to the client, or to the cache and all who read along."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgeproxy.http.coders import CODERS, Coder
from edgeproxy.http.coding import IDENTITY, CodingRule, coded_fields, varied, weakened
from edgeproxy.http.message import Headers
from edgeproxy.observe.cells import Slot
from edgeproxy.observe.compression import CodingMeters
from edgeproxy.routes import Compression, Route

if TYPE_CHECKING:
    from edgeproxy.cache.body import Body
    from edgeproxy.door import Door
    from edgeproxy.trip import Trip


def compressing(route: Route, rule: CodingRule, slot: Slot) -> Route:
    """The route with what it compresses. The one coding that a request is left with is part of its key."""
    cache = route.rule
    if cache is not None and b"accept-encoding" not in cache.headers:
        cache = replace(cache, headers=(*cache.headers, b"accept-encoding"))
    meters = {coding: CodingMeters(slot, route.name, coding.decode()) for coding in rule.codings}
    return replace(route, rule=cache, compression=Compression(rule, meters))


class Press:
    """The coder of one answer, and what it took and gave."""

    __slots__ = ("_coder", "_left", "_meters", "given", "taken")

    def __init__(self, coder: Coder, length: int | None, meters: CodingMeters) -> None:
        self._coder = coder
        self._left = length  # bytes of the plain form still to come, when that is known
        self._meters = meters
        self.taken = self.given = 0

    def feed(self, data: bytes) -> bytes:
        self.taken += len(data)
        out = self._coder.feed(data, last=self.taken == self._left)
        self.given += len(out)
        return out

    def end(self) -> bytes:
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
    return Press(coder(), length, compression.meters[coding])


class PressedBody:
    """The way into a body that is recorded."""

    __slots__ = ("_body", "_press")

    def __init__(self, body: Body, press: Press) -> None:
        self._body, self._press = body, press

    def add(self, data: bytes) -> None:
        out = self._press.feed(data)
        if out:
            self._body.add(out)

    def flush(self) -> None:
        self._body.flush()

    def end(self, *, broken: bool = False) -> None:
        if not broken:
            self._body.add(self._press.end())
        self._body.end(broken=broken)


class PressedDoor:
    """The way to one client."""

    __slots__ = ("_door", "_press", "_trip")

    def __init__(self, trip: Trip, door: Door, press: Press) -> None:
        self._trip, self._door, self._press = trip, door, press

    def add(self, data: bytes) -> None:
        out = self._press.feed(data)
        if out:
            self._door.write(out)
        if not self._door.writable and self._trip.connection is not None:
            self._trip.connection.pause()

    def flush(self) -> None:
        self._door.flush()

    def end(self, *, broken: bool = False) -> None:
        door = self._door
        door.on_drain = door.on_gone = None
        if broken:
            door.abort()
        else:
            door.write(self._press.end())
            door.end()
