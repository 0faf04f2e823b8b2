"""WebSockets through the edge: a real client socket, a scripted origin, and the tunnel between them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from edgeproxy.app import EdgeApp
from edgeproxy.observe.metrics import render
from edgeproxy.tunnel import Tunnel
from tests.helpers.edge import PATIENCE, Client, Running, running
from tests.helpers.scripted_origin import Peer, Script, ScriptedOrigin, always

CONFIG = """
edge: {{id: edge-1, pop: ams}}
server: {{listen: ["127.0.0.1:8080"], workers: 1, access_log: {{path: "{log}"}}}}
admin: {{listen: null}}
origins: {{main: {{servers: ["{origin}"], timeouts: {{connect: 20s, first_byte: 20s}}}}}}
rate_limits: {{few: {{rate: 1/h, burst: 1}}}}
routes:
  - name: chat
    match: {{path: "/chat"}}
    policies: [{{headers: {{to_origin: {{set: {{X-O: "1"}}}}, to_client: {{set: {{X-E: "1"}}}}}}}}]
    cache: {{ttl: 60s}}
    websocket: {{idle: 5m, tunnels: 2}}
    origin: main
  - name: limited
    match: {{path: "/limited"}}
    policies: [{{rate_limit: few}}]
    websocket: true
    origin: main
  - {{name: plain, origin: main}}
"""
ASK = (
    "GET {path} HTTP/1.1\r\nHost: example.com\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Protocol: chat\r\n\r\n"
)
GRANT = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
)
HELLO = b"\x81\x05hello"
MASKED = b"\x81\x85\x00\x00\x00\x00hello"
GOING = b"\x88\x02\x03\xe9"
MASKED_GOING = b"\x88\x82\x00\x00\x00\x00\x03\xe9"


class Stage:
    """An edge, started for an origin's script."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.log = folder / "access.log"
        self._folder, self._stack = folder, stack

    async def __call__(self, *scripts: Script, door: str = "native") -> tuple[Running, ScriptedOrigin]:
        origin = await self._stack.enter_async_context(ScriptedOrigin(*scripts))
        text = CONFIG.format(origin=origin.url, log=self.log)
        return await self._stack.enter_async_context(running(text, self._folder, door)), origin


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        yield Stage(tmp_path, stack)


async def echo(peer: Peer) -> None:
    """An origin that grants, says hello and sends back whatever comes."""
    await peer.head()
    await peer.send(GRANT + HELLO)
    while data := await peer._reader.read(65536):
        await peer.send(peer._keep(data))


async def granted(peer: Peer) -> None:
    """An origin that grants and then only listens."""
    await peer.head()
    await peer.send(GRANT)
    await peer.eof()


async def opened(edge: Running, path: str = "/chat") -> Client:
    client = await edge.client()
    client.send(ASK.format(path=path).encode())
    assert (await client.head()).startswith(b"HTTP/1.1 101 ")
    return client


async def exactly(client: Client, count: int) -> bytes:
    async with asyncio.timeout(PATIENCE):
        return await client.reader.readexactly(count)


async def until(condition: object) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.005)


def tunnels(edge: Running) -> list[Tunnel]:
    return list(edge.worker.hall.fetcher.tunnels.open)


async def test_bytes_pass_both_ways_once_the_origin_has_said_101(stage: Stage) -> None:
    edge, origin = await stage(echo)
    client = await edge.client()
    client.send(ASK.format(path="/chat").encode())
    head = await client.head()
    lines = head.split(b"\r\n")
    assert lines[:3] == [
        b"HTTP/1.1 101 Switching Protocols",
        b"Connection: Upgrade",
        b"Upgrade: websocket",
    ]
    for line in (
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        b"Sec-WebSocket-Protocol: chat",
        b"X-E: 1",
    ):
        assert line in lines
    assert lines.count(b"Upgrade: websocket") == 1
    assert await exactly(client, 7) == HELLO, "it came in one read with the origin's head"
    client.send(MASKED)
    assert await exactly(client, len(MASKED)) == MASKED
    asked = origin.heads[0]
    for line in (
        b"\r\nConnection: Upgrade\r\n",
        b"\r\nUpgrade: websocket\r\n",
        b"\r\nX-O: 1\r\n",
        b"Via: 1.1 edge-1",
    ):
        assert asked.count(line) == 1
    assert b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==" in asked


async def test_a_megabyte_arrives_as_it_was(stage: Stage) -> None:
    edge, _ = await stage(echo)
    client = await opened(edge)
    await exactly(client, 7)
    sent = bytes(range(256)) * 4096
    client.send(sent)
    assert await exactly(client, len(sent)) == sent


async def test_no_byte_of_the_client_goes_before_the_origins_101(stage: Stage) -> None:
    gate = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await gate.wait()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await peer.exactly(1)
        await peer.send(GRANT)
        assert await peer.exactly(2 * len(MASKED)) == 2 * MASKED
        await peer.send(HELLO)
        await peer.eof()

    edge, origin = await stage(script)
    client = await edge.client()
    client.send(ASK.format(path="/chat").encode() + MASKED)
    await until(lambda: origin.heads)
    client.send(MASKED)
    await asyncio.sleep(0.02)
    gate.set()
    await client.head()
    assert await exactly(client, 7) == HELLO


