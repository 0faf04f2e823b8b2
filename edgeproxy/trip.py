"""One way to the origin and back: find a connection, send, receive; again where that is safe.

No coroutine unless a connection must be opened: bytes flow by calls, from the origin's reader to the
door or to the body that is being recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from edgeproxy.delivery import Delivery
from edgeproxy.door import Door
from edgeproxy.errors import OriginError, Retry, origin_error
from edgeproxy.expect import Expecting
from edgeproxy.hedge import Hedge, may_hedge
from edgeproxy.http.message import IDEMPOTENT, Field, Headers
from edgeproxy.http.websocket import grants_websocket
from edgeproxy.observe.outcome import OriginMeters
from edgeproxy.origin.connection import OriginConnection
from edgeproxy.origin.request import interim_fields
from edgeproxy.origin.upstream import Upstream
from edgeproxy.outgoing import head_of, stream

if TYPE_CHECKING:
    import asyncio

    from edgeproxy.compress import Press
    from edgeproxy.job import Job

TRIES = 3


class Sender(Protocol):
    """Who sends trips out, and hears how they end. For each trip exactly one call, at the final head or
    before it."""

    forwarded: Callable[[Any, str], list[Field]]
    clock: Callable[[], float]

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]: ...
    def answered(self, trip: Trip, now: float) -> None: ...
    def failed(self, trip: Trip, error: OriginError) -> None: ...
    def abandoned(self, trip: Trip) -> None: ...
    def switched(self, trip: Trip, connection: OriginConnection, rest: bytes) -> None: ...


class Trip(Delivery):
    """The `ResponseSink` of one job. `position` is that of the purge log when it began."""

    __slots__ = (
        "_again", "_avoid", "_expecting", "_hedge", "_insists", "_key", "_sender", "_task",
        "file", "flight", "headers", "length", "position", "press", "status", "stored", "tried",
    )  # fmt: skip

    def __init__(
        self, sender: Sender, job: Job, upstream: Upstream, meters: OriginMeters, flight: bytes = b""
    ) -> None:
        """`flight` is the name of a fetch that another worker is at already, and `upstream` that worker."""
        super().__init__(job, upstream, meters)
        self.flight = flight
        self.file = ""  # that the other worker writes the body to
        self.stored = False  # there: it is a hit, nobody asked an origin
        self._sender = sender
        self.report.origin = upstream.name
        self._key = upstream.key(job.visit.request, job.visit.client) if upstream.keyed else b""
        self._again = False  # in a second or third try
        self._avoid: tuple[int, ...] = ()  # servers that failed this request
        self.tried: Collection[int] = ()  # servers that a connection was, or is being, opened to
        self.position = job.visit.edge.store.position
        self.status = 0  # of the final head, once it is here
        self.headers: Headers
        self.length: int | None = None
        self._task: asyncio.Task[None] | None = None  # while a connection is being opened
        self._expecting: Expecting | None = None  # the origin to say that it wants the body
        self.press: Press | None = None  # that the body goes through on its way
        self._hedge: Hedge | None = None  # a second server that is asked, or soon will be
        self._insists = False  # on sending the body: the origin does not know how to be asked

    # --- there

    def begin(self) -> None:
        """Send the request on a connection that is open, or once one is."""
        self.report.tries += 1
        self.report.server = "-"
        hedge = self.upstream.hedge
        if hedge is not None and may_hedge(self.job):
            self._hedge = Hedge(self, self._sender, self._key, hedge.after)
        connection = self.upstream.idle(self._key)
        if connection is not None:
            self._send(connection)
            return
        self._open()

    def _open(self) -> None:
        if self.job.door is not None:
            self.job.door.on_gone = self.abandon
        self.tried = tried = set[int]()
        self._task = self._sender.spawn(self._connect(tried))

    async def _connect(self, tried: set[int]) -> None:
        try:
            connection = await self.upstream.connect(self._key, self._avoid, tried)
        except OriginError as error:
            if self._task is not None:
                self._task = None
                self.report.server = error.server or "-"
                self._broke(error, reused=False)
            return
        if self._task is None:  # overtaken meanwhile: it is for the next request
            self.upstream.keep(connection)
        else:
            self._task = None
            self._send(connection)

    def _send(self, connection: OriginConnection) -> None:
        job = self.job
        door = job.door
        body = None if door is None else door.body
        self.connection = connection
        self.report.server = connection.server.label
        expects = body is not None and body.wanted is not None and not self._insists
        try:
            head = head_of(job, connection.server.host, self._sender.forwarded, self.flight, expects=expects)
        except OriginError as error:
            connection.close_idle()
            self._broke(error, reused=False)
            return
        if door is not None:
            door.on_gone = self.abandon
        connection.send(job.visit.request.method, head, self, has_body=body is not None)
        if job.visit.route.websocket is not None:
            connection.on_switch = self._on_switch
        if body is not None:
            if expects:
                self._expecting = Expecting(partial(stream, job, body, connection))
            else:
                stream(job, body, connection)
            connection.flush()

    def _broke(self, error: OriginError, *, reused: bool) -> None:
        """No head came. Again only where RFC 9110 §9.2.2 and the body allow."""
        report = self.report
        self.meters.failed(report.server, error.error)
        report.failed(error)
        report.waited = self._sender.clock() - self.job.ctx.now
        if self._expecting is not None:
            self._expecting.give_up()
        connection, self.connection = self.connection, None
        if connection is not None:
            self._avoid += (connection.server.index,)
            if not (reused and error.retry is not Retry.NEVER):  # closing what is idle is no failure
                self.upstream.failed(connection.server, error)
        hedge = self._hedge
        if hedge is not None and hedge.asking:
            return  # that one is the second try
        if hedge is not None:
            hedge.end("lost")
            self._hedge = None
        if (
            report.tries < TRIES
            and not self.flight
            and connection is not None
            and self._may_retry(error, reused=reused)
            and self.upstream.may_retry()
        ):
            self.meters.retries.inc()
            self._again = True
            report.tries += 1
            report.server = "-"
            self._open()  # not on another one that was idle: it may have been closed with the first
            return
        self.over = True
        self._sender.failed(self, error)

    def _may_retry(self, error: OriginError, *, reused: bool) -> bool:
        body = self.job.door.body if self.job.door is not None else None
        if error.retry is Retry.NEVER or not (body is None or body.untouched):  # what was passed on is gone
            return False
        if error.retry is Retry.ANY:
            return True
        # a pooled connection that died at once was closed by the origin while it was idle; where there are
        # other servers one of them may be better
        again = reused or len(self.upstream.servers) > 1
        return again and error.retry is Retry.IDEMPOTENT and self.job.visit.request.method in IDEMPOTENT

    def abandon(self) -> None:
        """Nobody wants the answer, or the rest of it: close the connection."""
        if self.over:
            return
        self.over = True
        if self._expecting is not None:
            self._expecting.give_up()
        if self._hedge is not None:
            self._hedge.end("abandoned")
        if self._task is not None:
            self._task.cancel()
        elif self.connection is not None:
            self.connection.abandon()
        if not self.status:
            self._sender.abandoned(self)

    def overtaken(self, connection: OriginConnection) -> None:
        """The second server has its head first: the answer is that of `connection`."""
        self._hedge = self._task = None  # a dial goes on: what it learns of its server is worth knowing
        self._again = True
        first, self.connection = self.connection, connection
        self.report.server = connection.server.label
        if first is not None:
            self.upstream.outrun(first.server, self._sender.clock() - self.job.ctx.now)
            first.abandon()

    def deserted(self, error: OriginError) -> None:
        """The second server gave no answer: that is the end, unless the first one is still at it."""
        self._hedge = None
        if self.connection is None and self._task is None:
            self.over = True
            self._sender.failed(self, error)

    def take_over(self, door: Door, connection: OriginConnection, status: int) -> None:
        """Go on with what `door` itself has sent on `connection`; its answer began with `status`, if any."""
        self.connection = connection
        self.status = status
        if not connection.closed:
            connection.tell(self)
        door.on_gone = self.abandon
        if status:
            self.relay_to(door)

    # --- and back: the ResponseSink

    def on_interim(self, status: int, fields: list[Field]) -> None:
        if status == 100 and self._expecting is not None:
            self._expecting.go_on()
        elif self.job.door is not None:
            self.job.door.interim(status, interim_fields(fields))

    def on_head(self, status: int, headers: Headers, length: int | None) -> None:
        if self._expecting is not None and self._declined(self._expecting, status):
            return
        if self._hedge is not None:
            self._hedge.end("lost")
            self._hedge = None
        self.status, self.headers, self.length = status, headers, length
        report = self.report
        report.error = ""
        now = self._sender.clock()
        report.waited = now - self.job.ctx.now
        self.meters.answered(report.server, status, report.waited)
        if self.connection is not None:
            # how slow the servers before it were is not its fault
            self.upstream.answered(self.connection.server, status, 0.0 if self._again else report.waited)
        try:
            self._sender.answered(self, now)
        except Exception:
            if self._door is None and self._target is None:
                self.status = 0  # nobody has it yet: it counts as no answer at all
            raise

    def _declined(self, expecting: Expecting, status: int) -> bool:
        """The answer came before the body was asked for. One that means only the expectation is no answer for
        the client: it is asked again without (RFC 9110 §15.5.18)."""
        waited = expecting.give_up()
        if status != 417 or not waited or self.connection is None:
            return False
        self._insists = True
        self.connection.abandon()
        self._expecting = self.connection = None
        self.begin()
        return True

    def _on_switch(self, headers: Headers, rest: bytes) -> None:
        """The origin says 101, and `rest` is the other protocol's."""
        connection = self.connection
        if connection is None or not grants_websocket(self.job.visit.request, headers):
            raise origin_error(
                "http_protocol_error", "the origin switched to something that was not asked for"
            )
        report = self.report
        report.error = ""
        report.waited = self._sender.clock() - self.job.ctx.now
        self.headers = headers
        self._sender.switched(self, connection, rest)
        self.status, self.over = 101, True
        self.connection = None  # the tunnel's
        self.meters.answered(report.server, 101, report.waited)
        self.upstream.answered(connection.server, 101, 0.0 if self._again else report.waited)

    def on_error(self, error: OriginError) -> None:
        connection = self.connection
        if self.status:
            self._broke_off(error)
        else:
            self._broke(error, reused=connection is not None and connection.reused)

    def affinity(self) -> Field | None:
        """The Set-Cookie that keeps the client with the server that answered, when it is to be kept there."""
        if not self.upstream.sticks or self.connection is None:
            return None
        return self.upstream.sticky_field(
            self.connection.server, self._key, secure=self.job.visit.request.secure
        )
