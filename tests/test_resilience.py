"""A whole edge in front of origins that fail: what clients see, and what origins are spared."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from edgeproxy.observe.cells import encode_series
from tests.helpers.edge import PATIENCE, running
from tests.helpers.scripted_origin import Peer, ScriptedOrigin, always

CONFIG = """
edge: {{id: edge-1, pop: ams}}
server: {{listen: ["127.0.0.1:8080"], workers: 1, access_log: {{path: "off"}}}}
admin: {{listen: null}}
origins: {{main: {{servers: [{servers}], timeouts: {{connect: 20s, first_byte: 20s}}, {options}}}}}
routes: [{{name: all, origin: main, cache: {cache}}}]
"""


def reply(body: bytes, *fields: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *fields]
    return "\r\n".join([*lines, "", ""]).encode() + body


def config(*urls: str, options: str = "", cache: str = "false") -> str:
    return CONFIG.format(servers=", ".join(f'"{url}"' for url in urls), options=options, cache=cache)


async def test_a_client_stays_with_the_server_its_cookie_names(tmp_path: Path, door: str) -> None:
    async with (
        ScriptedOrigin(always(reply(b"one"))) as one,
        ScriptedOrigin(always(reply(b"two"))) as two,
        running(config(one.url, two.url, options='balance: "sticky:edge"'), tmp_path, door) as edge,
    ):
        first = await edge.ask("/a")
        cookie = first["set-cookie"].partition(";")[0]
        assert cookie.startswith("edge=")
        for _ in range(6):
            again = await edge.ask("/a", f"Cookie: {cookie}")
            assert (again.body, again["set-cookie"]) == (first.body, "")


async def test_what_is_stored_carries_nobodys_cookie(tmp_path: Path, door: str) -> None:
    fresh = reply(b"shared", "Cache-Control: max-age=60")
    async with (
        ScriptedOrigin(always(fresh)) as one,
        ScriptedOrigin(always(fresh)) as two,
        running(
            config(one.url, two.url, options='balance: "sticky:edge"', cache="{ttl: 60s}"), tmp_path, door
        ) as edge,
    ):
        for _ in range(3):
            assert (await edge.ask("/a"))["set-cookie"] == ""


async def test_a_server_that_dies_with_requests_under_way_costs_no_client(tmp_path: Path, door: str) -> None:
    async def dying(peer: Peer) -> None:
        await peer.head()
        await peer.send(reply(b"one"))
        await peer.head()
        peer.reset()

    async with (
        ScriptedOrigin(dying) as one,
        ScriptedOrigin(always(reply(b"two"))) as two,
        running(config(one.url, two.url), tmp_path, door) as edge,
    ):
        answers = [await edge.ask("/a") for _ in range(8)]
        assert [answer.status for answer in answers] == [200] * 8


async def test_when_no_server_answers_clients_are_told_at_once(tmp_path: Path, door: str) -> None:
    options = "breaker: {failures: 3, time: 30s}"
    async with running(config("http://127.0.0.1:1", options=options), tmp_path, door) as edge:
        statuses = [(await edge.ask("/a")).status for _ in range(6)]
        assert statuses == [502] * 3 + [503] * 3
        upstream = edge.worker.parts.upstreams["main"]
        assert upstream.shed == 3


async def test_failures_are_not_multiplied_by_retries(tmp_path: Path, door: str) -> None:
    """Reused connections that die at once may be retried: but not all of them, when all of them do."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(reply(b"first"))
        await peer.head()
        await gate.wait()
        peer.reset()

    async def refuse(peer: Peer) -> None:
        await peer.head()
        peer.reset()

    gate = asyncio.Event()
    count = 40
    scripts = [script] * count + [refuse]
    options = "breaker: {failures: 0}, ejection: null, max_connections: 100"
    async with (
        ScriptedOrigin(*scripts) as origin,
        running(config(origin.url, options=options), tmp_path, door) as edge,
    ):
        clients = [await edge.client() for _ in range(count)]
        await asyncio.gather(*[client.ask("/a") for client in clients])
        before = len(origin.heads)
        asking = [asyncio.create_task(client.ask("/a")) for client in clients]
        async with asyncio.timeout(PATIENCE):
            while len(origin.heads) < before + count:
                await asyncio.sleep(0)
        gate.set()
        answers = await asyncio.gather(*asking)
        assert {answer.status for answer in answers} == {502}
        upstream = edge.worker.parts.upstreams["main"]
        again = len(origin.heads) - before - count
        assert 0 < again <= 0.2 * count + 3  # of the round that was answered, and the floor
        assert upstream.retry_budget.denied == count - again


