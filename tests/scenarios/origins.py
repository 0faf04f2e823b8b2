"""Origins that fail on demand: one fault at a time, switched on and off while they run."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable

BODY = b"x" * 1024
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
BAD = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 2\r\n\r\nno"
LATE = 1.0  # seconds until a slow origin answers
FAULTS = ("refuse", "reset", "hang", "slow", "drip", "truncate", "lie", "errors", "one-then-reset")


class FaultyOrigin:
    """Listens on a port of the loopback. `fault` is one of FAULTS, or empty for good answers."""

    def __init__(self) -> None:
        self.fault = ""
        self.port = 0
        self.requests = 0
        self.good_at = 0.0  # when the last good answer was given
        self.first_good_at = 0.0  # the first since `heal`
        self.connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None

    async def listen(self) -> None:
        """Accept connections, on the same port as before."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def fail(self, fault: str) -> None:
        """Start to misbehave."""
        self.fault = fault
        if fault == "refuse":
            self.stop()
        elif fault != "one-then-reset":  # connections that wait for their next request get the fault there
            for connection in self.connections:
                connection.served = 0

    async def heal(self) -> None:
        """Behave again."""
        refused, self.fault = self.fault == "refuse", ""
        self.first_good_at = 0.0
        if refused:
            await self.listen()

    def stop(self) -> None:
        """Refuse connections and break those that are open."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self.connections):
            connection.reset()


class _Connection(asyncio.Protocol):
    def __init__(self, origin: FaultyOrigin) -> None:
        self._origin = origin
        self._held = b""
        self.served = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._origin.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._origin.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self._held += data
        while b"\r\n\r\n" in self._held:
            self._held = self._held.partition(b"\r\n\r\n")[2]
            self._origin.requests += 1
            ANSWERS[self._origin.fault](self)
            self.served += 1

    def good(self) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(GOOD)
        now = time.monotonic()
        self._origin.good_at = now
        if not self._origin.fault:
            self._origin.first_good_at = self._origin.first_good_at or now

    def bad(self) -> None:
        self._transport.write(BAD)

    def reset(self) -> None:
        raw: socket.socket = self._transport.get_extra_info("socket")
        if raw.fileno() >= 0:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def hang(self) -> None:
        """Never answer."""

    def slow(self) -> None:
        asyncio.get_running_loop().call_later(LATE, self.good)

    def drip(self, left: bytes = GOOD) -> None:
        if not self._transport.is_closing() and left:
            self._transport.write(left[:1])
            asyncio.get_running_loop().call_later(1.0, self.drip, left[1:])

    def truncate(self) -> None:
        self._transport.write(GOOD[:300])
        self._transport.close()

    def lie(self) -> None:
        """Say less than is sent: what follows must not become somebody's answer."""
        self._transport.write(GOOD + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")

    def one_then_reset(self) -> None:
        if self.served:
            self.reset()
        else:
            self.good()


ANSWERS: dict[str, Callable[[_Connection], None]] = {
    "": _Connection.good,
    "refuse": _Connection.reset,
    "reset": _Connection.reset,
    "hang": _Connection.hang,
    "slow": _Connection.slow,
    "drip": _Connection.drip,
    "truncate": _Connection.truncate,
    "lie": _Connection.lie,
    "errors": _Connection.bad,
    "one-then-reset": _Connection.one_then_reset,
}
