"""The ASGI door inside another app, and a body that grows too large behind the head of its answer."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from edgeproxy.app import EdgeApp
from tests.helpers.edge import PATIENCE, running
from tests.helpers.scripted_origin import Peer, ScriptedOrigin, always, silence

CONFIG = """
edge: {{id: edge-1, pop: ams}}
server: {{listen: ["127.0.0.1:8080"], workers: 1, access_log: {{path: "off"}}, limits: {{body_size: 1KiB}}}}
admin: {{listen: null}}
origins: {{main: {{servers: ["{origin}"]}}}}
routes: [{{name: all, cache: false, origin: main}}]
"""
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.mark.parametrize(
    ("root", "asked", "seen"),
    [
        ("/edge", "/edge/a?b", "/a?b"),
        ("/edge", "/edge/", "/"),
        ("/edge", "/%65dge/a", "/a"),
        ("/two words", "/two%20words/a%20b", "/a%20b"),
        ("/ü/b", "/%C3%BC/b/c", "/c"),
    ],
)
async def test_what_is_mounted_sees_what_is_behind_the_prefix(
    tmp_path: Path, root: str, asked: str, seen: str
) -> None:
    async with ScriptedOrigin(always(OK)) as origin:
        path = tmp_path / "edge.yaml"
        path.write_text(CONFIG.format(origin=origin.url))
        edge = EdgeApp(path)
        transport = httpx.ASGITransport(Starlette(routes=[Mount(root, edge)]))
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://example.com") as client:
                assert (await client.get(asked)).text == "ok"
        finally:
            await edge.stop()
        assert origin.heads[0].split()[1].decode() == seen


async def test_a_prefix_that_only_looks_alike_stays(tmp_path: Path) -> None:
    """Servers that are told of a prefix tell us of it, whether the path has it or not."""
    async with ScriptedOrigin(always(OK)) as origin:
        path = tmp_path / "edge.yaml"
        path.write_text(CONFIG.format(origin=origin.url))
        edge = EdgeApp(path)
        transport = httpx.ASGITransport(edge, root_path="/app")
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://example.com") as client:
                for asked in ("/application", "/app", "/a"):
                    await client.get(asked)
        finally:
            await edge.stop()
        assert [head.split()[1] for head in origin.heads] == [b"/application", b"/", b"/a"]


async def test_a_body_that_grows_too_large_behind_the_head_of_its_answer_ends_it(
    tmp_path: Path, door: str
) -> None:
    async def early(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
        await peer.eof()

    async with (
        ScriptedOrigin(early) as origin,
        running(CONFIG.format(origin=origin.url), tmp_path, door) as edge,
    ):
        client = await edge.client()
        client.send(b"POST /a HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 200")
        client.send(b"1000\r\n" + bytes(4096) + b"\r\n")
        assert not (await client.closed()).endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("pieces", [[b"x" * 20], [b"x" * 10, b"GET /b HTTP/1.1\r\n\r\n"], [b"x" * 9], []])
async def test_a_body_that_is_not_as_long_as_announced_is_nobodys(
    pieces: list[bytes], tmp_path: Path
) -> None:
    """What is between a server and us may change a body and leave its Content-Length."""
    answer: list[MutableMapping[str, Any]] = []
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> MutableMapping[str, Any]:
        return messages.pop(0) if messages else await asyncio.Future()

    async def send(message: MutableMapping[str, Any]) -> None:
        answer.append(message)

    headers = [(b"host", b"example.com"), (b"content-length", b"10")]
    scope = {"type": "http", "method": "POST", "path": "/a", "raw_path": b"/a", "headers": headers}
    async with ScriptedOrigin(always(OK)) as origin:
        path = tmp_path / "edge.yaml"
        path.write_text(CONFIG.format(origin=origin.url))
        edge = EdgeApp(path)
        try:
            await edge(scope, receive, send)
        finally:
            await edge.stop()
    assert answer[0]["status"] == 400
    assert b"GET /b" not in origin.received


async def test_a_server_that_fails_to_receive_leaves_nothing_behind(tmp_path: Path) -> None:
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        raise RuntimeError("no more messages")

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/a", "headers": [(b"host", b"example.com")]}
    async with ScriptedOrigin(silence) as origin, asyncio.timeout(PATIENCE):
        path = tmp_path / "edge.yaml"
        path.write_text(CONFIG.format(origin=origin.url))
        edge = EdgeApp(path)
        try:
            with pytest.raises(RuntimeError):
                await edge(scope, receive, send)
        finally:
            await edge.stop()
    assert sent == [], "it was not waited for the origin"