NEAREST = """
edge: {{id: edge-1, pop: fra, location: [50, 8]}}
server: {{listen: ["127.0.0.1:8080"], workers: 1, access_log: {{path: "off"}}}}
admin: {{listen: null}}
geo: {{database: {database}}}
origins:
  eu: {{servers: ["{eu}"], location: [50, 8]}}
  us: {{servers: ["{us}"], location: [40, -75]}}
routes: [{{name: all, origin: nearest, cache: {{ttl: 60s}}}}]
"""


async def test_what_was_stored_is_used_while_another_origin_stands_in(tmp_path: Path, door: str) -> None:
    database = Path(__file__).parent.parent / "config" / "demo-geo.mmdb"
    fresh = "Cache-Control: max-age=60"
    async with ScriptedOrigin(always(reply(b"us", fresh))) as us:
        eu = ScriptedOrigin(always(reply(b"eu", fresh)))
        async with eu:
            text = NEAREST.format(database=database, eu=eu.url, us=us.url)
            async with running(text, tmp_path, door) as edge:
                assert (await edge.ask("/a")).body == b"eu"
                await eu.stop()
                assert (await edge.ask("/b")).status == 502  # now it is known
                other = await edge.ask("/c")
                assert (other.status, other.body) == (200, b"us")
                stored = await edge.ask("/a")
                assert stored.body == b"eu"
                assert "hit" in stored["cache-status"]


async def test_a_failure_of_ours_is_an_answer_for_all_who_wait(
    tmp_path: Path, door: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    async with (
        ScriptedOrigin(always(reply(b"ok", "Cache-Control: max-age=60"))) as origin,
        running(config(origin.url, cache="{ttl: 60s}"), tmp_path, door) as edge,
    ):
        with monkeypatch.context() as patched:
            patched.setattr("edgeproxy.verdict.settle", broken)
            answers = await asyncio.gather(*[edge.ask() for _ in range(5)])
            assert {answer.status for answer in answers} <= {500, 502}
            assert not edge.worker.hall.fetcher.flights.flights
        assert (await edge.ask()).status == 200


DRILL = """
edge: {{id: edge-1}}
server: {{listen: ["127.0.0.1:8080"], workers: 1, access_log: {{path: "off"}}}}
admin: {{listen: null}}
origins: {{main: {{servers: ["{origin}"]}}}}
routes:
  - name: drill
    policies:
      - fault: {{abort: {{status: 502}}}}
        when: header:X-Abort
      - fault: {{delay: {{time: 1ms}}}}
        when: header:X-Late
    cache: {{ttl: 60s}}
    origin: main
"""


async def test_a_drill_refuses_and_delays_hits_too(tmp_path: Path, door: str) -> None:
    async with (
        ScriptedOrigin(always(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")) as origin,
        running(DRILL.format(origin=origin.url), tmp_path, door) as edge,
    ):
        for _ in range(2):
            refused = await edge.ask("/a", "X-Abort: 1", "Accept: application/json")
            assert (refused.status, b"urn:edgeproxy:problem:injected" in refused.body) == (502, True)
            assert refused["cache-control"] == "no-store"
            late = await edge.ask("/a", "X-Late: 1")
            assert (late.status, late.body) == (200, b"ok")
            assert (await edge.ask("/a")).status == 200
        assert len(origin.heads) == 1
        cells = edge.worker.shared.cells
        for policy, times in (("fault", 2), ("rate_limit", 0)):
            series = encode_series("edgeproxy_policy_delays_total", route="drill", policy=policy)
            assert cells.total(cells.intern(series)) == times
