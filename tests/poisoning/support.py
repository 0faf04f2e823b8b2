"""An edge in front of an origin that tells everything it was told: what poisoning would look like."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from tests.helpers.edge import Answer, Running, running
from tests.helpers.scripted_origin import Peer, ScriptedOrigin

SECRET = "0123456789abcdef0123456789abcdef"
CONFIG = """
edge: {{id: edge-1, pop: ams}}
server: {{listen: ["127.0.0.1:8080"], workers: 1, access_log: {{path: "off"}}}}
admin: {{listen: null}}
cache: {{memory: 4MiB, object_size: 1MiB}}
origins: {{main: {{servers: ["{origin}"], timeouts: {{connect: 20s, first_byte: 20s}}}}}}
jwt_providers:
  p: {{issuer: i, algorithms: [HS256], require_exp: false, secret: "%s"}}
routes:
  - {{name: admin, match: {{path: "/admin/**"}}, policies: [{{jwt: {{provider: p}}}}], origin: main}}
  - {{name: all, match: {{host: example.com}}, cache: {{{cache}}}, origin: main}}
  - {{name: other, match: {{host: other.example}}, cache: {{{cache}}}, origin: main}}
""".replace("%s", SECRET)

Reply = Callable[[bytes], bytes]
"""What the origin answers to a request head."""
FRESH = "Cache-Control: max-age=60"
FORCED = 'freshness: {"200": {ignore: true, set: 1h}}'


def reply(*fields: str, body: bytes = b"hello", status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields]
    return "\r\n".join([*lines, "", ""]).encode() + body


def echo(*fields: str, status: str = "200 OK") -> Reply:
    """Everything the origin was told, as the body."""
    return lambda head: reply(*fields, body=head, status=status)


def same(*fields: str, status: str = "200 OK") -> Reply:
    return lambda _: reply(*fields, status=status)


class Site:
    """The edge and its origin. `reply` may be replaced while they run."""

    def __init__(self, edge: Running, origin: ScriptedOrigin, replies: list[Reply]) -> None:
        self.edge, self.origin, self._replies = edge, origin, replies

    @property
    def asked(self) -> int:
        return len(self.origin.heads)

    def now(self, answers: Reply) -> None:
        """From now on the origin answers so."""
        self._replies[0] = answers

    async def ask(self, path: str = "/a", *fields: str, method: str = "GET", body: bytes = b"") -> Answer:
        return await self.edge.ask(path, *fields, method=method, body=body)

    async def raw(self, data: bytes, method: str = "GET") -> Answer:
        client = await self.edge.client()
        client.send(data)
        return await client.answer(method)

    async def is_stored(self, path: str = "/a", *fields: str) -> bool:
        """Was what the last request brought kept? Asks once more."""
        before = self.asked
        answer = await self.ask(path, *fields)
        assert ("; hit" in answer["cache-status"]) is (self.asked == before)
        return self.asked == before

    def age(self, seconds: float) -> None:
        """Let time go by for everything that is stored."""
        for entry in self.edge.worker.parts.store:
            entry.born -= seconds
            entry.fresh_until -= seconds
            entry.stale_until -= seconds
            entry.error_until -= seconds
            entry._hit = None  # pyright: ignore[reportPrivateUsage] - said once a second


@asynccontextmanager
async def site(folder: Path, door: str, answers: Reply, cache: str = "") -> AsyncGenerator[Site]:
    """`cache` is the section of both public routes, without its braces."""
    replies = [answers]

    async def script(peer: Peer) -> None:
        while True:
            head, _ = await peer.request()
            data = replies[0](head)
            if head.startswith(b"HEAD"):
                data = data[: data.index(b"\r\n\r\n") + 4]
            await peer.send(data)
            if not re.search(rb"content-length|\r\n\r\n$|chunked", data[:2000], re.I):
                peer.close()

    async with (
        ScriptedOrigin(script) as origin,
        running(CONFIG.format(origin=origin.url, cache=cache), folder, door) as edge,
    ):
        yield Site(edge, origin, replies)
