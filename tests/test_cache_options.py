"""The options of a route's cache, each through both doors: what the origin is asked, what clients get."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import jwt as pyjwt

from edgeproxy.admin.explain import Question
from edgeproxy.explain import explain
from edgeproxy.purge_log import PurgeKind
from tests.helpers.edge import Running, running
from tests.helpers.scripted_origin import Script, ScriptedOrigin, always

SECRET = "0123456789abcdef0123456789abcdef"
CONFIG = """
edge: {{id: edge-1, pop: ams}}
server: {{listen: ["127.0.0.1:8080"], workers: 1, access_log: {{path: "off"}}}}
admin: {{listen: null}}
cache: {{{store}}}
origins: {{main: {{servers: ["{origin}"]}}}}
jwt_providers:
  p: {{issuer: i, algorithms: [HS256], require_exp: false, secret: "%s"}}
routes:
  - {{name: all, policies: [{policies}], cache: {{{cache}}}, origin: main}}
""".replace("%s", SECRET)


def reply(*fields: str, body: str = "hello", status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields]
    return "\r\n".join([*lines, "", body]).encode()


FRESH = reply("Cache-Control: max-age=60")


@asynccontextmanager
async def edge_of(
    folder: Path, door: str, script: Script, cache: str, *, store: str = "", policies: str = ""
) -> AsyncGenerator[tuple[Running, ScriptedOrigin]]:
    async with ScriptedOrigin(script) as origin:
        config = CONFIG.format(origin=origin.url, cache=cache, store=store, policies=policies)
        async with running(config, folder, door) as edge:
            yield edge, origin


async def test_min_uses_stores_what_was_asked_for_often_enough(tmp_path: Path, door: str) -> None:
    async with edge_of(tmp_path, door, always(FRESH), "min_uses: 3") as (edge, origin):
        said = [(await edge.ask())["cache-status"] for _ in range(4)]
        assert ["stored" in one for one in said] == [False, False, True, False]
        assert ["detail=min-uses" in one for one in said] == [True, True, False, False]
        assert "hit" in said[3]
        assert len(origin.heads) == 3


async def test_min_uses_still_sends_one_request_for_many(tmp_path: Path, door: str) -> None:
    gate = asyncio.Event()

    async def script(peer):  # type: ignore[no-untyped-def]
        await peer.head()
        await gate.wait()
        await peer.send(FRESH)
        await peer.eof()

    async with edge_of(tmp_path, door, script, "min_uses: 9") as (edge, origin):
        asking = [asyncio.create_task(edge.ask()) for _ in range(5)]
        flights = edge.worker.hall.fetcher.flights.flights
        while not (flights and len(next(iter(flights.values())).jobs) == 5):
            await edge.turn()
        gate.set()
        answers = await asyncio.gather(*asking)
        assert [answer.body for answer in answers] == [b"hello"] * 5
        assert len(origin.heads) == 1


async def test_x_cache_says_what_happened(tmp_path: Path, door: str) -> None:
    answer = reply("Cache-Control: max-age=60", 'ETag: "a"', "X-Cache: HIT from elsewhere")
    async with edge_of(tmp_path, door, always(answer), "x_cache: true") as (edge, _):
        assert (await edge.ask())["x-cache"] == "MISS"
        assert (await edge.ask())["x-cache"] == "HIT"
        assert (await edge.ask("/a", 'If-None-Match: "a"'))["x-cache"] == "HIT"
        assert (await edge.ask("/a", method="POST", body=b"x"))["x-cache"] == "BYPASS"
        assert (await edge.ask("/a", "Cache-Control: no-cache"))["x-cache"] == "MISS"


async def test_x_cache_is_the_origins_affair_where_it_was_not_asked_for(tmp_path: Path, door: str) -> None:
    answer = reply("Cache-Control: max-age=60", "X-Cache: theirs")
    async with edge_of(tmp_path, door, always(answer), "") as (edge, _):
        assert [(await edge.ask())["x-cache"] for _ in range(2)] == ["theirs", "theirs"]


async def test_the_origin_is_told_one_spelling_of_accept_encoding(tmp_path: Path, door: str) -> None:
    answer = reply("Cache-Control: max-age=60", "Vary: Accept-Encoding")
    async with edge_of(tmp_path, door, always(answer), "accept_encoding: normalise") as (edge, origin):
        for accepted in ("gzip, br", "br;q=0.5 , gzip, x-mine", "BR, GZIP, deflate"):
            await edge.ask("/a", f"Accept-Encoding: {accepted}")
        assert len(origin.heads) == 1
        assert b"\r\nAccept-Encoding: br, gzip\r\n" in origin.heads[0]
        await edge.ask("/a", "Accept-Encoding: x-mine")
        await edge.ask("/a")
        assert len(origin.heads) == 3, "nothing known, and nothing said, are two more variants"
        assert b"\r\nAccept-Encoding: identity\r\n" in origin.heads[1]
        assert b"accept-encoding" not in origin.heads[2].lower()


async def test_the_device_class_tells_clients_apart_and_is_said_to_the_origin(
    tmp_path: Path, door: str
) -> None:
    async with edge_of(tmp_path, door, always(FRESH), "vary_on: [device]") as (edge, origin):
        for agent in ("A Mobi", "B Mobi", "iPad", "desk"):
            await edge.ask("/a", f"User-Agent: {agent}", "X-Device-Class: forged")
        told = [head.partition(b"X-Device-Class: ")[2].partition(b"\r")[0] for head in origin.heads]
        assert told == [b"mobile", b"tablet", b"desktop"]


async def test_a_claim_tells_clients_apart(tmp_path: Path, door: str) -> None:
    answer = reply("Cache-Control: max-age=60, public")
    policies = "{jwt: {provider: p, forward: false}}"
    async with edge_of(tmp_path, door, always(answer), 'vary_on: ["claim:tier"]', policies=policies) as (
        edge,
        origin,
    ):
        for tier, name in (("gold", "a"), ("gold", "b"), ("tin", "a")):
            token = pyjwt.encode({"iss": "i", "tier": tier, "sub": name}, SECRET, "HS256")
            for _ in range(2):
                assert (await edge.ask("/a", f"Authorization: Bearer {token}")).status == 200
        assert len(origin.heads) == 2


async def test_tags_of_a_field_of_ones_own_are_purged_by_and_kept_from_clients(
    tmp_path: Path, door: str
) -> None:
    answer = reply("Cache-Control: max-age=60", "X-Tags: t1 t2, t3", "Surrogate-Key: other")
    store = "tag_fields: X-Tags, strip_tags: true"
    async with edge_of(tmp_path, door, always(answer), "", store=store) as (edge, origin):
        asked = 0
        for tag, reached in ((b"t1", True), (b"t3", True), (b"other", False)):
            for _ in range(2):
                got = await edge.ask()
                assert (got["x-tags"], got["surrogate-key"]) == ("", "other")
            edge.worker.shared.purge_log.append(PurgeKind.TAG, tag)
            asked = len(origin.heads)
            await edge.ask()
            assert (len(origin.heads) - asked == 1) is reached


async def test_jitter_takes_a_share_of_freshness_that_differs_from_path_to_path(
    tmp_path: Path, door: str
) -> None:
    answer = reply("Cache-Control: max-age=1000")
    async with edge_of(tmp_path, door, always(answer), "jitter: 0.2") as (edge, _):
        left = [
            int((await edge.ask(f"/{number}"))["cache-status"].rpartition("ttl=")[2]) for number in range(20)
        ]
        assert all(799 <= one <= 1000 for one in left)
        assert len(set(left)) > 10


async def test_explain_says_what_would_be_stored(tmp_path: Path, door: str) -> None:
    answer = reply("Cache-Control: max-age=1000, stale-if-error=60")
    async with edge_of(tmp_path, door, always(answer), "ttl: 5s") as (edge, _):
        where = "http://example.com/a?x=1"
        told = explain(
            edge.worker.parts, Question("GET", where, "192.0.2.1", [], (200, [("Set-Cookie", "a=b")]))
        )
        assert "example.com" in told.key
        assert told.filled.startswith("not stored: it sets a cookie")
        other = explain(
            edge.worker.parts, Question("GET", "http://example.com/b", "192.0.2.1", [], (200, []))
        )
        assert (other.stored, other.filled) == ((), "stored, fresh for 5 s (cache.ttl of the route)")
        assert len(edge.worker.parts.store) == 0
