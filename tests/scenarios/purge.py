#!/usr/bin/env python3
"""How long after a purge was sent does any worker still serve what it names? And does it after a restart?

    .venv/bin/python tests/scenarios/purge.py                 40 purges, by URL and by tag, 2 workers
    .venv/bin/python tests/scenarios/purge.py --rounds 4      fewer

Clients ask without a pause on connections to every worker while the purge is sent. Ends with 1 when somebody
asked after the purge was said to be done and got the old answer, when not every worker heard of it, or when
what was purged came back with a restart.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from tests.helpers.processes import free_port  # noqa: E402 - found only from here
from tests.scenarios.edge import until_open  # noqa: E402

WORKERS = 2
CLIENTS = 8  # connections; the kernel spreads them over the workers
TOKEN = "0123456789abcdef"
CONFIG = """
edge: {{id: edge-1, pop: lab}}
server:
  listen: ["127.0.0.1:{port}"]
  workers: 2
  access_log: {{path: "off"}}
  limits: {{keep_alive_requests: 1000000}}
admin: {{listen: "127.0.0.1:{admin}", token: "{token}"}}
cache: {{machine: {{path: "{folder}/tier", max_bytes: 16MiB}}}}
origins: {{main: {{servers: ["http://127.0.0.1:{origin}"]}}}}
routes: [{{name: all, origin: main}}]
"""
WAYS = [{"url": "http://example.com/a"}, {"tag": "news"}]


class Origin(asyncio.Protocol):
    """Answers with the version of the day, which is good for an hour."""

    version = 0
    transports: ClassVar[set[asyncio.Transport]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.transports.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transports.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        body = b"%08d" % Origin.version
        head = (
            b"HTTP/1.1 200 OK\r\nCache-Control: max-age=3600\r\nCache-Tag: news\r\nContent-Length: 8\r\n\r\n"
        )
        self._transport.write(head + body)


class Client:
    """One connection, and the worker at its other end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, worker: int) -> None:
        self._reader, self._writer, self.worker = reader, writer, worker

    async def ask(self) -> int:
        """The version that is served."""
        self._writer.write(b"GET /a HTTP/1.1\r\nHost: example.com\r\n\r\n")
        head = await self._reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head.split(b"\r\n")[0], head
        return int(await self._reader.readexactly(8))

    def close(self) -> None:
        self._writer.transport.abort()


@dataclass
class Edge:
    """An edge that can be killed and started again."""

    folder: Path
    origin: int
    port: int = field(default_factory=free_port)
    admin: int = field(default_factory=free_port)

    async def __aenter__(self) -> Edge:
        self._begin()
        await until_open(self.port)
        await until_open(self.admin)
        return self

    def _begin(self) -> None:
        path = self.folder / "edge.yaml"
        path.write_text(
            CONFIG.format(
                port=self.port, admin=self.admin, token=TOKEN, folder=self.folder, origin=self.origin
            )
        )
        with (self.folder / "edge.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "edgeproxy", "run", "--config", str(path)],
                cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    async def __aexit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)  # the hard way: nothing is written at the end
        self._process.wait()

    async def clients(self) -> list[Client]:
        """Connections to every worker."""
        found: list[Client] = []
        while len(found) < CLIENTS or len({client.worker for client in found}) < WORKERS:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            found.append(Client(reader, writer, 0))
            await found[-1].ask()  # it is accepted
            found[-1].worker = _owner(self._process.pid, self.port, writer.get_extra_info("sockname")[1])
        return found

    async def purge(self, what: dict[str, str]) -> dict[str, object]:
        """What the admin API says when it is done."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.admin)
        body = json.dumps(what).encode()
        writer.write(
            b"POST /purge HTTP/1.1\r\nHost: admin\r\nAuthorization: Bearer %b\r\nContent-Length: %d\r\n"
            b"Content-Type: application/json\r\nConnection: close\r\n\r\n%b"
            % (TOKEN.encode(), len(body), body)
        )
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return json.loads(answer.partition(b"\r\n\r\n")[2])


def _owner(supervisor: int, port: int, peer: int) -> int:
    """The process that holds the connection of `port` to `peer`: found by the socket's inode."""
    ends = f":{port:04X}", f":{peer:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inode = next(row[9] for row in rows if row[1].endswith(ends[0]) and row[2].endswith(ends[1]))
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    for pid in children:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if os.readlink(descriptor) == f"socket:[{inode}]":
                    return int(pid)
            except OSError:
                continue
    return 0


