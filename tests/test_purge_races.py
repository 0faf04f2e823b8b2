"""A purge while a fetch is under way: what the origin said before it must not come back (both doors)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from edgeproxy.purge_log import PurgeKind
from tests.helpers.edge import running
from tests.helpers.scripted_origin import Peer, ScriptedOrigin, always

CONFIG = """
edge: {{id: edge-1, pop: ams}}
server: {{listen: ["127.0.0.1:8080"], workers: 1, access_log: {{path: "off"}}}}
admin: {{listen: null}}
origins: {{main: {{servers: ["{origin}"]}}}}
routes: [{{name: all, origin: main}}]
"""
HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nCache-Control: max-age=60\r\n"
    b'Surrogate-Key: red\r\nETag: "1"\r\n\r\n'
)
NOT_STALE = "Cache-Control: max-age=1000"  # stale answers are not taken while they are refreshed


@pytest.mark.parametrize("door", ["native", "asgi"])
@pytest.mark.parametrize(
    ("kind", "value", "soft", "then"),
    [
        (PurgeKind.URL, b"example.com/a", False, "fwd=uri-miss"),
        (PurgeKind.TAG, b"red", False, "fwd=uri-miss"),
        (PurgeKind.ALL, b"", True, "fwd=stale"),
        (PurgeKind.HOST, b"other.example", False, "hit"),
    ],
    ids=["url", "tag", "soft", "another host"],
)
async def test_a_fetch_that_began_before_a_purge_does_not_put_the_old_answer_back(
    tmp_path: Path, door: str, kind: PurgeKind, value: bytes, soft: bool, then: str
) -> None:
    asked, gate = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        asked.set()
        await gate.wait()
        await peer.send(HEAD + b"old")
        await peer.request()
        await peer.send(HEAD + b"new")

    async with (
        ScriptedOrigin(script, always(HEAD + b"any")) as origin,
        running(CONFIG.format(origin=origin.url), tmp_path, door) as edge,
    ):
        slow = asyncio.create_task(edge.ask())
        await asked.wait()
        edge.worker.shared.purge_log.append(kind, value, soft)
        await edge.ask("/b")  # the worker hears of the purge before the answer comes
        gate.set()
        assert (await slow).body == b"old", "who asked before the purge gets what was asked for"
        again = await edge.ask("/a", NOT_STALE)
        assert again["cache-status"].startswith(f"edge-1; {then}")
        assert again.body == (b"old" if then == "hit" else b"new")


@pytest.mark.parametrize("door", ["native", "asgi"])
@pytest.mark.parametrize("group", [False, True], ids=["target", "group"])
async def test_what_was_fetched_before_an_unsafe_request_is_not_stored_after_it(
    tmp_path: Path, door: str, group: bool
) -> None:
    """Though nobody had stored it by then (RFC 9111 §4.4)."""
    asked, gate = asyncio.Event(), asyncio.Event()
    head = HEAD.replace(b"\r\n\r\n", b'\r\nCache-Groups: "g"\r\n\r\n')

    async def slow(peer: Peer) -> None:
        await peer.request()
        asked.set()
        await gate.wait()
        await peer.send(head + b"old")
        await then(peer)

    async def then(peer: Peer) -> None:
        while True:
            request, _ = await peer.request()
            if request.startswith(b"POST"):
                groups = b'Cache-Group-Invalidation: "g"\r\n' if group else b""
                await peer.send(b"HTTP/1.1 204 No Content\r\n" + groups + b"\r\n")
            else:
                await peer.send(head + b"new")

    async with (
        ScriptedOrigin(slow, then, then, then) as origin,
        running(CONFIG.format(origin=origin.url), tmp_path, door) as edge,
    ):
        leader = asyncio.create_task(edge.ask())
        await asked.wait()
        assert (await edge.ask("/other" if group else "/a", method="POST", body=b"x")).status == 204
        if not group:
            assert (await edge.ask()).body == b"new", "it comes along with nothing older"
        gate.set()
        assert (await leader).body == b"old"
        again = await edge.ask()
        assert again.body == b"new"
        assert (await edge.ask())["cache-status"].startswith("edge-1; hit")


@pytest.mark.parametrize("door", ["native", "asgi"])
async def test_a_validation_after_a_soft_purge_makes_the_answer_fresh_again(
    tmp_path: Path, door: str
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD + b"old")
        head, _ = await peer.request()
        assert b'if-none-match: "1"' in head.lower()
        await peer.send(b'HTTP/1.1 304 Not Modified\r\nCache-Control: max-age=60\r\nETag: "1"\r\n\r\n')
        await peer.eof()

    async with (
        ScriptedOrigin(script) as origin,
        running(CONFIG.format(origin=origin.url), tmp_path, door) as edge,
    ):
        await edge.ask()
        edge.worker.shared.purge_log.append(PurgeKind.URL, b"example.com/a", soft=True)
        status = [(await edge.ask("/a", NOT_STALE))["cache-status"] for _ in range(2)]
        assert status[0].startswith("edge-1; fwd=stale; fwd-status=304")
        assert status[1].startswith("edge-1; hit")
