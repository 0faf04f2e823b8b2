"""What one client can do to the others and to the origin (reliability A66 to A71, A74, A75)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from edgeproxy.cache.memory import MemoryStore
from tests.helpers.edge import PATIENCE
from tests.helpers.requests import NOW
from tests.poisoning.support import FRESH, Site, reply, same, site


async def gather(edge: Site, count: int, path: str = "/a", *fields: str) -> list[str]:
    answers = await asyncio.gather(*[edge.ask(path, *fields) for _ in range(count)])
    return [answer["cache-status"] for answer in answers]


async def test_a67_many_misses_at_once_are_one_fetch(tmp_path: Path, door: str) -> None:
    async with site(tmp_path, door, same(FRESH)) as edge:
        said = await gather(edge, 50)
        assert edge.asked == 1
        assert sum("collapsed" in one for one in said) + sum("hit" in one for one in said) == 49


async def test_a68_nobody_queues_for_what_cannot_be_shared(tmp_path: Path, door: str) -> None:
    async with site(tmp_path, door, same("Cache-Control: private")) as edge:
        said = await gather(edge, 20)
        assert edge.asked == 20
        assert not any("collapsed" in one or "hit" in one for one in said)
        assert await gather(edge, 5)
        assert not edge.edge.worker.hall.fetcher.flights.flights


async def test_a69_what_is_private_or_another_variant_is_nobody_elses(tmp_path: Path, door: str) -> None:
    def answers(head: bytes) -> bytes:
        who = head.lower().partition(b"x-who: ")[2].partition(b"\r")[0]
        return reply(FRESH, "Vary: X-Who", body=who)

    async with site(tmp_path, door, answers) as edge:
        got = await asyncio.gather(*[edge.ask("/a", f"X-Who: {number}") for number in range(20)])
        assert [answer.body for answer in got] == [b"%d" % number for number in range(20)]


async def test_a69_a_leader_that_leaves_takes_nobody_along(tmp_path: Path, door: str) -> None:
    async with site(tmp_path, door, same(FRESH)) as edge:
        leaver = await edge.edge.client()
        leaver.send(b"GET /a HTTP/1.1\r\nHost: example.com\r\n\r\n")
        waiting = [asyncio.create_task(edge.ask()) for _ in range(5)]
        await asyncio.sleep(0)
        leaver.writer.transport.abort()
        async with asyncio.timeout(PATIENCE):
            assert {answer.status for answer in await asyncio.gather(*waiting)} == {200}


async def test_a70_a_byte_of_what_is_too_large_costs_no_more_than_that(tmp_path: Path, door: str) -> None:
    size = 2**30

    def answers(head: bytes) -> bytes:
        if b"range:" in head.lower():
            return reply(FRESH, f"Content-Range: bytes 0-0/{size}", body=b"x", status="206 Partial Content")
        return f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n{FRESH}\r\n\r\n".encode() + b"x" * 1000

    async with site(tmp_path, door, answers) as edge:
        for _ in range(3):
            answer = await edge.ask("/a", "Range: bytes=0-0")
            assert (answer.status, answer.body) == (206, b"x")
        asked = [head for head in edge.origin.heads if b"range:" not in head.lower()]
        assert len(asked) == 1, "that it is too large is remembered"


@pytest.mark.parametrize(
    "ranges",
    [
        "0-1,4-5,8-9,12-13,16-17,20-21",
        ",".join(["0-99"] * 30),
        ",".join(f"{n}-" for n in range(100)),
        "0-,0-,0-",
    ],
)
async def test_a71_many_or_overlapping_ranges_cost_no_more_than_the_whole(
    tmp_path: Path, door: str, ranges: str
) -> None:
    async with site(tmp_path, door, lambda _: reply(FRESH, body=b"x" * 2000)) as edge:
        await edge.ask()
        answer = await edge.ask("/a", f"Range: bytes={ranges}")
        assert answer.status in (200, 206, 416)
        assert len(answer.body) <= 2200


async def test_a74_query_is_never_a_gets_answer(tmp_path: Path, door: str) -> None:
    async with site(tmp_path, door, same(FRESH)) as edge:
        await edge.ask()
        for _ in range(2):
            answer = await edge.ask("/a", "Content-Type: text/x", method="QUERY", body=b"q")
            assert answer.status in (200, 400, 405)
            assert "hit" not in answer["cache-status"]
        assert await edge.is_stored()


@pytest.mark.parametrize(
    "path", ["/metrics", "/livez", "/readyz", "/purge", "/explain", "/config", "/origins"]
)
async def test_a75_the_public_listener_has_no_admin(tmp_path: Path, door: str, path: str) -> None:
    async with site(tmp_path, door, same(FRESH)) as edge:
        for method in ("GET", "POST"):
            assert (await edge.ask(path, method=method)).body == b"hello", "the origin's, like any other path"
        for method in ("PURGE", "TRACE"):
            assert (await edge.ask(path, method=method)).status == 405


def test_a66_a_flood_of_urls_leaves_what_is_popular() -> None:
    from edgeproxy.cache.entry import Entry
    from edgeproxy.http.message import Headers
    from edgeproxy.http.wire import response

    def entry(key: bytes) -> Entry:
        return Entry(
            key, (), b"", response(200, [], b"x" * 500), NOW, NOW + 60, NOW, NOW,
            must_validate=False, never_stale=False, location=(b"h", key, b""), position=0,
        )  # fmt: skip

    store, nobody = MemoryStore(10**6), Headers([])
    hot = [b"hot%d" % number for number in range(100)]
    hits = asked = 0
    for number in range(50_000):
        if number % 2:
            store.put(entry(b"cold%d" % number))
            continue
        key = hot[number // 2 % 100]
        asked += 1
        if store.find(key, nobody)[0] is None:
            store.put(entry(key))
        else:
            hits += 1
    assert hits / asked > 0.95
    assert store.bytes <= store.max_bytes
