"""One named origin as the fetch sees it: give me a connection, and hear what became of it.

`idle` is the path of nearly every request and never waits; `connect` is the other one. Who may be asked
is decided by `standing`, `balance` and `breaker`, which know neither sockets nor clocks.
"""

from __future__ import annotations

import random
from collections.abc import Collection

from edgeproxy.errors import OriginError
from edgeproxy.http.message import Field, Request
from edgeproxy.origin.affinity import key_of, sticky_field
from edgeproxy.origin.balance import (
    Balance,
    LeastRequests,
    Pick,
    Rendezvous,
    RoundRobin,
    Sticky,
    WeightedRoundRobin,
)
from edgeproxy.origin.breaker import Breaker, RetryBudget
from edgeproxy.origin.connection import OriginConnection
from edgeproxy.origin.dial import Dialer
from edgeproxy.origin.pool import Server
from edgeproxy.origin.reach import Reach
from edgeproxy.origin.resolve import Resolver
from edgeproxy.origin.settings import Origin
from edgeproxy.origin.standing import Roster
from edgeproxy.origin.sweeper import Sweeper
from edgeproxy.origin.tls import client_context

PATIENCE = 30.0  # seconds that closing waits for what is in flight
_BLAMELESS = frozenset({"connection_limit_reached", "http_request_error"})  # we, or the client, did it


