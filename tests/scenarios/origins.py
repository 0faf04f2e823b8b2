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
PROMISED = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 * len(BODY)) + BODY
LARGE = 1024 * 1024
LARGE_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE + b"x" * LARGE


class FaultyOrigin:
    """Listens on a port of the loopback. `fault` is one of ANSWERS or STOPS; empty for good answers."""

    def __init__(self) -> None:
        self.fault = ""
        self.port = 0
        self.requests = 0
        self.first_good_at = 0.0  # the first since `heal`
        self.connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        self._full: list[socket.socket] = []  # a listener that takes nobody, and those it took before

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
        elif fault == "black-hole":
            self._listen_to_nobody()

    async def heal(self) -> None:
        """Behave again."""
        stopped, self.fault = self.fault in STOPS, ""
        self.first_good_at = 0.0
        for held in self._full:
            held.close()
        self._full = []
        if stopped:
            await self.listen()

    def _listen_to_nobody(self) -> None:
        """Packets that open connections get no answer: the queue of the listener is full, and stays so."""
        if self._server is not None:
            self._server.close()
            self._server = None
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(0)
        self._full = [listener]
        for _ in range(4):
            waiting = socket.socket()
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", self.port))
            self._full.append(waiting)

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

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._origin.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._origin.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self._held += data
        while b"\r\n\r\n" in self._held:
            head, _, self._held = self._held.partition(b"\r\n\r\n")
            self._origin.requests += 1
            if head.startswith(b"GET /large "):
                self._transport.write(LARGE_ANSWER)
            else:
                ANSWERS[self._origin.fault](self)

    def good(self) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(GOOD)
        if not self._origin.fault:
            self._origin.first_good_at = self._origin.first_good_at or time.monotonic()

    def bad(self) -> None:
        self._transport.write(BAD)

    def reset(self) -> None:
        raw: socket.socket = self._transport.get_extra_info("socket")
        if raw.fileno() >= 0:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def hang(self) -> None:
        """Never answer."""

    def late(self) -> None:
        asyncio.get_running_loop().call_later(30.0, self.good)

    def slow(self) -> None:
        asyncio.get_running_loop().call_later(0.3, self.good)

    def drip(self, left: bytes = GOOD) -> None:
        if not self._transport.is_closing() and left:
            self._transport.write(left[:1])
            asyncio.get_running_loop().call_later(1.0, self.drip, left[1:])

    def truncate(self) -> None:
        self._transport.write(GOOD[:300])
        self._transport.close()

    def send_too_much(self) -> None:
        """What follows must not become somebody's answer."""
        self._transport.write(GOOD + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")

    def promise_too_much(self) -> None:
        """The rest never comes."""
        self._transport.write(PROMISED)


STOPS = ("refuse", "black-hole")
ANSWERS: dict[str, Callable[[_Connection], None]] = {
    "": _Connection.good,
    "refuse": _Connection.reset,
    "reset": _Connection.reset,
    "black-hole": _Connection.hang,
    "hang": _Connection.hang,
    "answer after 30 s": _Connection.late,
    "slow": _Connection.slow,
    "drip": _Connection.drip,
    "truncate": _Connection.truncate,
    "send too much": _Connection.send_too_much,
    "promise too much": _Connection.promise_too_much,
    "answer 500": _Connection.bad,
}
