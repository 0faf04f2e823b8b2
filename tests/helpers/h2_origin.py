"""An HTTP/2 origin that does what its script says, stream by stream.

A script is a coroutine function that is given one `Stream` whose head has arrived.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from types import TracebackType

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    RequestReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.settings import SettingCodes, Settings

Fields = list[tuple[bytes, bytes]]
Script = Callable[["Stream"], Awaitable[None]]


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame of HTTP/2 (RFC 9113 §4.1), be it right or wrong."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


class Stream:
    """One request, seen from the origin."""

    def __init__(self, peer: _Peer, number: int, headers: Fields) -> None:
        self.peer, self.number, self.headers = peer, number, headers
        self.received = bytearray()
        self.behind: Fields = []  # the body
        self.ended = asyncio.Event()
        self.reset = asyncio.Event()

    def __getitem__(self, name: str) -> str:
        return b", ".join(value for key, value in self.headers if key == name.encode()).decode()

    async def body(self) -> bytes:
        """All of the request's body; its window is opened as it comes."""
        await self.ended.wait()
        return bytes(self.received)

    def interim(self, status: int, *fields: tuple[bytes, bytes]) -> None:
        self.peer.h2.send_headers(self.number, [(b":status", b"%d" % status), *fields])
        self.peer.flush()

    def head(self, *fields: tuple[bytes, bytes], status: int = 200, end: bool = False) -> None:
        self.peer.h2.send_headers(self.number, [(b":status", b"%d" % status), *fields], end_stream=end)
        self.peer.flush()

    async def data(self, data: bytes, *, end: bool = False) -> None:
        h2 = self.peer.h2
        while data:
            room = min(h2.local_flow_control_window(self.number), h2.max_outbound_frame_size)
            if room <= 0:
                self.peer.window.clear()
                await self.peer.window.wait()
                continue
            h2.send_data(self.number, data[:room])
            data = data[room:]
            self.peer.flush()
            await self.peer.drained.wait()
        if end:
            h2.end_stream(self.number)
            self.peer.flush()

    def trailers(self, *fields: tuple[bytes, bytes]) -> None:
        self.peer.h2.send_headers(self.number, list(fields), end_stream=True)
        self.peer.flush()

    def abort(self, code: ErrorCodes = ErrorCodes.INTERNAL_ERROR) -> None:
        self.peer.h2.reset_stream(self.number, code)
        self.peer.flush()

    def go_away(self, last: int | None = None) -> None:
        """Announce the end of the connection, past the library: it would refuse to go on."""
        last = self.number if last is None else last
        self.peer.transport.write(
            b"\x00\x00\x08\x07\x00\x00\x00\x00\x00" + last.to_bytes(4, "big") + bytes(4)
        )


class _Peer(asyncio.Protocol):
    def __init__(self, origin: H2Origin) -> None:
        self.origin = origin
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding=False))
        self.streams: dict[int, Stream] = {}
        self.unheard = b""
        self.resets: list[tuple[int, int]] = []  # (stream, code) that came
        self.window = asyncio.Event()
        self.drained = asyncio.Event()
        self.drained.set()
        self.lost = asyncio.Event()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.origin.peers.append(self)
        transport.write(self.origin.greeting)
        if not self.origin.mute:
            self.speak()

    def speak(self) -> None:
        self.h2.local_settings = Settings(client=False, initial_values=self.origin.settings)
        self.h2.initiate_connection()
        self.flush()
        self.data_received(self.unheard)

    def flush(self) -> None:
        self.transport.write(self.h2.data_to_send())

    def pause_writing(self) -> None:
        self.drained.clear()

    def resume_writing(self) -> None:
        self.drained.set()

    def data_received(self, data: bytes) -> None:
        if self.origin.mute:
            self.unheard += data
            return
        for event in self.h2.receive_data(data):
            if isinstance(event, RequestReceived):
                stream = Stream(self, event.stream_id, list(event.headers))
                self.streams[event.stream_id] = stream
                self.origin.begin(stream)
            elif isinstance(event, DataReceived):
                self.streams[event.stream_id].received += event.data
                if self.origin.reads:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, TrailersReceived):
                self.streams[event.stream_id].behind = list(event.headers)
            elif isinstance(event, StreamEnded):
                self.streams[event.stream_id].ended.set()
            elif isinstance(event, StreamReset):
                self.streams[event.stream_id].reset.set()
                self.resets.append((event.stream_id, int(event.error_code)))
            elif isinstance(event, WindowUpdated):
                self.window.set()
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()
        self.drained.set()


class H2Origin:
    """Listens on a free port of the loopback while it is entered. With `reads` false no window is opened;
    while it is `mute` it says nothing, until its peers `speak`."""

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        self.script = script
        self.reads = True
        self.mute = False
        self.greeting = b""  # what it says all the same
        self.settings: dict[SettingCodes, int] = {}
        self.peers: list[_Peer] = []
        self.streams: list[Stream] = []
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: list[BaseException] = []

    @property
    def url(self) -> str:
        """Scheme, address and port."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def begin(self, stream: Stream) -> None:
        self.streams.append(stream)
        task = asyncio.get_running_loop().create_task(self._run(stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, stream: Stream) -> None:
        try:
            await self.script(stream)
        except Exception as error:
            self._failures.append(error)

    async def __aenter__(self) -> H2Origin:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Peer(self), "127.0.0.1", 0, ssl=self._tls)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        for peer in self.peers:
            peer.transport.abort()
        if self._failures and error is None:
            raise self._failures[0]
