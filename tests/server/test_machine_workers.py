"""The machine tier under a real edge of two workers: shared, and there after kill -9."""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import httpx
import pytest

from tests.helpers.processes import free_port
from tests.helpers.scripted_origin import Peer, ScriptedOrigin

CONFIG = """
edge: {{id: edge-1, pop: lab}}
server: {{listen: ["127.0.0.1:{port}"], workers: 2, access_log: {{path: "off"}}, limits: {{drain: 1s}}}}
admin: {{listen: "127.0.0.1:{admin}", token: "0123456789abcdef"}}
cache: {{machine: {{path: "{folder}", max_bytes: 16MiB}}}}
origins: {{main: {{servers: ["{origin}"], allow_private: true}}}}
routes: [{{name: all, origin: main}}]
"""
PATIENCE = 20.0
TOKEN = {"Authorization": "Bearer 0123456789abcdef"}


class Edge:
    """An edge with its supervisor, in a session of its own."""

    def __init__(self, folder: Path, origin: ScriptedOrigin) -> None:
        self.folder, self.origin = folder, origin
        self.cache = folder / "tier"
        self.port, self.admin = free_port(), free_port()
        none_kept = httpx.Limits(max_keepalive_connections=0)
        self.client = httpx.AsyncClient(timeout=PATIENCE, trust_env=False, limits=none_kept)
        self.process: subprocess.Popen[bytes] | None = None
        (folder / "edge.yaml").write_text(
            CONFIG.format(port=self.port, admin=self.admin, folder=self.cache, origin=origin.url)
        )

    def begin(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "edgeproxy", "run", "--config", str(self.folder / "edge.yaml")],
                stderr=log, stdout=log, start_new_session=True,
            )  # fmt: skip

    async def start(self) -> None:
        self.begin()
        async with asyncio.timeout(PATIENCE):
            while await self.metric("edgeproxy_workers") < 2:
                await asyncio.sleep(0.05)

    async def get(self, path: str) -> str:
        """The Cache-Status of an answer, on a connection of its own: either worker may take it."""
        answer = await self.client.get(f"http://127.0.0.1:{self.port}{path}")
        assert answer.status_code == 200
        assert answer.text == f"this is {path}"
        return answer.headers["cache-status"]

    async def metric(self, name: str) -> float:
        try:
            text = (await self.client.get(f"http://127.0.0.1:{self.admin}/metrics")).text
        except httpx.TransportError:
            return 0.0
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    async def purge(self, **what: str) -> None:
        answer = await self.client.post(f"http://127.0.0.1:{self.admin}/purge", json=what, headers=TOKEN)
        assert answer.status_code == 200

    async def until(self, name: str, least: float) -> None:
        async with asyncio.timeout(PATIENCE):
            while await self.metric(name) < least:
                await asyncio.sleep(0.05)

    def end(self, number: signal.Signals) -> None:
        assert self.process is not None
        if number is signal.SIGKILL:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)
        self.process.wait(PATIENCE)
        self.process = None


@asynccontextmanager
async def started(folder: Path, origin: ScriptedOrigin) -> AsyncGenerator[Edge]:
    """It runs, and is gone afterwards, whatever happens meanwhile."""
    one = Edge(folder, origin)
    try:
        await one.start()
        yield one
    finally:
        await one.client.aclose()
        if one.process is not None:
            one.end(signal.SIGKILL)


