"""Copies of requests for a shadow origin: who gets one, and that nobody notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from edgeproxy import mirror
from tests.helpers.edge import Running, running
from tests.helpers.scripted_origin import Peer, Script, ScriptedOrigin, always, silence
from tests.origin.support import eventually

CONFIG = """
edge: {{id: edge-1}}
server: {{listen: ["127.0.0.1:8080"], workers: 1, access_log: {{path: "off"}}}}
admin: {{listen: null}}
origins:
  main: {{servers: ["{main}"]}}
  shadow: {{servers: ["{shadow}"], timeouts: {{first_byte: {patience}}}, breaker: {{failures: 0}}}}
routes:
  - {{name: stored, match: {{path: /stored}}, cache: {{ttl: 60s}}, origin: main, mirror: {{origin: shadow}}}}
  - {{name: passed, cache: false, origin: main, mirror: {{origin: shadow, percent: {percent}}}}}
"""
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SHADOW = b"HTTP/1.1 500 Oh\r\nSet-Cookie: a=b\r\nContent-Length: 6\r\n\r\nshadow"


@asynccontextmanager
async def mirrored(
    folder: Path, door: str, script: Script, percent: float = 100
) -> AsyncGenerator[tuple[Running, ScriptedOrigin, ScriptedOrigin]]:
    async with ScriptedOrigin(always(OK)) as main, ScriptedOrigin(script) as shadow:
        patience = "200ms" if script is silence else "20s"
        config = CONFIG.format(main=main.url, shadow=shadow.url, percent=percent, patience=patience)
        async with running(config, folder, door) as edge:
            yield edge, main, shadow


def under_way(edge: Running) -> int:
    return edge.worker.hall.fetcher.mirror.running


async def test_the_shadow_gets_what_the_origin_gets_and_nobody_its_answer(tmp_path: Path, door: str) -> None:
    async with mirrored(tmp_path, door, always(SHADOW)) as (edge, main, shadow):
        for number in range(3):
            answer = await edge.ask(f"/a?n={number}", "X-Test: 1")
            assert (answer.status, answer.body, answer["set-cookie"]) == (200, b"ok", "")
        await eventually(lambda: len(shadow.heads) == 3 and under_way(edge) == 0)
        assert [head.split(b"\r\n")[0] for head in shadow.heads] == [
            head.split(b"\r\n")[0] for head in main.heads
        ]
        assert all(b"x-test: 1\r\n" in head.lower() for head in shadow.heads)


async def test_what_the_cache_answers_is_not_copied(tmp_path: Path, door: str) -> None:
    async with mirrored(tmp_path, door, always(SHADOW)) as (edge, main, shadow):
        for _ in range(3):
            assert (await edge.ask("/stored")).body == b"ok"
        await eventually(lambda: under_way(edge) == 0 and len(shadow.heads) == 1)
        assert len(main.heads) == 1


async def test_a_request_with_a_body_is_not_copied(tmp_path: Path, door: str) -> None:
    async with mirrored(tmp_path, door, always(SHADOW)) as (edge, _, shadow):
        assert (await edge.ask("/a", method="POST", body=b"hello")).status == 200
        assert (await edge.ask("/b")).status == 200
        await eventually(lambda: len(shadow.heads) == 1 and under_way(edge) == 0)
        assert shadow.heads[0].startswith(b"GET /b ")


async def test_a_share_is_copied(tmp_path: Path, door: str) -> None:
    async with mirrored(tmp_path, door, always(SHADOW), percent=50) as (edge, _, shadow):
        draws = iter([0.49, 0.51, 0.0, 0.99])
        edge.worker.hall.fetcher.mirror._draw = lambda: next(draws)
        for number in range(4):
            await edge.ask(f"/{number}")
        await eventually(lambda: len(shadow.heads) == 2 and under_way(edge) == 0)
        assert [head[:6] for head in shadow.heads] == [b"GET /0", b"GET /2"]


async def test_no_copy_leaves_the_origins_that_residency_allows(tmp_path: Path, door: str) -> None:
    """192.0.2.7 lies in Germany, 198.51.100.7 in the United States, says the demo's database."""
    database = Path(__file__).parent.parent / "config" / "demo-geo.mmdb"
    config = CONFIG.replace("workers: 1", 'workers: 1, trusted_proxies: ["127.0.0.0/8"]') + (
        f"geo: {{{{database: {database}, residency: [{{{{places: [EU], origins: [main]}}}}]}}}}\n"
    )
    async with ScriptedOrigin(always(OK)) as main, ScriptedOrigin(always(SHADOW)) as shadow:
        text = config.format(main=main.url, shadow=shadow.url, percent=100, patience="20s")
        async with running(text, tmp_path, door) as edge:
            for client in ("192.0.2.7", "198.51.100.7"):
                assert (await edge.ask(f"/{client}", f"X-Forwarded-For: {client}")).status == 200
            await eventually(lambda: len(shadow.heads) == 1 and under_way(edge) == 0)
            assert shadow.heads[0].startswith(b"GET /198.51.100.7 ")
            assert len(main.heads) == 2


async def _endless(peer: Peer) -> None:
    await peer.head()
    await peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        await peer.send(b"x" * 65536)


async def _refused(peer: Peer) -> None:
    peer.reset()


@pytest.mark.parametrize("script", [silence, _endless, _refused], ids=["silent", "endless", "refusing"])
async def test_a_shadow_that_fails_is_asked_once_and_costs_nobody_anything(
    tmp_path: Path, door: str, script: Script
) -> None:
    async with mirrored(tmp_path, door, script) as (edge, main, shadow):
        for _ in range(3):
            assert (await edge.ask("/a")).body == b"ok"
        await eventually(lambda: under_way(edge) == 0 and len(shadow.peers) == 3)
        await asyncio.gather(*[peer.ended.wait() for peer in shadow.peers])
        assert len(main.heads) == len(shadow.peers) == 3


async def test_a_slow_shadow_is_not_asked_more_and_more(
    tmp_path: Path, door: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "MOST", 2)

    async def script(peer: Peer) -> None:
        await peer.head()
        await gate.wait()
        await peer.send(SHADOW)

    gate = asyncio.Event()
    async with mirrored(tmp_path, door, script) as (edge, main, shadow):
        for _ in range(5):
            assert (await edge.ask("/a")).body == b"ok"
        assert under_way(edge) == 2
        gate.set()
        await eventually(lambda: under_way(edge) == 0)
        assert (len(main.heads), len(shadow.peers)) == (5, 2)
