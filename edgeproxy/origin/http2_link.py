"""One HTTP/2 connection to an origin, shared by the streams of many requests (RFC 9113), over `h2`.

Rule 1: what is wrong with a stream is told to that stream; what is wrong with the connection to all of them.
Rule 2: the connection's window is given back as it is used, a stream's only while its reader takes more: one
slow client costs the others nothing, and at most STREAM_WINDOW bytes of memory.
Rule 3: it closes with its last stream.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import cast

from h2.config import H2Configuration
from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, RemoteSettingsChanged, WindowUpdated
from h2.exceptions import DenialOfServiceError, ProtocolError
from h2.settings import SettingCodes, Settings

from edgeproxy.errors import OriginError, Retry, origin_error
from edgeproxy.http.message import Field
from edgeproxy.origin.http2 import Http2Stream
from edgeproxy.origin.http2_bounds import FRAME_HEAD, GOAWAY, Bounds
from edgeproxy.origin.http2_state import Connection, StreamBroken
from edgeproxy.origin.reader import MAX_HEAD
from edgeproxy.origin.sweeper import Sweeper

STREAMS = 100  # requests at once on one connection, or fewer when the origin says so
STREAM_WINDOW = 256 * 1024  # bytes that an origin may send ahead for one request
WINDOW = 1024 * 1024  # and for all of them
CANCELLED = 100  # streams that we broke off, after which a connection takes no more (CVE-2023-44487)
_LARGEST_TABLE = 4096  # bytes of fields remembered to send them shorter, whatever the origin offers
_LAST_NUMBER = 2**30  # of a stream; they end at 2**31


class Http2Link(asyncio.Protocol):
    """The transport, the state of `h2`, and who is on it. `ready` is set when the origin's settings are
    known, or the connection is gone: then `error` says why."""

    def __init__(self, sweeper: Sweeper, *, tls: bool) -> None:
        self.h2 = Connection(H2Configuration(client_side=True, header_encoding=False))
        self.ready = asyncio.Event()
        self.error: OriginError | None = None
        self.is_open = False
        self.answered = False  # it has served a request
        self.blocked = False  # the transport has as much as it takes
        self.heard = 0.0  # when the origin last said something
        self.transport: asyncio.Transport
        self.loop: asyncio.AbstractEventLoop
        self._sweeper = sweeper
        self._tls = tls
        self._bounds = Bounds(sweeper.clock)
        self._streams: dict[int, Http2Stream] = {}  # that are open
        self._members: set[Http2Stream] = set()  # those and the idle ones
        self._going = False  # no more requests after those that are there
        self._owed = 0  # bytes of the window that the origin has not got back
        self._cancelled = 0

    def __repr__(self) -> str:
        state = "closed" if not self.is_open else "going" if self._going else "open"
        return f"<Http2Link {state} {len(self._streams)} of {len(self._members)} busy>"

    # --- who is on it

    @property
    def limit(self) -> int:
        """Requests at once."""
        return min(STREAMS, self.h2.remote_settings.max_concurrent_streams)

    @property
    def stays(self) -> bool:
        """Are there requests to come?"""
        return self.is_open and not self._going

    @property
    def has_place(self) -> bool:
        """May a request begin?"""
        return self.stays and len(self._streams) < self.limit

    @property
    def has_room(self) -> bool:
        """May another stream join those that are on it, busy or idle?"""
        return self.stays and len(self._members) < self.limit

    def join(self, stream: Http2Stream) -> None:
        """It is on this connection until it leaves."""
        self._members.add(stream)

    def begin(self, stream: Http2Stream, fields: list[Field], *, ends: bool) -> int:
        """Send a head; the number of the stream. Raises OriginError, and ProtocolError for a bad head."""
        if not self.has_place:
            raise OriginError("connection_terminated", 502, Retry.ANY, "the origin takes no more requests")
        number = self.h2.get_next_available_stream_id()
        self.h2.send_headers(number, fields, end_stream=ends)
        self._streams[number] = stream
        if number > _LAST_NUMBER:
            self._going = True
        self._flush()
        return number

    def ended(self, stream: Http2Stream) -> None:
        """Its request and its response are whole."""
        self.drop(stream)
        self.answered = True

    def drop(self, stream: Http2Stream) -> None:
        """The origin has nothing to do with it any more."""
        self._streams.pop(stream.number, None)
        stream.number = stream.owed = 0

    def leave(self, stream: Http2Stream) -> None:
        """It is closed: what is under way of it ends here."""
        self._members.discard(stream)
        number = stream.number
        self.drop(stream)
        if number and self.is_open:
            with suppress(ProtocolError):  # it ended in the same moment
                self.h2.reset_stream(number, ErrorCodes.CANCEL)
            self._broke_off()
            self._flush()
        self.close_unused()

    def _broke_off(self) -> None:
        """A stream was reset by us."""
        self._cancelled += 1
        if self._cancelled >= CANCELLED:
            self.retire()

    def retire(self) -> None:
        """No more requests after those that are there."""
        self._going = True
        for stream in list(self._members):
            if not stream.number:
                stream.close_idle()

    def close_unused(self) -> None:
        """Close in good order when nobody is on it."""
        if self.is_open and not self._members:
            self.is_open = False
            with suppress(ProtocolError):
                self.h2.close_connection()
            self._flush()
            self.transport.close()

    # --- what goes out

    def pump(self, only: Http2Stream | None = None) -> None:
        """Request bodies, a frame from each in turn, as far as windows and socket let them."""
        turn = deque(self._streams.values() if only is None else [only])
        while turn and self.is_open and not self.blocked:
            stream = turn.popleft()
            try:
                again = stream.send_some()
            except ProtocolError as error:  # a trailer that is none
                stream.lost(origin_error("http_request_error", str(error)))
                continue
            self._flush()
            if again:
                turn.append(stream)

    def credit(self, stream: Http2Stream) -> None:
        """Give its window back, when that is worth a frame and its reader takes more."""
        if stream.number and not stream.paused and stream.owed >= STREAM_WINDOW // 4:
            owed, stream.owed = stream.owed, 0
            with suppress(ProtocolError):  # nothing more comes
                self.h2.increment_flow_control_window(owed, stream.number)
            self._flush()

    def sent(self, size: int) -> None:
        """A frame with so many bytes of a body went out."""
        self._bounds.sent(size)

    def _flush(self) -> None:
        data = self.h2.data_to_send()
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def pause_writing(self) -> None:
        self.blocked = True
        for stream in list(self._streams.values()):
            stream.throttle()

    def resume_writing(self) -> None:
        self.blocked = False
        self.pump()
        for stream in list(self._streams.values()):
            stream.throttle()

    # --- what comes in

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.loop = asyncio.get_running_loop()
        tls = transport.get_extra_info("ssl_object")
        if self._tls and (tls is None or tls.selected_alpn_protocol() != "h2"):
            self._gone(origin_error("tls_protocol_error", "the origin does not speak HTTP/2"))
            return
        self.is_open = True
        self.h2.local_settings = Settings(
            client=True,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEAD,
            },
        )
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(WINDOW)
        self._flush()

    def data_received(self, data: bytes) -> None:
        if not self.is_open:
            return
        self.heard = self._sweeper.clock()
        heard: set[Http2Stream] = set()
        culprit: Http2Stream | None = None  # whose frame is looked at
        try:
            for frame in self._bounds.frames(data, self.h2.max_inbound_frame_size):
                culprit = self._streams.get(int.from_bytes(frame[5:9], "big") & 0x7FFFFFFF)
                self._take(frame, culprit, heard)
                if not self.is_open:
                    return
                culprit = None
        except OriginError as error:
            with suppress(ProtocolError):
                self.h2.close_connection(ErrorCodes.ENHANCE_YOUR_CALM)
            self._gone(error, culprit)
        except DenialOfServiceError as error:
            self._gone(origin_error("http_response_header_section_size", str(error)), culprit)
        except ProtocolError as error:
            self._gone(origin_error("http_protocol_error", str(error)), culprit)
        else:
            self._flush()
            for stream in heard:
                stream.read()

    def _take(self, frame: bytes, stream: Http2Stream | None, heard: set[Http2Stream]) -> None:
        self._bounds.judge(frame, wanted=stream is not None)
        if frame[3] == GOAWAY:
            self._goes_away(int.from_bytes(frame[FRAME_HEAD : FRAME_HEAD + 4], "big") & 0x7FFFFFFF)
            return
        for event in self.h2.receive_data(frame):
            self._hear(event)
            if stream is not None and getattr(event, "stream_id", 0) == stream.number != 0:
                stream.hear(event)
                if isinstance(event, DataReceived):
                    stream.owed += event.flow_controlled_length or 0
                    self.credit(stream)
                heard.add(stream)

    def _hear(self, event: Event) -> None:
        if isinstance(event, DataReceived):
            self._owes(event.flow_controlled_length or 0)
        elif isinstance(event, StreamBroken):
            self._owes(event.size)
            self._broke_off()
        elif isinstance(event, RemoteSettingsChanged):
            encoder = self.h2.encoder
            if encoder.header_table_size > _LARGEST_TABLE:
                encoder.header_table_size = _LARGEST_TABLE
                changes = encoder.table_size_changes  # to be told: those that were never made are not
                changes[:] = [size for size in changes if size <= _LARGEST_TABLE]
            self.ready.set()
            self._go_on()
        elif isinstance(event, WindowUpdated):
            self._go_on()

    def _owes(self, size: int) -> None:
        """So many bytes of the connection's window are used up."""
        self._owed += size
        if self._owed >= WINDOW // 4:
            owed, self._owed = self._owed, 0
            self.h2.increment_flow_control_window(owed)

    def _go_on(self) -> None:
        """There may be room for more of the bodies."""
        self.pump()
        for stream in list(self._streams.values()):
            stream.throttle()

    def _goes_away(self, last: int) -> None:
        """No more requests, and none newer than `last` (§6.8). Not for h2, which would not read on."""
        self.retire()
        if not self.ready.is_set():
            self._gone("the origin goes away before it has said anything")
        for stream in list(self._members):
            if stream.number > last:
                self.drop(stream)
                stream.turned_away()

    def eof_received(self) -> bool:
        self._gone("the origin closed the connection")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone(str(exc) if exc is not None else "the connection was closed")

    def _gone(self, error: OriginError | str, culprit: Http2Stream | None = None) -> None:
        """The connection ends, for what came on one stream if there is a `culprit`."""
        if self.error is not None:
            return
        self._flush()
        self.is_open = False
        self.error = error if isinstance(error, OriginError) else origin_error("connection_terminated", error)
        self.ready.set()
        for stream in list(self._members):
            self.drop(stream)
            if isinstance(error, OriginError) and stream is not culprit:
                stream.swept_away(error, innocent=culprit is not None)
            else:
                stream.lost(error)
        self.transport.abort()