class Upstream:
    """The pool of servers of one origin, in one worker.

    `health` has one byte per server, written by the process that probes. Raises ConfigError when
    a certificate file cannot be used. Build it inside the event loop.
    """

    __slots__ = (
        "_answers",
        "_balance",
        "_breaker",
        "_hedges",
        "_key_of",
        "_ordered",
        "_pool",
        "_reach",
        "_roster",
        "_slow_bound",
        "_sweeper",
        "_trial_time",
        "_way",
        "hedge",
        "keyed",
        "location",
        "name",
        "retry_budget",
        "servers",
        "sticks",
        "uniform",
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
        context = client_context(origin.tls, origin.protocol) if any(url.tls for url in urls) else None
        self.name = name
        self.location = origin.location
        self._way = origin.balance
        self._balance = self._balance_of(origin, [str(url) for url in urls], pick)
        self._roster = Roster(origin, self._balance, health)
        self._key_of = key_of(origin.balance)
        self.keyed = self._key_of is not None and len(urls) > 1
        self.sticks = self.keyed and isinstance(self._balance, Sticky)  # may an answer get a cookie of ours?
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
                self._roster.servers[index],
            )
            for index, url in enumerate(urls)
        ]
        self._ordered = len(urls) > 1
        self._trial_time = origin.timeouts.connect + origin.timeouts.first_byte
        self._slow_bound = self._roster.slow_bound
        self._breaker = Breaker(origin.breaker.failures, origin.breaker.time, origin.breaker.longest)
        self.retry_budget = RetryBudget(origin.retry_budget.share, origin.retry_budget.least)
        self.hedge = origin.hedge
        # does every server get the same bytes of the same request, and nobody a second server?
        self.uniform = (
            not self.keyed
            and origin.hedge is None
            and origin.protocol != "h2"
            and len({server.host for server in self.servers}) == 1
        )
        self._hedges = RetryBudget(0.0 if origin.hedge is None else origin.hedge.share, 0)
        self._answers = 0  # heads of answers, ever
        self._sweeper = sweeper
        self._reach = Reach(origin, self.servers, self._roster, self._breaker, sweeper)
        self._pool = self._reach.pool

    def _balance_of(self, origin: Origin, labels: list[str], pick: Pick) -> Balance:
        least = LeastRequests(lambda index: self.servers[index].in_flight, pick)
        if origin.balance == "least_requests":
            return least
        if origin.balance.startswith("sticky:"):
            return Sticky(labels, least)
        if origin.balance.startswith("hash:"):
            return Rendezvous(labels, pick)
        alike = len({entry.weight for entry in origin.entries}) == 1
        return RoundRobin() if alike and not origin.slow_start else WeightedRoundRobin()

    def __repr__(self) -> str:
        return f"<Upstream {self.name} {self.servers!r}>"

    # --- how it is

    @property
    def open(self) -> int:
        """Connections open or being opened."""
        return self._pool.open

    @property
    def waiting(self) -> int:
        """Requests waiting for a connection."""
        return self._pool.waiting

    @property
    def refused(self) -> tuple[int, int]:
        """Requests that found the queue full, and that waited in it in vain, ever."""
        return self._pool.refused, self._pool.overdue

    @property
    def shed(self) -> int:
        """Requests refused because the breaker was open, ever."""
        return self._reach.shed

    @property
    def roster(self) -> Roster:
        """What is known about the servers."""
        return self._roster

    @property
    def breaker(self) -> Breaker:
        """Whether the origin is asked at all."""
        return self._breaker

    def usable(self, index: int) -> bool:
        """Is this server neither unhealthy nor suspected nor ejected?"""
        return self._roster.usable(index, self._sweeper.clock())

    def ejected(self, index: int) -> bool:
        """Has this server been put aside because it answered badly?"""
        return self._sweeper.clock() < self._roster.servers[index].ejected_until

    def healthy(self) -> bool:
        """Is any server usable, and the breaker closed, or waiting for one to try?"""
        now = self._sweeper.clock()
        if self._breaker.is_open and now < self._breaker.next_try:
            return False
        return any(self._roster.usable(index, now) for index in range(len(self.servers)))

    # --- a connection

    def key(self, request: Request, client: str) -> bytes:
        """What `idle` and `connect` need to know of a request. Only worth a call when `keyed`."""
        return b"" if self._key_of is None else self._key_of(request, client)

    def idle(self, key: bytes = b"") -> OriginConnection | None:
        """An open connection to the next server, or None: then `connect`."""
        if self._breaker.is_open:
            return None
        if not self._ordered:
            return self._pool.take(self.servers[0])
        chosen = self._roster.choose(self._sweeper.clock(), key)
        server = self.servers[chosen]
        connection = self._pool.take(server)
        if connection is not None:
            self._balance.took(chosen)
            if server.standing.probation:
                self._roster.trying(chosen, self._sweeper.clock() + self._trial_time)
        return connection

    async def connect(
        self, key: bytes = b"", avoid: Collection[int] = (), tried: set[int] | None = None
    ) -> OriginConnection:
        """A connection to the next server, or to others when it cannot be reached; see `Reach`. `avoid` are
        servers that failed this request already; those it dials are added to `tried`. Raises OriginError."""
        return await self._reach.connect(key, avoid, set() if tried is None else tried)

    def keep(self, connection: OriginConnection) -> None:
        """Nobody needs it that asked for it: it is for the next request."""
        if not connection.closed:
            self._pool.release(connection)

    def second(self, asked: Collection[int], key: bytes) -> Server | None:
        """Another server than those for a hedge; None unless one that is well may be asked at once."""
        return self._reach.second(asked, key)

    async def reach(self, server: Server) -> OriginConnection:
        """A connection to this server and no other. Raises OriginError."""
        return await self._reach.one(server)

    # --- what became of it

    def answered(self, server: Server, status: int, seconds: float) -> None:
        """The head of an answer came `seconds` after the request was sent."""
        self._answers += 1
        breaker = self._breaker
        if breaker.streak or breaker.is_open:
            breaker.answered()
            self._roster.failing.clear()
        if status >= 500 or server.standing.marked or seconds >= self._slow_bound:
            self._roster.answered(server.index, status, seconds, self._sweeper.clock())

    def outrun(self, server: Server, seconds: float) -> None:
        """It said nothing for so long that a hedge was faster: slow, where that is judged."""
        if seconds >= self._slow_bound:
            self._roster.answered(server.index, 200, seconds, self._sweeper.clock())

    def failed(self, server: Server, error: OriginError) -> None:
        """A request on a connection of `server` got no answer. Failed `connect`s are known here already."""
        if error.error not in _BLAMELESS:
            now = self._sweeper.clock()
            self._breaker.failed(now, everywhere=self._roster.fails_everywhere(server.index, now))
            self._roster.failed(server.index, now)

    def ended(self, server: Server, error: OriginError | None) -> None:
        """What was answered came to its end, or broke off. Only worth a call for one of the two:
        `error`, or `server.standing.truncated`."""
        if error is None:
            self._roster.completed(server.index)
        elif error.error not in _BLAMELESS:
            self._roster.truncated(server.index, self._sweeper.clock())

    def tend(self) -> None:
        """Called once a second: a second of the budgets is over, and names of servers may have moved."""
        self.retry_budget.tick(self._answers)
        self._hedges.tick(self._answers)
        self._pool.tend()

    def may_retry(self) -> bool:
        """Is there room in the retry budget for a request to be tried again?"""
        return self.retry_budget.take(self._answers)

    def may_hedge(self) -> bool:
        """Is there room in both budgets for a second server to be asked?"""
        return self._hedges.take(self._answers) and self.retry_budget.take(self._answers)

    def sticky_field(self, server: Server, key: bytes, *, secure: bool) -> Field | None:
        """The Set-Cookie that keeps a client with `server`; None when it has it, or there is no need."""
        if not isinstance(self._balance, Sticky) or not self.sticks:
            return None
        ident = self._balance.idents[server.index]
        return None if key == ident else sticky_field(self._way, ident, secure=secure)

    async def close(self, patience: float = PATIENCE) -> None:
        """Drain: keep nothing idle, and wait `patience` seconds for what is in flight and in line."""
        await self._pool.close(patience)
