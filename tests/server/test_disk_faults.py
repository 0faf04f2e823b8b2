"""Faults of the disk under a real edge of two workers: they cost the cache, and serving goes on."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

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
