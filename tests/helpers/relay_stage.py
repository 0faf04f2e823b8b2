"""One edge between clients and origins that a test moves by hand, and everything that could be seen of it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from edgeproxy.observe.metrics import render
from edgeproxy.observe.outcome import Outcome
from edgeproxy.origin.connection import OriginConnection
from edgeproxy.trip import Trip
from tests.helpers.builds import COMPILED
from tests.helpers.edge import PATIENCE, Answer, Client, Running, running
from tests.helpers.scripted_origin import Peer, ScriptedOrigin

DATE = b"Date: Sat, 21 Nov 2026 06:21:09 GMT\r\n"
OK = b"HTTP/1.1 200 OK\r\n" + DATE + b"Cache-Control: no-store\r\nContent-Length: 2\r\n\r\n"
STORABLE = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 3\r\n\r\nnew"
CONFIG = """
edge: {{id: e, pop: p, location: [0, 0]}}
server:
  listen: ["127.0.0.1:0"]
  access_log: {{path: "off"}}
  limits: {{keep_alive_requests: 6}}
geo: {{database: "{geo}"}}
rate_limits:
  once: {{in_flight: 1}}
  bytes: {{quota: 100000/d, cost: {{per_size: 1B}}}}
experiments:
  where: {{variants: {{here: 1, there: {{weight: 1, origin: other}}}}, by: cookie, coverage: 0.5}}
origins:
  o: {{servers: ["{one}"], location: [0, 0], breaker: {{failures: 2, time: 1h, longest: 1h}}}}
  other: {{servers: ["{two}"], location: [50, 50], host: server}}
  both: {{servers: ["{one}", "{two}"], ejection: {{errors: 2, failures: 2, time: 1h, longest: 1h}}}}
  gone: {{servers: ["{two}"]}}
