"""One request at a time on a stream of an HTTP/2 connection that others share (RFC 9113).

To pool, balance, breaker and trips it is an `OriginConnection` like the others, and by the same rule: clean
or closed. What closes is the stream; the connection under it, `http2_link`, goes on for the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    InformationalResponseReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError

from edgeproxy.errors import OriginError, Retry, origin_error
from edgeproxy.http.message import Field, Headers
from edgeproxy.origin.connection import OriginConnection, Owner
from edgeproxy.origin.http2_fields import pseudo_fields, split_status
from edgeproxy.origin.http2_state import StreamBroken
from edgeproxy.origin.reader import MAX_FIELDS
from edgeproxy.origin.settings import Timeouts
from edgeproxy.origin.sink import NOBODY, ResponseSink
from edgeproxy.origin.sweeper import NEVER, Sweeper

if TYPE_CHECKING:
    from edgeproxy.origin.http2_link import Http2Link
    from edgeproxy.origin.pool import Server

HELD = 64 * 1024  # bytes of a request body that wait for the origin's window before the client is paused


class Http2Stream(OriginConnection):
    """A place on `link`. Bodies need no framing of the caller's."""

    __slots__ = ("_alone", "_held", "_link", "_missing", "_since", "_trailers", "number", "owed")

    chunks = False

    def __init__(
        self, link: Http2Link, owner: Owner, server: Server, timeouts: Timeouts, sweeper: Sweeper
    ) -> None:
        super().__init__(owner, server, timeouts, sweeper)
        self._link = link
        self._loop = link.loop
        self._transport = link.transport
        self.closed = False
        self.reused = link.answered
        self.number = 0  # of the stream that is open; 0: none
        self.owed = 0  # bytes of its window that the origin has not got back
        self._held: list[bytes] = []  # of the request's body
        self._trailers: list[Field] = []
        self._alone = False  # the head is here, and nothing of the body
        self._missing: int | None = None  # bytes of the body, when its length is known
        self._since = 0.0  # when the request was sent

    # --- the request

    def send(self, method: bytes, head: bytes, sink: ResponseSink, *, has_body: bool) -> None:
        if self.closed:
            super().send(method, head, sink, has_body=has_body)
            return
        self.expect(for_head=method == b"HEAD")
        self._sink = sink
        self._with_body = has_body
        self._written = not has_body
        self._held, self._trailers = [], []
        self._alone = False
        self._since = self._sweeper.clock()
        if self._timeouts.total:
            self._limit = self._since + self._timeouts.total
        self._wait()
        fields = pseudo_fields(head, b"https" if self.server.url.tls else b"http")
        try:
            self.number = self._link.begin(self, fields, ends=not has_body)
        except OriginError as error:
            self._loop.call_soon(self._fail, error)
        except ProtocolError as error:
            self._loop.call_soon(self._fail, origin_error("http_request_error", str(error)))
        if has_body and self._link.blocked:
            self.throttle()

    def write(self, data: bytes | memoryview) -> None:
        if self.number:
            self._held.append(bytes(data))
            self._link.pump(self)
            self.throttle()

    def finish(self, trailers: Sequence[Field] = ()) -> None:
        if not self._written and not self.closed:
            self._written = True
            self._trailers = [(name.lower(), value) for name, value in trailers]
            self._wait()
            self._link.pump(self)

    def send_some(self) -> bool:
        """One frame of the body, if the origin's windows let it pass; is there more to send at once?"""
        h2, number = self._link.h2, self.number
        if self._held and number:
            room = min(h2.local_flow_control_window(number), h2.max_outbound_frame_size)
            if room <= 0:
                return False
            data = self._held.pop(0)
            if len(data) > room:
                self._held.insert(0, data[room:])
                data = data[:room]
            h2.send_data(number, data)
            self._link.sent(len(data))
            if self._held:
                return True
        if self._written and self._with_body and number and not self._held:
            self._with_body = False
            if self._trailers:
                h2.send_headers(number, self._trailers, end_stream=True)
            else:
                h2.end_stream(number)
        return False

    def throttle(self) -> None:
        """Pause or resume whoever the body comes from."""
        held = sum(map(len, self._held))
        blocked = self._link.blocked
        if (held > HELD or blocked) and not self._write_paused and self._with_body:
            self.pause_writing()
        elif not held and not blocked and self._write_paused:
            self.resume_writing()

    # --- back-pressure of the response: its window stays closed, others read on

    def pause(self) -> None:
        if not self._read_paused and not self.closed:
            self._read_paused = True
            self._wait()

    def resume(self) -> None:
        if self._read_paused and not self.closed:
            self._read_paused = False
            self._link.credit(self)
            self._wait()

    @property
    def paused(self) -> bool:
        """Does the reader of the response want no more for now?"""
        return self._read_paused

    # --- called by the pool and the sweeper

    def is_quiet(self) -> bool:
        """May the next request be sent?"""
        return not self.closed and self._link.has_place

    def close_idle(self) -> None:
        self._let_go()

    def expire(self, now: float) -> None:
        if self.number and self._link.heard < self._since:
            self._link.retire()  # nothing came since: whoever comes next shall not wait on it too
        super().expire(now)

    # --- what the link hears

    def hear(self, event: Event) -> None:
        """An event of this stream. What is wrong with it is this request's alone."""
        try:
            self._hear(event)
        except OriginError as error:
            self._fail(error)
        except Exception as error:  # a sink of ours is broken: this request fails, the worker goes on
            self._report(error)
            self._fail(origin_error("proxy_internal_error", "the response could not be handled"))

    def _hear(self, event: Event) -> None:
        sink = self._sink or NOBODY
        if isinstance(event, ResponseReceived):
            self._answered(event.headers or [])
        elif isinstance(event, DataReceived):
            if event.data:
                self._alone = False
                self._count(len(event.data))
                sink.on_data(event.data)
        elif isinstance(event, InformationalResponseReceived):
            self._on_interim(*split_status(event.headers or []))
        elif isinstance(event, TrailersReceived):
            self._fields = [(bytes(name), bytes(value)) for name, value in event.headers or []]
            if len(self._fields) > MAX_FIELDS:
                raise origin_error("http_response_header_section_size", "too many trailers")
        elif isinstance(event, StreamEnded):
            if self._missing:  # h2 does not look when trailers, or nothing at all, follow the head
                raise origin_error("http_response_incomplete", "the body is shorter than its Content-Length")
            self._end()
        elif isinstance(event, StreamReset):
            self._reset(event)
        elif isinstance(event, StreamBroken):
            self._link.drop(self)
            raise event.error

    def read(self) -> None:
        """All is told that came together."""
        if self.number and not self.in_head:
            self._wait()
            if self._alone and self._sink is not None:
                self._sink.on_wait()

    def _answered(self, raw: Sequence[tuple[bytes, bytes]]) -> None:
        status, fields = split_status(raw)
        if len(fields) > MAX_FIELDS:
            raise origin_error("http_response_header_section_size", "the head is too large")
        if not 200 <= status <= 599:
            raise origin_error("http_protocol_error", "the status is not one of HTTP")
        headers = Headers(fields)
        length = headers.get(b"content-length")
        self.in_head = False
        self._fields = []
        self._alone = True
        known = int(length) if length is not None and length.isdigit() else None
        self._missing = 0 if self._for_head or status in (204, 304) else known
        if self._sink is not None:
            self._sink.on_head(status, headers, known)

    def _count(self, size: int) -> None:
        if self._missing is not None:
            self._missing -= size
            if self._missing < 0:
                raise origin_error("http_protocol_error", "there is more than the body may have")

    def _reset(self, event: StreamReset) -> None:
        self._link.drop(self)
        if not event.remote_reset:  # it was h2 that did
            raise origin_error("http_protocol_error", "the origin broke the rules of the stream")
        if event.error_code == ErrorCodes.REFUSED_STREAM:  # §8.7: nothing was done with it
            raise OriginError("connection_terminated", 502, Retry.ANY, "the origin refused the stream")
        error = "http_response_incomplete" if self.began else "connection_terminated"
        raise origin_error(error, "the origin reset the stream")

    def turned_away(self) -> None:
        """The origin goes away and never looks at this request (§6.8)."""
        self._fail(OriginError("connection_terminated", 502, Retry.ANY, "the origin takes no more requests"))

    def lost(self, error: OriginError | str) -> None:
        """The connection is gone: refused by us for an error, or closed by the origin."""
        if isinstance(error, OriginError):
            self._fail(error)
        else:
            self._lost(error)

    def swept_away(self, error: OriginError, *, innocent: bool) -> None:
        """The connection is refused, not for what came on this stream; `innocent`: for what came on another.
        Asked on another connection, the origin may well answer."""
        self.reused = self.reused or innocent
        self._fail(OriginError(error.error, error.status, Retry.IDEMPOTENT, error.detail))

    # --- how an exchange ends

    def _end(self) -> None:
        """The response is whole. When the request is not, a late byte of it must not meet the next one."""
        if self.closed or self._sink is None:
            return
        sink, self._sink = self._sink, None
        trailers = self.take_trailers()
        self.complete = True
        self._limit = NEVER
        self._read_paused = self._write_paused = False
        self.reused = True
        if self._written and not self._with_body and self._link.stays:
            self._link.ended(self)
            self._owner.release(self)
        else:
            self._close()
        self._tell(sink.on_end, trailers)

    def _close(self) -> None:
        self._let_go()

    def _let_go(self) -> None:
        if not self.closed:
            super()._let_go()
            del self._parser  # it refers to us: do not wait for the garbage collector
            self._held = []
            self._link.leave(self)
