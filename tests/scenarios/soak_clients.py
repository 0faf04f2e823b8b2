"""What the clients of the soak do, good and bad ones: move after move, each on its own connection."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import count

from tests.policies.jwt_tokens import sign

SECRET = "a secret of the soak that is long enough for HS256"
PATIENCE = 4.0  # seconds a client waits
MALFORMED = (
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 40_000 + b"\r\n\r\n",
    b"GET /" + b"z" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01",
    b"POST /pass/c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
)


class Connection:
    """One connection from an address of its own, mostly."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(
        self, path: str, *fields: str, method: str = "GET", body: bytes = b"", host: str = ""
    ) -> int:
        """Ask and read the answer; its status."""
        self.send(path, *fields, method=method, body=body, host=host)
        return await self.read(method)

    def send(self, path: str, *fields: str, method: str = "GET", body: bytes = b"", host: str = "") -> None:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host or 'example.com'}", *fields]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + body)

    async def read(self, method: str = "GET") -> int:
        while True:
            head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
            status = int(head[9:12])
            if status == 101 or status >= 200:
                break
        if method == "HEAD" or status in (101, 204, 304):
            return status
        if b"transfer-encoding: chunked" in head:
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                await self.reader.readexactly(size + 2)
            while await self.reader.readuntil(b"\r\n") != b"\r\n":
                pass
        else:
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await self.reader.readexactly(length)
        return status

    def reset(self) -> None:
        raw: socket.socket = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Move = Callable[["Clients", Connection], Awaitable[int]]


class Clients:
    """`number` of them move until told to stop. `done` counts moves by name and status; 0 is no answer."""

    def __init__(self, port: int, number: int = 24, seed: int = 1) -> None:
        self.port, self.number = port, number
        self.chance = random.Random(seed)
        self.numbers = count(1)
        self.done: Counter[tuple[str, int]] = Counter()
        self._stopped = False

    async def run(self, seconds: float) -> None:
        """Move for so long, and let all connections end."""
        self._stopped = False
        asyncio.get_running_loop().call_later(seconds, self._stop)
        await asyncio.gather(*[self._client() for _ in range(self.number)])

    def _stop(self) -> None:
        self._stopped = True

    async def _client(self) -> None:
        while not self._stopped:
            for move in self.chance.choices(MOVES, WEIGHTS, k=20):
                status = 0
                try:
                    async with asyncio.timeout(PATIENCE):
                        status = await self._move(move)
                except (OSError, EOFError, TimeoutError, ValueError, asyncio.LimitOverrunError):
                    pass
                self.done[move.__name__, status] += 1
                if self._stopped:
                    return

    async def _move(self, move: Move) -> int:
        source = "127.{}.{}.{}".format(*(self.chance.randint(1, 250) for _ in range(3)))
        made = socket.socket()
        made.setblocking(False)
        made.bind((source, 0))
        if move is slow_reader:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        try:
            await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", self.port))
        except OSError:
            made.close()
            raise
        reader, writer = await asyncio.open_connection(sock=made, limit=2**17)
        try:
            return await move(self, Connection(reader, writer))
        finally:
            writer.close()

    @property
    def fresh(self) -> int:
        """A number that nobody had before."""
        return next(self.numbers)


async def hit(clients: Clients, one: Connection) -> int:
    for _ in range(10):
        await one.ask(f"/stored/{clients.chance.randrange(50)}")
    return await one.ask("/stored/1", method="HEAD")


async def miss(clients: Clients, one: Connection) -> int:
    await one.ask(f"/stored/{clients.fresh}?q={clients.fresh}")
    return await one.ask(f"/stored/{clients.fresh}", f"Cookie: c{clients.fresh}=1")


async def varied(clients: Clients, one: Connection) -> int:
    return await one.ask(f"/vary/{clients.fresh % 40}", f"Accept-Language: l{clients.fresh % 90}")


async def revalidated(clients: Clients, one: Connection) -> int:
    await one.ask(f"/short/{clients.fresh % 30}")
    await one.ask("/stored/2", 'If-None-Match: "v"', f"Cache-Control: max-age={clients.fresh % 5}")
    return await one.ask("/stored/3", f'If-None-Match: "{clients.fresh}", "v"')


