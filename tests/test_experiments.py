"""Experiments end to end: what a client gets, and what is counted, through both doors and on hits."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from edgeproxy.observe.trials import total
from tests.helpers.edge import PATIENCE, Running, running
from tests.helpers.scripted_origin import Peer, ScriptedOrigin

CONFIG = """
server: {{listen: ["127.0.0.1:8080"], workers: 1, access_log: {{path: "off"}}}}
admin: {{listen: null}}
origins: {{main: {{servers: ["{origin}"]}}, other: {{servers: ["{other}"]}}}}
exposures: {{file: "{folder}/exposures.jsonl", unit: plain, interval: 1h}}
experiments:
  exp:
    variants: {{a: 1, b: {{weight: 1, path: "/b{{path}}", headers: {{X-Theme: dark}}}}}}
    by: header:X-User
    forced: {{a: [ann], b: [bob]}}
  away:
    variants:
      a: 1
      b: {{weight: 1, redirect: "/away/there{{path}}"}}
      c: {{weight: 1, origin: other, host: other.example}}
    by: header:X-User
    ranges: {{b: [0, 1]}}
    forced: {{c: [cid]}}
routes:
  - {{name: away, match: {{path: "/away/**"}}, policies: [{{ab: away}}], origin: main}}
  - {{name: exp, policies: [{{ab: exp}}], origin: main}}
"""


async def echo(peer: Peer) -> None:
    """Answers with the target it was asked for, the host, and the variant."""
    while True:
        head = (await peer.head()).decode().split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
        told = [fields.get(name, "-") for name in ("host", "x-variant-exp", "x-theme")]
        body = " ".join([head[0].split()[1], *told]).encode()
        lines = b"Cache-Control: max-age=60\r\nContent-Length: %d\r\n\r\n" % len(body)
        await peer.send(b"HTTP/1.1 200 OK\r\n" + lines + body)


def counted(edge: Running, series: str, **labels: str) -> int:
    return int(total(edge.worker.shared.cells, f"edgeproxy_experiment_{series}_total", **labels))


async def test_each_user_sees_one_variant_and_counts_once(tmp_path: Path, door: str) -> None:
    async with ScriptedOrigin(echo) as origin:
        config = CONFIG.format(origin=origin.url, other=origin.url, folder=tmp_path)
        async with running(config, tmp_path, door) as edge:
            seen: dict[str, set[str]] = {}
            for _ in range(2):
                for number in range(12):
                    answer = await edge.ask("/p", f"X-User: u{number}", "X-Theme: forged")
                    seen.setdefault(answer.body.decode(), set()).add(f"u{number}")
            assert set(seen) == {"/p example.com a -", "/b/p example.com b dark"}
            assert len(origin.heads) == 2, "the others were served by the cache"
            users = {"a": seen["/p example.com a -"], "b": seen["/b/p example.com b dark"]}
            for variant, of in users.items():
                labels = {"experiment": "exp", "variant": variant}
                assert counted(edge, "exposures", **labels) == len(of)
                assert counted(edge, "requests", **labels, code="2xx") == 2 * len(of)
            assert users["a"].isdisjoint(users["b"])
            (sink,) = edge.worker.parts.sinks
            await sink.flush()
            lines = [json.loads(line) for line in (tmp_path / "exposures.jsonl").read_text().splitlines()]
            assert {line["unit"]: line["variant"] for line in lines} == {
                user: variant for variant, of in users.items() for user in of
            }


async def test_a_repeated_request_on_one_connection_counts_once_and_stays_what_it_is(
    tmp_path: Path, door: str
) -> None:
    async with ScriptedOrigin(echo) as origin:
        config = CONFIG.format(origin=origin.url, other=origin.url, folder=tmp_path)
        async with running(config, tmp_path, door) as edge:
            client = await edge.client()
            bodies = {(await client.ask("/p", "X-User: u1")).body for _ in range(6)}
            assert len(bodies) == 1
            found = [counted(edge, "exposures", experiment="exp", variant=variant) for variant in "ab"]
            assert sum(found) == 1


async def test_forced_users_and_robots_get_their_variant_uncounted(tmp_path: Path, door: str) -> None:
    async with ScriptedOrigin(echo) as origin:
        config = CONFIG.format(origin=origin.url, other=origin.url, folder=tmp_path)
        async with running(config, tmp_path, door) as edge:
            assert (await edge.ask("/p", "X-User: ann")).body == b"/p example.com a -"
            assert (await edge.ask("/p", "X-User: bob")).body == b"/b/p example.com b dark"
            await edge.ask("/p", "X-User: u1", "User-Agent: Googlebot/2.1")
            assert [counted(edge, "exposures", experiment="exp", variant=one) for one in "ab"] == [0, 0]


async def test_a_variant_that_redirects_counts_and_one_with_an_origin_goes_there(
    tmp_path: Path, door: str
) -> None:
    async with ScriptedOrigin(echo) as origin, ScriptedOrigin(echo) as other:
        config = CONFIG.format(origin=origin.url, other=other.url, folder=tmp_path)
        async with running(config, tmp_path, door) as edge:
            answer = await edge.ask("/away/x", "X-User: u1")
            assert (answer.status, answer["location"]) == (302, "/away/there/away/x")
            assert counted(edge, "exposures", experiment="away", variant="b") == 1
            assert counted(edge, "requests", experiment="away", variant="b", code="3xx") == 1
            there = await edge.ask("/away/there/away/x", "X-User: u1")
            assert there.status == 200
            assert (await edge.ask("/away/x", "X-User: cid")).body == b"/away/x other.example - -"
            assert len(other.heads) == 1


async def test_a_reload_keeps_what_waits_to_be_written(tmp_path: Path) -> None:
    written = tmp_path / "exposures.jsonl"
    async with ScriptedOrigin(echo) as origin:
        config = CONFIG.format(origin=origin.url, other=origin.url, folder=tmp_path)
        async with running(config, tmp_path, "native") as edge:
            await edge.ask("/p", "X-User: u1")
            before = edge.worker.parts
            edge.worker.shared.publish(config.replace("interval: 1h", "interval: 2h").encode())
            edge.worker.reload()
            async with asyncio.timeout(PATIENCE):
                while edge.worker.parts is before or not written.exists() or not written.read_text():
                    await asyncio.sleep(0.01)
            assert len(written.read_text().splitlines()) == 1
            await edge.ask("/p", "X-User: u1")
            assert len(edge.worker.parts.sinks[0]) == 0, "the unit was counted before"


@pytest.mark.parametrize(
    ("change", "warned"),
    [
        (("a: 1, b: {weight: 1, path", "a: 3, b: {weight: 1, path"), True),
        (("X-Theme: dark", "X-Theme: light"), False),
    ],
)
async def test_a_reload_that_moves_units_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: tuple[str, str], warned: bool
) -> None:
    async with ScriptedOrigin(echo) as origin:
        config = CONFIG.format(origin=origin.url, other=origin.url, folder=tmp_path)
        assert change[0] in config
        async with running(config, tmp_path, "native") as edge:
            before = edge.worker.parts
            edge.worker.shared.publish(config.replace(*change).encode())
            edge.worker.reload()
            async with asyncio.timeout(PATIENCE):
                while edge.worker.parts is before:
                    await asyncio.sleep(0.01)
    said = [record.getMessage() for record in caplog.records if "another variant" in record.getMessage()]
    assert bool(said) is warned
    assert all(line.startswith("experiments.exp: other weights") for line in said)
