"""The connections of one origin and worker: who may use one, who waits, what is kept.

Rule 1: `open` counts connections and dials under way, and never exceeds the cap.
Rule 2: when somebody waits, nothing is idle: what comes free goes to the first in line.
Rule 3: a pool that drains keeps nothing, and serves whoever began with it, those in line included.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from edgeproxy.errors import OriginError, origin_error
from edgeproxy.origin.connection import OriginConnection
from edgeproxy.origin.dial import Dialer
from edgeproxy.origin.heads import Heads
from edgeproxy.origin.servers import ServerUrl
from edgeproxy.origin.settings import Origin
from edgeproxy.origin.standing import Standing
from edgeproxy.origin.sweeper import NEVER, Sweeper


class Server:
    """One server of an origin, as one worker knows it."""

    __slots__ = ("dialer", "heads", "host", "idle", "in_flight", "index", "label", "open", "standing", "url")

    def __init__(
        self, index: int, url: ServerUrl, host: bytes | None, dialer: Dialer, standing: Standing
    ) -> None:
        self.index = index
        self.url = url
        self.label = str(url)
        self.host = host  # the Host field it is asked with; None: the client's
        self.dialer = dialer
        self.idle: list[OriginConnection] = []  # last in, first out: the rest may time out
        self.heads = Heads()
        self.in_flight = 0
        self.open = 0  # connections, those being opened among them
        self.standing = standing

    def __repr__(self) -> str:
        return f"<Server {self.label} {self.in_flight} in flight, {len(self.idle)} idle>"


class Pool:
    """Slots, idle connections and the queue of one origin. Owner of its connections."""

    __slots__ = (
        "_closed",
        "_drained",
        "_draining",
        "_idle_for",
        "_max_age",
        "_max_idle",
        "_max_open",
        "_members",
        "_queue_for",
        "_queue_size",
        "_room",
        "_servers",
        "_sweeper",
        "_waiters",
        "open",
        "overdue",
        "refused",
    )

    def __init__(
        self, origin: Origin, servers: list[Server], sweeper: Sweeper, room: Callable[[], bool]
    ) -> None:
        """`room`: may one of the servers that would be chosen have another connection?"""
        self.open = 0
        self.refused = 0  # requests that found the queue full, ever
        self.overdue = 0  # requests that waited in vain, ever
        self._room = room
        self._servers = servers
        self._sweeper = sweeper
        self._max_open = origin.max_connections
        self._max_idle = origin.max_idle
        self._idle_for = origin.timeouts.idle
        self._max_age = origin.timeouts.max_age or NEVER
        self._queue_size = origin.queue.size
        self._queue_for = origin.queue.timeout
        self._members: dict[OriginConnection, float] = {}  # with the time when each is too old
        self._waiters: deque[asyncio.Future[OriginConnection | None]] = deque()
        self._draining = self._closed = False
        self._drained = asyncio.Event()

    @property
    def waiting(self) -> int:
        """How many requests are in the queue."""
        return len(self._waiters)

    def take(self, server: Server) -> OriginConnection | None:
        """The idle connection to `server` used last, or None."""
        idle = server.idle
        while idle:
            connection = idle.pop()
            if connection.is_quiet():
                connection.deadline = NEVER
                server.in_flight += 1
                return connection
            server.in_flight += 1  # forgotten like one in use
            connection.close_idle()
        return None

    def has_slot(self) -> bool:
        """Would `acquire` give a slot at once?"""
        return not (self._waiters or self._draining) and self.open < self._max_open and self._room()

    async def acquire(self) -> OriginConnection | None:
        """A slot to dial with (None), or in its place a connection that came free.

        Raises OriginError connection_limit_reached when the queue is full or waiting took too
        long, destination_unavailable when the pool is closed.
        """
        if self._closed:
            raise _closed()
        if not self._waiters:
            if self.open >= self._max_open:
                self._evict()
            if self.open < self._max_open and self._room():
                self.open += 1
                return None
        if len(self._waiters) >= self._queue_size:
            self.refused += 1
            raise origin_error("connection_limit_reached", "too many requests wait for a connection")
        return await self._queue()

    async def _queue(self) -> OriginConnection | None:
        waiter: asyncio.Future[OriginConnection | None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(self._queue_for):
                return await waiter
        except BaseException as error:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            elif not waiter.cancelled() and waiter.exception() is None:  # given in the moment we gave up
                self._give_back(waiter.result())
            if isinstance(error, TimeoutError):
                self.overdue += 1
                raise origin_error("connection_limit_reached", "no connection came free in time") from None
            raise

    def _give_back(self, got: OriginConnection | None) -> None:
        if got is None:
            self.free_slot()
        elif not got.closed:
            self.release(got)

    def opened(self, connection: OriginConnection) -> None:
        """A dial succeeded: the slot is this connection's until it closes.

        Only now is it watched: a dial given up may leave one that never hears of its end (uvloop).
        """
        self._sweeper.add(connection)
        self._members[connection] = self._sweeper.clock() + self._max_age
        connection.server.in_flight += 1

    def free_slot(self) -> None:
        """A dial failed or a connection closed: the first in line may dial."""
        if not self._hand_on(None):
            self.open -= 1
            if self._draining and self.open == 0:
                self._drained.set()

    def _hand_on(self, what: OriginConnection | None) -> bool:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():  # else cancelled, and its task has not run yet
                waiter.set_result(what)
                return True
        return False

    # Owner of the connections.

    def release(self, connection: OriginConnection) -> None:
        """A clean connection: to the first in line, else kept, else closed."""
        server = connection.server
        now, too_old = self._sweeper.clock(), self._members[connection]
        if now >= too_old:
            connection.close_idle()
        elif self._waiters and self._hand_on(connection):
            connection.deadline = NEVER
        elif self._draining or len(server.idle) >= self._max_idle:
            connection.close_idle()
        else:
            if server.url.tls:
                server.dialer.remember(connection)
            server.in_flight -= 1
            patience = connection.patience
            idle_until = now + (patience if patience < self._idle_for else self._idle_for)
            connection.deadline = idle_until if idle_until < too_old else too_old
            server.idle.append(connection)

    def forget(self, connection: OriginConnection) -> None:
        """It closed. One that closed while it was being opened was never ours."""
        if self._members.pop(connection, None) is None:
            return
        server = connection.server
        server.open -= 1
        if connection in server.idle:
            server.idle.remove(connection)
        else:
            server.in_flight -= 1
        self.free_slot()

    def tend(self) -> None:
        """Let go of connections to addresses that a server's name no longer has. Called once a second."""
        for connection in list(self._members):
            server = connection.server
            if server.dialer.named and server.dialer.outdated(connection._transport):
                self._members[connection] = -NEVER  # closed when it comes back
                if connection in server.idle:
                    connection.close_idle()

    def _evict(self) -> None:
        """Close the idle connection unused for longest, so that another server can be dialled."""
        oldest = min(
            (server.idle[0] for server in self._servers if server.idle),
            key=lambda connection: connection.deadline,
            default=None,
        )
        if oldest is not None:
            oldest.close_idle()

    async def close(self, patience: float) -> None:
        """Keep nothing, wait `patience` seconds for what is in flight and in line, and refuse the rest."""
        self._draining = True
        for server in self._servers:
            for connection in list(server.idle):
                connection.close_idle()
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while self.open:
                    self._drained.clear()
                    await self._drained.wait()
                return
        self._closed = True
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(_closed())
        for connection in list(self._members):
            connection.expire(NEVER)


def _closed() -> OriginError:
    return origin_error("destination_unavailable", "the pool is closed")