@dataclass
class Round:
    """Seconds after the purge was sent until every connection got the next answer, and until it was said to
    be done; how many old answers were asked for after that, and what was said."""

    anew: float
    done: float
    late: int
    reached: object


async def one_round(edge: Edge, clients: list[Client], what: dict[str, str]) -> Round:
    """Everybody has the old answer and asks on; then the origin has another one, and the old is purged."""
    for client in clients:
        while await client.ask() != Origin.version:
            await asyncio.sleep(0.01)
    old, asked = Origin.version, list[tuple[float, float, int]]()

    async def ask_on(client: Client) -> float:
        """Until the purge is done. When it got the next answer."""
        first = 0.0
        while not (first and purging.done()):
            at = time.perf_counter()
            version = await client.ask()
            asked.append((at, time.perf_counter(), version))
            if version != old:
                first = first or asked[-1][1]
            await asyncio.sleep(0)
        return first

    async def purge() -> tuple[float, float, object]:
        await asyncio.sleep(random.uniform(0.02, 0.08))
        Origin.version += 1
        sent = time.perf_counter()
        said = await edge.purge(what)
        return sent, time.perf_counter(), said["workers"]

    purging = asyncio.ensure_future(purge())
    async with asyncio.timeout(10):
        firsts = await asyncio.gather(*[ask_on(client) for client in clients])
    sent, done, reached = await purging
    late = sum(at > done and version == old for at, _, version in asked)
    return Round(max(firsts) - sent, done - sent, late, reached)


async def survives(edge: Callable[[], Edge], what: dict[str, str]) -> bool:
    """Is what was purged still purged when the edge was killed at once and started again?"""
    async with edge() as running:
        clients = await running.clients()
        await asyncio.sleep(0.2)  # it is written to the machine tier
        Origin.version += 1
        await running.purge(what)
        for client in clients:
            client.close()
    async with edge() as running:
        clients = await running.clients()
        versions = [await client.ask() for client in clients]
        for client in clients:
            client.close()
    return min(versions) == Origin.version


async def play(rounds: int, say: Callable[[str], object] = print) -> bool:
    """Run it and say what was measured. Whether all bounds were kept."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Origin, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    kept = True
    with tempfile.TemporaryDirectory() as folder:
        async with Edge(Path(folder), port) as edge:
            clients = await edge.clients()
            for what in WAYS:
                kept &= _judge(what, [await one_round(edge, clients, what) for _ in range(rounds)], say)
            for client in clients:
                client.close()
    for what in WAYS:
        with tempfile.TemporaryDirectory() as folder:
            gone = await survives(lambda home=Path(folder): Edge(home, port), what)
        say(f"by {next(iter(what)):<4} killed and started again: {'gone' if gone else 'IT IS BACK'}")
        kept &= gone
    server.close()
    for transport in Origin.transports:
        transport.abort()
    await asyncio.sleep(0.01)  # they are closed
    return kept


def _judge(what: dict[str, str], found: list[Round], say: Callable[[str], object]) -> bool:
    anew, done = [sorted(times) for times in zip(*[(each.anew, each.done) for each in found], strict=True)]
    late = sum(each.late for each in found)
    everybody = all(each.reached == {"reached": WORKERS, "running": WORKERS} for each in found)
    middle = len(found) // 2
    say(
        f"by {next(iter(what)):<4} {len(found)} purges: every connection had the next answer "
        f"{anew[middle] * 1000:.0f} ms after it was sent, worst {anew[-1] * 1000:.0f} ms; done after "
        f"{done[middle] * 1000:.0f} ms, worst {done[-1] * 1000:.0f} ms; old answers after that: {late}"
    )
    return everybody and not late


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    return 0 if asyncio.run(play(parser.parse_args().rounds)) else 1


if __name__ == "__main__":
    sys.exit(main())
