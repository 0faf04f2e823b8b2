"""An answer that is relayed as one was before: its exchange hears the origin itself.

A client that repeats a plain request mostly gets an answer whose head was relayed to it before. Then nothing
is left to find out, and a `Trip` with its `Job` would cost more than all the rest. As soon as anything is not
as it was, a trip takes over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgeproxy.clock import steady
from edgeproxy.context import Context
from edgeproxy.decision import Fetch
from edgeproxy.errors import OriginError
from edgeproxy.http.message import Field, Headers
from edgeproxy.job import Job, Relayed
from edgeproxy.observe.outcome import OriginMeters
from edgeproxy.origin.connection import OriginConnection
from edgeproxy.origin.upstream import Upstream
from edgeproxy.pipeline import Visit
from edgeproxy.server.exchange import Exchange
from edgeproxy.trip import Trip

if TYPE_CHECKING:
    from edgeproxy.fetch import Fetcher
    from edgeproxy.server.protocol import EdgeProtocol

Ready = tuple[OriginConnection, bytes, Upstream, OriginMeters]


def ready(fetcher: Fetcher, visit: Visit, ctx: Context, fetch: Fetch) -> Ready | None:
    """What it takes to send a request again, its head among it; None where something depends on more than
    the request, or where no connection is idle."""
    sent = visit.sent
    if sent is None or not (visit.plain and visit.relayed) or ctx.to_origin or ctx.rewritten is not None:
        return None
    if fetch.entry is not None or visit.route.mirror is not None:
        return None
    if fetch.key is not None and not fetcher.must_pass(fetch.key, visit, ctx.now):
        return None
    upstream, meters = fetcher.ways[ctx.origin or ""]
    if not upstream.uniform or sent[0] != upstream.servers[0].host:
        return None
    connection = upstream.idle()
    return None if connection is None else (connection, sent[1], upstream, meters)


class Relay(Exchange):
    """An `Exchange` that is the `ResponseSink` of its request too."""

    __slots__ = ("_fetch", "_position", "_ready")

    def __init__(
        self,
        protocol: EdgeProtocol,
        visit: Visit,
        ctx: Context,
        fetch: Fetch,
        known: Ready,
        *,
        keep_alive: bool,
        http10: bool,
    ) -> None:
        super().__init__(protocol, visit.request, None, keep_alive=keep_alive, http10=http10)
        self.visit, self.ctx = visit, ctx
        self._fetch, self._ready = fetch, known
        self._position = visit.edge.store.position
        self.on_gone: Callable[[], None] | None = self._leave
        report = self.report
        report.origin = known[2].name
        report.tries = 1

    def begin(self) -> None:
        """Send the request."""
        connection, head, _, _ = self._ready
        self.report.server = connection.server.label
        connection.send(b"GET", head, self, has_body=False)

    # --- the ResponseSink

    def on_head(self, status: int, headers: Headers, length: int | None) -> None:
        seen = headers.made
        if not isinstance(seen, Relayed) or not seen.suits(self.visit, self._fetch):
            self.visit.relayed = False  # a head that is never the same is no reason to hope
            self._hand_over().on_head(status, headers, length)
            return
        connection, _, upstream, meters = self._ready
        report, server = self.report, connection.server
        report.cause = self._fetch.cause
        report.waited = waited = steady() - self.ctx.now
        meters.answered(server.label, status, waited)
        upstream.answered(server, status, waited)
        self.start(seen.head)

    def on_wait(self) -> None:
        self.flush()

    def on_data(self, data: bytes) -> None:
        self.write(data)
        if not self.writable:
            self.on_drain: Callable[[], None] | None = self._ready[0].resume
            self._ready[0].pause()

    def on_end(self, trailers: list[Field]) -> None:
        """`trailers`: none, a head is remembered only where the body is counted."""
        connection, _, upstream, _ = self._ready
        if connection.server.standing.truncated:
            upstream.ended(connection.server, None)
        self.end()

    def on_write_paused(self) -> None:
        """It has no body to send."""

    def on_write_resumed(self) -> None: ...

    def on_interim(self, status: int, fields: list[Field]) -> None:
        self._hand_over().on_interim(status, fields)

    def on_error(self, error: OriginError) -> None:
        self._hand_over().on_error(error)

    def _hand_over(self) -> Trip:
        """From here on it is a trip like any other."""
        connection, _, upstream, meters = self._ready
        job = Job(self.visit, self.ctx, self._fetch, self)
        trip = Trip(self._protocol.hall.fetcher, job, upstream, meters)
        trip.position = self._position
        trip.take_over(self, connection, self.status)
        return trip

    def _leave(self) -> None:
        """The client is gone."""
        self._ready[0].abandon()
