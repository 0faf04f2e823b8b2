#!/usr/bin/env python3
"""Hours in minutes: does a worker hold more and more? Mixed good and bad load in cycles, a count after each.

    .venv/bin/python tests/scenarios/soak.py                     # two minutes
    .venv/bin/python tests/scenarios/soak.py --minutes 20 --cycle 60
    .venv/bin/python tests/scenarios/soak.py --trace             # and the places that allocated most

One worker with a memory cache of 16 MiB. Each cycle ends with a reload, a purge and a pause in which every
connection ends. Then the worker collects its rubbish and counts. In the first third of the cycles the cache
fills. Ends with 1 when each cycle of the last third leaves more objects than any of the second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from tests.scenarios.edge import free_port, until_open  # noqa: E402 - found only from here
from tests.scenarios.soak_clients import SECRET, Clients  # noqa: E402
from tests.scenarios.soak_origin import SoakOrigin  # noqa: E402

MIB = 2**20
GROWTH = 0.02  # of the objects
QUIET = 2.5  # seconds without clients before a count
CONFIG = """
edge: {{id: edge-1, pop: lab, location: [50, 8]}}
server:
  listen: ["127.0.0.1:{port}"]
  workers: 1
  trusted_proxies: ["127.1.0.0/16"]
  access_log: {{path: "{folder}/access.log", sample: 0.01}}
  limits: {{keep_alive: 1s, send_gap: 2s}}
admin: {{listen: "127.0.0.1:{admin}"}}
cache:
  memory: 16MiB
  object_size: 256KiB
  machine: {{path: "{folder}/tier", max_bytes: 32MiB, files: {{max_bytes: 40MiB, object_size: 8MiB}}}}
origins:
  main:
    servers: ["http://127.0.0.1:{origin}"]
    timeouts: {{first_byte: 300ms, idle: 2s}}
    ejection: null
    breaker: {{failures: 0}}
jwt_providers: {{main: {{issuer: me, algorithms: [HS256], secret: "{secret}"}}}}
experiments: {{checkout: {{variants: {{control: 1, fast: 1}}, by: cookie}}}}
rate_limits:
  per_client: {{rate: 1000/s, by: client_ip}}
  per_user: {{rate: 1000/s, by: "claim:sub"}}
routes:
  - name: chain
    match: {{path: "/chain/**"}}
    policies:
      - rate_limit: per_client
      - jwt: {{provider: main, claims_to_headers: {{sub: X-User}}}}
      - rate_limit: per_user
      - ab: checkout
      - headers: {{request_id: true, security: true}}
    cache: {{ttl: 60s, vary_on: [variant, "claim:sub"]}}
    origin: main
  - {{name: tunnels, match: {{path: "/ws/**"}}, websocket: true, cache: false, origin: main}}
  - {{name: rest, compress: true, cache: {{stale_if_error: 1h, negative: {{404: 10s}}}}, origin: main}}
"""
COLUMNS = (
    "cycle  moves  RSS MiB  cache MiB  entries  malloc MiB  free MiB  blocks  objects  conns  tasks  fds"
)


class Soaked:
    """An edge that counts, and its worker."""

    def __init__(self, folder: Path, origin: int, *, trace: bool) -> None:
        self.folder, self.port = folder, free_port()
        self.counted = 0
        path = folder / "edge.yaml"
        path.write_text(
            CONFIG.format(port=self.port, admin=free_port(), folder=folder, origin=origin, secret=SECRET)
        )
        command = [sys.executable, "-m", "tests.scenarios.census", str(path), str(folder)]
        with (folder / "edge.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--trace"] if trace else command,
                cwd=ROOT, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip

    def worker(self) -> int:
        """The process that listens: the first child."""
        pid = self.process.pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    async def count(self) -> dict[str, Any]:
        """What the worker holds."""
        found = self.folder / f"census.{self.counted}.json"
        self.counted += 1
        os.kill(self.worker(), signal.SIGUSR2)
        async with asyncio.timeout(120):
            while not found.exists():
                await asyncio.sleep(0.05)
        return json.loads(found.read_text())

    def reload(self) -> None:
        self.process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@asynccontextmanager
async def soaked(*, trace: bool = False) -> AsyncGenerator[Soaked]:
    """It runs in front of an origin that answers anything. Its log is printed when it says something bad."""
    origin = SoakOrigin()
    await origin.listen()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        edge = Soaked(Path(folder), origin.port, trace=trace)
        try:
            await until_open(edge.port)
            await _until_answered(edge.port)
            yield edge
        finally:
            edge.stop()
            origin.close()
            log = (Path(folder) / "edge.log").read_text()
            lines = [line for line in log.splitlines() if " ERROR " in line or "Traceback" in line]
            print("\n".join(lines[:20]), end="\n" if lines else "")


async def _until_answered(port: int) -> None:
    """The socket is the supervisor's, and open before the worker knows of signals."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /stored/0 HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n")
    await reader.read()
    writer.close()


async def play_cycle(edge: Soaked, clients: Clients, seconds: float) -> dict[str, Any]:
    """Load for so long, a reload in the middle of it, and a count when all is quiet."""
    asyncio.get_running_loop().call_later(seconds / 2, edge.reload)
    await clients.run(seconds)
    await asyncio.sleep(QUIET)
    return await edge.count()


def show(cycle: int, moves: int, found: dict[str, Any]) -> None:
    print(
        f"{cycle:>5} {moves:>6} {found['anonymous'] / MIB:>8.1f} {found['stored'] / MIB:>10.1f}"
        f" {found['entries']:>8} {found['malloc_used'] / MIB:>11.1f} {found['malloc_free'] / MIB:>9.1f}"
        f" {found['blocks']:>7} {found['objects']:>8} {found['clients']:>6} {found['tasks']:>6}"
        f" {found['descriptors']:>4}",
        flush=True,
    )


def grown(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The types there are more of, most first."""
    more = {name: number - before["types"].get(name, 0) for name, number in after["types"].items()}
    ordered = sorted(more.items(), key=lambda one: -one[1])
    return [f"{number:+} {name} ({after['types'][name]})" for name, number in ordered[:12] if number > 0]


async def play(minutes: float, cycle: float, number: int, *, trace: bool) -> int:
    """Run and print. The exit code."""
    async with soaked(trace=trace) as edge:
        clients, found = Clients(edge.port, number), list[dict[str, Any]]()
        ends = time.monotonic() + 60 * minutes
        print(COLUMNS)
        show(0, 0, await edge.count())
        while time.monotonic() < ends or len(found) < 3:
            found.append(await play_cycle(edge, clients, cycle))
            show(len(found), clients.done.total(), found[-1])
        print(
            "\nmoves:", dict(sorted(((f"{name} {status}", n) for (name, status), n in clients.done.items())))
        )
        half = found[len(found) // 2]
        print("more in the second half:\n  " + "\n  ".join(grown(half, found[-1])))
        print("\n".join(found[-1]["places"]))
    counts = [one["objects"] for one in found]
    third = len(counts) // 3
    share = min(counts[-third:]) / max(counts[-2 * third : -third]) - 1
    print(f"objects: {share:+.1%} in the last third of the cycles (bound: {GROWTH:+.0%})")
    return int(share > GROWTH)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--cycle", type=float, default=15.0, help="seconds of load before each count")
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--trace", action="store_true")
    arguments = parser.parse_args()
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # clients that reset and write on are meant
    return asyncio.run(play(arguments.minutes, arguments.cycle, arguments.clients, trace=arguments.trace))


if __name__ == "__main__":
    sys.exit(main())