async def ranged(clients: Clients, one: Connection) -> int:
    first = clients.chance.randrange(500_000)
    await one.ask("/file/1", f"Range: bytes={first}-{first + 5000}")
    await one.ask("/stored/4", "Range: bytes=0-9,100-109,-5")
    await one.ask("/file/2", "Range: bytes=0-9,300000-300009")
    return await one.ask("/stored/5", "Range: bytes=99999-")


async def large(clients: Clients, one: Connection) -> int:
    return await one.ask(f"/file/{clients.fresh % 60}")


async def passed(clients: Clients, one: Connection) -> int:
    await one.ask(f"/pass/{clients.fresh}", f"X-Odd-{clients.fresh}: 1", host=f"h{clients.fresh}.example")
    await one.ask(f"/stream/{clients.fresh}", "TE: trailers")
    return await one.ask(f"/hints/{clients.fresh}")


async def posted(clients: Clients, one: Connection) -> int:
    await one.ask(f"/pass/{clients.fresh}", method="POST", body=b"b" * clients.chance.randrange(1, 50_000))
    await one.ask(f"/stored/{clients.fresh % 50}", method="DELETE")
    one.send("/pass/chunked", "Transfer-Encoding: chunked", "Expect: 100-continue", method="POST")
    one.writer.write(b"5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n")
    return await one.read()


async def aborted_request(clients: Clients, one: Connection) -> int:
    one.send(f"/pass/{clients.fresh}", "Content-Length: 100000", method="POST")
    one.writer.write(b"half")
    await asyncio.sleep(0.01)
    one.reset()
    return 1


async def aborted_answer(clients: Clients, one: Connection) -> int:
    one.send(
        clients.chance.choice((f"/file/{clients.fresh}", "/hang/1", "/stream/1", f"/pass/{clients.fresh}"))
    )
    await asyncio.sleep(clients.chance.random() * 0.02)
    one.reset()
    return 1


async def slow_reader(clients: Clients, one: Connection) -> int:
    one.send(clients.chance.choice(("/file/1", f"/file/{clients.fresh}")))
    await asyncio.sleep(1.0)
    one.reset()
    return 1


async def refused(clients: Clients, one: Connection) -> int:
    kind = clients.chance.choice(("reset", "truncate", "error", "missing", "odd", "hang"))
    return await one.ask(f"/{kind}/{clients.fresh}")


async def malformed(clients: Clients, one: Connection) -> int:
    one.writer.write(clients.chance.choice(MALFORMED))
    return await one.read()


async def pipelined(clients: Clients, one: Connection) -> int:
    for number in range(6):
        one.send(f"/stored/{clients.fresh if number == 3 else number}")
    for _ in range(5):
        await one.read()
    return await one.read()


async def tunnel(clients: Clients, one: Connection) -> int:
    said = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
    status = await one.ask("/ws/1", *said, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
    if status == 101:
        one.writer.write(b"\x81\x82\0\0\0\0hi")
        await one.reader.readexactly(4)
        if clients.chance.random() < 0.5:
            one.writer.write(b"\x88\x82\0\0\0\0\x03\xe8")
            await one.reader.readexactly(4)
        else:
            one.reset()
    return status


async def chained(clients: Clients, one: Connection) -> int:
    number = clients.fresh
    claims = {"iss": "me", "sub": f"u{number}", "exp": time.time() + 600, "pad": "p" * (number % 500)}
    token = sign(claims, "HS256", SECRET if number % 5 else "another one, which is as long as the true one")
    fields = (f"Authorization: Bearer {token.decode()}", f"Cookie: edge_ab={number}; x{number}={'y' * 50}")
    await one.ask(f"/chain/{number % 20}", *fields, f"X-Forwarded-For: 10.0.{number % 256}.{number % 199}")
    return await one.ask(f"/chain/{number}", *fields)


_WEIGHED: tuple[tuple[Move, int], ...] = (
    (hit, 12), (miss, 14), (varied, 6), (revalidated, 5), (ranged, 5), (large, 3), (passed, 8), (posted, 6),
    (aborted_request, 4), (aborted_answer, 6), (slow_reader, 1), (refused, 5), (malformed, 5), (pipelined, 4),
    (tunnel, 3), (chained, 12),
)  # fmt: skip
MOVES = [move for move, _ in _WEIGHED]
WEIGHTS = [weight for _, weight in _WEIGHED]
