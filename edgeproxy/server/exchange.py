"""One request on a native connection whose answer takes time: the `Door` of the httptools protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edgeproxy.context import Context
from edgeproxy.decision import Cause, Serve
from edgeproxy.door import Piece, Report, RequestBody
from edgeproxy.http.answer_head import AnswerHead
from edgeproxy.http.message import Field, Request
from edgeproxy.http.wire import JOIN_BELOW, STATUS_LINE, apply_edits, render_fields
from edgeproxy.pipeline import Visit
from edgeproxy.server.wire import ClientWire

if TYPE_CHECKING:
    from edgeproxy.server.protocol import EdgeProtocol


class Exchange:
    """Writes one answer on a connection: head, framing, body, and the connection's fate after it."""

    __slots__ = (
        "_chunked",
        "_head",
        "_left",
        "_protocol",
        "body",
        "ctx",
        "early",
        "gone",
        "http10",
        "keep_alive",
        "on_drain",
        "on_gone",
        "report",
        "request",
        "sent",
        "started",
        "started_at",
        "status",
        "visit",
        "writable",
    )

    ctx: Context  # set when its turn comes
    visit: Visit

    def __init__(
        self,
        protocol: EdgeProtocol,
        request: Request,
        body: RequestBody | None,
        *,
        keep_alive: bool,
        http10: bool,
    ) -> None:
        self._protocol = protocol
        self.request = request
        self.body = body
        self.keep_alive = keep_alive
        self.http10 = http10
        self.started_at = 0.0
        self.report = Report(Cause.BYPASS)
        self.on_drain: Callable[[], None] | None = None
        self.on_gone: Callable[[], None] | None = None
        self.writable = True
        self.gone = False
        self.started = False
        self.status = 0
        self.sent = 0
        self.early = b""  # what came behind a request that wants to switch protocols
        self._chunked = False
        self._head = b""  # held back until the first bytes of the body: one write, one packet
        self._left: int | None = None

    @property
    def until_close(self) -> bool:
        """Does the end of the connection say where the body ends, as for clients of HTTP/1.0?"""
        return not self._chunked and self._left is None

    @property
    def wire(self) -> ClientWire | None:
        """The connection, to be handed over; HTTP/1.0 knows no Upgrade (RFC 9110 §7.8)."""
        return None if self.http10 else ClientWire(self._protocol, self)

    @property
    def received(self) -> bool:
        """Is the request here whole?"""
        return self.body is None or self.body.complete

    def interim(self, status: int, fields: list[Field]) -> None:
        """A 1xx answer (RFC 9110 §15.2); HTTP/1.0 clients must not get one."""
        if not (self.started or self.gone or self.http10):
            self._protocol.transport.write(STATUS_LINE[status] + render_fields(fields) + b"\r\n")

    def serve(self, serve: Serve) -> None:
        """Write a complete response."""
        if self.gone:
            return
        self.started = True
        self.status = serve.response.status
        report = self.report
        report.cause, report.policy, report.reason = serve.cause, serve.policy, serve.reason
        self.sent = self._protocol.write_serve(serve, self)
        self.on_drain = self.on_gone = None
        self._protocol.exchange_over(self)

    def start(self, head: AnswerHead) -> None:
        """The head of a streamed response; written with the first bytes of its body."""
        if self.gone:
            return
        self.started = True
        self.status = status = head.status
        protocol, ctx = self._protocol, self.ctx
        if ctx.to_client:
            head = AnswerHead(status, apply_edits(head.fields, ctx.to_client), head.length)
        lines = head.lines
        if not head.dated:
            lines += protocol.hall.date_line(ctx.wall)
        if status == 204 or status == 304 or self.request.method == b"HEAD":
            self._left = 0
        elif head.length is not None:
            self._left = head.length
        elif self.http10:
            self.keep_alive = False  # delimited by the end of the connection
        else:
            self._chunked = True
            lines += b"Transfer-Encoding: chunked\r\n"
        self._head = b"%b%b\r\n" % (lines, protocol.closing_line(self))

    def flush(self) -> None:
        """The body takes its time: the client need not wait for its head."""
        if self._head and not self.gone:
            head, self._head = self._head, b""
            self._protocol.transport.write(head)

    def write(self, data: Piece) -> None:
        """Some of the body."""
        if self.gone or self._left == 0:
            return
        if self._left is not None:
            data = data[: self._left] if len(data) > self._left else data
            self._left -= len(data)
        size = len(data)
        self.sent += size
        head, self._head = self._head, b""
        if self._chunked:
            self._write([head, b"%x\r\n" % size, data, b"\r\n"], size)
        elif head and size <= JOIN_BELOW:
            self._protocol.transport.write(head + data)
        else:
            self._write([head, data] if head else [data], size)

    def end(self, trailers: Sequence[Field] = ()) -> None:
        """The body is complete; `trailers` follow it where it is chunked (RFC 9112 §7.1.2)."""
        if self.gone:
            return
        if self._left:  # fewer bytes than announced: the client must see it broken
            self.abort()
            return
        if self._chunked:
            self._write([self._head, b"0\r\n%b\r\n" % render_fields(trailers)], 0)
        elif self._head:
            self._write([self._head], 0)
        self._head = b""
        self.on_drain = self.on_gone = None
        self._protocol.exchange_over(self)

    def abort(self) -> None:
        """Break off so that nobody takes what was sent for a whole message (RFC 9112 §8)."""
        if self.gone:
            return
        if self.started and self._left == 0:  # which it is: of an answer to HEAD no more was to come
            self.end()
            return
        self.gone = True
        self._protocol.exchange_aborted(self)

    def lost(self) -> None:
        """The connection is gone: whoever fetches for us hears of it once."""
        self.gone = True
        if self.on_gone is not None:
            on_gone, self.on_gone = self.on_gone, None
            on_gone()

    def _write(self, parts: list[Piece], size: int) -> None:
        transport = self._protocol.transport
        if size > JOIN_BELOW:
            transport.writelines(parts)
        else:
            transport.write(b"".join(parts))
