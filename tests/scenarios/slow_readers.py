"""A thousand clients that ask for a megabyte and read next to nothing: what do the others notice?"""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from pathlib import Path

from tests.scenarios.edge import Edge, running_edge, until_open
from tests.scenarios.load import Load, Seen, percentile
from tests.scenarios.origins import LARGE, FaultyOrigin
from tests.scenarios.verdict import Row

READERS = 1000
BUFFER = 4096  # bytes their sockets take
MEMORY = 256 * 1024  # bytes that one stalled stream may cost the edge
SECONDS = 3.0
SLOWER = 3.0  # times that others' median may grow: a thousand sockets cost the machine something too


async def play_slow_readers(folder: Path, count: int = READERS, seconds: float = SECONDS) -> Row:
    """Run the scenario with so many readers, and judge it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    origin = FaultyOrigin()
    await origin.listen()
    (folder / "names.json").write_text("{}")
    with running_edge(folder, [f"http://127.0.0.1:{origin.port}"]) as edge:
        await until_open(edge.port)
        load = Load(edge.port, "/")
        asking = asyncio.create_task(load.run())
        await asyncio.sleep(1.0)
        calm, before = list(load.seen), edge.memory()
        readers = [await _ask(edge) for _ in range(count)]
        began = await _stalled(edge, load)
        asked, first = origin.requests, len(load.seen)
        await asyncio.sleep(seconds)
        during, asked = load.seen[first:], origin.requests - asked
        grown = edge.memory() - before
        whole = await _read_all(readers[0])
        for reader in readers[1:]:
            reader.close()
        left = time.monotonic()
        after = len(load.seen)
        await asyncio.sleep(0.5)
        recover = next((one.at - left for one in load.seen[after:] if not one.failed), None)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    origin.stop()
    return _judge(count, calm, during, asked, grown, whole, recover, began)


async def _ask(edge: Edge) -> socket.socket:
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    reader.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(reader, ("127.0.0.1", edge.port))
    await loop.sock_sendall(reader, b"GET /large HTTP/1.1\r\nHost: example.com\r\n\r\n")
    return reader


async def _stalled(edge: Edge, load: Load) -> float:
    """Wait until all that the readers make the edge do is done. Returns when that was."""
    memory = -1
    while memory != (memory := edge.memory()):
        seen = len(load.seen)
        while len(load.seen) < seen + 500:
            await asyncio.sleep(0.05)
    return time.monotonic()


async def _read_all(reader: socket.socket) -> int:
    """How many bytes one of them gets when it reads after all."""
    loop, count = asyncio.get_running_loop(), 0
    async with asyncio.timeout(10):
        while count < LARGE:
            data = await loop.sock_recv(reader, 65536)
            if not data:
                break
            count += len(data)
    reader.close()
    return count


def _judge(
    readers: int,
    calm: list[Seen],
    during: list[Seen],
    asked: int,
    grown: int,
    whole: int,
    recover: float | None,
    began: float,
) -> Row:
    failed = [one for one in during if one.failed]
    times = [one.seconds for one in during]
    quiet = percentile([one.seconds for one in calm], 0.5)
    slower = percentile(times, 0.5) / quiet
    each = grown / readers
    checks = [
        (bool(failed), f"{len(failed)} errors of others"),
        (slower > SLOWER, f"others are {slower:.1f} times slower"),
        (each > MEMORY, f"{each / 1024:.0f} KiB per reader"),
        (whole < LARGE, f"one that reads on gets {whole} bytes"),
        (recover is None, "others get nothing when they leave"),
    ]
    print(f"{'':<27}{each / 1024:.0f} KiB of the edge's memory per slow reader", flush=True)
    return Row(
        f"{readers:,} slow readers",
        len(during),
        len(failed),
        failed[-1].at - began if failed else 0.0,
        recover,
        percentile([one.seconds for one in calm], 0.99),
        percentile(times, 0.5),
        percentile(times, 0.99),
        asked / max(1, len(during)),
        [sentence for wrong, sentence in checks if wrong],
    )
