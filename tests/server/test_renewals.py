"""What a client had renewed in one worker, the others do not go on serving the old way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path

import pytest

from edgeproxy.cache.renewals import SIZE
from tests.helpers.edge import Running, running_workers
from tests.helpers.scripted_origin import Peer, ScriptedOrigin

CONFIG = """
edge: {{id: edge-1, pop: ams}}
server: {{listen: ["127.0.0.1:8080"], workers: 2, access_log: {{path: "off"}}}}
admin: {{listen: null}}
cache: {{{machine}}}
origins: {{main: {{servers: ["{url}"], timeouts: {{connect: 20s, first_byte: 20s}}}}}}
routes: [{{name: all, origin: main}}]
"""
NO_CACHE = "Cache-Control: no-cache"
SWEDISH = "Accept-Language: sv"


class Origin:
    """Says its version, which is the language's."""

    def __init__(self) -> None:
        self.version = 1
        self.requests = 0
        self.control = "max-age=600, stale-while-revalidate=600"

    async def script(self, peer: Peer) -> None:
        while True:
            head = await peer.head()
            self.requests += 1
            body = b"%d%s" % (self.version, b" sv" if b"sv" in head else b"")
            lines = [
                "HTTP/1.1 200 OK", f"Content-Length: {len(body)}", f'ETag: "{self.version}"',
                f"Cache-Control: {self.control}", "Vary: Accept-Language",
                f"Date: {formatdate(usegmt=True)}", "", "",
            ]  # fmt: skip
            await peer.send("\r\n".join(lines).encode() + (b"" if head.startswith(b"HEAD") else body))


@asynccontextmanager
async def two_workers(origin: Origin, folder: Path, *, machine: bool) -> AsyncGenerator[list[Running]]:
    section = f'machine: {{path: "{folder / "tier"}", max_bytes: 16MiB}}' if machine else ""
    async with (
        ScriptedOrigin(origin.script) as scripted,
        running_workers(CONFIG.format(url=scripted.url, machine=section), folder, 2) as workers,
    ):
        yield workers


async def held(workers: list[Running], *fields: str) -> list[bytes]:
    return [(await worker.ask("/a", *fields)).body for worker in workers]


def noticed(workers: list[Running]) -> None:
    for worker in workers:
        worker.worker.parts.store.hear()


@pytest.mark.parametrize("machine", [False, True], ids=["memory", "machine tier"])
async def test_what_a_client_had_renewed_in_one_worker_is_what_all_serve(
    tmp_path: Path, machine: bool
) -> None:
    origin = Origin()
    async with two_workers(origin, tmp_path, machine=machine) as workers:
        assert await held(workers) == [b"1", b"1"]
        assert await held(workers, SWEDISH) == [b"1 sv", b"1 sv"]
        origin.version, asked = 2, origin.requests
        assert (await workers[0].ask("/a", NO_CACHE)).body == b"2"
        noticed(workers)
        assert await held(workers) == [b"2", b"2"]
        assert await held(workers, SWEDISH) == [b"1 sv", b"1 sv"], "the other variant is as good as before"
        assert origin.requests == asked + 1, "the second worker has it from the first"


async def test_it_is_noticed_within_the_time_that_purges_take(tmp_path: Path) -> None:
    origin = Origin()
    async with two_workers(origin, tmp_path, machine=False) as workers:
        await held(workers)
        origin.version = 2
        await workers[0].ask("/a", NO_CACHE)
        async with asyncio.timeout(10):
            while await held(workers) != [b"2", b"2"]:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("control", ["no-store", "max-age=600"], ids=["GET", "HEAD"])
async def test_what_is_out_of_date_in_one_worker_is_so_in_all(tmp_path: Path, control: str) -> None:
    """By an answer that may not be stored, or by one to HEAD that speaks of other bytes."""
    origin = Origin()
    origin.control = "max-age=600"
    async with two_workers(origin, tmp_path, machine=False) as workers:
        assert await held(workers) == [b"1", b"1"]
        origin.version, origin.control = 2, control
        await workers[0].ask("/a", NO_CACHE, method="GET" if control == "no-store" else "HEAD")
        noticed(workers)
        assert await held(workers) == [b"2", b"2"]


async def test_one_that_heard_too_little_serves_what_is_fresh(tmp_path: Path) -> None:
    origin = Origin()
    async with two_workers(origin, tmp_path, machine=False) as workers:
        await held(workers)
        store = workers[0].worker.parts.store
        entry = next(iter(store))
        for _ in range(SIZE // 16):
            store.changed(entry)
        noticed(workers)
        assert await held(workers) == [b"1", b"1"]
        assert origin.requests == 1
