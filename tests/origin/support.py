"""What the tests of the origin side share: a sink that remembers, a clock that is set, an upstream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

from edgeproxy.errors import OriginError
from edgeproxy.http.message import Field, Headers
from edgeproxy.origin.connection import OriginConnection
from edgeproxy.origin.heads import Heads
from edgeproxy.origin.reader import ResponseReader
from edgeproxy.origin.resolve import Resolver
from edgeproxy.origin.settings import Origin
from edgeproxy.origin.sweeper import Sweeper
from edgeproxy.origin.upstream import Upstream
from tests.helpers.edge import PATIENCE

GET = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: a.example\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class SetClock:
    """Seconds that pass when a test says so."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Recorder:
    """A sink that writes down what it hears."""

    def __init__(self) -> None:
        self.status = 0
        self.headers = Headers([])
        self.length: int | None = None
        self.body = b""
        self.pieces: list[int] = []
        self.interims: list[tuple[int, list[Field]]] = []
        self.trailers: list[Field] | None = None
        self.error: OriginError | None = None
        self.calls: list[str] = []
        self.done = asyncio.Event()
        self.heard = asyncio.Event()
        self.on_call: Callable[[str], None] | None = None

    def _call(self, name: str) -> None:
        self.calls.append(name)
        self.heard.set()
        if self.on_call is not None:
            self.on_call(name)

    def on_interim(self, status: int, fields: list[Field]) -> None:
        self.interims.append((status, fields))
        self._call("interim")

    def on_head(self, status: int, headers: Headers, length: int | None) -> None:
        self.status, self.headers, self.length = status, headers, length
        self._call("head")

    def on_wait(self) -> None:
        """Nothing to write down."""

    def on_data(self, data: bytes) -> None:
        self.body += data
        self.pieces.append(len(data))
        self._call("data")

    def on_end(self, trailers: list[Field]) -> None:
        self.trailers = trailers
        self.done.set()
        self._call("end")

    def on_error(self, error: OriginError) -> None:
        self.error = error
        self.done.set()
        self._call("error")

    def on_write_paused(self) -> None:
        self._call("write-paused")

    def on_write_resumed(self) -> None:
        self._call("write-resumed")

    async def until(self, name: str) -> None:
        """Wait until the call `name` was heard."""
        async with asyncio.timeout(PATIENCE):
            while name not in self.calls:
                self.heard.clear()
                await self.heard.wait()

    async def finished(self) -> None:
        """Wait for the end or the error."""
        async with asyncio.timeout(PATIENCE):
            await self.done.wait()
        await settle()

    @property
    def outcome(self) -> str:
        """`end`, or the error's type."""
        assert self.calls.count("end") + self.calls.count("error") == 1
        assert self.calls[-1] in ("end", "error"), "the sink heard something after the end"
        return self.error.error if self.error else "end"


async def settle() -> None:
    """Let what is ready run."""
    for _ in range(5):
        await asyncio.sleep(0)


async def eventually(true: Callable[[], bool]) -> None:
    """Wait for something the other side of a socket does."""
    async with asyncio.timeout(PATIENCE):
        while not true():
            await asyncio.sleep(0.001)


@asynccontextmanager
async def upstream(
    *urls: str,
    clock: SetClock | None = None,
    resolver: Resolver | None = None,
    health: memoryview | None = None,
    **options: Any,
) -> AsyncGenerator[Upstream]:
    """An Upstream for the servers at `urls`; `options` as in the YAML."""
    clock = clock or SetClock()
    sweeper = Sweeper(clock)
    origin = Origin.model_validate({"servers": list(urls), **options})
    made = Upstream("test", origin, sweeper=sweeper, resolver=resolver or Resolver(clock), health=health)
    try:
        yield made
    finally:
        for member in list(sweeper._members):
            assert isinstance(member, OriginConnection)
            member.abandon()
        await made.close()
        await settle()


def sweep(made: Upstream, clock: SetClock, seconds: float) -> None:
    """Let `seconds` pass and the sweeper look."""
    clock.now += seconds
    made._sweeper.sweep(clock.now)


async def ask(made: Upstream, head: bytes = GET) -> tuple[OriginConnection, Recorder]:
    """Send a request without body on a connection of `made` and wait for what comes of it."""
    connection = made.idle() or await made.connect()
    sink = Recorder()
    connection.send(head.partition(b" ")[0], head, sink, has_body=False)
    await sink.finished()
    return connection, sink


async def start(
    made: Upstream, head: bytes = GET, *, has_body: bool = False
) -> tuple[OriginConnection, Recorder]:
    """Send a request and do not wait."""
    connection = made.idle() or await made.connect()
    sink = Recorder()
    connection.send(head.partition(b" ")[0], head, sink, has_body=has_body)
    connection.flush()
    return connection, sink


def read(
    pieces: list[bytes], *, for_head: bool = False, at_eof: bool = False, heads: Heads | None = None
) -> tuple[ResponseReader, Recorder, str]:
    """A reader fed with `pieces` until the response is complete, and what came of it."""
    reader, sink = ResponseReader(heads), Recorder()
    reader.expect(for_head=for_head)
    reader._sink = sink
    for piece in pieces:
        if reader.complete:
            reader.unclean = True
            break
        try:
            reader.feed(piece)
        except OriginError as error:
            return reader, sink, error.error
    if reader.complete or (at_eof and reader.until_eof):
        return reader, sink, "unclean" if reader.unclean else "complete"
    return reader, sink, "incomplete"


def kept(made: Upstream) -> int:
    """Idle connections of all servers."""
    return sum(len(server.idle) for server in made.servers)