async def test_the_cache_is_neither_asked_nor_filled(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        while head := await peer.head():
            if b"Upgrade: websocket" in head:
                await peer.send(GRANT)
                await peer.eof()
                return
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1")

    edge, origin = await stage(script)
    assert (await edge.ask("/chat")).body == b"1"
    await opened(edge)
    assert "hit" in (await edge.ask("/chat"))["cache-status"]
    assert len(origin.heads) == 2


@pytest.mark.parametrize("path", ["/elsewhere", "/chat"], ids=["route without", "incomplete handshake"])
async def test_what_may_not_become_a_websocket_is_a_plain_request(stage: Stage, path: str) -> None:
    edge, origin = await stage(always(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1"))
    client = await edge.client()
    text = ASK.format(path=path)
    if path == "/chat":
        text = text.replace("dGhlIHNhbXBsZSBub25jZQ==", "x")
    client.send(text.encode())
    assert (await client.answer()).status == 200
    assert b"upgrade" not in origin.heads[0].lower()


async def test_an_origin_that_declines_is_heard_and_the_connection_goes_on(stage: Stage) -> None:
    edge, _ = await stage(always(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"))
    client = await edge.client()
    for _ in range(2):
        client.send(ASK.format(path="/chat").encode())
        answer = await client.answer()
        assert (answer.status, answer.body, answer["connection"]) == (403, b"no", "")
    assert tunnels(edge) == []


async def test_early_bytes_behind_a_declined_handshake_are_no_request(stage: Stage) -> None:
    edge, origin = await stage(always(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"))
    client = await edge.client()
    client.send(ASK.format(path="/chat").encode() + b"GET /x HTTP/1.1\r\nHost: example.com\r\n\r\n")
    assert (await client.answer())["connection"] == "close"
    assert await client.closed() == b""
    assert len(origin.heads) == 1


@pytest.mark.parametrize(
    ("before", "after"),
    [(b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", b"x"), (b"Upgrade: websocket", b"Upgrade: h2c")],
    ids=["accept", "protocol"],
)
async def test_a_101_that_does_not_answer_the_handshake_is_a_502(
    stage: Stage, before: bytes, after: bytes
) -> None:
    edge, _ = await stage(always(GRANT.replace(before, after)))
    client = await edge.client()
    client.send(ASK.format(path="/chat").encode())
    answer = await client.answer()
    assert (answer.status, answer["proxy-status"]) == (502, "edge-1; error=http_protocol_error")


async def test_a_101_that_nobody_asked_for_is_a_502(stage: Stage) -> None:
    edge, _ = await stage(always(GRANT))
    assert (await edge.ask("/elsewhere")).status == 502


async def test_policies_come_first(stage: Stage) -> None:
    edge, origin = await stage(granted)
    await opened(edge, "/limited")
    client = await edge.client()
    client.send(ASK.format(path="/limited").encode())
    assert (await client.answer()).status == 429
    assert len(origin.heads) == 1


async def test_more_than_the_cap_are_refused_until_one_ends(stage: Stage) -> None:
    edge, origin = await stage(granted)
    first, _ = await opened(edge), await opened(edge)
    third = await edge.client()
    third.send(ASK.format(path="/chat").encode())
    answer = await third.answer()
    assert (answer.status, answer["proxy-status"]) == (503, "edge-1; error=connection_limit_reached")
    assert len(origin.heads) == 2
    first.writer.close()
    await until(lambda: len(tunnels(edge)) == 1)
    third.send(ASK.format(path="/chat").encode())
    assert (await third.head()).startswith(b"HTTP/1.1 101 ")


async def test_one_behind_another_answer_is_not_answered(stage: Stage) -> None:
    gate = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await gate.wait()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1")
        await peer.eof()

    edge, origin = await stage(script)
    client = await edge.client()
    client.send(b"GET /a HTTP/1.1\r\nHost: example.com\r\n\r\n" + ASK.format(path="/chat").encode())
    await until(lambda: origin.heads)
    gate.set()
    assert (await client.answer()).body == b"1"
    assert await client.closed() == b""
    assert len(origin.heads) == 1


@pytest.mark.parametrize("who", ["client", "origin"])
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_when_one_side_leaves_the_other_is_closed(stage: Stage, who: str, how: str) -> None:
    edge, origin = await stage(granted)
    client = await opened(edge)
    peer = origin.peers[0]
    if who == "origin":
        getattr(peer, how)()
        assert await client.closed() == b""
    elif how == "close":
        client.writer.close()
    else:
        Peer(client.reader, client.writer, 0).reset()
    async with asyncio.timeout(PATIENCE):
        await peer.ended.wait()
    await until(lambda: not edge.worker.hall.connections and not tunnels(edge))
    upstream = edge.worker.parts.upstreams["main"]
    assert upstream.open == 0
    assert not any(server.in_flight for server in upstream.servers)


async def test_what_an_origin_sent_before_it_closed_still_arrives(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(GRANT + b"\x82\x7f" + (300_000).to_bytes(8, "big") + b"x" * 300_000)
        peer.close()

    edge, _ = await stage(script)
    client = await opened(edge)
    assert len(await client.closed()) == 300_010


async def test_whoever_is_too_fast_is_paused(stage: Stage) -> None:
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.head()
        await peer.send(GRANT)
        while sent < 48:
            await peer.send(b"\x82\x7f" + (2**20).to_bytes(8, "big") + b"x" * 2**20)
            sent += 1
        await peer.eof()

    edge, _ = await stage(script)
    client = await opened(edge)  # which reads no more than its buffer for now
    before = -1
    while before != sent:  # until the origin is stuck
        before = sent
        await asyncio.sleep(0.1)
    assert sent < 48
    assert tunnels(edge)[0]._client.transport.get_write_buffer_size() < 2 * 2**20
    await exactly(client, 48 * (2**20 + 10))


async def test_a_silent_one_is_told_to_go_and_then_closed(stage: Stage) -> None:
    edge, origin = await stage(granted)
    client = await opened(edge)
    tunnel = tunnels(edge)[0]
    sweeper = edge.worker.parts.sweeper
    assert tunnel.deadline - sweeper.clock() > 200
    sweeper.sweep(tunnel.deadline)
    assert await exactly(client, 4) == GOING
    assert tunnels(edge) == [tunnel]
    sweeper.sweep(tunnel.deadline)
    assert await client.closed() == b""
    async with asyncio.timeout(PATIENCE):
        await origin.peers[0].ended.wait()


async def test_a_drain_says_going_away_between_two_frames_and_both_sides_close_by_the_book(
    stage: Stage,
) -> None:
    middle, told = asyncio.Event(), asyncio.Event()
    heard = b""

    async def script(peer: Peer) -> None:
        nonlocal heard
        await peer.head()
        await peer.send(GRANT + HELLO[:4])
        middle.set()
        await told.wait()
        await peer.send(HELLO[4:] + HELLO[:3])  # one frame ends, the next must not begin
        heard = await peer.exactly(len(MASKED_GOING))

    edge, _ = await stage(script)
    client = await opened(edge)
    assert await exactly(client, 4) == HELLO[:4]
    edge.worker.hall.drain()
    told.set()
    assert await exactly(client, 3 + 4) == HELLO[4:] + GOING
    client.send(MASKED_GOING)
    assert await client.closed() == b""
    assert heard == MASKED_GOING
    await until(lambda: not tunnels(edge))
    client = await edge.client()
    client.send(ASK.format(path="/chat").encode())
    assert (await client.answer()).status == 503


async def test_when_a_reload_lets_go_of_the_origin_they_are_told_too(stage: Stage) -> None:
    edge, _ = await stage(granted)
    client = await opened(edge)
    await edge.worker.parts.upstreams["main"].close(patience=0)
    assert await client.closed() == GOING
    assert tunnels(edge) == []


async def test_they_are_counted_and_logged_at_their_end(stage: Stage) -> None:
    edge, _ = await stage(echo)
    client = await opened(edge)
    await exactly(client, 7)
    client.send(MASKED)
    await exactly(client, len(MASKED))
    assert "edgeproxy_tunnels 1.0" in render(edge.worker.shared.cells, 0.0)[1].decode()
    client.writer.close()
    await until(lambda: not tunnels(edge))
    page = render(edge.worker.shared.cells, 0.0)[1].decode()
    for line in (
        "edgeproxy_tunnels 0.0",
        'edgeproxy_tunnels_ended_total{ending="closed",route="chat"} 1.0',
        'edgeproxy_tunnel_bytes_total{direction="received",route="chat"} 11.0',
        'edgeproxy_tunnel_bytes_total{direction="sent",route="chat"} 18.0',
        'edgeproxy_requests_total{code="1xx",route="chat"} 1.0',
    ):
        assert line in page
    await until(stage.log.read_text)
    line = json.loads(stage.log.read_text())
    assert (line["status"], line["sent"], line["received"], line["route"]) == (101, 18, 11, "chat")
    assert "error" not in line


async def test_the_asgi_door_says_that_it_speaks_none(stage: Stage) -> None:
    edge, origin = await stage(granted, door="asgi")
    client = await edge.client()
    client.send(ASK.format(path="/chat").encode())
    assert (await client.answer()).status == 501
    assert origin.heads == []


@pytest.mark.parametrize("extended", [True, False], ids=["with the extension", "without"])
async def test_a_websocket_scope_is_refused(extended: bool) -> None:
    sent: list[object] = []

    async def receive() -> dict[str, object]:
        return {"type": "websocket.connect"}

    async def send(message: object) -> None:
        sent.append(message)

    extensions = {"websocket.http.response": {}} if extended else {}
    await EdgeApp()({"type": "websocket", "extensions": extensions}, receive, send)  # type: ignore[arg-type]
    first = sent[0]
    assert isinstance(first, dict)
    assert (first["type"], first.get("status")) == (
        ("websocket.http.response.start", 501) if extended else ("websocket.close", None)
    )
