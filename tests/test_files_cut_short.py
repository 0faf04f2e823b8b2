"""The file of a large body is made shorter by somebody else: it costs the object, never the worker.

What reads a mapping where the file has ended is killed by SIGBUS: without the care taken these tests do not
fail, they end the process.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from pathlib import Path

import pytest

from edgeproxy.cache.body_file import BodyFile
from edgeproxy.http.pieces import copies_of, pieces_of
from edgeproxy.http.wire import JOIN_BELOW
from edgeproxy.machine.large_files import LargeFiles
from edgeproxy.machine.spool import Borrowed, Spool
from tests.helpers.edge import PATIENCE, running
from tests.helpers.scripted_origin import ScriptedOrigin
from tests.test_large_files import BODY, SIZE, config, counting, files, kept, large

ASKED = {
    "the whole": [],
    "a short range": ["Range: bytes=600000-600009"],
    "a long range": ["Range: bytes=400000-600000"],
    "several ranges": ["Range: bytes=0-9,300000-300009,600000-600009"],
    "several long ranges": ["Range: bytes=0-99999,400000-600009"],
}


@pytest.mark.parametrize("fields", ASKED.values(), ids=ASKED)
@pytest.mark.parametrize("left", [0, SIZE - 1])
async def test_a_file_made_shorter_is_a_miss_said_once(
    tmp_path: Path, door: str, left: int, fields: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[bytes] = []
    async with (
        ScriptedOrigin(counting(large(), asked)) as origin,
        running(config(origin.url, tmp_path), tmp_path, door) as edge,
    ):
        whole = await edge.ask("/a")
        await kept(edge)
        before = await edge.ask("/a", *fields)
        os.truncate(files(tmp_path)[0], left)
        with caplog.at_level(logging.WARNING):
            after = [await edge.ask("/a") for _ in range(3)]
        assert [one.body for one in after] == [whole.body] * 3
        assert len(asked) == 2
        assert edge.worker.parts.machine is not None
        assert edge.worker.parts.machine.files is not None
        assert edge.worker.parts.machine.files.lost == 1
        assert [one.message for one in caplog.records if "lost" in one.message] == [caplog.messages[0]]
        await kept(edge)
        again = await edge.ask("/a", *fields)
        assert (again.status, len(again.body)) == (before.status, len(before.body))
        assert again["cache-status"].startswith("edge-1; hit")


async def test_after_a_restart_it_is_a_miss_too(tmp_path: Path) -> None:
    asked: list[bytes] = []
    async with ScriptedOrigin(counting(large(), asked)) as origin:
        text = config(origin.url, tmp_path)
        async with running(text, tmp_path, "native") as edge:
            await edge.ask("/a")
            await kept(edge)
        os.truncate(files(tmp_path)[0], 4096)
        async with running(text, tmp_path, "native") as edge:
            assert (await edge.ask("/a")).body == BODY
            assert (len(asked), len(await _until_files(tmp_path, 1))) == (2, 1)


async def _until_files(folder: Path, count: int) -> list[Path]:
    async with asyncio.timeout(PATIENCE):
        while len(found := files(folder)) != count:
            await asyncio.sleep(0.005)
    return found


async def test_who_reads_it_at_that_moment_sees_it_broken_off(tmp_path: Path) -> None:
    body = b"x" * 30_000_000
    async with ScriptedOrigin(counting(large(body=body), [])) as origin:
        text = config(origin.url, tmp_path, most="100MiB").replace("object_size: 1MiB", "object_size: 40MiB")
        async with running(text, tmp_path, "asgi") as edge:
            await edge.ask("/a")
            await kept(edge)
            slow = await edge.client(receives=65536)
            slow.send(b"GET /a HTTP/1.1\r\nHost: example.com\r\n\r\n")
            await slow.head()
            os.truncate(files(tmp_path)[0], 4096)
            assert len(await slow.closed()) < len(body)
            assert (await edge.ask("/a")).body == body


async def test_what_is_being_written_is_given_up(tmp_path: Path) -> None:
    """What was cut off would be a hole in the body that is published."""
    store = LargeFiles(tmp_path, 10_000_000, 1_000_000, lambda: 0.0)
    results: list[BodyFile | None] = []
    for late in (False, True):
        spool = Spool(store, 200_000)
        spool.add(b"a" * 100_000)
        store.thread.submit(int).result(PATIENCE)
        if not late:
            os.truncate(tmp_path / f"{spool.name}.part", 10)
        spool.add(b"b" * 100_000)
        store.thread.submit(int).result(PATIENCE)
        if late:
            os.truncate(tmp_path / f"{spool.name}.part", 10)
            with pytest.raises(EOFError):
                spool.read(0, 1000)
        spool.finish(results.append)
        store.thread.submit(int).result(PATIENCE)
        await asyncio.sleep(0)
    assert results == [None, None]
    assert store.failed == 2
    assert os.listdir(tmp_path) == ["lock"]
    store.close()


async def test_who_reads_along_hears_that_it_ends_early(tmp_path: Path) -> None:
    (tmp_path / "a.part").write_bytes(b"x" * 1000)
    borrowed = Borrowed(str(tmp_path), "a")
    borrowed.add(b"x" * 1000)
    assert borrowed.read(0, 1000) == b"x" * 1000
    os.truncate(tmp_path / "a.part", 500)
    with pytest.raises(EOFError):
        borrowed.read(0, 1000)
    empty = Borrowed(str(tmp_path), "b")
    (tmp_path / "b.part").touch()
    empty.add(b"x")
    assert empty.given_up


@pytest.mark.parametrize("size", [1, JOIN_BELOW, JOIN_BELOW + 1, 200_000])
def test_a_body_in_a_file_stands_where_bytes_stand(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "a").write_bytes(content)
    body = BodyFile(str(tmp_path), "a", size, lambda _name: None).body
    assert len(body) == size
    assert b"".join(pieces_of(body)) == content
    assert [len(one) <= 1000 for one in copies_of(body, 1000)] == [True] * -(-size // 1000)
    for start, end in (0, size), (1, size - 1), (size // 2, size), (0, JOIN_BELOW), (size, size), (5, 2):
        assert b"".join(copies_of(body[start:end], 70_000)) == content[start:end]


def test_its_descriptors_are_closed_with_it(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(200_000))
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    file = BodyFile(str(tmp_path), "a", 200_000, lambda _name: None)
    assert len(os.listdir("/proc/self/fd")) > before
    del file
    with pytest.raises(ValueError, match="a"):
        BodyFile(str(tmp_path), "a", 200_001, lambda _name: None)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
