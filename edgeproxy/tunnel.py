"""A WebSocket on its way: after the origin's 101 the bytes of two connections pass each other.

Rule 1: no byte of the client's goes to the origin before its 101, and that connection never goes back to
its pool (reliability A22).
Rule 2: whoever is too fast is paused; nothing is held here.
Rule 3: the client is told 1001 (going away) between two frames of the origin's, never inside one. Its
answer goes on to the origin, which closes: so both sides end by the book (RFC 6455 §7.1).
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import cast

from edgeproxy.door import Wire
from edgeproxy.errors import OriginError
from edgeproxy.http.message import Field
from edgeproxy.http.websocket import GOING_AWAY, Frames, close_frame
from edgeproxy.observe.tunnels import CLOSED, DRAINED, FAILED, IDLE, TunnelMeters
from edgeproxy.origin.connection import OriginConnection
from edgeproxy.origin.sink import Nobody
from edgeproxy.origin.sweeper import Sweeper
from edgeproxy.routes import Route, TunnelRule

FAREWELL = 5.0  # seconds for the sides to close once they were told to, and for their last bytes to leave


def upgradable(route: Route, rule: TunnelRule) -> Route:
    """The route, with its twin for requests that want to be WebSockets: no cache, all policies."""
    return replace(route, upgraded=replace(route, rule=None, websocket=rule))


class Tunnels:
    """All of one worker. They outlive a reload: each keeps the rule it began with."""

    def __init__(self, meters: TunnelMeters, sweeper: Sweeper) -> None:
        self.meters = meters
        self.sweeper = sweeper
        self.open: set[Tunnel] = set()
        self._per_route: dict[str, int] = {}
        self._draining = False

    def has_room(self, route: str, rule: TunnelRule) -> bool:
        """May one more begin?"""
        return not self._draining and self._per_route.get(route, 0) < rule.tunnels

    def begin(
        self, route: str, rule: TunnelRule, connection: OriginConnection, wire: Wire, fields: list[Field]
    ) -> Tunnel:
        """Hand both connections over; `fields` are those of the 101 for the client."""
        tunnel = Tunnel(self, route, rule.idle, connection, wire)
        self.open.add(tunnel)
        self._per_route[route] = self._per_route.get(route, 0) + 1
        self.meters.opened(len(self.open))
        tunnel.connect(fields)
        return tunnel

    def ended(self, tunnel: Tunnel, ending: str) -> None:
        """One of them is over."""
        self.open.discard(tunnel)
        left = self._per_route[tunnel.route] - 1
        if left:
            self._per_route[tunnel.route] = left
        else:
            del self._per_route[tunnel.route]
        self.meters.ended(len(self.open), tunnel.route, ending, tunnel.received, tunnel.sent)

    def drain(self) -> None:
        """The worker stops: nothing begins any more, and everybody is told to go."""
        self._draining = True
        for tunnel in tuple(self.open):
            tunnel.leave(DRAINED)


class Tunnel(Nobody):
    """One client, one origin. `Nobody`: of the origin's connection it hears only that it must close."""

    def __init__(
        self, tunnels: Tunnels, route: str, idle: float, connection: OriginConnection, wire: Wire
    ) -> None:
        self.route = route
        self.deadline = 0.0  # for the sweeper
        self._tunnels = tunnels
        self._clock = tunnels.sweeper.clock
        self._idle = idle
        self._connection = connection
        self._wire = wire
        self._ending = CLOSED
        self._leaving = False
        self._over = False
        self._client = _Client(self)
        self._origin = _Origin(self)

    @property
    def received(self) -> int:
        """Bytes from the client."""
        return self._client.passed

    @property
    def sent(self) -> int:
        """Bytes to the client."""
        return self._origin.passed

    def connect(self, fields: list[Field]) -> None:
        self._client.other, self._origin.other = self._origin, self._client
        self._origin.transport = self._connection.hand_over(self._origin, self)
        self._client.transport = self._wire.switch(fields, self._client)
        self._tunnels.sweeper.add(self)
        self.touch()

    def relay(self, early: bytes, rest: bytes) -> None:
        """Bytes that came with the two heads."""
        if rest:
            self._origin.data_received(rest)
        if early:
            self._client.data_received(early)

    def touch(self) -> None:
        """Something passed."""
        if not self._leaving:
            self.deadline = self._clock() + self._idle

    def leave(self, ending: str) -> None:
        """Tell the client that we go, and give both sides a moment."""
        if self._over or self._leaving:
            return
        self._leaving = True
        self._ending = ending
        self.deadline = self._clock() + FAREWELL
        self._origin.leave()

    def expire(self, now: float) -> None:
        """Nothing passed for too long, or nobody took leave, or took their last bytes."""
        if self._over:
            self._forget()
            self._client.abort()
            self._origin.abort()
        elif self._leaving:
            self.end(self._ending)
        else:
            self.leave(IDLE)

    def on_error(self, error: OriginError) -> None:
        """The pool of the origin is being closed, which has waited long enough."""
        self._origin.leave()
        self.end(DRAINED)

    def end(self, ending: str = "") -> None:
        """Close both sides once what was written is out; further calls do nothing."""
        if self._over:
            return
        self._over = True
        ending = self._ending if self._leaving else ending or self._ending
        self._tunnels.ended(self, ending)
        self.deadline = self._clock() + FAREWELL
        self._client.transport.close()
        self._connection.close_idle()
        self._wire.over("" if ending == CLOSED else ending, self.received, self.sent)

    def lost(self, side: _Side, exc: Exception | None) -> None:
        """A connection is gone."""
        self.end(FAILED if exc is not None else CLOSED)
        if side is self._client:
            self._wire.lost(exc)
        else:
            self._connection.connection_lost(exc)
        if self._client.gone and self._origin.gone:
            self._forget()

    def _forget(self) -> None:
        self._tunnels.sweeper.discard(self)


class _Side(asyncio.Protocol):
    """One of the two connections: what it reads, the other one writes."""

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel
        self.other: _Side = self
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)  # until connected
        self.passed = 0
        self.gone = False

    def data_received(self, data: bytes) -> None:
        self.passed += len(data)
        self._tunnel.touch()
        self.other.write(data)

    def write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    def pause_writing(self) -> None:
        if not self.other.transport.is_closing():
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if not self.other.transport.is_closing():
            self.other.transport.resume_reading()

    def eof_received(self) -> None:
        """A side that says no more has ended the WebSocket: asyncio closes it when this returns None."""
        self._tunnel.end()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        self._tunnel.lost(self, exc)

    def abort(self) -> None:
        if not self.gone:
            self.transport.abort()


class _Client(_Side):
    """The client's connection."""


class _Origin(_Side):
    """The origin's connection: its frames are counted, so that ours can be put between them."""

    def __init__(self, tunnel: Tunnel) -> None:
        super().__init__(tunnel)
        self._frames = Frames()
        self._leaving = False
        self._said = False

    def leave(self) -> None:
        self._leaving = True
        if self._frames.between:
            self._say()

    def _say(self) -> None:
        self._said = True
        self.other.write(close_frame(GOING_AWAY))

    def data_received(self, data: bytes) -> None:
        if self._said:  # nothing may follow a Close frame (RFC 6455 §5.5.1)
            return
        ended = self._frames.feed(data)
        if self._leaving and ended:
            super().data_received(data[:ended])
            self._say()
        else:
            super().data_received(data)
