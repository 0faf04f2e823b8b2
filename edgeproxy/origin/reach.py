"""How a connection to an origin is come by when none is idle: which servers are tried, and in what order.

Everything here waits: for a slot of the pool, for names and handshakes. `Upstream.idle` never comes here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Coroutine
from functools import partial
from typing import Any

from edgeproxy.errors import OriginError, Retry, origin_error
from edgeproxy.origin.balance import NONE_LEFT
from edgeproxy.origin.breaker import Breaker
from edgeproxy.origin.connection import OriginConnection
from edgeproxy.origin.pool import Pool, Server
from edgeproxy.origin.settings import Origin, Timeouts
from edgeproxy.origin.standing import HOLD_DOWN, HOLD_SILENT, Roster
from edgeproxy.origin.sweeper import Sweeper

_SILENT = frozenset({"connection_timeout", "dns_timeout"})


def opener(
    protocol: str, pool: Pool, server: Server, timeouts: Timeouts, sweeper: Sweeper
) -> Callable[[], Coroutine[Any, Any, OriginConnection]]:
    """How a connection to this server is opened that speaks `origins.<name>.protocol`. HTTP/2 is loaded only
    where it is spoken: there it is a place on a connection."""
    if protocol != "h2":
        build = partial(OriginConnection, pool, server, timeouts, sweeper)
        return lambda: server.dialer.open(build)
    from edgeproxy.origin.http2_links import Links

    return Links(pool, server, timeouts, sweeper).open


class Reach:
    """The servers of one origin and worker, and the pool that their connections belong to."""

    __slots__ = (
        "_breaker",
        "_cap",
        "_dial_time",
        "_openers",
        "_retries",
        "_roster",
        "_servers",
        "_sweeper",
        "_trial_time",
        "pool",
        "shed",
    )

    def __init__(
        self, origin: Origin, servers: list[Server], roster: Roster, breaker: Breaker, sweeper: Sweeper
    ) -> None:
        self._servers = servers
        self._roster = roster
        self._breaker = breaker
        self._sweeper = sweeper
        self._dial_time = origin.timeouts.connect
        self._trial_time = origin.timeouts.connect + origin.timeouts.first_byte
        self._retries = origin.retries
        self._cap = origin.max_connections_per_server or math.inf
        self.pool = Pool(origin, servers, sweeper, self._has_room)
        self._openers = [
            opener(origin.protocol, self.pool, server, origin.timeouts, sweeper) for server in servers
        ]
        self.shed = 0  # requests refused because the breaker was open, ever

    async def connect(self, key: bytes, avoid: Collection[int], tried: set[int]) -> OriginConnection:
        """A connection to the next server, or to others when it cannot be reached.

        Waits in the queue when all slots are taken; what comes free there may be a reused
        connection. Raises OriginError: the last failure, after `retries` other servers; at once when
        the breaker is open. `avoid` are servers that failed this request already, `tried` comes to be those
        that a connection was opened to.
        """
        if not self._breaker.admit(self._sweeper.clock()):
            self.shed += 1
            raise OriginError("destination_unavailable", 503, Retry.NEVER, "none of its servers answers")
        while (connection := await self.pool.acquire()) is not None:
            if connection.is_quiet():
                return connection
            connection.close_idle()  # something came since it was given to us: not to become the answer (A19)
        try:
            connection = await self._dial(key, avoid, tried)
        except BaseException:
            self.pool.free_slot()
            raise
        self.pool.opened(connection)
        return connection

    def second(self, asked: Collection[int], key: bytes) -> Server | None:
        """Another server than those for a hedge; None unless one that is well may be asked at once."""
        if self._breaker.is_open or self._roster.panic:
            return None
        chosen = self._roster.choose(self._sweeper.clock(), key, {*asked, *self._full()})
        if chosen == NONE_LEFT or not (self._servers[chosen].idle or self.pool.has_slot()):
            return None
        return self._servers[chosen]

    async def one(self, server: Server) -> OriginConnection:
        """A connection to this server and no other. Raises OriginError."""
        self._roster.took(server.index)
        connection = self.pool.take(server)
        if connection is not None:
            return connection
        if not self.pool.has_slot():
            raise origin_error("connection_limit_reached", "no second connection is free")
        await self.pool.acquire()
        try:
            connection = await self._try(server)
        except BaseException:
            self.pool.free_slot()
            raise
        self.pool.opened(connection)
        return connection

    async def _dial(self, key: bytes, avoid: Collection[int], tried: set[int]) -> OriginConnection:
        failure = origin_error("destination_unavailable", "no server could be tried")
        while len(tried) <= self._retries:
            chosen = self._choose(key, tried, avoid)
            if chosen == NONE_LEFT:
                break
            tried.add(chosen)
            try:
                return await self._try(self._servers[chosen])
            except OriginError as error:
                failure = error
        raise failure

    async def _try(self, server: Server) -> OriginConnection:
        trial = self._trial_time if server.standing.probation else self._dial_time
        self._roster.trying(server.index, self._sweeper.clock() + trial)
        try:
            return await self._open(server)
        except OriginError as error:
            error.server = server.label
            hold = HOLD_SILENT if error.error in _SILENT else HOLD_DOWN
            now = self._sweeper.clock()
            self._roster.unreachable(server.index, now + hold)
            self._breaker.failed(now, everywhere=self._roster.fails_everywhere(server.index, now))
            raise

    async def _open(self, server: Server) -> OriginConnection:
        server.open += 1
        try:
            connection = await self._openers[server.index]()
            if connection.closed:
                raise connection.refusal or OriginError(
                    "connection_terminated", 502, Retry.ANY, "closed as soon as it was open"
                )
        except BaseException:
            server.open -= 1
            raise
        self._roster.connected(server.index)
        return connection

    def _choose(self, key: bytes, tried: Collection[int], avoid: Collection[int] = ()) -> int:
        """The next server; one that failed this request before only when no other has room."""
        now = self._sweeper.clock()
        full = self._full()
        chosen = NONE_LEFT
        for out in ({*tried, *avoid, *full}, {*tried, *full}, tried):
            chosen = self._roster.choose(now, key, out)
            if chosen != NONE_LEFT:
                self._roster.took(chosen)
                break
        return chosen

    def _has_room(self) -> bool:
        if self._cap is math.inf:
            return True
        return self._roster.choose(self._sweeper.clock(), b"", self._full()) != NONE_LEFT

    def _full(self) -> set[int]:
        return {server.index for server in self._servers if server.open >= self._cap}