routes:
  - {{name: cached, match: {{path: /cached/**}}, origin: o, cache: {{x_cache: true}}}}
  - {{name: pressed, match: {{path: /pressed/**}}, origin: o, cache: false, compress: {{min_size: 1B}}}}
  - name: mirror
    match: {{path: /mirror/**}}
    origin: o
    cache: false
    mirror: {{origin: o, percent: 100}}
  - {{name: both, match: {{path: /both/**}}, origin: both, cache: false}}
  - {{name: moved, match: {{path: /moved/**}}, origin: {moved}, cache: false}}
  - {{name: near, match: {{path: /near/**}}, origin: {{otherwise: nearest, return_after: 0s}}, cache: false}}
  - name: to-client
    match: {{path: /to-client/**}}
    origin: o
    cache: false
    policies: [{{headers: {{to_client: {{set: {{X-Route: edited}}, remove: [Cache-Control]}}}}}}]
  - name: to-origin
    match: {{path: /to-origin/**}}
    origin: o
    cache: false
    policies: [{{headers: {{to_origin: {{set: {{X-Edge: here}}}}}}}}]
  - name: rewritten
    match: {{path: /rewritten/**}}
    origin: o
    cache: false
    policies: [{{rewrite: {{path: "/rewritten/**", to: "/pass/{{rest}}"}}}}]
  - {{name: once, match: {{path: /once/**}}, origin: o, cache: false, policies: [{{rate_limit: once}}]}}
  - {{name: bytes, match: {{path: /bytes/**}}, origin: o, cache: false, policies: [{{rate_limit: bytes}}]}}
  - {{name: ab, match: {{path: /ab/**}}, origin: o, cache: false, policies: [{{ab: where}}]}}
  - {{name: pass, origin: o, cache: false}}
"""
GEO = Path(__file__).resolve().parents[2] / "config" / "demo-geo.mmdb"
# what depends on the second, the port or the process
VARYING = [
    (rb"(?i)\r\ndate: [^\r]*", b"\r\ndate: now"),
    (rb"ttl=-?[0-9]+", b"ttl"),
    (rb";t=[0-9]+", b";t"),
    (rb"p-0[0-9a-f]+-[0-9a-f]+", b"request-id"),
]


def said(status: str, fields: bytes = b"", body: bytes = b"", *, version: str = "1.1") -> bytes:
    """An answer that nobody may store."""
    head = f"HTTP/{version} {status}\r\n".encode() + DATE + b"Cache-Control: no-store\r\n"
    return head + fields + b"\r\n" + body


def configured(one: ScriptedOrigin, two: ScriptedOrigin, *, moved: str = "o") -> str:
    """The edge's YAML; `moved` is where one of the routes goes."""
    return CONFIG.format(one=one.url, two=two.url, moved=moved, geo=GEO)


class Stage:
    """What it hears is as it came; `told` is the log."""

    def __init__(self, edge: Running, one: ScriptedOrigin, two: ScriptedOrigin) -> None:
        self.edge, self.one, self.two = edge, one, two
        self.asked: asyncio.Queue[Peer] = asyncio.Queue()
        self.told: list[Outcome] = []
        self.sent = 0
        self.heard: list[bytearray] = []
        self.vague = False  # how many bytes a client got depends on the kernel
        self.client: Client
        edge.worker.hall.log = self  # type: ignore[assignment]

    def append(self, outcome: Outcome) -> None:
        """A line of the access log."""
        self.told.append(outcome)

    def append_rejected(self, *_: object) -> None:
        """No request: nothing is compared."""

    async def connect(self, receives: int = 0) -> Client:
        """A client whose answers are written down."""
        client = await self.edge.client(receives)
        heard, feed = bytearray(), client.reader.feed_data

        def listen(data: bytes) -> None:
            heard.extend(data)
            feed(data)

        setattr(client.reader, "feed_data", listen)  # noqa: B010 - pyright knows it as a method
        self.heard.append(heard)
        return client

    def send(self, path: str, *fields: str, client: Client | None = None, method: str = "GET") -> None:
        """Send a request, and be sure that it comes in one read."""
        self.sent += 1
        lines = [f"{method} {path} HTTP/1.1", "Host: example.com", *fields, "", ""]
        (client or self.client).send("\r\n".join(lines).encode())

    async def next(self) -> Peer:
        """The origin's side of the next request."""
        async with asyncio.timeout(PATIENCE):
            return await self.asked.get()

    async def ask(self, path: str = "/pass/a", *fields: str, client: Client | None = None) -> Peer:
        """Send a request; where it arrived."""
        self.send(path, *fields, client=client)
        return await self.next()

    async def get(
        self, answer: bytes = OK + b"ok", path: str = "/pass/a", *fields: str, client: Client | None = None
    ) -> Answer:
        """Ask, answer, and read it."""
        peer = await self.ask(path, *fields, client=client)
        await peer.send(answer)
        return await (client or self.client).answer()

    async def another(self) -> Client:
        """Have two connections to the origin idle; a second client, that has asked before."""
        clients = self.client, await self.connect()
        peers = [await self.ask(client=client) for client in clients]
        for peer, client in zip(peers, clients, strict=True):
            await peer.send(OK + b"ok")
            await client.answer()
        return clients[1]

    @property
    def busy(self) -> OriginConnection:
        """The connection that an origin is asked on."""
        return next(one for one in self._connections() if one._sink is not None)

    def _connections(self) -> list[OriginConnection]:
        members: Any = self.edge.worker.parts.sweeper._members
        return list(members)

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait for something that happens on the other side of a socket."""
        async with asyncio.timeout(PATIENCE):
            while not true():
                await asyncio.sleep(0.001)

    async def over(self) -> None:
        """Every request has come to its end, on both sides."""
        servers = [server for upstream in self._upstreams().values() for server in upstream.servers]
        await self.until(lambda: len(self.told) >= self.sent and not any(one.in_flight for one in servers))

    def _upstreams(self) -> dict[str, Any]:
        return self.edge.worker.parts.upstreams

    def _same(self, text: bytes) -> bytes:
        """Without what varies."""
        ports = [(b"%d" % origin.port, name) for origin, name in ((self.one, b"one"), (self.two, b"two"))]
        for pattern, instead in [*VARYING, *ports]:
            text = re.sub(pattern, instead, text)
        return text

    async def seen(self) -> dict[str, Any]:
        """All that clients, origins and operators could see."""
        await self.over()
        self.edge.worker.parts.publish()
        page = self._same(render(self.edge.worker.shared.cells, 0.0)[1])
        log = self._same(repr([_line(outcome) for outcome in self.told]).encode())
        if self.vague:
            log = re.sub(rb"'sent': [0-9]+", b"sent", log)
            page = re.sub(rb"bytes_total.*", b"", page)
        return {
            "clients": [self._same(bytes(heard)) for heard in self.heard],
            "origins": [
                self._same(peer.received) for origin in (self.one, self.two) for peer in origin.peers
            ],
            "log": log,
            "metrics": [line for line in page.splitlines() if re.match(rb"\w+_(total|count)\{", line)],
            "servers": {
                name: [
                    (
                        len(server.idle),
                        *[getattr(server.standing, word) for word in ("errors", "failures", "truncated")],
                        upstream.ejected(server.index),
                    )
                    for server in upstream.servers
                ]
                for name, upstream in self._upstreams().items()
            },
            "breakers": {name: each.breaker.streak for name, each in self._upstreams().items()},
        }


def _line(outcome: Outcome) -> dict[str, object]:
    line = asdict(outcome)
    del line["time"], line["request_id"]
    waited = bool(line.pop("origin_seconds"))
    return {**line, "seconds": outcome.seconds < 600, "waited": waited}


@asynccontextmanager
async def staged(folder: Path) -> AsyncGenerator[Stage]:
    """An edge, its origins, and one client."""
    stages: list[Stage] = []

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            stages[0].asked.put_nowait(peer)

    async with (
        ScriptedOrigin(script) as one,
        ScriptedOrigin(script) as two,
        running(configured(one, two), folder, "native") as edge,
    ):
        stages.append(Stage(edge, one, two))
        stages[0].client = await stages[0].connect()
        try:
            yield stages[0]
        finally:  # an edge that fails may hold an origin back for ever
            for peer in one.peers + two.peers:
                peer.abort()


Scene = Callable[[Stage], Awaitable[None]]


class Scenes(list[Any]):
    """What happens on a stage, and how many trips it takes: rows for `pytest.mark.parametrize`."""

    def add(self, name: str, play: Scene, *, trips: int) -> None:
        """Another row."""
        self.append(pytest.param(play, trips, id=name))

    def scene(self, *, trips: int) -> Callable[[Scene], Scene]:
        """Another row, called as its function is."""

        def add(play: Scene) -> Scene:
            self.add(play.__name__.replace("_", " "), play, trips=trips)
            return play

        return add


async def played(play: Scene, folder: Path, *, relays: bool = True) -> tuple[dict[str, Any], int]:
    """All that could be seen of it, and how many trips it took."""
    trips, numbers, make = 0, count(), Trip.__init__

    def counting(trip: Trip, *args: Any, **more: Any) -> None:
        nonlocal trips
        trips += 1
        make(trip, *args, **more)

    with (
        patch.object(Trip, "__init__", counting),
        patch("secrets.token_urlsafe", lambda _size: f"{next(numbers):022d}"),
    ):
        async with staged(folder) as stage:
            if not relays:
                for upstream in stage.edge.worker.parts.upstreams.values():
                    upstream.uniform = False
            await play(stage)
            return await stage.seen(), trips


async def compare(play: Scene, folder: Path, trips: int) -> None:
    """Play it twice: as it is, and with trips only."""
    seen, taken = await played(play, folder)
    with patch("edgeproxy.server.protocol.ready", lambda *_: None):  # after a reload too
        expected, _ = await played(play, folder, relays=False)
    for part, value in expected.items():
        assert seen[part] == value, (part, seen[part], value)
    assert COMPILED or taken == trips, taken  # what is compiled calls itself without our seeing it
