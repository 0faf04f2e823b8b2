"""One request of the ASGI door: what is written to it waits, bounded, for the server's `send`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from edgeproxy.clock import steady
from edgeproxy.context import Context
from edgeproxy.decision import Cause, Serve
from edgeproxy.door import PAUSE_AT, TOO_LARGE, Piece, Report, RequestBody
from edgeproxy.errors import RequestError
from edgeproxy.http.answer_head import AnswerHead
from edgeproxy.http.message import Field, Request
from edgeproxy.http.pieces import Pieces, copies_of
from edgeproxy.http.wire import NO_CONTENT_LENGTH, apply_edits
from edgeproxy.origin.request import wants_trailers
from edgeproxy.pipeline import Visit

if TYPE_CHECKING:
    from edgeproxy.hallway import Hallway

PIECE = 256 * 1024  # bytes of a body in a file that are in memory at once
# what is between server and edge may have changed the body: an origin would take the rest for another request
NOT_AS_LONG = RequestError(
    400, "bad-framing", "The request's body is not as long as its Content-Length says."
)
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class AsgiExchange:
    """The `Door` of one ASGI request: what the fetch writes waits here, bounded, for `send`."""

    def __init__(
        self, hall: Hallway, request: Request, length: int | None, *, trailers: bool = False
    ) -> None:
        """`trailers`: the server takes fields behind a body (`http.response.trailers`)."""
        self._hall = hall
        self._trailers = trailers and wants_trailers(request)
        self._messages: list[Message] = []
        self._held = 0
        self._wake = asyncio.Event()
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._over = False
        self._broken = False
        self.request = request
        self.ctx: Context = None  # type: ignore[assignment]  # set before anything can ask
        self.visit: Visit = None  # type: ignore[assignment]
        self.body = (
            RequestBody(length, self._may_read.clear, self._may_read.set) if request.has_body else None
        )
        if self.body is not None and b"expect" in request.headers.index:
            self._may_read.clear()  # asking for the body is what makes servers say 100 Continue
            self.body.wanted = self._may_read.set
        self.body_left = 0  # bytes that may still come: of what Content-Length says, or of the limit
        self.report = Report(Cause.BYPASS)
        self.on_drain: Callable[[], None] | None = None
        self.on_gone: Callable[[], None] | None = None
        self.writable = True
        self.gone = False
        self.started = False
        self.status = 0
        self.sent = 0
        self.started_at = 0.0

    @property
    def wire(self) -> None:
        """ASGI servers keep the connection to themselves."""

    async def run(self, receive: Receive, send: Send) -> None:
        """Send what the door is given until it is over or the client has left."""
        reading = asyncio.get_running_loop().create_task(self._read(receive))
        ending = "cancelled"
        try:
            ending = await self._write(send)
        finally:
            if ending:
                self._lost()
            self._hall.observe(self, ending, steady())
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading

    async def _write(self, send: Send) -> str:
        while True:
            if not self._messages:
                if self.gone:
                    return "client-gone"
                if self._broken:
                    # no way to say "broken off" in ASGI but to fail: the server then resets
                    raise ConnectionAbortedError("the origin's answer broke off")
                if self._over:
                    return ""
                self._wake.clear()
                await self._wake.wait()
                continue
            messages, self._messages, self._held = self._messages, [], 0
            for message in messages:
                try:
                    await _send(send, message)
                except OSError:
                    return "client-gone"
            if not self.writable and self._held < PAUSE_AT:
                self.writable = True
                if self.on_drain is not None:
                    self.on_drain()

    async def _read(self, receive: Receive) -> None:
        body = self.body
        while True:
            await self._may_read.wait()
            try:
                message = await receive()
            except Exception:
                self._lost()
                raise
            if message["type"] == "http.disconnect":
                self._lost()
                return
            if body is None:
                continue
            data: bytes = message.get("body", b"")
            more: bool = message.get("more_body", False)
            self.body_left -= len(data)
            if self.body_left < 0 or (self.body_left and body.length is not None and not more):
                self._refuse(TOO_LARGE if body.length is None else NOT_AS_LONG)
                return
            if data:
                body.feed(data)
            if not more:
                body.finish()
                body = None

    def _refuse(self, error: RequestError) -> None:
        """The body is not as it may be; the origin hears nothing more of it."""
        self._lost()
        self.gone = False
        if self.started:
            self.abort()
        else:
            self.serve(self._hall.problem(self.request, self.ctx, error))

    def _lost(self) -> None:
        self.gone = True
        self._wake.set()
        if self.on_gone is not None:
            on_gone, self.on_gone = self.on_gone, None
            on_gone()

    @property
    def _closing(self) -> list[Field]:
        """What ends a connection whose client still waits for 100 Continue: is a body to come, or not?"""
        waits = self.body is not None and self.body.wanted is not None
        return [(b"connection", b"close")] if waits else []

    def interim(self, status: int, fields: list[Field]) -> None:
        """Interim answers have no common ASGI form; servers say 100 Continue themselves."""

    def serve(self, serve: Serve) -> None:
        if self.gone:
            return
        response = serve.response
        report = self.report
        report.cause, report.policy, report.reason = serve.cause, serve.policy, serve.reason
        stamp = serve.stamp.fields or self._hall.refused_fields(serve)
        fields = [*response.fields, *stamp, *self._hall.edge.signature, *self._closing]
        if self.ctx.to_client:
            fields = apply_edits(fields, self.ctx.to_client)
        self.started, self.status = True, response.status
        body = b"" if self.request.method == b"HEAD" else response.body
        self.sent = len(body)
        self._put(start_message(response.status, fields), 0)
        self._put({"type": "http.response.body", "body": body}, len(body))
        self._finish()

    def start(self, head: AnswerHead) -> None:
        if self.gone:
            return
        self.started, self.status = True, head.status
        fields = [*head.fields, *self._closing]
        if self.ctx.to_client:
            fields = apply_edits(fields, self.ctx.to_client)
        length, status = head.length, head.status
        if length is not None and status not in NO_CONTENT_LENGTH:  # servers hold us to it
            fields = [*fields, (b"content-length", b"%d" % length)]
        bodiless = self.request.method == b"HEAD" or status in NO_CONTENT_LENGTH
        self._trailers = self._trailers and length is None and not bodiless
        message = start_message(status, fields)
        if self._trailers:
            message["trailers"] = True
        self._put(message, 0)

    def write(self, data: Piece) -> None:
        if self.gone or self.request.method == b"HEAD" or self.status == 205:
            return
        self.sent += len(data)
        self._put({"type": "http.response.body", "body": data, "more_body": True}, len(data))
        if self._held >= PAUSE_AT:
            self.writable = False

    def flush(self) -> None:
        """Messages are sent as they come."""

    def end(self, trailers: Sequence[Field] = ()) -> None:
        if self.gone:
            return
        self._put({"type": "http.response.body", "body": b""}, 0)
        if self._trailers:  # they were announced: some message of them must come
            headers = [(name.lower(), value) for name, value in trailers]
            self._put({"type": "http.response.trailers", "headers": headers}, 0)
        self._finish()

    def abort(self) -> None:
        self._broken = True
        self._wake.set()

    def _put(self, message: Message, size: int) -> None:
        self._messages.append(message)
        self._held += size
        self._wake.set()

    def _finish(self) -> None:
        self._over = True
        self.on_drain = self.on_gone = None
        if self.body is not None:
            self.body.detach()


async def _send(send: Send, message: Message) -> None:
    """Send a message. A body that is large or in pieces goes piece by piece: it may lie in a file, and
    servers want bytes."""
    body: bytes | memoryview | Pieces = message.get("body", b"")
    if len(body) > PIECE or not isinstance(body, bytes):
        for data in copies_of(body, PIECE):
            await send({"type": message["type"], "body": data, "more_body": True})
        message = {**message, "body": b""}
    await send(message)


def start_message(status: int, fields: list[Field]) -> Message:
    """The message that begins an answer; ASGI wants lower-case names."""
    return {
        "type": "http.response.start",
        "status": status,
        "headers": [(name.lower(), value) for name, value in fields],
    }
