"""Clients that come along with a fetch, but want something else than its leader: one request to the origin is
enough for all that it can answer, and each gets what it would have got alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from edgeproxy.clock import steady
from edgeproxy.fetch import PATIENCE
from tests.helpers.edge import Answer, Running, running_workers
from tests.helpers.scripted_origin import Peer, ScriptedOrigin
from tests.origin.support import eventually

CONFIG = """
edge: {{id: edge-1, pop: ams}}
server: {{listen: ["127.0.0.1:8080"], workers: 2, access_log: {{path: "off"}}}}
admin: {{listen: null}}
origins: {{main: {{servers: ["{url}"], timeouts: {{connect: 20s, first_byte: 20s}}}}}}
routes: [{{name: all, origin: main, cache: {{ttl: 60s}}}}]
"""
TAGGED = ('ETag: "v1"', "Last-Modified: Sat, 01 Nov 2025 00:00:00 GMT", "Cache-Control: max-age=60")
Wish = tuple[str, ...]
"""Method and fields of a request."""


class Origin:
    """Answers each request, when it may, with its language; 304 when the client has that already."""

    def __init__(self, *fields: str) -> None:
        self.heads: list[bytes] = []
        self.fails = False  # to validate
        self.may, self.arrived = asyncio.Event(), asyncio.Event()
        self.fields = self.later = fields  # of the first answer, and of those that follow

    async def script(self, peer: Peer) -> None:
        while True:
            head = (await peer.head()).lower()
            fields = self.later if self.heads else self.fields
            self.heads.append(head)
            self.arrived.set()
            await self.may.wait()
            language = head.partition(b"accept-language: ")[2].partition(b"\r\n")[0] or b"none"
            if self.fails and b"if-none-match" in head:
                await peer.send(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")
                continue
            status, body = ("304 Not Modified", b"") if b"if-none-match" in head else ("200 OK", language)
            lines = [f"HTTP/1.1 {status}", *fields]
            if body:
                lines.append(f"Content-Length: {len(body)}")
            await peer.send(
                "\r\n".join([*lines, "", ""]).encode() + (b"" if head.startswith(b"head") else body)
            )


@asynccontextmanager
async def two_workers(origin: Origin, folder: Path) -> AsyncGenerator[list[Running]]:
    async with (
        ScriptedOrigin(origin.script) as scripted,
        running_workers(CONFIG.format(url=scripted.url), folder, 2) as workers,
    ):
        yield workers


async def behind(edge: Running, origin: Origin, leader: Wish, *followers: Wish) -> list[Answer]:
    """The answers of a leader and of those who came while it waited, all of one worker."""
    asking = [asyncio.create_task(edge.ask("/a", *leader[1:], method=leader[0]))]
    await origin.arrived.wait()
    asking += [asyncio.create_task(edge.ask("/a", *wish[1:], method=wish[0])) for wish in followers]
    await eventually(lambda: waiting(edge) == 1 + len(followers))
    origin.may.set()
    return await asyncio.gather(*asking)


def waiting(edge: Running) -> int:
    return sum(len(flight.jobs) for flight in edge.worker.hall.fetcher.flights.flights.values())


GET = ("GET",)
ROWS = {
    "HEAD": (("HEAD",), 200, b""),
    "holds it already": (("GET", 'If-None-Match: "v1"'), 304, b""),
    "holds it already, by weak comparison": (("GET", 'If-None-Match: W/"v0", W/"v1"'), 304, b""),
    "holds another one": (("GET", 'If-None-Match: "v0"'), 200, b"none"),
    "holds what is as new": (("GET", "If-Modified-Since: Sat, 01 Nov 2025 00:00:00 GMT"), 304, b""),
    "holds an older one": (("GET", "If-Modified-Since: Fri, 31 Oct 2025 00:00:00 GMT"), 200, b"none"),
    "wants a part": (("GET", "Range: bytes=1-2"), 206, b"on"),
    "wants a part of what it holds": (("GET", "Range: bytes=1-2", 'If-None-Match: "v1"'), 304, b""),
    "HEAD of what it holds": (("HEAD", 'If-None-Match: "v1"'), 304, b""),
    "wants a part of another one": (("GET", "Range: bytes=1-2", 'If-Range: "v0"'), 200, b"none"),
}


@pytest.mark.parametrize(("wish", "status", "body"), ROWS.values(), ids=ROWS)
async def test_one_request_answers_followers_that_want_less(
    tmp_path: Path, wish: Wish, status: int, body: bytes
) -> None:
    origin = Origin(*TAGGED)
    async with two_workers(origin, tmp_path) as (edge, _):
        answers = await behind(edge, origin, GET, wish, GET)
        assert [(answer.status, answer.body) for answer in answers] == [
            (200, b"none"), (status, body), (200, b"none"),
        ]  # fmt: skip
        assert len(origin.heads) == 1


@pytest.mark.parametrize("wish", [one[0] for one in ROWS.values() if one[0][0] == "GET"])
async def test_a_leader_that_wants_less_fetches_the_whole_for_all(tmp_path: Path, wish: Wish) -> None:
    origin = Origin(*TAGGED)
    async with two_workers(origin, tmp_path) as (edge, other):
        leader, follower = await behind(edge, origin, wish, GET)
        assert (leader.status, leader.body) in [one[1:] for one in ROWS.values() if one[0] == wish]
        assert follower.body == b"none"
        assert (await edge.ask("/a"))["cache-status"].startswith("edge-1; hit")
        assert (await other.ask("/a", *wish[1:])).status == leader.status, "the other worker has it from here"
        assert len(origin.heads) == 1


def speaking(language: str) -> Wish:
    return "GET", f"Accept-Language: {language}"


async def test_of_each_variant_one_client_asks_the_origin(tmp_path: Path) -> None:
    origin = Origin("Vary: Accept-Language", *TAGGED)
    languages = ["en", "de", "fr", "de", "fr", "en", "de", "de", "fr"]
    async with two_workers(origin, tmp_path) as (edge, _):
        answers = await behind(edge, origin, *map(speaking, languages))
        assert [answer.body.decode() for answer in answers] == languages
        assert len(origin.heads) == 3
        for language in set(languages):
            again = await edge.ask("/a", f"Accept-Language: {language}")
            assert (again["cache-status"].split(";")[1], again.body.decode()) == (" hit", language)


async def test_those_of_a_variant_that_is_several_are_told_apart_once_more(tmp_path: Path) -> None:
    origin = Origin("Vary: Accept-Language", *TAGGED)
    origin.later = ("Vary: Accept-Language, X-Kind", *TAGGED)
    clients = ["en x", "de x", "de y", "de z", "de y"]
    async with two_workers(origin, tmp_path) as (edge, _):
        wishes = [("GET", f"Accept-Language: {one[:2]}", f"X-Kind: {one[3:]}") for one in clients]
        answers = await behind(edge, origin, *wishes)
        assert [answer.body.decode() for answer in answers] == [one[:2] for one in clients]
        assert len(origin.heads) == 4


@pytest.mark.parametrize("fails", [False, True], ids=["validated", "stale, because the origin fails"])
@pytest.mark.parametrize("slot", [0, 1], ids=["the same worker", "another worker"])
async def test_what_is_stored_for_one_variant_is_not_for_those_who_want_another(
    tmp_path: Path, slot: int, fails: bool
) -> None:
    control = "Cache-Control: max-age=0, stale-if-error=60" if fails else "Cache-Control: no-cache"
    origin = Origin("Vary: Accept-Language", 'ETag: "v1"', control)
    origin.may.set()
    async with two_workers(origin, tmp_path) as workers:
        assert (await workers[0].ask("/a", "Accept-Language: en")).body == b"en"
        origin.may.clear()
        origin.arrived.clear()
        origin.fails = fails
        leader = asyncio.create_task(workers[0].ask("/a", "Accept-Language: en"))
        await origin.arrived.wait()
        follower = asyncio.create_task(workers[slot].ask("/a", "Accept-Language: fr"))
        await eventually(lambda: waiting(workers[0]) == 2)
        origin.may.set()
        assert (await leader).body == b"en"
        assert (await follower).body == b"fr"


async def test_a_client_that_shows_credentials_holds_up_and_lets_loose_nobody_else(tmp_path: Path) -> None:
    origin = Origin("Cache-Control: max-age=60")
    shown = ("GET", "Authorization: Bearer x")
    async with two_workers(origin, tmp_path) as (edge, _):
        answers = await behind(edge, origin, shown, GET, GET, shown, GET)
        assert [answer.body for answer in answers] == [b"none"] * 5
        assert len(origin.heads) == 3, "two for themselves, one for all others"
        assert sum("collapsed" in answer["cache-status"] for answer in answers) == 2
        flights, visit = edge.worker.hall.fetcher.flights, await edge.ask("/a")
        assert "; hit" in visit["cache-status"]
        assert len(flights.passes) == 1, "of those who show credentials, nobody waits again"


async def test_head_does_not_lead_when_the_leader_leaves(tmp_path: Path) -> None:
    origin = Origin(*TAGGED)
    async with two_workers(origin, tmp_path) as (edge, _):
        leader = await edge.client()
        leader.send(b"GET /a HTTP/1.1\r\nHost: example.com\r\n\r\n")
        await origin.arrived.wait()
        heads = asyncio.create_task(edge.ask("/a", method="HEAD"))
        follower = asyncio.create_task(edge.ask("/a"))
        await eventually(lambda: waiting(edge) == 3)
        leader.writer.close()
        await eventually(lambda: len(origin.heads) == 2)
        origin.may.set()
        assert ((await heads).status, (await follower).body) == (200, b"none")
        assert [head.partition(b" ")[0] for head in origin.heads] == [b"get", b"get"]


async def test_a_client_of_what_is_for_nobody_else_may_hold_it_already(tmp_path: Path) -> None:
    origin = Origin('ETag: "v1"', "Cache-Control: private")
    origin.may.set()
    async with two_workers(origin, tmp_path) as (edge, _):
        assert (await edge.ask("/a")).status == 200
        assert (await edge.ask("/a", 'If-None-Match: "v1"')).status == 304, "the origin says so"
        assert b"if-none-match" in origin.heads[-1]


@pytest.mark.parametrize("control", ["private", "no-store"])
async def test_a_304_that_says_it_is_for_one_client_is_for_one_client(tmp_path: Path, control: str) -> None:
    origin = Origin('ETag: "v1"', "Cache-Control: max-age=0")
    origin.may.set()
    async with two_workers(origin, tmp_path) as (edge, _):
        await edge.ask("/a")
        origin.may.clear()
        origin.arrived.clear()
        origin.later = ('ETag: "v1"', f"Cache-Control: {control}")
        answers = await behind(edge, origin, GET, GET, GET)
        assert [(answer.status, answer.body) for answer in answers] == [(200, b"none")] * 3
        assert len(origin.heads) == 1 + 3
        stored = next(iter(edge.worker.parts.store))
        assert b"Cache-Control: max-age=0" in stored.response.head, "nothing of it is stored"
        assert stored.must_validate
        assert (await edge.ask("/a")).body == b"none"
        assert b'if-none-match: "v1"' in origin.heads[-1]


async def test_credentials_that_make_another_answer_take_nothing_from_the_others(tmp_path: Path) -> None:
    origin = Origin('ETag: "v1"', "Cache-Control: public, max-age=0, stale-while-revalidate=60")
    origin.may.set()
    async with two_workers(origin, tmp_path) as (edge, _):
        await edge.ask("/a")
        origin.later = ('ETag: "v1"', "Cache-Control: max-age=0")
        assert (await edge.ask("/a", "Authorization: x", "Cache-Control: no-cache")).status == 200
        assert (await edge.ask("/a"))["cache-status"].startswith("edge-1; hit; ttl=")


async def test_a_client_that_leads_in_anothers_place_is_not_sent_off_as_one_who_waits(tmp_path: Path) -> None:
    """Even where another worker waits longer than it does."""
    origin = Origin("Cache-Control: private")
    async with two_workers(origin, tmp_path) as (edge, other):
        first = await edge.client()
        first.send(b"GET /a HTTP/1.1\r\nHost: example.com\r\n\r\n")
        await origin.arrived.wait()
        asking: list[asyncio.Task[Answer]] = []
        for worker in (other, edge):
            asking.append(asyncio.create_task(worker.ask("/a")))
            await eventually(lambda: waiting(edge) == 1 + len(asking))
        first.writer.close()
        await eventually(lambda: len(origin.heads) == 2)
        edge.worker.hall.fetcher.sweep(steady() + 2 * PATIENCE)
        await asyncio.sleep(0.05)  # whatever else would be asked for was
        origin.may.set()
        assert [answer.body for answer in await asyncio.gather(*asking)] == [b"none", b"none"]
        assert len(origin.heads) == 3, "the two that led, and the other worker, which was sent off"


@pytest.mark.parametrize(
    ("control", "asked"),
    [("max-age=60", 1), ("max-age=0", 2), ("no-cache", 2), ("max-age=0, stale-while-revalidate=60", 2)],
)
async def test_who_comes_after_the_head_comes_along_only_with_what_may_be_reused(
    tmp_path: Path, control: str, asked: int
) -> None:
    """While the body arrives too: what must be validated is (RFC 9111 §4, §5.2.2.4)."""
    heads, gate = list[bytes](), asyncio.Event()

    async def script(peer: Peer) -> None:
        heads.append(await peer.head())
        fields = f'ETag: "1"\r\nCache-Control: {control}\r\n\r\n'
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n" + fields.encode() + b"bo")
        await gate.wait()
        await peer.send(b"dy")
        await peer.eof()

    async with (
        ScriptedOrigin(script, script) as scripted,
        running_workers(CONFIG.format(url=scripted.url), tmp_path, 2) as (edge, _),
    ):
        first, second = await edge.client(), await edge.client()
        for client in (first, second):
            client.send(b"GET /a HTTP/1.1\r\nHost: example.com\r\n\r\n")
            await client.head()
        gate.set()
        for client in (first, second):
            assert await client.reader.readexactly(4) == b"body"
        assert len(heads) == asked
