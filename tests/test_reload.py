"""Reloads that follow one another closely, and what is under way while they happen."""

from __future__ import annotations

import asyncio
from pathlib import Path
from unittest.mock import patch

import pytest

from edgeproxy import fetch
from tests.helpers.edge import PATIENCE, Running, running
from tests.helpers.scripted_origin import Peer, ScriptedOrigin, always

CONFIG = """
edge: {{id: edge-1, pop: ams}}
server: {{listen: ["127.0.0.1:8080"], workers: 1, access_log: {{path: "off"}}}}
admin: {{listen: null}}
origins:
  main: {{servers: ["{origin}"], max_idle: {idle}}}
  {other}: {{servers: ["{origin}"]}}
routes:
  - {{name: other, match: {{path: "/other/**"}}, origin: {other}}}
  - {{name: all, origin: main}}
"""
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def text(origin: ScriptedOrigin, *, idle: int = 64, other: str = "other") -> str:
    return CONFIG.format(origin=origin.url, idle=idle, other=other)


def reload(edge: Running, config: str) -> None:
    edge.worker.shared.publish(config.encode())
    edge.worker.reload()


async def until_reloaded(edge: Running, idle: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while edge.worker._reloading or edge.worker.parts.config.origins["main"].max_idle != idle:  # pyright: ignore[reportPrivateUsage]
            await edge.turn()


async def test_a_change_that_is_taken_back_at_once_leaves_the_origin_in_use(tmp_path: Path) -> None:
    async with (
        ScriptedOrigin(always(OK)) as origin,
        running(text(origin), tmp_path, "native") as edge,
    ):
        assert (await edge.ask()).status == 200
        reload(edge, text(origin, idle=7))
        reload(edge, text(origin))
        await until_reloaded(edge, idle=64)
        for _ in range(10):
            await edge.turn()
        assert (await edge.ask()).status == 200


async def test_of_many_reloads_the_last_one_stays(tmp_path: Path) -> None:
    async with (
        ScriptedOrigin(always(OK)) as origin,
        running(text(origin), tmp_path, "native") as edge,
    ):
        for idle in (1, 2, 3, 4, 5):
            reload(edge, text(origin, idle=idle))
            await edge.turn()
        await until_reloaded(edge, idle=5)
        assert (await edge.ask()).status == 200


async def test_who_waited_for_an_answer_of_an_origin_that_is_gone_is_served_by_it(tmp_path: Path) -> None:
    """The answer turns out to be for one client only; the others ask an origin that no new request finds."""
    gate = asyncio.Event()

    async def held(peer: Peer) -> None:
        while True:
            await peer.request()
            await gate.wait()
            await peer.send(OK.replace(b"OK\r\n", b"OK\r\nCache-Control: private\r\n"))

    async with (
        ScriptedOrigin(held) as origin,
        running(text(origin), tmp_path, "native") as edge,
    ):
        asked = [asyncio.ensure_future(edge.ask("/other/a")) for _ in range(3)]
        async with asyncio.timeout(PATIENCE):
            flights = edge.worker.hall.fetcher.flights.flights
            while not origin.heads or [len(flight.jobs) for flight in flights.values()] != [len(asked)]:
                await edge.turn()
        reload(edge, text(origin, idle=7, other="another"))
        await until_reloaded(edge, idle=7)
        gate.set()
        answers = await asyncio.gather(*asked)
        assert sorted(answer.status for answer in answers) == [200, 200, 200]


async def test_who_waits_for_a_connection_goes_on_waiting_when_the_origin_is_changed(tmp_path: Path) -> None:
    """Twenty requests, two at a time, and a reload while most of them are in the queue; then another one."""
    gate = asyncio.Event()
    most = busy = 0

    async def held(peer: Peer) -> None:
        nonlocal most, busy
        while True:
            await peer.request()
            busy += 1
            most = max(most, busy)
            await gate.wait()
            await asyncio.sleep(0)
            busy -= 1
            await peer.send(OK)

    def limited(idle: int) -> str:
        return text(origin, idle=idle).replace("max_idle", "max_connections: 2, max_idle", 1)

    async with ScriptedOrigin(held) as origin, running(limited(64), tmp_path, "native") as edge:
        before = edge.worker.parts.upstreams["main"]
        asked = [asyncio.ensure_future(edge.ask(f"/{number}")) for number in range(20)]
        async with asyncio.timeout(PATIENCE):
            while before.waiting < 18:
                await edge.turn()
        for idle in (7, 8):
            reload(edge, limited(idle))
            await until_reloaded(edge, idle)
        after = edge.worker.parts.upstreams["main"]
        asked += [asyncio.ensure_future(edge.ask(f"/new-{number}")) for number in range(4)]
        async with asyncio.timeout(PATIENCE):
            while after.waiting < 2 or busy < 4:
                await edge.turn()
        gate.set()
        assert {(await answer).status for answer in asked} == {200}
        assert most == 4  # two for each of the two pools
        async with asyncio.timeout(PATIENCE):
            while before.open:
                await edge.turn()
        assert before is not after


async def test_origins_that_are_gone_are_forgotten_in_the_end(tmp_path: Path) -> None:
    async with (
        ScriptedOrigin(always(OK)) as origin,
        running(text(origin), tmp_path, "native") as edge,
    ):
        with patch.object(fetch, "GONE", 2):
            for idle in (1, 2, 3, 4, 5):
                reload(edge, text(origin, idle=idle, other=f"other-{idle}"))
                await until_reloaded(edge, idle=idle)
        kept = edge.worker.hall.fetcher.ways  # pyright: ignore[reportPrivateUsage]
        assert sorted(kept) == ["main", "other-3", "other-4", "other-5"]
        assert (await edge.ask()).status == 200


async def test_a_log_that_cannot_be_opened_again_goes_on_in_the_old_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    async with ScriptedOrigin(always(OK)) as origin:
        config = text(origin).replace('path: "off"', f'path: "{folder}/access.log"')
        async with running(config, tmp_path, "native") as edge:
            folder.rename(tmp_path / "moved")
            edge.worker.reopen_log()
            assert (await edge.ask()).status == 200
    said = [record.getMessage() for record in caplog.records if record.name == "edgeproxy.worker"]
    assert len(said) == 1
    assert "the file before stays in use" in said[0]
    assert str(folder) in said[0]
    assert len((tmp_path / "moved" / "access.log").read_text().splitlines()) == 1
