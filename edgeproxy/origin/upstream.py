"""One named origin as the fetch sees it: give me a connection.

`idle` is the path of nearly every request and never waits; `connect` is the other one.
"""

from __future__ import annotations

import random
from functools import partial

from edgeproxy.errors import OriginError, Retry, origin_error
from edgeproxy.origin.balance import LeastRequests, Pick, RoundRobin
from edgeproxy.origin.connection import OriginConnection
from edgeproxy.origin.dial import Dialer
from edgeproxy.origin.health import UNHEALTHY
from edgeproxy.origin.pool import Pool, Server
from edgeproxy.origin.resolve import Resolver
from edgeproxy.origin.settings import Origin
from edgeproxy.origin.sweeper import Sweeper
from edgeproxy.origin.tls import client_context

HOLD_DOWN = 1.0  # seconds a server that could not be connected to is avoided by this worker


class Upstream:
    """The pool of servers of one origin, in one worker.

    `health` has one byte per server, written by the process that probes. Raises ConfigError when
    a certificate file cannot be used. Build it inside the event loop.
    """

    __slots__ = (
        "_balance",
        "_count",
        "_health",
        "_pool",
        "_retries",
        "_sweeper",
        "_timeouts",
        "location",
        "name",
        "servers",
    )

    def __init__(
        self,
        name: str,
        origin: Origin,
        *,
        sweeper: Sweeper,
        resolver: Resolver,
        health: memoryview | None = None,
        pick: Pick = random.randrange,
    ) -> None:
        urls = origin.urls
        context = client_context(origin.tls) if any(url.tls for url in urls) else None
        self.name = name
        self.location = origin.location
        self.servers = [
            Server(
                index,
                url,
                origin.host_for(url),
                Dialer(
                    url,
                    resolver,
                    origin.timeouts.connect,
                    context=context,
                    server_name=origin.tls.server_name,
                    allow_private=origin.allow_private,
                ),
            )
            for index, url in enumerate(urls)
        ]
        self._count = len(urls)
        self._timeouts = origin.timeouts
        self._retries = origin.retries
        self._health = health
        self._sweeper = sweeper
        self._pool = Pool(origin, self.servers, sweeper)
        self._balance = (
            RoundRobin()
            if origin.balance == "round_robin"
            else LeastRequests(lambda index: self.servers[index].in_flight, pick)
        )

    def __repr__(self) -> str:
        return f"<Upstream {self.name} {self.servers!r}>"

    @property
    def open(self) -> int:
        """Connections open or being opened."""
        return self._pool.open

    @property
    def waiting(self) -> int:
        """Requests waiting for a connection."""
        return self._pool.waiting

    def usable(self, index: int) -> bool:
        """Is this server neither unhealthy nor suspected?"""
        if self._health is not None and self._health[index] == UNHEALTHY:
            return False
        suspect_until = self.servers[index].suspect_until
        return not suspect_until or self._sweeper.clock() >= suspect_until

    def healthy(self) -> bool:
        """Is any server usable?"""
        return any(self.usable(index) for index in range(self._count))

    def idle(self) -> OriginConnection | None:
        """An open connection to the next server, or None: then `connect`."""
        if self._count == 1:
            return self._pool.take(self.servers[0])
        chosen = self._balance.peek(self._count, self.usable)
        connection = self._pool.take(self.servers[chosen])
        if connection is not None:
            self._balance.advance(self._count, chosen)
        return connection

    async def connect(self) -> OriginConnection:
        """A connection to the next server, or to others when it cannot be reached.

        Waits in the queue when all slots are taken; what comes free there may be a reused
        connection. Raises OriginError: the last failure, after `retries` other servers.
        """
        connection = await self._pool.acquire()
        if connection is not None:
            return connection
        try:
            connection = await self._dial()
        except BaseException:
            self._pool.free_slot()
            raise
        self._pool.opened(connection)
        return connection

    async def _dial(self) -> OriginConnection:
        failure = origin_error("destination_unavailable", "no server could be tried")
        tried: set[int] = set()
        while len(tried) <= self._retries and len(tried) < self._count:
            server = self.servers[self._choose(tried)]
            tried.add(server.index)
            try:
                connection = await server.dialer.open(
                    partial(OriginConnection, self._pool, server, self._timeouts, self._sweeper)
                )
                if not connection.closed:
                    server.suspect_until = 0.0
                    return connection
                failure = OriginError(
                    "connection_terminated", 502, Retry.ANY, "closed as soon as it was open"
                )
            except OriginError as error:
                failure = error
            server.suspect_until = self._sweeper.clock() + HOLD_DOWN
        raise failure

    def _choose(self, tried: set[int]) -> int:
        chosen = self._balance.peek(self._count, lambda index: index not in tried and self.usable(index))
        if chosen in tried:  # no other server is usable: any other
            chosen = self._balance.peek(self._count, lambda index: index not in tried)
        self._balance.advance(self._count, chosen)
        return chosen

    async def close(self) -> None:
        """Drain: refuse new work, close idle connections, wait for those in flight."""
        await self._pool.close()
