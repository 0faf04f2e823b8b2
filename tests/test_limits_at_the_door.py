"""Limits of a whole edge: what waits, what ends, and what every answer tells the client."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from edgeproxy import clock
from edgeproxy.observe.cells import encode_series
from tests.helpers.edge import PATIENCE, Running, running
from tests.helpers.scripted_origin import Peer, ScriptedOrigin, always

CONFIG = """
edge: {{id: edge-1, pop: ams}}
server: {{listen: ["127.0.0.1:8080"], workers: 1, access_log: {{path: "off"}}}}
admin: {{listen: null}}
origins: {{main: {{servers: ["{origin}"]}}}}
rate_limits: {{few: {{{limit}}}}}
routes: [{{name: all, policies: [{{rate_limit: few, {beside}}}], origin: main}}]
"""


def reply(body: bytes, *fields: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *fields]
    return "\r\n".join([*lines, "", ""]).encode() + body


FRESH = reply(b"x" * 5000, "Cache-Control: max-age=60")


def config(origin: ScriptedOrigin, limit: str, beside: str = "mode: enforce") -> str:
    return CONFIG.format(origin=origin.url, limit=limit, beside=beside)


def delayed(edge: Running) -> float:
    cells = edge.worker.shared.cells
    series = encode_series("edgeproxy_policy_delays_total", route="all", policy="rate_limit")
    return cells.total(cells.intern(series))


async def test_every_answer_tells_what_is_left_hits_and_refusals_too(tmp_path: Path, door: str) -> None:
    async with (
        ScriptedOrigin(always(FRESH)) as origin,
        running(config(origin, "rate: 1/h, burst: 3"), tmp_path, door) as edge,
    ):
        answers = [await edge.ask() for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert "hit" in answers[2]["cache-status"]
    assert [answer["ratelimit"].partition(";t")[0] for answer in answers] == [
        '"few";r=2', '"few";r=1', '"few";r=0', '"few";r=0',
    ]  # fmt: skip
    assert {answer["ratelimit-policy"] for answer in answers} == {'"few";q=3;w=10800'}
    assert int(answers[3]["retry-after"]) >= 1


async def test_who_comes_too_soon_waits_and_is_then_served(
    tmp_path: Path, door: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ScriptedOrigin(always(FRESH)) as origin:
        limit = "rate: 40/s, burst: 1, delay: 10s"
        async with running(config(origin, limit), tmp_path, door) as edge:
            with monkeypatch.context() as patch:
                moment = clock._monotonic()
                patch.setattr(clock, "_monotonic", lambda: moment)  # all come at once
                answers = await asyncio.gather(*[edge.ask() for _ in range(5)])
            assert [answer.status for answer in answers] == [200] * 5
            assert delayed(edge) == 4
            post = await edge.ask(method="POST", body=b"whole")
            assert post.status == 200
    assert any(peer.received.endswith(b"whole") for peer in origin.peers)
    assert len([head for head in origin.heads if head.startswith(b"GET")]) == 1, "the cache is asked after it"


async def test_a_shadow_delays_nobody(tmp_path: Path, door: str) -> None:
    async with ScriptedOrigin(always(FRESH)) as origin:
        limit = "rate: 1/h, burst: 1, delay: 0s, in_flight: null"
        async with running(config(origin, limit, "mode: shadow"), tmp_path, door) as edge:
            assert [(await edge.ask()).status for _ in range(3)] == [200] * 3
        limit = "rate: 1/m, burst: 1, delay: 30s"
        async with running(config(origin, limit, "mode: shadow"), tmp_path, door) as edge:
            assert [(await edge.ask()).status for _ in range(2)] == [200] * 2
            assert delayed(edge) == 0


async def test_requests_under_way_are_counted_until_they_end(tmp_path: Path, door: str) -> None:
    gate = asyncio.Event()

    async def script(peer: Peer) -> None:
        while await peer.head():
            await gate.wait()
            await peer.send(reply(b"ok", "Cache-Control: no-store"))

    async with (
        ScriptedOrigin(script) as origin,
        running(config(origin, "in_flight: 2"), tmp_path, door) as edge,
    ):
        clients = [await edge.client() for _ in range(2)]
        slow = [asyncio.ensure_future(client.ask("/slow", method="POST")) for client in clients]
        while len(origin.heads) < 2:
            await edge.turn()
        refused = await edge.ask()
        assert (refused.status, refused["ratelimit"]) == (429, '"few";r=0')
        gate.set()
        assert {answer.status for answer in await asyncio.gather(*slow)} == {200}
        assert (await edge.ask()).status == 200


async def test_a_client_that_leaves_is_not_under_way_any_more(tmp_path: Path, door: str) -> None:
    asked = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        asked.set()
        await peer.eof()

    async with (
        ScriptedOrigin(script, always(FRESH)) as origin,
        running(config(origin, "in_flight: 1"), tmp_path, door) as edge,
    ):
        client = await edge.client()
        client.send(b"POST /slow HTTP/1.1\r\nHost: example.com\r\nContent-Length: 0\r\n\r\n")
        await asked.wait()
        assert (await edge.ask()).status == 429
        client.writer.close()
        async with asyncio.timeout(PATIENCE):
            while (await edge.ask()).status == 429:
                await edge.turn()


async def test_who_leaves_while_waiting_is_not_under_way_any_more(tmp_path: Path, door: str) -> None:
    async with ScriptedOrigin(always(FRESH)) as origin:
        text = config(origin, "rate: 3/m, burst: 1, delay: 30s")
        text = text.replace("rate_limits: {", "rate_limits: {at_once: {in_flight: 1}, ")
        async with running(text.replace(": few,", ": [at_once, few],"), tmp_path, door) as edge:
            assert (await edge.ask()).status == 200
            client = await edge.client()
            client.send(b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n")
            while not delayed(edge):
                await edge.turn()
            assert "at_once" in (await edge.ask())["ratelimit"]
            client.writer.close()
            async with asyncio.timeout(PATIENCE):
                while "at_once" in (await edge.ask())["ratelimit"]:  # then it is the other that refuses
                    await edge.turn()


async def test_a_request_that_turns_out_bad_is_over_too(tmp_path: Path) -> None:
    async with (
        ScriptedOrigin(always(FRESH)) as origin,
        running(config(origin, "in_flight: 1"), tmp_path, "native") as edge,
    ):
        client = await edge.client()
        client.send(b"POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.send(b"zz\r\n")
        await client.closed()
        assert (await edge.ask()).status == 200


async def test_a_limit_outlives_a_restart_when_its_table_has_a_file(tmp_path: Path, door: str) -> None:
    async with ScriptedOrigin(always(FRESH)) as origin:
        text = config(origin, "quota: 3/d") + f"rate_limit_table: {{file: {tmp_path}/limits}}\n"
        statuses: list[int] = []
        for _ in range(2):
            async with running(text, tmp_path, door) as edge:
                statuses += [(await edge.ask()).status for _ in range(2)]
    assert statuses == [200, 200, 200, 429]


async def test_what_was_sent_is_charged_when_it_has_been(tmp_path: Path, door: str) -> None:
    async with ScriptedOrigin(always(FRESH)) as origin:
        limit = "rate: 1/h, burst: 8, cost: {request: 1, per_size: 1KB}"
        async with running(config(origin, limit), tmp_path, door) as edge:
            assert [(await edge.ask()).status for _ in range(3)] == [200, 200, 429]
