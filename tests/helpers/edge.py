"""A whole edge in this process, behind either door, and a client that speaks in bytes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from edgeproxy.app import EdgeApp
from edgeproxy.server.protocol import EdgeProtocol
from edgeproxy.server.worker import Worker, server_settings
from edgeproxy.shared import Shared

PATIENCE = 20.0  # seconds anything here may take; on a busy machine all of it is slow


class Answer:
    """A response as it came over the wire; body without its framing."""

    def __init__(self, head: bytes, body: bytes) -> None:
        line, *lines = head.split(b"\r\n")
        self.status = int(line.split()[1])
        self.fields = [
            (name.lower().decode(), value.decode("latin-1"))
            for name, _, value in (one.partition(b": ") for one in lines if one)
        ]
        self.body = body

    def __getitem__(self, name: str) -> str:
        return ", ".join(value for field, value in self.fields if field == name)


class Client:
    """One connection to the edge."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def head(self) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return (await self.reader.readuntil(b"\r\n\r\n"))[:-4]

    async def answer(self, method: str = "GET") -> Answer:
        """The next response. Raises IncompleteReadError when it breaks off."""
        async with asyncio.timeout(PATIENCE):
            head = await self.head()
            answer = Answer(head, b"")
            if method == "HEAD" or answer.status in (204, 304) or answer.status < 200:
                return answer
            if answer["transfer-encoding"] == "chunked":
                while size := int(await self.reader.readuntil(b"\r\n"), 16):
                    answer.body += await self.reader.readexactly(size)
                    await self.reader.readexactly(2)
                await self.reader.readexactly(2)
            elif answer["content-length"]:
                answer.body = await self.reader.readexactly(int(answer["content-length"]))
            else:
                answer.body = await self.reader.read()
            return answer

    async def ask(self, path: str = "/a", *fields: str, method: str = "GET", body: bytes = b"") -> Answer:
        lines = [f"{method} {path} HTTP/1.1", "Host: example.com", *fields]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        self.send("\r\n".join([*lines, "", ""]).encode() + body)
        return await self.answer(method)

    async def closed(self) -> bytes:
        """Whatever comes until the edge closes."""
        async with asyncio.timeout(PATIENCE):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""


class Running:
    """A running edge: its worker, and connections to it."""

    def __init__(self, worker: Worker, port: int) -> None:
        self.worker, self.port = worker, port
        self._writers: list[asyncio.StreamWriter] = []

    async def client(self, receives: int = 0) -> Client:
        """A new connection; `receives` bytes are what its socket takes in before it is read."""
        connected = socket.socket()
        if receives:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
        connected.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connected, ("127.0.0.1", self.port))
        reader, writer = await asyncio.open_connection(sock=connected, limit=receives or 2**16)
        self._writers.append(writer)
        return Client(reader, writer)

    async def ask(self, path: str = "/a", *fields: str, method: str = "GET", body: bytes = b"") -> Answer:
        """One request on a connection of its own."""
        return await (await self.client()).ask(path, *fields, method=method, body=body)

    async def turn(self) -> None:
        """Let the loop run once."""
        await asyncio.sleep(0)

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


@asynccontextmanager
async def running(config: str, folder: Path, door: str) -> AsyncGenerator[Running]:
    """An edge of this YAML behind the `native` or the `asgi` door."""
    path = folder / "edge.yaml"
    path.write_text(config)
    worker = Worker.alone(path)
    async with serving(worker, "native" if door == "native" else "asgi") as edge:
        yield edge


@asynccontextmanager
async def running_workers(config: str, folder: Path, count: int) -> AsyncGenerator[list[Running]]:
    """The workers of one machine, in this process, each on a port of its own."""
    path = folder / "edge.yaml"
    path.write_text(config)
    shared = Shared.create(path, count, controlled=True)
    assert shared.links is not None
    shared.open_machine(shared.config().cache.machine)
    async with AsyncExitStack() as stack:
        stack.callback(shared.links.close)
        if shared.machine is not None:
            stack.callback(shared.machine.close)
        yield [
            await stack.enter_async_context(serving(Worker(shared, slot), "native")) for slot in range(count)
        ]


@asynccontextmanager
async def serving(worker: Worker, door: str) -> AsyncGenerator[Running]:
    """A worker behind one of the doors, and its socket for the others."""
    await worker.start()
    protocol = EdgeProtocol if door == "native" else HttpToolsProtocol
    settings = server_settings(EdgeApp(worker=worker), http=protocol, date_header=False)
    settings.load()
    state = ServerState()
    # uvicorn's protocols without its server, which looks ten times a second whether it is to end
    server = await asyncio.get_running_loop().create_server(
        lambda: protocol(settings, state, {}), "127.0.0.1", 0
    )
    siblings = await worker.serve_siblings(settings)
    edge = Running(worker, server.sockets[0].getsockname()[1])
    try:
        yield edge
    finally:
        edge.close()
        worker.hall.drain()
        server.close()
        await end(state)
        if siblings is not None:
            siblings.close()
        await worker.stop()


async def end(state: ServerState) -> None:
    """Every connection of this state, and what is under way on it, comes to its end."""
    for connection in list(state.connections):
        connection.shutdown()
    async with asyncio.timeout(PATIENCE):
        while state.connections or state.tasks:
            await asyncio.sleep(0)
