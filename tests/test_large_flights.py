"""Many clients, one cold large object: one origin fetch, each client at its own pace, whatever breaks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from edgeproxy.cache.body import Body
from edgeproxy.cache.entry import Entry
from edgeproxy.clock import steady
from edgeproxy.flight_table import LONGEST
from edgeproxy.machine.large_files import LargeFiles
from edgeproxy.purge_log import PurgeKind
from edgeproxy.server.sibling_door import SiblingExchange
from tests.helpers.edge import PATIENCE, Answer, Client, Running, running, running_workers
from tests.helpers.scripted_origin import Peer, ScriptedOrigin

CONFIG = """
edge: {{id: edge-1, pop: ams}}
server: {{listen: ["127.0.0.1:8080"], workers: {workers}, access_log: {{path: "off"}}}}
admin: {{listen: null}}
cache:
  object_size: 64KiB
  machine: {{path: "{folder}", files: {{max_bytes: {most}, object_size: {size}}}}}
origins: {{main: {{servers: ["{url}"], timeouts: {{connect: 20s, first_byte: 20s}}}}}}
routes: [{{name: all, origin: main, cache: {{ttl: 60s{more}}}}}]
"""
SIZE = 6_000_000
BODY = b"".join(b"%07d\n" % number for number in range(SIZE // 8))
HALF = SIZE // 2


@pytest.fixture(params=["counted", "chunked"])
def framing(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def config(
    url: str, folder: Path, *, workers: int = 1, most: str = "100MiB", size: str = "16MiB", more: str = ""
) -> str:
    return CONFIG.format(
        url=url, folder=folder / "tier", workers=workers, most=most, size=size, more=more and ", " + more
    )


class Download:
    """An origin that sends half of a large body, and the rest when it may. `body` of the n-th request."""

    def __init__(self, framing: str, body: Callable[[int], bytes] = lambda _: BODY) -> None:
        self.requests = 0
        self.half = asyncio.Event()
        self.may = asyncio.Event()
        self.cut = False
        self._framing, self._body = framing, body

    async def script(self, peer: Peer) -> None:
        while True:
            head = await peer.head()
            self.requests += 1
            if b"\r\nrange:" in head.lower():
                await peer.send(b"HTTP/1.1 206 Partial Content\r\nContent-Length: 6\r\n")
                await peer.send(b"Content-Range: bytes 1-6/%d\r\n\r\norigin" % SIZE)
                continue
            body = self._body(self.requests)
            fields = b"Content-Length: %d" % len(body)
            if self._framing == "chunked":
                fields = b"Transfer-Encoding: chunked"
            await peer.send(b'HTTP/1.1 200 OK\r\nETag: "v"\r\n%b\r\n\r\n' % fields)
            await self._send(peer, body[: len(body) // 2])
            self.half.set()
            await self.may.wait()
            if self.cut:
                peer.close()
                return
            await self._send(peer, body[len(body) // 2 :])
            if self._framing == "chunked":
                await peer.send(b"0\r\n\r\n")

    async def _send(self, peer: Peer, data: bytes) -> None:
        for at in range(0, len(data), 100_000):
            piece = data[at : at + 100_000]
            await peer.send(b"%x\r\n%b\r\n" % (len(piece), piece) if self._framing == "chunked" else piece)


@asynccontextmanager
async def one_edge(
    download: Download, folder: Path, door: str, *, size: str = "16MiB", more: str = ""
) -> AsyncGenerator[Running]:
    async with (
        ScriptedOrigin(download.script) as origin,
        running(config(origin.url, folder, size=size, more=more), folder, door) as edge,
    ):
        yield edge


@asynccontextmanager
async def two_workers(download: Download, folder: Path) -> AsyncGenerator[list[Running]]:
    async with (
        ScriptedOrigin(download.script) as origin,
        running_workers(config(origin.url, folder, workers=2), folder, 2) as workers,
    ):
        yield workers


async def begun(edge: Running, *fields: str) -> Client:
    """A client that asked, and has the head of its answer."""
    client = await edge.client()
    client.send("\r\n".join(["GET /a HTTP/1.1", "Host: example.com", *fields, "", ""]).encode())
    await client.head()
    return client


def files(folder: Path, pattern: str = "*") -> list[Path]:
    return [one for one in (folder / "tier" / "files").glob(pattern) if one.name != "lock"]


def large(edge: Running) -> LargeFiles:
    tier = edge.worker.parts.machine
    assert tier is not None
    assert tier.files is not None
    return tier.files


def keep_busy(disk: LargeFiles, until: asyncio.Event) -> None:
    """Its thread does nothing else before the event."""
    loop = asyncio.get_running_loop()
    disk.thread.submit(lambda: asyncio.run_coroutine_threadsafe(until.wait(), loop).result(PATIENCE))


def bodies_of(edge: Running) -> list[Body]:
    """What is being fetched."""
    found = [flight._body for flight in edge.worker.hall.fetcher.flights.flights.values()]
    return [body for body in found if body is not None]


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():
            await asyncio.sleep(0.005)


async def kept(edge: Running) -> Entry:
    await until(lambda: len(edge.worker.parts.store))
    (entry,) = edge.worker.parts.store
    return entry


async def test_who_comes_while_it_is_written_reads_along(tmp_path: Path, door: str, framing: str) -> None:
    download = Download(framing)
    async with one_edge(download, tmp_path, door) as edge:
        early = [asyncio.create_task(edge.ask("/a")) for _ in range(5)]
        await download.half.wait()
        await until(lambda: files(tmp_path, "*.part"))
        late = [asyncio.create_task(edge.ask("/a")) for _ in range(5)]
        await begun(edge)  # whoever reads nothing more holds up nobody
        download.may.set()
        answers = await asyncio.gather(*early, *late)
        assert [answer.body == BODY for answer in answers] == [True] * 10
        assert sum("collapsed" not in answer["cache-status"] for answer in answers) == 1
        assert (await kept(edge)).file is not None
        again = await edge.ask("/a")
        assert again["cache-status"].startswith("edge-1; hit")
        assert (again.body == BODY, again["content-length"]) == (True, str(SIZE))
        assert download.requests == 1
        assert [one.stat().st_size for one in files(tmp_path)] == [SIZE]


async def test_who_comes_between_the_end_and_the_store_reads_along_too(tmp_path: Path, door: str) -> None:
    download = Download("counted")
    download.may.set()
    async with one_edge(download, tmp_path, door) as edge:
        held = asyncio.Event()
        keep_busy(large(edge), held)
        assert (await edge.ask("/a")).body == BODY
        late = asyncio.create_task(edge.ask("/a"))
        await asyncio.sleep(0.02)
        held.set()
        assert (await late).body == BODY
        assert download.requests == 1


async def test_its_first_client_may_leave(tmp_path: Path, door: str) -> None:
    download = Download("counted")
    async with one_edge(download, tmp_path, door) as edge:
        first = await begun(edge)
        await download.half.wait()
        late = asyncio.create_task(edge.ask("/a"))
        await edge.turn()
        first.writer.transport.abort()
        download.may.set()
        assert (await late).body == BODY
        assert (await kept(edge)).file is not None
        assert download.requests == 1


@pytest.mark.parametrize(("framing", "goes_on"), [("counted", True), ("chunked", False)])
async def test_without_clients_it_goes_on_only_when_its_end_is_known(
    tmp_path: Path, door: str, framing: str, goes_on: bool
) -> None:
    download = Download(framing)
    async with one_edge(download, tmp_path, door) as edge:
        client = await begun(edge)
        await download.half.wait()
        client.writer.transport.abort()
        if goes_on:
            download.may.set()
            assert (await kept(edge)).file is not None
        else:
            await until(lambda: not edge.worker.hall.fetcher.flights.flights)
            await until(lambda: not files(tmp_path))
            assert len(edge.worker.parts.store) == 0


async def test_when_the_origin_breaks_off_nobody_takes_it_for_whole(
    tmp_path: Path, door: str, framing: str
) -> None:
    download = Download(framing)
    async with one_edge(download, tmp_path, door) as edge:
        early, waits = asyncio.create_task(edge.ask("/a")), await begun(edge)
        await download.half.wait()
        await until(lambda: files(tmp_path, "*.part"))
        late = asyncio.create_task(edge.ask("/a"))
        await asyncio.sleep(0.02)
        download.cut = True
        download.may.set()
        for task in early, late:
            with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                await task
        assert len(await waits.closed()) < SIZE
        await until(lambda: not files(tmp_path))
        assert len(edge.worker.parts.store) == 0
        download.cut = False
        assert (await edge.ask("/a")).body == BODY


async def test_a_purge_meanwhile_is_about_it_too(tmp_path: Path, door: str, framing: str) -> None:
    download = Download(framing, lambda number: BODY if number == 1 else BODY[::-1])
    async with one_edge(download, tmp_path, door) as edge:
        early = asyncio.create_task(edge.ask("/a"))
        await download.half.wait()
        edge.worker.shared.purge_log.append(PurgeKind.URL, b"example.com/a")
        late = asyncio.create_task(edge.ask("/a"))
        await until(lambda: download.requests == 2)
        download.may.set()
        assert (await early).body == BODY
        assert (await late).body == BODY[::-1]
        await kept(edge)
        await until(lambda: len(files(tmp_path)) == 1)
        again = await edge.ask("/a")
        assert (again.body == BODY[::-1], again["cache-status"][:11]) == (True, "edge-1; hit")


async def test_a_disk_that_is_too_slow_costs_the_file_and_no_byte(
    tmp_path: Path, door: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    download = Download("counted")
    async with one_edge(download, tmp_path, door) as edge:
        early = asyncio.create_task(edge.ask("/a"))
        await download.half.wait()
        await until(lambda: files(tmp_path, "*.part") and not large(edge).behind)
        monkeypatch.setattr("edgeproxy.machine.spool.BEHIND", 1_000_000)
        slow = await begun(edge)
        held = asyncio.Event()
        keep_busy(large(edge), held)
        download.may.set()
        await until(lambda: large(edge).given_up)
        rest = asyncio.create_task(slow.reader.readexactly(SIZE))
        await asyncio.sleep(0.02)
        held.set()
        async with asyncio.timeout(PATIENCE):
            assert (await early).body == BODY
            assert door == "asgi" or await rest == BODY
        await until(lambda: not files(tmp_path))
        assert len(edge.worker.parts.store) == 0


async def test_a_body_without_end_is_not_kept_but_passed_on(tmp_path: Path, door: str) -> None:
    download = Download("chunked")
    download.may.set()
    async with one_edge(download, tmp_path, door, size="4MiB") as edge:
        assert (await edge.ask("/a")).body == BODY
        await until(lambda: not files(tmp_path))
        assert len(edge.worker.parts.store) == 0


async def test_a_body_of_unknown_length_grows_step_by_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeproxy.machine.spool.FIRST", 100_000)
    download = Download("chunked")
    async with one_edge(download, tmp_path, "native") as edge:
        early = asyncio.create_task(edge.ask("/a"))
        await download.half.wait()
        await until(lambda: [one for one in files(tmp_path) if one.stat().st_size >= HALF])
        assert files(tmp_path)[0].stat().st_size < SIZE
        late = asyncio.create_task(edge.ask("/a"))
        download.may.set()
        assert [(await early).body == BODY, (await late).body == BODY] == [True, True]
        await kept(edge)
        assert [one.stat().st_size for one in files(tmp_path)] == [SIZE]


async def test_when_all_room_is_being_written_to_the_next_goes_without(tmp_path: Path) -> None:
    download = Download("counted")
    text = config("{url}", tmp_path, most="16MiB")
    async with (
        ScriptedOrigin(download.script) as origin,
        running(text.replace("{url}", origin.url), tmp_path, "native") as edge,
    ):
        asking = [asyncio.create_task(edge.ask(f"/{number}")) for number in range(3)]
        await until(lambda: large(edge).failed)
        assert sum(one.stat().st_size for one in files(tmp_path)) == 2 * SIZE
        download.may.set()
        assert [answer.body == BODY for answer in await asyncio.gather(*asking)] == [True] * 3
        await until(lambda: len(edge.worker.parts.store) == 2)


def test_the_parts_of_a_worker_that_died_are_removed_and_those_of_others_are_not(tmp_path: Path) -> None:
    one, other = (LargeFiles(tmp_path, 1000, 600, steady) for _ in range(2))
    file = one.create("lives", 400)
    (tmp_path / "dead.part").write_bytes(b"x" * 500)
    (tmp_path / "old").write_bytes(b"x" * 100)
    again = other.create("new", 300)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lives.part", "lock", "new.part", "old"]
    with pytest.raises(OSError, match="max_bytes"):
        other.create("third", 500)
    assert (tmp_path / "old").exists(), "nothing goes where it would not help"
    os.close(file)
    os.close(again)
    one.close()
    other.close()


@pytest.mark.parametrize("asked", ["bytes=0-", "bytes=0-9", "bytes=200000-299999"])
async def test_a_part_that_comes_soon_is_had_from_the_fetch_of_the_whole(
    tmp_path: Path, door: str, asked: str
) -> None:
    download = Download("counted")
    first, last = asked.removeprefix("bytes=").split("-")
    start, end = int(first), int(last or SIZE - 1) + 1
    async with one_edge(download, tmp_path, door) as edge:
        client = await edge.client()
        asking = asyncio.create_task(client.ask("/a", f"Range: {asked}"))
        if end < HALF:
            await asking  # it need not wait for the rest
        download.may.set()
        answer = await asking
        assert (answer.status, answer["content-range"]) == (206, f"bytes {start}-{end - 1}/{SIZE}")
        assert (answer.body == BODY[start:end], answer["etag"]) == (True, '"v"')
        await kept(edge)
        again = await client.ask("/a", "Range: bytes=5-6")
        assert (again.body, again["cache-status"][:11]) == (BODY[5:7], "edge-1; hit")
        assert download.requests == 1


@pytest.mark.parametrize(
    ("fields", "near"),
    [
        (("Range: bytes=1000000-2000000",), True),
        (("Range: bytes=7-7",), True),
        (("Range: bytes=2900000-4000000",), True),
        (("Range: bytes=2900000-", 'If-Range: "v"'), True),
        (("Range: bytes=1-6", 'If-Range: "w"'), False),
        (("Range: bytes=5000000-",), False),
        (("Range: bytes=-6",), False),
        (("Range: bytes=1-6,1000000-1000006",), False),
    ],
)
async def test_a_part_of_what_is_being_written_is_had_from_the_file_when_it_is_near(
    tmp_path: Path, door: str, fields: tuple[str, ...], near: bool
) -> None:
    download = Download("counted")
    async with one_edge(download, tmp_path, door) as edge:
        whole = asyncio.create_task(edge.ask("/a"))
        await until(lambda: [body for body in bodies_of(edge) if body.start == HALF])
        asking = asyncio.create_task(edge.ask("/a", *fields))
        if near:
            await asyncio.sleep(0.02)
            download.may.set()
        answer = await asking
        assert answer.status == 206
        if near:
            first, last = fields[0].removeprefix("Range: bytes=").split("-")
            assert answer.body == BODY[int(first) : int(last or SIZE) + 1]
            assert "collapsed" in answer["cache-status"]
        else:
            assert answer.body == b"origin"
        download.may.set()
        assert (await whole).body == BODY
        assert download.requests == (1 if near else 2)


async def test_a_part_breaks_off_with_the_whole(tmp_path: Path, door: str) -> None:
    download = Download("counted")
    async with one_edge(download, tmp_path, door) as edge:
        asking = asyncio.create_task(edge.ask("/a", "Range: bytes=9-"))
        await download.half.wait()
        download.cut = True
        download.may.set()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await asking
        await until(lambda: not files(tmp_path))


# --- several workers


async def together(*asked: asyncio.Task[Answer]) -> list[bool]:
    return [answer.body == BODY for answer in await asyncio.gather(*asked)]


async def test_workers_share_one_fetch_and_one_file(tmp_path: Path, framing: str) -> None:
    download = Download(framing)
    async with two_workers(download, tmp_path) as (one, two):
        early = [asyncio.create_task(edge.ask("/a")) for edge in (one, two) for _ in range(3)]
        await download.half.wait()
        await until(lambda: files(tmp_path, "*.part"))
        late = [asyncio.create_task(edge.ask("/a")) for edge in (one, two) for _ in range(3)]
        await asyncio.sleep(0.05)
        assert len(files(tmp_path)) == 1
        download.may.set()
        assert await together(*early, *late) == [True] * 12
        await until(lambda: len(one.worker.parts.store) + len(two.worker.parts.store))
        assert await together(*[asyncio.create_task(edge.ask("/a")) for edge in (one, two)]) == [True, True]
        assert download.requests == 1
        assert len(files(tmp_path)) == 1


async def test_a_slow_client_of_another_worker_holds_up_nobody(tmp_path: Path) -> None:
    download = Download("counted")
    async with two_workers(download, tmp_path) as (one, two):
        first = asyncio.create_task(one.ask("/a"))
        await download.half.wait()
        slow = await begun(two)
        fast = asyncio.create_task(two.ask("/a"))
        await asyncio.sleep(0.05)
        late = asyncio.create_task(two.ask("/a"))
        download.may.set()
        assert await together(first, fast, late) == [True] * 3
        assert await slow.reader.readexactly(SIZE) == BODY
        assert download.requests == 1


async def test_a_part_is_had_from_the_fetch_of_another_worker(tmp_path: Path) -> None:
    download = Download("counted")
    async with two_workers(download, tmp_path) as (one, two):
        whole = asyncio.create_task(one.ask("/a"))
        await download.half.wait()
        part = await two.ask("/a", "Range: bytes=100-199")
        assert (part.status, part.body) == (206, BODY[100:200])
        download.may.set()
        assert (await whole).body == BODY
        assert download.requests == 1


async def test_a_fetch_that_takes_long_is_not_begun_again(tmp_path: Path) -> None:
    download = Download("counted")
    async with two_workers(download, tmp_path) as (one, two):
        first = asyncio.create_task(one.ask("/a"))
        await download.half.wait()
        later = steady() + LONGEST - 1
        one.worker.hall.fetcher.sweep(later)
        two.worker.hall.fetcher.clock = lambda: later + 2
        late = asyncio.create_task(two.ask("/a"))
        await asyncio.sleep(0.05)
        download.may.set()
        assert await together(first, late) == [True, True]
        assert download.requests == 1


@pytest.mark.parametrize("how", ["origin breaks off", "worker dies"])
async def test_clients_of_another_worker_see_it_broken_too(tmp_path: Path, how: str) -> None:
    download = Download("counted")
    async with two_workers(download, tmp_path) as (one, two):
        first = asyncio.create_task(one.ask("/a"))
        await download.half.wait()
        far = asyncio.create_task(two.ask("/a"))
        slow = await begun(two)
        await asyncio.sleep(0.05)
        if how == "worker dies":
            links = one.worker.shared.links
            assert links is not None
            for connection in links_of(one):
                connection.abort()
            links.flights.clear(0)
        else:
            download.cut = True
            download.may.set()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await far
        assert len(await slow.closed()) < SIZE
        download.cut = False
        download.may.set()
        assert (await two.ask("/a")).body == BODY
        first.cancel()


def links_of(edge: Running) -> list[asyncio.Transport]:
    """The connections of other workers to this one that read along."""
    doors = [reader.door for body in bodies_of(edge) for reader in body.readers if reader.filed]
    return [door._protocol.transport for door in doors if isinstance(door, SiblingExchange)]


async def test_a_worker_that_reads_along_makes_the_origin_wait_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    download = Download("counted")
    async with two_workers(download, tmp_path) as (one, two):
        first = asyncio.create_task(one.ask("/a"))
        await download.half.wait()
        far = asyncio.create_task(two.ask("/a"))
        await until(lambda: links_of(one) and not large(one).behind)
        monkeypatch.setattr("edgeproxy.machine.spool.BEHIND", 50_000)
        monkeypatch.setattr("edgeproxy.machine.spool.LENT_BEHIND", 100_000)
        held = asyncio.Event()
        keep_busy(large(one), held)
        download.may.set()
        await asyncio.sleep(0.05)
        assert large(one).behind < 1_000_000
        held.set()
        assert await together(first, far) == [True, True]
        assert (large(one).given_up, download.requests) == (0, 1)


async def test_a_file_that_cannot_be_read_by_another_worker_costs_it_the_sharing_only(
    tmp_path: Path,
) -> None:
    download = Download("counted")
    async with two_workers(download, tmp_path) as (one, two):
        large(two).folder = str(tmp_path / "elsewhere")
        first = asyncio.create_task(one.ask("/a"))
        await download.half.wait()
        far = [asyncio.create_task(two.ask("/a")) for _ in range(2)]
        await asyncio.sleep(0.05)
        late = asyncio.create_task(two.ask("/a"))
        download.may.set()
        assert await together(first, late, *far) == [True] * 4
        assert download.requests == 1