async def says_its_path(peer: Peer) -> None:
    while True:
        head, _ = await peer.request()
        body = b"this is " + head.split(b" ")[1]
        await peer.send(
            b"HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Edge]:
    async with ScriptedOrigin(says_its_path) as origin, started(tmp_path, origin) as one:
        yield one


async def test_what_one_worker_stored_is_a_hit_in_the_other(edge: Edge) -> None:
    await edge.get("/a")
    await edge.until("edgeproxy_cache_machine_entries", 1)
    async with asyncio.timeout(PATIENCE):
        while not await edge.metric("edgeproxy_cache_machine_hits_total"):
            assert (await edge.get("/a")).startswith("edge-1; hit")
    assert len(edge.origin.heads) == 1


async def test_explain_tells_what_the_machine_tier_holds_beside_the_workers(edge: Edge) -> None:
    await edge.get("/a")
    await edge.until("edgeproxy_cache_machine_entries", 1)
    where = f"http://127.0.0.1:{edge.admin}/explain?url=http://127.0.0.1:{edge.port}/a"
    for _ in range(2):  # it stays where it is
        told = (await edge.client.get(where, headers=TOKEN)).json()["cache"]
        held = {one["where"]: one["said"] for one in told["stored"]}
        assert list(held) == ["worker 0", "worker 1", "machine tier"]
        assert sum(said == "nothing" for said in held.values()) == 1
        assert held["machine tier"].endswith("s more (max-age)")
        assert told["result"] == "hit", "a worker takes it from the machine tier"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill -9", "stopped"])
async def test_a_restart_begins_with_what_was_stored_and_without_what_was_purged(
    edge: Edge, number: signal.Signals
) -> None:
    for path in "/a", "/b", "/c":
        await edge.get(path)
    await edge.until("edgeproxy_cache_machine_entries", 3)
    await edge.purge(url=f"http://127.0.0.1:{edge.port}/b")
    edge.end(number)
    await edge.start()
    for path, said in ("/a", "hit"), ("/b", "fwd=uri-miss"), ("/c", "hit"):
        assert (await edge.get(path)).startswith(f"edge-1; {said}")
    assert len(edge.origin.heads) == 4


async def test_a_folder_that_is_removed_at_work_is_made_again_and_used(edge: Edge) -> None:
    await edge.get("/a")
    await edge.until("edgeproxy_cache_machine_entries", 1)
    shutil.rmtree(edge.cache)
    await edge.until('edgeproxy_cache_machine_remade_total{reason="removed"}', 1)
    assert "is made anew: somebody removed it" in (edge.folder / "log").read_text()
    async with asyncio.timeout(PATIENCE):
        while await edge.metric("edgeproxy_cache_machine_entries"):  # of the file that some still hold
            await asyncio.sleep(0.05)
    await edge.get("/b")
    await edge.until("edgeproxy_cache_machine_entries", 1)
    edge.end(signal.SIGTERM)
    await edge.start()
    assert (await edge.get("/b")).startswith("edge-1; hit")


def _with_garbage(path: Path) -> None:
    chance = random.Random(1)
    with path.open("r+b") as file:
        for page in range(2, path.stat().st_size // 4096):
            file.seek(page * 4096)  # without the mark of a leaf: as one it may pass for an empty tree
            file.write(chance.randbytes(10) + b"\0\0" + chance.randbytes(4084))


@pytest.mark.parametrize(
    "spoil",
    [lambda path: path.write_bytes(b"foreign" * 9999), lambda path: os.truncate(path, 8192), _with_garbage],
    ids=["foreign", "cut short", "garbage"],
)
async def test_a_damaged_file_costs_the_cache_not_the_service(
    edge: Edge, spoil: Callable[[Path], None]
) -> None:
    for number in range(60):
        await edge.get(f"/{number}")
    await edge.until("edgeproxy_cache_machine_entries", 60)
    edge.end(signal.SIGKILL)
    spoil(edge.cache / "objects.1")
    await edge.start()
    asked = len(edge.origin.heads)
    lost = 0
    for number in [*range(0, 60, 6)] * 3:
        try:
            await edge.get(f"/{number}")
        except httpx.TransportError:
            lost += 1
    assert lost <= 2, "at most those whose worker was ended by what it read"
    assert len(edge.origin.heads) > asked
    async with asyncio.timeout(PATIENCE):
        while (edge.cache / "objects.1").exists():
            await asyncio.sleep(0.05)
    async with asyncio.timeout(PATIENCE):  # what a worker writes before it has noticed is lost with the file
        for number in count():
            if await edge.metric("edgeproxy_cache_machine_entries"):
                break
            await edge.get(f"/new/{number}")
            await asyncio.sleep(0.1)
