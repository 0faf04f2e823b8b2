"""Requests that come together: all are answered, in order, and none before the client reads the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from edgeproxy.server.protocol import EdgeProtocol
from tests.helpers.edge import PATIENCE, running
from tests.helpers.scripted_origin import Peer, ScriptedOrigin

CONFIG = """
edge: {{id: edge-1, pop: ams}}
server: {{listen: ["127.0.0.1:8080"], workers: 1, access_log: {{path: "off"}}}}
admin: {{listen: null}}
origins: {{main: {{servers: ["{origin}"]}}}}
routes: [{{name: ws, match: {{path: "/ws/**"}}, origin: main, websocket: true}}, {{name: all, origin: main}}]
"""
LARGE = 60_000
HUGE = 8_000_000  # more than sockets hold
SMALL_BUFFER = 4096


async def script(peer: Peer) -> None:
    """Says how long the body was; `/large` may be stored."""
    while True:
        head, body = await peer.request()
        if b"/large" in head or b"/huge" in head:
            size = LARGE if b"/large" in head else HUGE
            await peer.send(
                b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: %d\r\n\r\n" % size
                + bytes(size)
            )
        else:
            said = b"%d" % len(body)
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(said), said))


def behind(gate: asyncio.Event, body: bytes = b"") -> Callable[[Peer], Awaitable[None]]:
    """One answer, when the gate opens."""

    async def held(peer: Peer) -> None:
        await peer.request()
        await gate.wait()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        await peer.eof()

    return held


def get(path: str, *fields: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: example.com", *fields, "", ""]).encode()


def post(body: bytes) -> bytes:
    head = f"POST /a HTTP/1.1\r\nHost: example.com\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


TWO_HUNDRED = (  # bytes of a chunked body
    b"POST /b HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"c8\r\n" + b"x" * 200 + b"\r\n0\r\n\r\n"
)


@pytest.mark.parametrize(
    "requests",
    [
        pytest.param([get(f"/{number}") for number in range(900)], id="for what is not stored"),
        pytest.param([get("/large")] * 50, id="for what is large"),
        pytest.param(
            [get("/a", "Connection: upgrade", "Upgrade: h2c")] * 900, id="that want another protocol"
        ),
        pytest.param([get("/ws/a", "Connection: upgrade", "Upgrade: h2c")] * 300, id="where one is spoken"),
        pytest.param([post(b"x" * 50_000)] * 20, id="with bodies"),
        pytest.param([post(b"x" * 5)] * 100, id="with small bodies"),
        pytest.param([post(b"x" * 5), get("/large"), get("/a")] * 30, id="of all kinds"),
    ],
)
async def test_all_requests_that_came_together_are_answered(requests: list[bytes], tmp_path: Path) -> None:
    async with (
        ScriptedOrigin(script) as origin,
        running(CONFIG.format(origin=origin.url), tmp_path, "native") as edge,
    ):
        client = await edge.client()
        client.send(b"".join(requests))
        for _ in requests:
            assert (await client.answer()).status == 200


async def test_a_body_behind_another_answer_is_read_when_its_turn_comes(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def held(peer: Peer) -> None:
        await peer.request()
        await gate.wait()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await script(peer)

    async with (
        ScriptedOrigin(held) as origin,
        running(CONFIG.format(origin=origin.url), tmp_path, "native") as edge,
    ):
        client = await edge.client()
        whole = post(b"x" * 100)
        client.send(get("/a") + whole[:-50])
        await until(lambda: bool(origin.heads))
        client.send(whole[-50:])
        gate.set()
        assert (await client.answer()).status == 200
        assert (await client.answer()).body == b"100"


async def test_a_body_behind_an_answer_that_is_not_read_yet_is_taken_later(tmp_path: Path) -> None:
    async with (
        ScriptedOrigin(script) as origin,
        running(CONFIG.format(origin=origin.url), tmp_path, "native") as edge,
    ):
        await edge.ask("/huge")
        client = await edge.client(receives=SMALL_BUFFER)
        client.send(get("/huge") + post(b"x" * 500_000) + get("/large"))
        answers = [await client.answer() for _ in range(3)]
        assert [len(answer.body) for answer in answers] == [HUGE, len("500000"), LARGE]


async def test_a_body_that_is_too_large_takes_no_answer_from_the_request_before_it(tmp_path: Path) -> None:
    gate = asyncio.Event()

    small = CONFIG.replace('path: "off"}}', 'path: "off"}}, limits: {{body_size: 100B}}')
    async with (
        ScriptedOrigin(behind(gate, b"first")) as origin,
        running(small.format(origin=origin.url), tmp_path, "native") as edge,
    ):
        client = await edge.client()
        client.send(get("/a") + TWO_HUNDRED)
        await until(lambda: bool(origin.heads))
        gate.set()
        first = await client.answer()
        assert (first.status, first.body) == (200, b"first")
        assert await client.closed() == b""
        assert len(origin.heads) == 1


async def test_a_body_over_the_limit_of_its_route_is_refused_though_it_came_before_its_turn(
    tmp_path: Path,
) -> None:
    gate = asyncio.Event()

    small = CONFIG.replace("{{name: all,", "{{name: all, body_size: 100B,")
    async with (
        ScriptedOrigin(behind(gate)) as origin,
        running(small.format(origin=origin.url), tmp_path, "native") as edge,
    ):
        client = await edge.client()
        client.send(get("/a") + TWO_HUNDRED)
        await until(lambda: bool(origin.heads))
        gate.set()
        assert [(await client.answer()).status, (await client.answer()).status] == [200, 413]
        assert len(origin.heads) == 1


async def test_a_connection_that_is_lost_with_requests_unread_is_over(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async with (
        ScriptedOrigin(behind(gate)) as origin,
        running(CONFIG.format(origin=origin.url), tmp_path, "native") as edge,
    ):
        client = await edge.client()
        client.send(get("/a") + get("/b") * 1000)
        await until(lambda: bool(origin.heads))
        (connection,) = edge.worker.hall.connections
        assert isinstance(connection, EdgeProtocol)
        failures: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        connection.transport.abort()
        connection._read_on()  # pyright: ignore[reportPrivateUsage]  # as when its answer ends in that moment
        await until(lambda: not edge.worker.hall.connections)
        for _ in range(3):
            await edge.turn()
        assert failures == []


async def test_who_reads_nothing_is_not_written_for(tmp_path: Path) -> None:
    async with (
        ScriptedOrigin(script) as origin,
        running(CONFIG.format(origin=origin.url), tmp_path, "native") as edge,
    ):
        await edge.ask("/large")
        client = await edge.client(receives=SMALL_BUFFER)
        count = 200
        client.send(get("/large", "A: 1") + get("/large", "A: 2") * (count - 1))  # another head: not repeated
        held = 0

        def paused() -> bool:
            nonlocal held
            for connection in edge.worker.hall.connections:
                assert isinstance(connection, EdgeProtocol)
                if connection.flow.write_paused:
                    held = connection.transport.get_write_buffer_size()
            return held > 0

        await until(paused)
        for _ in range(100):
            await edge.turn()
        assert paused()
        assert held < 10 * LARGE
        for _ in range(count):
            assert len((await client.answer()).body) == LARGE


async def test_a_large_head_is_refused_behind_another_request_too(tmp_path: Path) -> None:
    async with (
        ScriptedOrigin(script) as origin,
        running(CONFIG.format(origin=origin.url), tmp_path, "native") as edge,
    ):
        client = await edge.client()
        fields = [f"X-{number}: {'x' * 1000}" for number in range(40)]
        client.send(post(b"12345") + get("/a", *fields))
        assert (await client.answer()).status == 200
        assert b"/a" not in (await client.closed())
        assert len(origin.heads) == 1


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0)
