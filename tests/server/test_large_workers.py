"""Two real workers, one large body, and kill -9 for the one that fetches it."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import httpx
import pytest

from tests.helpers.scripted_origin import Peer, ScriptedOrigin
from tests.server import test_machine_workers as machine

SIZE = 8_000_000
BODY = b"".join(b"%07d\n" % number for number in range(SIZE // 8))
FILES = 'object_size: 64KiB, machine: {{path: "{folder}", files: {{max_bytes: 100MiB, object_size: 16MiB}}, '


def writer_of(part: Path, supervisor: int) -> int:
    """The process below the supervisor that has the file open for writing."""
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    for child in children:
        for link in Path(f"/proc/{child}/fd").iterdir():
            info = link.parents[1] / "fdinfo" / link.name
            if link.exists() and link.resolve() == part:
                flags = info.read_text().partition("flags:")[2].split()[0]
                if int(flags, 8) & os.O_RDWR:
                    return int(child)
    raise AssertionError("nobody writes it")


async def test_when_the_worker_that_fetches_is_killed_nobody_takes_a_part_for_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may, requests = asyncio.Event(), 0

    async def script(peer: Peer) -> None:
        nonlocal requests
        while True:
            await peer.head()
            requests += 1
            await peer.send(
                b"HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nContent-Length: %d\r\n\r\n" % SIZE
            )
            await peer.send(BODY[: SIZE // 2])
            await may.wait()
            await peer.send(BODY[SIZE // 2 :])

    config = machine.CONFIG.replace('machine: {{path: "{folder}", ', FILES)
    monkeypatch.setattr(machine, "CONFIG", config)
    async with ScriptedOrigin(script) as origin, machine.started(tmp_path, origin) as edge:

        async def ask() -> str:
            try:
                answer = await edge.client.get(f"http://127.0.0.1:{edge.port}/a")
            except httpx.TransportError:
                return "broken"
            return "whole" if answer.content == BODY else "wrong"

        assert edge.process is not None
        asking = [asyncio.create_task(ask()) for _ in range(12)]
        async with asyncio.timeout(machine.PATIENCE):
            while not (parts := list((edge.cache / "files").glob("*.part"))):
                await asyncio.sleep(0.02)
        asking += [asyncio.create_task(ask()) for _ in range(12)]
        await asyncio.sleep(0.5)
        assert requests == 1
        os.kill(writer_of(parts[0], edge.process.pid), signal.SIGKILL)
        may.set()
        results = await asyncio.gather(*asking)
        assert "broken" in results
        assert "wrong" not in results
        assert [await ask() for _ in range(4)] == ["whole"] * 4
        assert requests == 2
        assert not parts[0].exists()
        edge.end(signal.SIGTERM)
