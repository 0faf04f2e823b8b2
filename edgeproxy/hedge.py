"""A second try at another server, when the first one says nothing for a while: the sooner head wins.

Rule 1: only what may be asked twice (safe methods, RFC 9110 §9.2.1), has no body, and a client waits for.
Rule 2: only within two budgets of the origin: the hedge's own, and that of retries.
Rule 3: of the two connections the slower one closes: what it brings is nobody's.
Rule 4: the time that connecting takes counts: a server that cannot be reached is the slowest of all.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from edgeproxy.errors import OriginError, Retry
from edgeproxy.http.message import SAFE, Headers
from edgeproxy.origin.connection import OriginConnection
from edgeproxy.origin.pool import Server
from edgeproxy.origin.sink import Nobody
from edgeproxy.outgoing import head_of

if TYPE_CHECKING:
    from edgeproxy.job import Job
    from edgeproxy.trip import Sender, Trip


def may_hedge(job: Job) -> bool:
    """Is this a request that two servers may be asked?"""
    request = job.visit.request
    return (
        job.door is not None
        and request.method in SAFE
        and not request.has_body
        and job.visit.route.websocket is None
    )


class Hedge(Nobody):
    """The second try of one trip: waits, asks, and is the `ResponseSink` of its connection until the head.

    `asking`: another server is being asked. It ends with exactly one of `Trip.overtaken`, `Trip.deserted`
    and `end`.
    """

    __slots__ = ("_connection", "_key", "_sender", "_task", "_timer", "_trip", "asking")

    def __init__(self, trip: Trip, sender: Sender, key: bytes, after: float) -> None:
        """`after` so many seconds the other server is asked."""
        self._trip = trip
        self._sender = sender
        self._key = key
        self._timer = asyncio.get_running_loop().call_later(after, self._begin)
        self._task: asyncio.Task[None] | None = None
        self._connection: OriginConnection | None = None
        self.asking = False

    def end(self, outcome: str) -> None:
        """The trip needs it no more: `lost` to the first server, or `abandoned` with the client."""
        self._timer.cancel()
        if not self.asking:
            return
        self.asking = False
        if self._task is not None:
            self._task.cancel()
        if self._connection is not None:
            self._connection.abandon()
        self._trip.meters.hedged(outcome)

    def _begin(self) -> None:
        trip = self._trip
        first = trip.connection
        asked = trip.tried if first is None else (first.server.index,)  # nobody, while it waits in the queue
        server = trip.upstream.second(asked, self._key) if asked else None
        if server is None:
            return
        if not trip.upstream.may_hedge():
            trip.meters.hedged("denied")
            return
        self.asking = True
        trip.report.tries += 1
        self._task = self._sender.spawn(self._ask(server))

    async def _ask(self, server: Server) -> None:
        trip = self._trip
        try:
            connection = await trip.upstream.reach(server)
        except OriginError as error:
            self._failed(server, error)
            return
        self._task = None
        self._connection = connection
        try:
            head = head_of(trip.job, server.host, self._sender.forwarded)
        except OriginError as error:  # what is wrong with the request is not the server's fault
            connection.close_idle()
            self._failed(server, error)
            return
        connection.send(trip.job.visit.request.method, head, self, has_body=False)

    def _failed(self, server: Server, error: OriginError) -> None:
        self.asking = False
        self._task = self._connection = None
        self._trip.meters.failed(server.label, error.error)
        self._trip.meters.hedged("failed")
        self._trip.deserted(error)

    # --- the ResponseSink; what comes before the final head is nobody's

    def on_head(self, status: int, headers: Headers, length: int | None) -> None:
        connection, self._connection = self._connection, None
        self.asking = False
        if connection is not None:
            self._trip.meters.hedged("won")
            connection.tell(self._trip)
            self._trip.overtaken(connection)
            self._trip.on_head(status, headers, length)

    def on_error(self, error: OriginError) -> None:
        connection = self._connection
        if connection is None:
            return
        if not (connection.reused and error.retry is Retry.IDEMPOTENT):  # closing what is idle is no failure
            self._trip.upstream.failed(connection.server, error)
        self._failed(connection.server, error)
