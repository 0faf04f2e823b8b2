"""Faults of the disk under a real edge of two workers: they cost the cache, and serving goes on."""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from edgeproxy.cache.machine import PAUSES
from edgeproxy.clock import steady
from tests.helpers.scripted_origin import Peer, ScriptedOrigin
from tests.server import test_machine_workers as machine
from tests.server.test_large_workers import FILES

SIZE = 8_000_000
BODY = b"".join(b"%07d\n" % number for number in range(SIZE // 8))


async def says_much(peer: Peer) -> None:
    while True:
        await peer.head()
        head = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nContent-Length: %d\r\n\r\n" % SIZE
        await peer.send(head + BODY)


async def test_a_file_made_shorter_while_it_is_served_breaks_one_answer_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "CONFIG", machine.CONFIG.replace('machine: {{path: "{folder}", ', FILES))
    async with ScriptedOrigin(says_much) as origin, machine.started(tmp_path, origin) as edge:
        assert edge.process is not None

        async def ask(*fields: tuple[str, str]) -> bytes:
            url = f"http://127.0.0.1:{edge.port}/a"
            return (await edge.client.get(url, headers=list(fields))).content

        assert await ask() == BODY
        await edge.until('edgeproxy_cache_files_total{result="stored"}', 1)
        workers = children(edge.process.pid)
        slow = await _slow_reader(edge.port)
        (file,) = [one for one in (edge.cache / "files").iterdir() if one.name != "lock"]
        os.truncate(file, 4096)
        ranges = [ask(("Range", f"bytes={at}-{at + size}")) for at in range(9) for size in (9, 90_000)]
        for at, found in enumerate(await asyncio.gather(*ranges)):
            assert found == BODY[at // 2 : at // 2 + (9 if at % 2 == 0 else 90_000) + 1]
        assert await ask() == BODY
        assert len(await _rest(slow)) < SIZE
        assert children(edge.process.pid) == workers, "nobody was ended by a signal"
        await edge.until('edgeproxy_cache_files_total{result="lost"}', 1)


def objects(edge: machine.Edge) -> Path:
    return next(one for one in edge.cache.iterdir() if re.fullmatch(r"objects\.\d+", one.name))


def spoil(edge: machine.Edge) -> None:
    chance = random.Random(1)
    with objects(edge).open("r+b") as file:
        for page in range(2, file.seek(0, os.SEEK_END) // 4096):
            file.seek(page * 4096)
            file.write(chance.randbytes(4096))


SMALL = "memory: 32KiB, object_size: 16KiB, machine: {{"  # nearly every look-up goes to the machine tier
REMADE = 'edgeproxy_cache_machine_remade_total{reason="damaged"}'


async def says_its_path(peer: Peer) -> None:
    while True:
        head, _ = await peer.request()
        body = text_of(head.split(b" ")[1])
        head = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nContent-Length: %d\r\n\r\n" % len(body)
        await peer.send(head + body)


def text_of(path: bytes) -> bytes:
    return path * (200_000 if b"large" in path else 300)


async def wrong(edge: machine.Edge, *paths: str) -> list[str]:
    """Those paths that get anything but the right answer."""
    found: list[str] = []
    for path in paths:
        try:
            answer = await edge.client.get(f"http://127.0.0.1:{edge.port}{path}")
        except httpx.TransportError as error:
            found.append(f"{path}: {error!r}")
        else:
            if answer.status_code != 200 or answer.content != text_of(path.encode()):
                found.append(f"{path}: {answer.status_code}")
    return found


@pytest.mark.parametrize(
    ("fault", "may_die"),
    [
        pytest.param(lambda edge: os.truncate(objects(edge), 0), 0, id="cut off"),
        pytest.param(lambda edge: os.truncate(objects(edge), 8192), 0, id="cut short"),
        pytest.param(spoil, 2, id="garbage"),  # a page of LMDB may be trusted too far
    ],
)
async def test_a_file_of_the_machine_tier_that_is_spoilt_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[machine.Edge], None], may_die: int
) -> None:
    monkeypatch.setattr(machine, "CONFIG", machine.CONFIG.replace("machine: {{", SMALL))
    paths = [f"/{number}" for number in range(40)]
    async with ScriptedOrigin(says_its_path) as origin, machine.started(tmp_path, origin) as edge:
        assert edge.process is not None
        assert await wrong(edge, *paths) == []
        await edge.until("edgeproxy_cache_machine_entries", len(paths))
        workers = children(edge.process.pid)
        fault(edge)
        failed = await wrong(edge, *paths, *paths)
        assert len(failed) <= may_die
        if not may_die:
            await edge.until(REMADE, 1)
            assert children(edge.process.pid) == workers, "nobody was ended by a signal"
            assert said(edge, "made anew") == 1
            assert 1 <= said(edge, "left alone for a while") <= 2, "each worker says it once"
        async with asyncio.timeout(machine.PATIENCE):
            while not await edge.metric("edgeproxy_cache_machine_entries"):
                assert await wrong(edge, *paths) == []
        assert await wrong(edge, *paths) == []


async def test_a_folder_that_is_removed_costs_what_was_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "CONFIG", machine.CONFIG.replace('machine: {{path: "{folder}", ', FILES))
    async with ScriptedOrigin(says_its_path) as origin, machine.started(tmp_path, origin) as edge:
        assert await wrong(edge, "/large/1", "/1") == []
        await edge.until('edgeproxy_cache_files_total{result="stored"}', 1)
        shutil.rmtree(edge.cache)
        assert await wrong(edge, "/large/1", "/large/2", "/1", "/2") == []
        await edge.until('edgeproxy_cache_files_total{result="stored"}', 2)
        assert await wrong(edge, "/large/1", "/large/2", "/1", "/2") == []
        assert said(edge, "WARNING edgeproxy.large") == 0


