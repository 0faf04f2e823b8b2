"""HTTP/2 to origins that speak nothing else (RFC 9113): one stream at a time on each connection.

So it is an `OriginConnection` like the others to pool, balance, breaker and trips, and by the same rule:
clean or closed. Requests do not share connections: many at once need as many of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

from h2.config import H2Configuration
from h2.connection import H2Connection
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
from h2.settings import SettingCodes, Settings

from edgeproxy.errors import OriginError, Retry, origin_error
from edgeproxy.http.message import Field, Headers
from edgeproxy.origin.connection import OriginConnection, Owner
from edgeproxy.origin.reader import MAX_FIELDS, MAX_HEAD
from edgeproxy.origin.settings import Timeouts
from edgeproxy.origin.sink import ResponseSink
from edgeproxy.origin.sweeper import Sweeper

if TYPE_CHECKING:
    from edgeproxy.origin.pool import Server

WINDOW = 1024 * 1024  # bytes that an origin may send ahead
HELD = 64 * 1024  # bytes of a request body that wait for the origin's window before the client is paused
_FRAME_HEAD, _GOAWAY = 9, 7
_NOT_SENT = frozenset([b"connection", b"host", b"transfer-encoding", b"upgrade"])


class Http2Connection(OriginConnection):
    """One connection, spoken over `h2`. Bodies need no framing of the caller's."""

    __slots__ = ("_alone", "_blocked", "_going", "_h2", "_held", "_partial", "_stream", "_trailers")

    chunks = False

    def __init__(self, owner: Owner, server: Server, timeouts: Timeouts, sweeper: Sweeper) -> None:
        super().__init__(owner, server, timeouts, sweeper)
        self._h2 = H2Connection(H2Configuration(client_side=True, header_encoding=False))
        self._stream = 0
        self._held: list[bytes] = []  # of the request's body
        self._trailers: list[Field] = []
        self._blocked = False  # the transport has as much as it takes
        self._going = False  # the origin closes the connection after this stream
        self._alone = False  # the head is here, and nothing of the body
        self._partial = b""  # a frame that is not whole yet

    # The request.

    def send(self, method: bytes, head: bytes, sink: ResponseSink, *, has_body: bool) -> None:
        if self.closed:
            super().send(method, head, sink, has_body=has_body)
            return
        self.expect(for_head=method == b"HEAD")
        self._sink = sink
        self._with_body = has_body
        self._written = not has_body
        self._chunked = True  # what ends it may have fields
        self._held = []
        self._trailers = []
        self._alone = False
        if self._timeouts.total:
            self._limit = self._sweeper.clock() + self._timeouts.total
        self._wait()
        scheme = b"https" if self.server.url.tls else b"http"
        try:
            self._stream = self._h2.get_next_available_stream_id()
            self._h2.send_headers(self._stream, _pseudo(head, scheme), end_stream=not has_body)
        except ProtocolError as error:
            self._loop.call_soon(self._fail, origin_error("http_request_error", str(error)))
        self._flush()

    def write(self, data: bytes) -> None:
        if not self.closed:
            self._held.append(data)
            self._send_held()
            self._throttle()

    def finish(self, trailers: Sequence[Field] = ()) -> None:
        if not self._written:
            self._written = True
            self._trailers = [(name.lower(), value) for name, value in trailers]
            self._send_held()
            self._wait()

    def _send_held(self) -> None:
        """As much of the body as the origin's windows let pass."""
        h2, stream = self._h2, self._stream
        while self._held:
            room = min(h2.local_flow_control_window(stream), h2.max_outbound_frame_size)
            if room <= 0:
                break
            data = self._held.pop(0)
            if len(data) > room:
                self._held.insert(0, data[room:])
                data = data[:room]
            h2.send_data(stream, data)
        if self._written and self._with_body and not self._held:
            self._with_body = False
            if self._trailers:
                h2.send_headers(stream, self._trailers, end_stream=True)
            else:
                h2.end_stream(stream)
        self._flush()

    def _throttle(self) -> None:
        held = sum(map(len, self._held))
        if (held > HELD or self._blocked) and not self._write_paused:
            super().pause_writing()
        elif not held and not self._blocked and self._write_paused:
            super().resume_writing()

    def pause_writing(self) -> None:
        self._blocked = True
        self._throttle()

    def resume_writing(self) -> None:
        self._blocked = False
        self._throttle()

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data and not self._transport.is_closing():
            self._transport.write(data)

    # Called by the pool and the event loop.

    def is_quiet(self) -> bool:
        """Settings and pings may come at any time: what else there is to read is seen when it is read."""
        return not self.closed and not self._going and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            self.refusal = origin_error("tls_protocol_error", "the origin does not speak HTTP/2")
            cast(asyncio.Transport, transport).abort()
            return
        super().connection_made(transport)
        self._h2.local_settings = Settings(
            client=True,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.INITIAL_WINDOW_SIZE: WINDOW,
                SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEAD,
            },
        )
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(WINDOW)
        self._flush()

    def data_received(self, data: bytes) -> None:
        if self.closed:
            return
        try:
            for frame in self._frames(data):
                if frame[3] == _GOAWAY:
                    self._goes_away(frame)
                    continue
                for event in self._h2.receive_data(frame):
                    self._heard(event)
                    if self.closed:
                        return
            if self._sink is not None and self._held:
                self._send_held()
            self._throttle()
            self._flush()
        except ProtocolError as error:
            self._flush()
            self._fail(origin_error("http_protocol_error", str(error)))
        except OriginError as error:
            self._fail(error)
        except Exception as error:  # a sink of ours is broken: this request fails, the worker goes on
            self._report(error)
            self._fail(origin_error("proxy_internal_error", "the response could not be handled"))
        else:
            if self._sink is None:
                if self._going:
                    self.close_idle()
            elif self.complete:
                self._end()
            elif not self.in_head:
                self._wait()
                if self._alone:
                    self._sink.on_wait()

    def _frames(self, data: bytes) -> Iterator[bytes]:
        """Whole frames, one by one: what is wrong with one says nothing about those before it."""
        buffer = self._partial + data if self._partial else data
        start = 0
        while len(buffer) - start >= _FRAME_HEAD:
            size = _FRAME_HEAD + int.from_bytes(buffer[start : start + 3], "big")
            if size > _FRAME_HEAD + self._h2.max_inbound_frame_size:
                raise origin_error("http_protocol_error", "a frame is larger than it may be")
            if len(buffer) - start < size:
                break
            yield buffer[start : start + size]
            start += size
        self._partial = buffer[start:]

    def _goes_away(self, frame: bytes) -> None:
        """No more requests after this one (RFC 9113 §6.8). Not for h2, which would not read on."""
        self._going = True
        last = int.from_bytes(frame[_FRAME_HEAD : _FRAME_HEAD + 4], "big") & 0x7FFFFFFF
        if self._sink is not None and self._stream > last:
            raise OriginError("connection_terminated", 502, Retry.ANY, "the origin takes no more requests")

    def eof_received(self) -> bool:
        self._lost("the origin closed the connection")
        return False

    def _heard(self, event: Event) -> None:
        if self._sink is None or getattr(event, "stream_id", 0) != self._stream:
            return
        if isinstance(event, ResponseReceived):
            self._answered(event.headers or [])
        elif isinstance(event, DataReceived):
            self._h2.acknowledge_received_data(event.flow_controlled_length or 0, self._stream)
            if event.data:
                self._alone = False
                self._sink.on_data(event.data)
        elif isinstance(event, InformationalResponseReceived):
            self._on_interim(*_split(event.headers or []))
        elif isinstance(event, TrailersReceived):
            self._fields = [(bytes(name), bytes(value)) for name, value in event.headers or []]
        elif isinstance(event, StreamEnded):
            self.complete = True
        elif isinstance(event, StreamReset):
            self._reset(event)

    def _answered(self, raw: list[tuple[bytes, bytes]] | list[Field]) -> None:
        status, fields = _split(raw)
        if len(fields) > MAX_FIELDS:
            raise origin_error("http_response_header_section_size", "the head is too large")
        if not 200 <= status <= 599:
            raise origin_error("http_protocol_error", "the status is not one of HTTP")
        headers = Headers(fields)
        length = headers.get(b"content-length")
        self.in_head = False
        self._fields = []
        self._alone = True
        if self._sink is not None:
            self._sink.on_head(
                status, headers, int(length) if length is not None and length.isdigit() else None
            )

    def _reset(self, event: StreamReset) -> None:
        if event.error_code == ErrorCodes.REFUSED_STREAM:  # §8.7: nothing was done with it
            raise OriginError("connection_terminated", 502, Retry.ANY, "the origin refused the stream")
        if self.complete:
            return
        error = "http_response_incomplete" if self.began else "connection_terminated"
        raise origin_error(error, "the origin reset the stream")

    def _end(self) -> None:
        """The response is whole. What is left of the request is not sent: then the connection closes."""
        self.keep = not self._going and self._written and not self._held
        self._with_body = False
        self._settle()


def _pseudo(head: bytes, scheme: bytes) -> list[Field]:
    """A request's head in HTTP/1.1 as the fields of HTTP/2 (RFC 9113 §8.3.1)."""
    line, *lines = head[:-4].split(b"\r\n")
    method, target, _ = line.split(b" ")
    fields: list[Field] = []
    host = b""
    for each in lines:
        name, _, value = each.partition(b":")
        name, value = name.lower(), value.strip(b" \t")
        if name == b"host":
            host = value
        elif name not in _NOT_SENT:
            fields.append((name, value))
    return [(b":method", method), (b":scheme", scheme), (b":authority", host), (b":path", target), *fields]


def _split(raw: list[tuple[bytes, bytes]] | list[Field]) -> tuple[int, list[Field]]:
    """(status, fields) of a head."""
    status = 0
    fields: list[Field] = []
    for name, value in raw:
        if name == b":status":
            status = int(value)
        else:
            fields.append((bytes(name), bytes(value)))
    return status, fields
