"""An origin that does exactly what its script says, byte by byte, and remembers what it received.

A script is a coroutine function that is given one accepted connection (`Peer`). To hold it back,
wait for an `asyncio.Event` inside it: no sleeping.

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        await gate.wait()
        await peer.send(b"ok")

    async with ScriptedOrigin(script) as origin:
        ... origin.url ... origin.received
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType

Script = Callable[["Peer"], Awaitable[None]]


class Peer:
    """One accepted connection, seen from the origin. `received` is every byte that came."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, index: int) -> None:
        self.index = index  # 0 for the first connection of the origin
        self.received = b""
        self.heads: list[bytes] = []
        self.trailers: list[bytes] = []  # field lines behind bodies
        self.ended = asyncio.Event()  # the script is over, the connection closed
        self._reader = reader
        self._writer = writer

    async def until(self, mark: bytes) -> bytes:
        """Bytes up to and including `mark`. Raises IncompleteReadError at EOF."""
        return self._keep(await self._reader.readuntil(mark))

    async def head(self) -> bytes:
        """The head of the next request, its empty line included."""
        head = await self.until(b"\r\n\r\n")
        self.heads.append(head)
        return head

    async def exactly(self, count: int) -> bytes:
        """The next `count` bytes."""
        return self._keep(await self._reader.readexactly(count))

    async def request(self) -> tuple[bytes, bytes]:
        """The next request: head, and body without its framing."""
        head = await self.head()
        body = b""
        for line in head.lower().split(b"\r\n"):
            if line == b"transfer-encoding: chunked":
                while size := int(await self.until(b"\r\n"), 16):
                    body += await self.exactly(size)
                    await self.exactly(2)
                while (trailer := await self.until(b"\r\n")) != b"\r\n":
                    self.trailers.append(trailer[:-2])
            elif line.startswith(b"content-length:"):
                body = await self.exactly(int(line.partition(b":")[2]))
        return head, body

    async def eof(self) -> None:
        """Wait until the other side has closed; what comes before is kept."""
        while data := await self._reader.read(65536):
            self._keep(data)

    async def send(self, data: bytes) -> None:
        """Write `data` and wait until most of it is on its way."""
        self._writer.write(data)
        await self._writer.drain()

    async def drip(self, data: bytes) -> None:
        """Write `data` one byte at a time, letting the loop run between them."""
        for position in range(len(data)):
            await self.send(data[position : position + 1])
            await asyncio.sleep(0)

    def send_now(self, data: bytes) -> None:
        """Put `data` on the wire before this returns, past the event loop. Not for TLS."""
        raw: socket.socket = self._writer.get_extra_info("socket")
        with socket.socket(fileno=socket.dup(raw.fileno())) as copy:
            copy.send(data)

    def half_close(self) -> None:
        """Send FIN; reading goes on."""
        self._writer.write_eof()

    def close(self) -> None:
        """Close in good order."""
        self._writer.close()

    def reset(self) -> None:
        """Close with RST."""
        raw: socket.socket = self._writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def abort(self) -> None:
        """Drop the connection, whatever is still to be sent."""
        self._writer.transport.abort()

    def cut(self) -> None:
        """Close the TCP connection under TLS, without close_notify."""
        raw: socket.socket = self._writer.get_extra_info("socket")
        with socket.socket(fileno=socket.dup(raw.fileno())) as copy:
            copy.shutdown(socket.SHUT_WR)

    def _keep(self, data: bytes) -> bytes:
        self.received += data
        return data


def answers(*responses: bytes) -> Script:
    """A script that reads one request for each response, then waits for the other side to close."""

    async def script(peer: Peer) -> None:
        for response in responses:
            await peer.request()
            await peer.send(response)
        await peer.eof()

    return script


def always(response: bytes) -> Script:
    """A script that answers every request alike."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(response)

    return script


async def silence(peer: Peer) -> None:
    """A script that takes everything and never answers."""
    await peer.eof()


class ScriptedOrigin:
    """Listens on a free port of the loopback while it is entered.

    The n-th connection runs the n-th script, the last one all that follow. A script that fails
    (an assertion, not a broken connection) fails the test on leaving.
    """

    def __init__(self, *scripts: Script, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.scripts = scripts
        self.peers: list[Peer] = []
        self.port = port
        self.host = "127.0.0.1"
        self._tls = tls
        self._failures: list[Exception] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """Scheme, address and port."""
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.port}"

    @property
    def received(self) -> bytes:
        """Everything that came, connection after connection."""
        return b"".join(peer.received for peer in self.peers)

    @property
    def heads(self) -> list[bytes]:
        """The head of every request read."""
        return [head for peer in self.peers for head in peer.heads]

    async def __aenter__(self) -> ScriptedOrigin:
        self._server = await asyncio.start_server(self._accept, self.host, self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
        if self._failures and error is None:
            raise self._failures[0]

    async def stop(self) -> None:
        """Refuse new connections and end every script."""
        if self._server is not None:
            self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        peer = Peer(reader, writer, len(self.peers))
        self.peers.append(peer)
        try:
            await self.scripts[min(peer.index, len(self.scripts) - 1)](peer)
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # the other side left, or the test is over
        except Exception as error:
            self._failures.append(error)
        finally:
            self._tasks.discard(task)
            peer.ended.set()
            if not writer.is_closing():
                writer.close()
            with suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()
