"""How connections end whose clients do not take the last of what was written, and in a drain."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeproxy.clock import steady
from edgeproxy.server.protocol import EdgeProtocol
from tests.helpers.edge import PATIENCE, Client, Running, running
from tests.helpers.scripted_origin import Peer, ScriptedOrigin, always

CONFIG = """
edge: {{id: edge-1, pop: ams}}
server: {{listen: ["127.0.0.1:8080"], workers: 1, access_log: {{path: "off"}}}}
admin: {{listen: null}}
origins: {{main: {{servers: ["{origin}"]}}}}
routes: [{{name: all, origin: main}}]
"""
LENGTH = 50_000  # more than the two sockets of `narrow` hold, and too little for writing to pause


def fresh(length: int) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: %d\r\n\r\n"
    return head % length + bytes(length)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():
            await asyncio.sleep(0)


async def narrow(edge: Running) -> tuple[Client, EdgeProtocol]:
    """A connection whose sockets hold little."""
    client = await edge.client(receives=4096)
    await until(lambda: bool(edge.worker.hall.connections))
    (connection,) = edge.worker.hall.connections
    assert isinstance(connection, EdgeProtocol)
    sending = connection.transport.get_extra_info("socket")
    sending.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return client, connection


def pass_time(edge: Running, connection: EdgeProtocol) -> None:
    """Whatever it waits for took too long."""
    assert connection.deadline < float("inf")
    connection.deadline = 0.0
    edge.worker.hall.sweep()


@pytest.mark.parametrize("field", ["Connection: close", "Connection: keep-alive"])
@pytest.mark.parametrize("path", ["/hit", "/pass"])
async def test_who_does_not_take_the_last_of_an_answer_is_not_waited_for(
    path: str, field: str, tmp_path: Path
) -> None:
    async with (
        ScriptedOrigin(always(fresh(LENGTH))) as origin,
        running(CONFIG.format(origin=origin.url), tmp_path, "native") as edge,
    ):
        client, connection = await narrow(edge)
        if path == "/hit":
            await client.ask(path)
        client.send(f"GET {path} HTTP/1.1\r\nHost: example.com\r\n{field}\r\n\r\n".encode())
        await until(lambda: connection.transport.get_write_buffer_size() > 0 and connection.exchange is None)
        assert not connection.flow.write_paused
        if field == "Connection: keep-alive":
            pass_time(edge, connection)  # an idle one is closed
        await until(connection.transport.is_closing)
        left = connection.transport.get_write_buffer_size()
        while connection.transport.get_write_buffer_size() == left:
            assert await client.reader.read(4096)
        pass_time(edge, connection)
        assert edge.worker.hall.connections, "slow, but reading"
        pass_time(edge, connection)
        await until(lambda: not edge.worker.hall.connections)


async def test_a_connection_whose_answer_ends_in_a_drain_is_not_kept_for_long(tmp_path: Path) -> None:
    """It was told that it is kept when the drain had not begun: the drain need not wait for its idle time."""
    gate = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        await gate.wait()
        await peer.send(b"cd")
        await peer.eof()

    async with (
        ScriptedOrigin(script) as origin,
        running(CONFIG.format(origin=origin.url), tmp_path, "native") as edge,
    ):
        client = await edge.client()
        client.send(b"GET /a HTTP/1.1\r\nHost: example.com\r\n\r\n")
        assert b"\r\nConnection: close" not in await client.head()
        (connection,) = edge.worker.hall.connections
        assert isinstance(connection, EdgeProtocol)
        edge.worker.hall.drain()
        connection.shutdown()
        gate.set()
        assert await client.reader.readexactly(4) == b"abcd"
        await until(lambda: connection.exchange is None)
        assert connection.deadline <= steady() + connection.limits.drain_idle


async def test_a_drain_leaves_a_client_that_stalls_the_time_to_read_on(tmp_path: Path) -> None:
    async with (
        ScriptedOrigin(always(fresh(4 * LENGTH))) as origin,
        running(CONFIG.format(origin=origin.url), tmp_path, "native") as edge,
    ):
        client, connection = await narrow(edge)
        await client.ask()
        client.send(b"GET /a HTTP/1.1\r\nHost: example.com\r\n\r\n")
        await until(lambda: connection.flow.write_paused and connection.exchange is None)
        given = connection.deadline
        edge.worker.hall.drain()
        connection.shutdown()
        assert connection.deadline == given


async def test_a_client_that_is_gone_before_it_is_noticed_costs_those_behind_it_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncio raises where uvloop does not: its connection cannot be half closed any more."""
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    async with running(CONFIG.format(origin="http://127.0.0.1:1"), tmp_path, "native") as edge:
        client, connection = await narrow(edge)

        def gone() -> None:
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

        monkeypatch.setattr(connection.transport, "write_eof", gone)
        client.send(b"POST /a HTTP/1.1\r\nHost: example.com\r\nContent-Length: 99999\r\n\r\nbegun")
        answer = await client.answer()
        assert (answer.status, answer["connection"]) == (502, "close")
        await until(lambda: connection.exchange is None)
        await edge.turn()
        assert failures == []


@pytest.mark.parametrize(
    ("body", "closes"),
    [
        pytest.param("Content-Length: 10", False, id="little"),
        pytest.param("Content-Length: 100000", True, id="much"),
        pytest.param("Transfer-Encoding: chunked", True, id="nobody knows how much"),
    ],
)
async def test_an_answer_before_the_body_says_whether_the_connection_stays(
    body: str, closes: bool, tmp_path: Path
) -> None:
    async def early(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
        await peer.eof()

    async with (
        ScriptedOrigin(early) as origin,
        running(CONFIG.format(origin=origin.url), tmp_path, "native") as edge,
    ):
        client = await edge.client()
        client.send(f"POST /a HTTP/1.1\r\nHost: example.com\r\n{body}\r\n\r\n".encode())
        answer = await client.answer()
        assert (answer.status, answer.body) == (403, b"no")
        assert (answer["connection"] == "close") is closes


async def test_a_connection_that_fails_takes_no_deadline_from_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: EdgeProtocol) -> None:
        raise RuntimeError("a bug")

    async with running(CONFIG.format(origin="http://127.0.0.1:1"), tmp_path, "native") as edge:
        for _ in range(2):
            await edge.client()
        await until(lambda: len(edge.worker.hall.connections) == 2)
        for connection in edge.worker.hall.connections:
            connection.deadline = 0.0
        monkeypatch.setattr(EdgeProtocol, "on_deadline", fail)
        edge.worker.hall.sweep()
        assert caplog.text.count("RuntimeError: a bug") == 2
