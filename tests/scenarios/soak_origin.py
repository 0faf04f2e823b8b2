"""The origin of the soak: what it answers stands in the path, `/KIND/…`."""

from __future__ import annotations

import asyncio
import socket
import struct

SMALL = b"x" * 1500
FILE = bytes(range(256)) * 2400  # more than the edge keeps in memory
STREAM = b"400\r\n" + b"s" * 1024 + b"\r\n"
CACHED = "Cache-Control: public, max-age=600"
PATIENCE = 5.0  # seconds an idle connection is kept


def _answer(body: bytes, *fields: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields, "", ""]
    return "\r\n".join(lines).encode() + body


def _whole(kind: str, path: str, head: bytes) -> bytes | None:
    """The answers that need no script."""
    if kind == "stored":
        if b"if-none-match" in head.lower():
            return b'HTTP/1.1 304 Not Modified\r\nETag: "v"\r\nCache-Control: max-age=600\r\n\r\n'
        tags = f"Surrogate-Key: all t{len(path) % 7}"
        return _answer(SMALL, CACHED, 'ETag: "v"', tags, "Content-Type: text/plain")
    if kind == "vary":
        return _answer(SMALL, CACHED, "Vary: Accept-Language, X-Kind", 'ETag: "v"')
    if kind == "short":
        return _answer(SMALL, "Cache-Control: max-age=1, stale-while-revalidate=5", 'ETag: "v"')
    if kind == "file":
        return _answer(FILE, CACHED, 'ETag: "v"')
    if kind == "error":
        return _answer(b"no", status="500 Internal Server Error")
    if kind == "missing":
        return _answer(b"no", status="404 Not Found")
    if kind == "odd":
        return b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"
    return _answer(SMALL, f"X-Own: {path}", "Set-Cookie: a=1") if kind in ("pass", "chain") else None


class SoakOrigin:
    """Listens on a port of the loopback."""

    def __init__(self) -> None:
        self.port = 0
        self.requests = 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def listen(self) -> None:
        """Begin."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**17)
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        """End, with all connections."""
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                async with asyncio.timeout(PATIENCE):
                    head = await reader.readuntil(b"\r\n\r\n")
                    await _take_body(reader, head)
                self.requests += 1
                path = head.split(b" ", 2)[1].decode()
                kind = path.split("/")[1]
                whole = _whole(kind, path, head)
                if whole is not None:
                    writer.write(
                        whole.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if head[:4] == b"HEAD" else whole
                    )
                    async with asyncio.timeout(PATIENCE):
                        await writer.drain()
                elif not await _play(kind, head, reader, writer):
                    return
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
            return
        finally:
            self._writers.discard(writer)
            writer.close()


async def _play(kind: str, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """The others. Can the connection be used again?"""
    if kind == "reset":
        raw: socket.socket = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    elif kind == "truncate":
        writer.write(_answer(SMALL, CACHED)[:-500])
    elif kind == "hang":
        await asyncio.sleep(1.0)
    elif kind == "hints":
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n" + _answer(SMALL, CACHED))
        return True
    elif kind == "stream":
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-End\r\n\r\n")
        for _ in range(5):
            writer.write(STREAM)
            await asyncio.sleep(0.005)
        writer.write(b"0\r\nX-End: 1\r\n\r\n")
        return True
    elif kind == "ws":
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
        key = head.lower().partition(b"sec-websocket-key: ")[2].partition(b"\r\n")[0]
        writer.write(b"Sec-WebSocket-Accept: " + _accept(head, key) + b"\r\n\r\n")
        async with asyncio.timeout(PATIENCE):
            while data := await reader.read(4096):
                writer.write(bytes([data[0], len(data[6:])]) + data[6:])
    return False


def _accept(head: bytes, lower: bytes) -> bytes:
    from base64 import b64encode
    from hashlib import sha1

    at = head.lower().index(lower)
    return b64encode(sha1(head[at : at + len(lower)] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())


async def _take_body(reader: asyncio.StreamReader, head: bytes) -> None:
    fields = head.lower()
    if b"transfer-encoding: chunked" in fields:
        while size := int(await reader.readuntil(b"\r\n"), 16):
            await reader.readexactly(size + 2)
        await reader.readuntil(b"\r\n")
    elif b"content-length: " in fields:
        await reader.readexactly(int(fields.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
