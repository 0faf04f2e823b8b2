"""Bodies too large for memory: written to files while clients read along, served from them, bounded."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from edgeproxy.cache.entry import Entry
from edgeproxy.machine.large_files import LargeFiles
from edgeproxy.server.protocol import EdgeProtocol
from tests.helpers.edge import PATIENCE, Running, running
from tests.helpers.scripted_origin import Peer, Script, ScriptedOrigin

CONFIG = """
edge: {{id: edge-1, pop: ams}}
server: {{listen: ["127.0.0.1:8080"], workers: {workers}, access_log: {{path: "off"}}}}
admin: {{listen: null}}
cache: {{object_size: 64KiB, machine: {{path: "{folder}", files: {{max_bytes: {most}, object_size: 1MiB}}}}}}
origins: {{main: {{servers: ["{url}"], timeouts: {{connect: 20s, first_byte: 20s}}}}}}
routes: [{{name: all, origin: main, cache: {{ttl: 60s}}}}]
"""
SIZE = 700_000
BODY = bytes(range(256)) * (SIZE // 256) + b"x" * (SIZE % 256)


def config(url: str, folder: Path, *, workers: int = 1, most: str = "10MiB") -> str:
    return CONFIG.format(url=url, folder=folder / "tier", workers=workers, most=most)


def large(*fields: str, body: bytes = BODY, length: int | None = None) -> bytes:
    said = len(body) if length is None else length
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {said}", 'ETag: "v1"', *fields]
    return "\r\n".join([*lines, "", ""]).encode() + body


def counting(answer: bytes, asked: list[bytes]) -> Script:
    async def script(peer: Peer) -> None:
        while True:
            asked.append(await peer.head())
            if b"if-none-match" in asked[-1].lower():
                await peer.send(b'HTTP/1.1 304 Not Modified\r\nETag: "v1"\r\n\r\n')
                continue
            await peer.send(answer)

    return script


async def kept(edge: Running) -> Entry:
    """The entry, once its file is there."""
    async with asyncio.timeout(PATIENCE):
        while not (entries := list(edge.worker.parts.store)):
            await asyncio.sleep(0.005)
    return entries[0]


def files(folder: Path) -> list[Path]:
    return [one for one in (folder / "tier" / "files").iterdir() if one.name != "lock"]


async def test_a_large_body_is_kept_in_a_file_and_served_from_it(tmp_path: Path, door: str) -> None:
    asked: list[bytes] = []
    async with (
        ScriptedOrigin(counting(large(), asked)) as origin,
        running(config(origin.url, tmp_path), tmp_path, door) as edge,
    ):
        first = await edge.ask("/a")
        assert first.body == BODY
        assert "stored" in first["cache-status"]
        entry = await kept(edge)
        assert entry.file is not None
        assert entry.size < 100_000
        again = await edge.ask("/a")
        assert again.body == BODY
        assert again["cache-status"].startswith("edge-1; hit")
        assert len(asked) == 1
        assert [one.stat().st_size for one in files(tmp_path)] == [SIZE]


@pytest.mark.parametrize(
    ("field", "status", "body"),
    [
        ("Range: bytes=10-19", 206, BODY[10:20]),
        ("Range: bytes=-5", 206, BODY[-5:]),
        ("Range: bytes=100000-", 206, BODY[100_000:]),
        ("Range: bytes=900000-", 416, None),
        ("Range: bytes=1-600000,700000-800000,2-600001", 206, BODY[1:600_002]),  # A71: one part is left
        ("Range: bytes=" + ",".join(f"{at}-{at}" for at in range(0, 6000, 1000)), 200, BODY),  # A71
        ("Range: bytes=0-300000,300100-699999", 200, BODY),  # more than the whole
        ('If-None-Match: "v1"', 304, b""),
        ('If-Range: "v2"\r\nRange: bytes=0-1', 200, BODY),
    ],
)
async def test_parts_and_conditions_are_answered_from_the_file(
    tmp_path: Path, door: str, field: str, status: int, body: bytes | None
) -> None:
    asked: list[bytes] = []
    async with (
        ScriptedOrigin(counting(large(), asked)) as origin,
        running(config(origin.url, tmp_path), tmp_path, door) as edge,
    ):
        await edge.ask("/a")
        await kept(edge)
        answer = await edge.ask("/a", field)
        assert answer.status == status
        assert body is None or answer.body == body
        assert len(asked) == 1


@pytest.mark.parametrize("object_size", ["64KiB", "8MiB"], ids=["from the file", "from memory"])
@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([(0, 2), (500_000, 500_002), (SIZE - 3, SIZE)], id="small"),
        pytest.param([(0, 300_000), (400_000, SIZE - 1000)], id="large"),
    ],
)
async def test_several_parts_are_a_multipart(
    tmp_path: Path, door: str, object_size: str, parts: list[tuple[int, int]]
) -> None:
    """RFC 9110 §14.6."""
    asked: list[bytes] = []
    kind = "text/plain; charset=utf-8"
    async with ScriptedOrigin(counting(large(f"Content-Type: {kind}"), asked)) as origin:
        text = config(origin.url, tmp_path).replace("object_size: 64KiB", f"object_size: {object_size}")
        async with running(text, tmp_path, door) as edge:
            await edge.ask("/a")
            await kept(edge)
            client = await edge.client()
            wanted = ",".join(f"{start}-{end - 1}" for start, end in parts)
            answer = await client.ask("/a", f"Range: bytes={wanted}")
            assert (answer.status, answer["cache-status"][:11]) == (206, "edge-1; hit")
            assert "content-range" not in dict(answer.fields)
            prefix, _, boundary = answer["content-type"].partition("; boundary=")
            assert prefix == "multipart/byteranges"
            *found, last = answer.body.split(b"\r\n--" + boundary.encode())[1:]
            assert last == b"--\r\n"
            for one, (start, end) in zip(found, parts, strict=True):
                head, _, body = one.partition(b"\r\n\r\n")
                said = f"Content-Type: {kind}\r\nContent-Range: bytes {start}-{end - 1}/{SIZE}"
                assert head == b"\r\n" + said.encode()
                assert body == BODY[start:end]
            assert (await client.ask("/a", "Range: bytes=0-0")).body == BODY[:1], "the connection is intact"
            assert len(asked) == 1


async def test_head_is_answered_from_it(tmp_path: Path, door: str) -> None:
    async with (
        ScriptedOrigin(counting(large(), [])) as origin,
        running(config(origin.url, tmp_path), tmp_path, door) as edge,
    ):
        await edge.ask("/a")
        await kept(edge)
        answer = await edge.ask("/a", method="HEAD")
        assert (answer["content-length"], answer["cache-status"][:11]) == (str(SIZE), "edge-1; hit")


async def test_a_304_of_the_origin_renews_it_without_another_transfer(tmp_path: Path, door: str) -> None:
    asked: list[bytes] = []
    async with (
        ScriptedOrigin(counting(large(), asked)) as origin,
        running(config(origin.url, tmp_path), tmp_path, door) as edge,
    ):
        await edge.ask("/a")
        await kept(edge)
        answer = await edge.ask("/a", "Cache-Control: no-cache")
        assert (answer.body, len(asked)) == (BODY, 2)
        assert "fwd-status=304" in answer["cache-status"]
        assert (await edge.ask("/a")).body == BODY
        assert len(asked) == 2


async def test_who_wants_a_part_of_what_is_not_there_does_not_wait_for_the_whole(
    tmp_path: Path, door: str
) -> None:
    asked: list[bytes] = []

    async def script(peer: Peer) -> None:
        while True:
            asked.append(await peer.head())
            if b"range:" in asked[-1].lower():
                await peer.send(
                    b"HTTP/1.1 206 Partial Content\r\nContent-Length: 2\r\n"
                    b"Content-Range: bytes 600000-600001/%d\r\n\r\nab" % SIZE
                )
            else:
                await peer.send(large())

    async with (
        ScriptedOrigin(script) as origin,
        running(config(origin.url, tmp_path), tmp_path, door) as edge,
    ):
        answer = await edge.ask("/a", "Range: bytes=600000-600001")
        assert (answer.status, answer.body) == (206, b"ab")
        await kept(edge)  # the whole was fetched behind
        assert (await edge.ask("/a", "Range: bytes=2-4")).body == BODY[2:5]


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(large(body=BODY[:-1], length=SIZE), id="truncated"),
        pytest.param(large(body=b"x" * 1_100_000), id="above the largest"),
        pytest.param(large("Cache-Control: no-store"), id="no-store"),
    ],
)
async def test_what_may_not_be_kept_leaves_no_file(tmp_path: Path, answer: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(answer)
        peer.close()

    async with (
        ScriptedOrigin(script) as origin,
        running(config(origin.url, tmp_path), tmp_path, "native") as edge,
    ):
        client = await edge.client()
        client.send(b"GET /a HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n")
        await client.closed()
        tier = edge.worker.parts.machine
        assert tier is not None
        assert tier.files is not None
        tier.files.thread.submit(int).result(PATIENCE)  # all that was to be done is done
        assert files(tmp_path) == []
        assert len(edge.worker.parts.store) == 0


async def test_the_oldest_goes_when_there_is_no_room(tmp_path: Path) -> None:
    async with (
        ScriptedOrigin(counting(large(), [])) as origin,
        running(config(origin.url, tmp_path, most="2MiB"), tmp_path, "native") as edge,
    ):
        for number in range(6):
            assert (await edge.ask(f"/{number}")).body == BODY
            async with asyncio.timeout(PATIENCE):
                while len(edge.worker.parts.store) <= number:
                    await asyncio.sleep(0.005)
        assert sum(one.stat().st_size for one in files(tmp_path)) <= 2 * 2**20
        assert (await edge.ask("/0")).body == BODY, "who holds it can still read it"


async def test_a_disk_that_refuses_costs_the_file_and_no_answer(tmp_path: Path, door: str) -> None:
    async with (
        ScriptedOrigin(counting(large(), [])) as origin,
        running(config(origin.url, tmp_path), tmp_path, door) as edge,
    ):
        tier = edge.worker.parts.machine
        assert tier is not None
        assert tier.files is not None
        (tmp_path / "file").touch()
        tier.files.folder = str(tmp_path / "file")
        assert (await edge.ask("/a")).body == BODY
        async with asyncio.timeout(PATIENCE):
            while not tier.files.failed:
                await asyncio.sleep(0.005)
        assert (await edge.ask("/a")).body == BODY
        assert not tier.files.takes(SIZE), "it is left alone for a while"


async def test_it_is_there_after_a_restart(tmp_path: Path) -> None:
    asked: list[bytes] = []
    async with ScriptedOrigin(counting(large(), asked)) as origin:
        text = config(origin.url, tmp_path)
        async with running(text, tmp_path, "native") as edge:
            await edge.ask("/a")
            await kept(edge)
        async with running(text, tmp_path, "native") as edge:
            answer = await edge.ask("/a")
        assert (answer.body, len(asked)) == (BODY, 1)
        assert answer["cache-status"].startswith("edge-1; hit")
        for one in files(tmp_path):
            one.unlink()
        async with running(text, tmp_path, "native") as edge:
            assert (await edge.ask("/a")).body == BODY, "a file that is gone is a miss"
        assert len(asked) == 2


async def test_a_slow_disk_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeproxy.machine.spool.BEHIND", 1000)
    async with (
        ScriptedOrigin(counting(large(), [])) as origin,
        running(config(origin.url, tmp_path), tmp_path, "native") as edge,
    ):
        tier = edge.worker.parts.machine
        assert tier is not None
        assert tier.files is not None
        answered = threading.Event()
        held = tier.files.thread.submit(answered.wait, PATIENCE)
        assert (await edge.ask("/a")).body == BODY
        answered.set()
        assert held.result(PATIENCE)
        assert tier.files.given_up == 1
        assert len(edge.worker.parts.store) == 0


def test_room_is_made_before_the_first_byte(tmp_path: Path) -> None:
    store = LargeFiles(tmp_path, 1000, 600, lambda: 0.0)
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"x" * 400)
    os.utime(tmp_path / "a", (1, 1))
    os.close(store.create("c", 500))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["b", "c.part", "lock"]
    store.close()


async def test_a_client_that_reads_slowly_is_waited_for_and_one_that_does_not_is_not(tmp_path: Path) -> None:
    body = b"x" * 30_000_000
    async with ScriptedOrigin(counting(large(body=body), [])) as origin:
        text = config(origin.url, tmp_path, most="100MiB").replace("object_size: 1MiB", "object_size: 40MiB")
        async with running(text, tmp_path, "native") as edge:
            await edge.ask("/a")
            await kept(edge)
            client = await edge.client()
            client.send(b"GET /a HTTP/1.1\r\nHost: example.com\r\n\r\n")
            await client.head()
            (connection,) = [
                one
                for one in edge.worker.hall.connections
                if isinstance(one, EdgeProtocol) and one.flow.write_paused
            ]
            for _ in range(3):
                await client.reader.readexactly(3_000_000)
                connection.on_deadline()
                assert not connection.transport.is_closing()
            before = connection.unsent
            while True:  # what is still on its way arrives
                await asyncio.sleep(0.01)
                connection.on_deadline()
                if connection.transport.is_closing():
                    break
                assert connection.unsent < before
                before = connection.unsent
