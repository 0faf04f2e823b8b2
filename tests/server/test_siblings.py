"""Several workers, one machine: what one of them fetches, the others do not fetch again."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from edgeproxy.build.routes import RESULTS
from edgeproxy.cache.entry import Entry
from edgeproxy.clock import steady
from edgeproxy.flight_table import LONGEST, FlightTable
from edgeproxy.job import Job
from edgeproxy.observe.outcome import OriginMeters
from edgeproxy.purge_log import PurgeKind
from edgeproxy.recording import Recording
from edgeproxy.server.worker import Worker
from edgeproxy.shared import Shared
from edgeproxy.siblings import Siblings
from tests.helpers.edge import Answer, Running, running_workers, serving
from tests.helpers.scripted_origin import Peer, ScriptedOrigin
from tests.origin.support import eventually

CONFIG = """
edge: {{id: edge-1, pop: ams}}
server: {{listen: ["127.0.0.1:8080"], workers: 2, access_log: {{path: "off"}}}}
admin: {{listen: null}}
origins: {{main: {{servers: ["{url}"], timeouts: {{connect: 20s, first_byte: 20s}}}}}}
routes: [{{name: all, origin: main, cache: {{ttl: 60s, x_cache: true}}}}]
"""
FRESH = "Cache-Control: max-age=60"


def reply(body: bytes, *fields: str, status: str = "200 OK") -> bytes:
    return (
        "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields, "", ""]).encode() + body
    )


class Counting:
    """An origin that answers each request with its number, when it may."""

    def __init__(self, *fields: str, size: int = 0) -> None:
        self.requests = 0
        self.may = self.may_first = asyncio.Event()
        self.may.set()
        self.arrived = asyncio.Event()
        self._fields = fields
        self._size = size

    async def script(self, peer: Peer) -> None:
        while True:
            await peer.head()
            self.requests += 1
            number = self.requests
            self.arrived.set()
            await (self.may_first if number == 1 else self.may).wait()
            await peer.send(reply(b"%d" % number + b"." * self._size, *self._fields))


def waiting(*workers: Running) -> int:
    """How many requests wait for an answer, those of other workers among them."""
    return sum(
        len(flight.jobs) for one in workers for flight in one.worker.hall.fetcher.flights.flights.values()
    )


async def together(workers: list[Running], path: str, each: int, *fields: str) -> list[Answer]:
    return await asyncio.gather(*[worker.ask(path, *fields) for worker in workers for _ in range(each)])


async def test_a_cold_key_is_one_request_to_the_origin_for_all_workers(tmp_path: Path) -> None:
    counting = Counting(FRESH)
    counting.may.clear()
    async with (
        ScriptedOrigin(counting.script) as origin,
        running_workers(CONFIG.format(url=origin.url), tmp_path, 3) as workers,
    ):
        asking = asyncio.create_task(together(workers, "/a", 10))
        await counting.arrived.wait()
        await eventually(lambda: waiting(*workers) == 30 + 2)  # each worker but the first asks the first
        counting.may.set()
        answers = await asking
        assert counting.requests == 1
        assert [answer.body for answer in answers] == [b"1"] * 30
        assert sum("collapsed" not in answer["cache-status"] for answer in answers) == 1


async def test_another_worker_gets_its_answer_before_ones_own_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting, order, share = Counting(FRESH), list[bool](), Recording.share
    counting.may.clear()

    def noted(recording: Recording, job: Job) -> None:
        order.append(job.sibling is not None)
        share(recording, job)

    monkeypatch.setattr(Recording, "share", noted)
    async with (
        ScriptedOrigin(counting.script) as origin,
        running_workers(CONFIG.format(url=origin.url), tmp_path, 2) as workers,
    ):
        asking = [asyncio.create_task(workers[0].ask("/a")) for _ in range(5)]
        await counting.arrived.wait()
        asking.append(asyncio.create_task(workers[1].ask("/a")))
        await eventually(lambda: waiting(workers[0]) == 6)
        counting.may.set()
        assert [answer.body for answer in await asyncio.gather(*asking)] == [b"1"] * 6
    assert order[:6] == [True] + [False] * 5


async def test_what_another_worker_fetched_a_moment_ago_is_had_from_it_with_its_age(tmp_path: Path) -> None:
    counting = Counting(FRESH, "Age: 7", 'ETag: "x"', size=200_000)
    async with (
        ScriptedOrigin(counting.script) as origin,
        running_workers(CONFIG.format(url=origin.url), tmp_path, 2) as (one, two),
    ):
        first = await one.ask("/a")
        second = await two.ask("/a")
        assert (counting.requests, second.body) == (1, first.body)
        assert re.fullmatch(r"edge-1; hit; ttl=5[23]", second["cache-status"])
        assert int(second["age"]) in (7, 8)
        assert (await two.ask("/a"))["cache-status"].startswith("edge-1; hit")
        assert "edge-position" not in dict(second.fields) | dict((await two.ask("/a")).fields)


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        pytest.param((), 200, id="plain"),
        pytest.param(("Range: bytes=1-3",), 206, id="a part"),
        pytest.param(("Authorization: x",), 200, id="an answer to it could not be stored"),
        pytest.param(('If-None-Match: "x"',), 304, id="conditional"),
    ],
)
async def test_what_another_worker_has_stored_is_a_hit(
    tmp_path: Path, asked: tuple[str, ...], status: int
) -> None:
    """RFC 9211 §2.1: nobody was asked for it. Header, metrics and log say the same."""
    counting = Counting(FRESH, 'ETag: "x"', size=100)
    async with (
        ScriptedOrigin(counting.script) as origin,
        running_workers(CONFIG.format(url=origin.url), tmp_path, 2) as (one, two),
    ):
        assert (await one.ask("/a"))["x-cache"] == "MISS"
        answer = await two.ask("/a", *asked)
        assert (answer.status, answer["x-cache"], counting.requests) == (status, "HIT", 1)
        assert re.fullmatch("edge-1; hit(; ttl=(60|59))?", answer["cache-status"])
        assert answer["age"] in ("0", "1")
        assert results(two) == {"hit": 1.0}


async def test_what_another_worker_is_fetching_is_collapsed_with_that(tmp_path: Path) -> None:
    counting = Counting(FRESH)
    counting.may.clear()
    async with (
        ScriptedOrigin(counting.script) as origin,
        running_workers(CONFIG.format(url=origin.url), tmp_path, 2) as (one, two),
    ):
        first = asyncio.create_task(one.ask("/a"))
        await counting.arrived.wait()
        second = asyncio.create_task(two.ask("/a"))
        await eventually(lambda: waiting(one) == 2)
        counting.may.set()
        said = (await first)["cache-status"], (await second)["cache-status"]
        asked = "edge-1; fwd=uri-miss; fwd-status=200; stored"
        assert [re.sub(r"; ttl=\d+", "", one) for one in said] == [asked, f"{asked}; collapsed"]
        assert results(two) == {"uri-miss": 1.0}


async def test_what_another_worker_is_validating_is_collapsed_with_that(tmp_path: Path) -> None:
    may, validating = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        while True:
            if b"if-none-match" in (await peer.head()).lower():
                validating.set()
                await may.wait()
                await peer.send(b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\n\r\n')
            else:
                await peer.send(reply(b"1", FRESH, 'ETag: "x"'))

    async with (
        ScriptedOrigin(script) as origin,
        running_workers(CONFIG.format(url=origin.url), tmp_path, 2) as (one, two),
    ):
        await one.ask("/a")
        first = asyncio.create_task(one.ask("/a", "Cache-Control: no-cache"))
        await validating.wait()
        second = asyncio.create_task(two.ask("/a"))
        await eventually(lambda: waiting(one) == 2)
        may.set()
        assert "fwd=request; fwd-status=304" in (await first)["cache-status"]
        assert "fwd=uri-miss; fwd-status=200; stored; collapsed" in (await second)["cache-status"]


def results(edge: Running) -> dict[str, float]:
    """`edgeproxy_cache_requests_total` of this worker."""
    slot = edge.worker.parts.slot
    name = "edgeproxy_cache_requests_total"
    found = {
        word.decode(): slot.values[slot.column(name, route="all", result=word.decode())] for word in RESULTS
    }
    return {word: count for word, count in found.items() if count}


@pytest.mark.parametrize(
    ("fields", "requests"),
    [
        pytest.param((), 1, id="by the route's ttl"),
        pytest.param(("Cache-Control: no-store",), 2, id="no-store"),
        pytest.param(("Cache-Control: private",), 2, id="private"),
        pytest.param(("Cache-Control: no-cache",), 2, id="no-cache is asked anew"),
        pytest.param(
            ("Cache-Control: no-store", "Surrogate-Control: max-age=9"), 2, id="said to caches only"
        ),
        pytest.param((FRESH, "Vary: Accept-Language"), 1, id="the same variant"),
    ],
)
async def test_what_is_shared_is_what_a_cache_may_share(
    tmp_path: Path, fields: tuple[str, ...], requests: int
) -> None:
    counting = Counting(*fields)
    async with (
        ScriptedOrigin(counting.script) as origin,
        running_workers(CONFIG.format(url=origin.url), tmp_path, 2) as (one, two),
    ):
        answers = [await one.ask("/a"), await two.ask("/a")]
        assert counting.requests == requests
        assert [answer.status for answer in answers] == [200, 200]


@pytest.mark.parametrize(("strip", "requests"), [("true", 3), ("false", 2)])
async def test_what_was_validated_is_shared_unless_its_tags_are_kept_from_others(
    tmp_path: Path, strip: str, requests: int
) -> None:
    """Without its tags another worker could not purge it by them."""
    asked: list[bytes] = []

    async def script(peer: Peer) -> None:
        while True:
            asked.append(await peer.head())
            if b"if-none-match" in asked[-1].lower():
                await peer.send(b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\n\r\n')
            else:
                await peer.send(reply(b"1", FRESH, 'ETag: "x"', "Surrogate-Key: t"))

    async with ScriptedOrigin(script) as origin:
        text = CONFIG.format(url=origin.url) + f"cache: {{strip_tags: {strip}}}\n"
        async with running_workers(text, tmp_path, 2) as (one, two):
            await one.ask("/a")
            await one.ask("/a", "Cache-Control: no-cache")
            await two.ask("/a")
            assert len(asked) == requests
            two.worker.shared.purge_log.append(PurgeKind.TAG, b"t")
            await two.ask("/a")
            assert len(asked) == requests + 1


async def test_another_variant_is_fetched_for_itself(tmp_path: Path) -> None:
    counting = Counting(FRESH, "Vary: Accept-Language")
    async with (
        ScriptedOrigin(counting.script) as origin,
        running_workers(CONFIG.format(url=origin.url), tmp_path, 2) as (one, two),
    ):
        assert (await one.ask("/a", "Accept-Language: de")).body == b"1"
        assert (await two.ask("/a", "Accept-Language: fr")).body == b"2"
        assert (await two.ask("/a", "Accept-Language: fr")).body == b"2"


async def test_a_client_that_wants_it_from_the_origin_gets_it_from_there(tmp_path: Path) -> None:
    counting = Counting(FRESH)
    async with (
        ScriptedOrigin(counting.script) as origin,
        running_workers(CONFIG.format(url=origin.url), tmp_path, 2) as (one, two),
    ):
        await one.ask("/a")
        assert (await two.ask("/a")).body == b"1"
        assert (await two.ask("/a", "Cache-Control: no-cache")).body == b"2"
        assert (await one.ask("/a", "Pragma: no-cache")).body == b"3"


@pytest.mark.parametrize("wish", ["Cache-Control: no-cache", "Pragma: no-cache", "Cache-Control: max-age=0"])
async def test_nor_does_it_get_what_another_worker_has_where_nothing_is_stored(
    tmp_path: Path, wish: str
) -> None:
    counting = Counting(FRESH)
    async with (
        ScriptedOrigin(counting.script) as origin,
        running_workers(CONFIG.format(url=origin.url), tmp_path, 2) as (one, two),
    ):
        assert (await one.ask("/a")).body == b"1"
        answer = await two.ask("/a", wish)
        assert (answer.body, "fwd=uri-miss" in answer["cache-status"]) == (b"2", True)


async def test_clients_cannot_ask_by_the_name_of_a_flight(tmp_path: Path) -> None:
    counting = Counting(FRESH)
    async with (
        ScriptedOrigin(counting.script) as origin,
        running_workers(CONFIG.format(url=origin.url), tmp_path, 2) as (one, two),
    ):
        await one.ask("/a", "Edge-Flight: 00")
        assert (await two.ask("/a", "Edge-Flight: ffff")).body == b"1"
        assert b"flight" not in origin.received.lower()


async def test_a_purge_is_about_what_another_worker_holds_too(tmp_path: Path) -> None:
    counting = Counting(FRESH)
    async with (
        ScriptedOrigin(counting.script) as origin,
        running_workers(CONFIG.format(url=origin.url), tmp_path, 2) as (one, two),
    ):
        await one.ask("/a")
        two.worker.shared.purge_log.append(PurgeKind.URL, b"example.com/a")
        assert (await two.ask("/a")).body == b"2"
        assert (await one.ask("/a")).body == b"2"


async def test_what_is_read_from_another_worker_is_as_old_as_it_was_there(tmp_path: Path) -> None:
    counting = Counting(FRESH, size=300_000)
    async with (
        ScriptedOrigin(counting.script) as origin,
        running_workers(CONFIG.format(url=origin.url), tmp_path, 2) as (one, two),
    ):
        await one.ask("/a")
        before = one.worker.parts.store.position
        two.worker.shared.purge_log.append(PurgeKind.URL, b"example.com/other")
        await two.ask("/a")
        (entry,) = entries(two)
        assert entry.position == before


@pytest.mark.parametrize(
    ("kind", "value", "together"),
    [
        (PurgeKind.URL, b"example.com/a", False),
        (PurgeKind.URL, b"example.com/b", True),
        (PurgeKind.PREFIX, b"example.com/", False),
        (PurgeKind.PREFIX, b"example.com/b", True),
        (PurgeKind.HOST, b"example.com", False),
        (PurgeKind.HOST, b"example.org", True),
        (PurgeKind.TAG, b"any", False),  # the head is not here: it may have that tag
        (PurgeKind.ALL, b"", False),
    ],
)
@pytest.mark.parametrize("other", [0, 1])
async def test_who_asks_after_a_purge_does_not_get_what_was_fetched_before_it(
    tmp_path: Path, kind: PurgeKind, value: bytes, together: bool, other: int
) -> None:
    counting = Counting(FRESH)
    counting.may.clear()
    counting.may_first = asyncio.Event()
    async with (
        ScriptedOrigin(counting.script) as origin,
        running_workers(CONFIG.format(url=origin.url), tmp_path, 2) as workers,
    ):
        early = asyncio.create_task(workers[0].ask("/a"))
        await counting.arrived.wait()
        workers[0].worker.shared.purge_log.append(kind, value)
        late = asyncio.create_task(workers[other].ask("/a"))
        await eventually(lambda: waiting(workers[0]) == 2 if together else counting.requests == 2)
        counting.may_first.set()
        assert (await early).body == b"1"
        counting.may.set()
        assert (await late).body == (b"1" if together else b"2")
        assert (await workers[other].ask("/a")).body == (b"1" if together else b"2")


def entries(edge: Running) -> list[Entry]:
    return list(edge.worker.parts.store)


async def dies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.transport.abort()


async def knows_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(EOFError):
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
    writer.close()


async def lies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(reply(b"not of any origin", FRESH))
    await reader.read()
    writer.close()


@pytest.mark.parametrize("other", [dies, knows_nothing, lies])
async def test_a_worker_that_cannot_share_costs_a_request_and_nothing_else(
    tmp_path: Path, other: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
) -> None:
    """The other worker is played by the test: it claims the key, and answers as it likes."""
    counting = Counting(FRESH)
    path = tmp_path / "edge.yaml"
    async with ScriptedOrigin(counting.script) as origin:
        path.write_text(CONFIG.format(url=origin.url))
        shared = Shared.create(path, 2)
        links = shared.links
        assert links is not None
        played = await asyncio.start_unix_server(other, sock=links.listeners[0])
        async with serving(Worker(shared, 1), "native") as two:
            assert (await two.ask("/a")).body == b"1"
            (entry,) = entries(two)
            digest = Siblings(links.flights, 0, links.secret, {}, no_meters(shared))._digest(entry.key)
            links.flights.clear(1)
            assert links.flights.claim(digest, 0, steady()) is None
            two.worker.parts.store.clear()
            answers = await asyncio.gather(*[two.ask("/a") for _ in range(5)])
            assert {answer.body for answer in answers} == {b"2"}
            assert counting.requests == 2
        played.close()
        links.close()


def no_meters(shared: Shared) -> OriginMeters:
    return OriginMeters(shared.cells.slot(0), "x")


# --- the table


def digest(number: int) -> bytes:
    return hashlib.blake2b(b"%d" % number, digest_size=16).digest()


def test_the_first_to_claim_leads_until_it_lands_or_is_not_believed_any_more() -> None:
    table = FlightTable()
    assert table.claim(digest(1), 0, 100.0) is None
    assert table.claim(digest(1), 1, 100.0) == 0
    assert table.claim(digest(1), 0, 100.0) is None, "its own"
    assert table.claim(digest(1), 1, 100.0 + LONGEST) is None, "too long ago"
    table.landed(digest(1), 1, 0.0)
    assert table.claim(digest(1), 0, 100.0) is None


def test_who_has_landed_is_asked_until_the_answer_is_stale_but_stands_in_nobodys_way() -> None:
    table = FlightTable()
    table.claim(digest(1), 0, 100.0)
    table.landed(digest(1), 0, 110.0)
    assert table.claim(digest(1), 1, 109.9) == 0
    assert table.claim(digest(1), 1, 110.1) is None
    table.claim(digest(2), 0, 100.0)
    table.landed(digest(2), 0, 110.0)
    same_cell = digest(2)[:2] + b"x" * 14
    assert table.claim(same_cell, 1, 100.0) is None
    assert table.claim(same_cell, 0, 100.0) == 1, "it took the cell"


def test_two_keys_of_one_cell_do_not_wait_for_each_other() -> None:
    table = FlightTable()
    same_cell = digest(1)[:2] + b"x" * 14
    assert table.claim(digest(1), 0, 100.0) is None
    assert table.claim(same_cell, 1, 100.0) is None
    assert table.claim(digest(1), 1, 100.0) == 0, "it was not taken from it"


def test_a_worker_that_was_asked_in_vain_is_replaced() -> None:
    table = FlightTable()
    table.claim(digest(1), 0, 100.0)
    assert table.claim(digest(1), 1, 100.0, instead_of=0) is None
    assert table.claim(digest(1), 0, 100.0) == 1
    table.clear(1)
    assert table.claim(digest(1), 0, 100.0) is None