async def test_a_file_of_rate_limits_made_shorter_ends_each_worker_once_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = "rate_limit_table: {{file: {folder}-limits}}\nrate_limits: {{all: {{rate: 1000/s}}}}\nroutes: "
    config = machine.CONFIG.replace("routes: ", limited)
    config = config.replace("origin: main}}]", "origin: main, policies: [{{rate_limit: all}}]}}]")
    monkeypatch.setattr(machine, "CONFIG", config)
    paths = [f"/{number}" for number in range(20)]
    async with ScriptedOrigin(says_its_path) as origin, machine.started(tmp_path, origin) as edge:
        assert await wrong(edge, *paths) == []
        os.truncate(f"{edge.cache}-limits", 0)
        await wrong(edge, *paths)
        async with asyncio.timeout(machine.PATIENCE):
            while await wrong(edge, *paths):
                pass
        assert await edge.metric("edgeproxy_worker_restarts_total") <= 2
        assert said(edge, "what was counted there is lost") == 1


class OnAFullDisk(machine.Edge):
    """Its folder is a file system of its own, which nobody else sees."""

    def begin(self) -> None:
        self.cache.mkdir()
        run = f"{sys.executable} -m edgeproxy run --config {self.folder / 'edge.yaml'}"
        command = f"mount -t tmpfs -o size=320k tmpfs {self.cache} && exec {run}"
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", command], stderr=log, stdout=log, start_new_session=True
            )


def may_mount(folder: Path) -> bool:
    command = f"unshare --mount mount -t tmpfs -o size=1m tmpfs {folder}".split()
    return shutil.which("unshare") is not None and not subprocess.call(command, stderr=subprocess.DEVNULL)


async def test_a_disk_that_is_full_costs_what_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not await asyncio.to_thread(may_mount, tmp_path):
        pytest.skip("needs the right to mount")
    monkeypatch.setattr(machine, "CONFIG", machine.CONFIG.replace('machine: {{path: "{folder}", ', FILES))
    monkeypatch.setattr(machine, "Edge", OnAFullDisk)
    paths = [f"/{number}" for number in range(300)]
    async with ScriptedOrigin(says_its_path) as origin, machine.started(tmp_path, origin) as edge:
        assert edge.process is not None
        began = steady()
        workers = children(edge.process.pid)
        assert await wrong(edge, *paths, "/large/1", "/large/2", *paths) == []
        await edge.until('edgeproxy_cache_machine_errors_total{kind="disk"}', 1)
        await edge.until('edgeproxy_cache_files_total{result="failed"}', 1)
        assert said(edge, "WARNING edgeproxy.large") <= 2
        pauses = 2 * (1 + (steady() - began) / PAUSES[0])
        assert said(edge, "left alone for a while") <= pauses, "one for each pause of each worker"
        assert await wrong(edge, *paths[:50], "/large/1") == []
        assert children(edge.process.pid) == workers


def said(edge: machine.Edge, what: str) -> int:
    return sum(what in line for line in (edge.folder / "log").read_text().splitlines())


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


async def _slow_reader(port: int) -> socket.socket:
    """It has asked, and read nothing but the beginning."""
    loop, made = asyncio.get_running_loop(), socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.setblocking(False)
    await loop.sock_connect(made, ("127.0.0.1", port))
    await loop.sock_sendall(made, b"GET /a HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % port)
    assert (await loop.sock_recv(made, 100)).startswith(b"HTTP/1.1 200")
    return made


async def _rest(reader: socket.socket) -> bytes:
    loop, found = asyncio.get_running_loop(), b""
    async with asyncio.timeout(machine.PATIENCE):
        try:
            while data := await loop.sock_recv(reader, 2**20):
                found += data
        except ConnectionResetError:
            pass
    reader.close()
    return found
