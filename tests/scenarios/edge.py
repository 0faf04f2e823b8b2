"""An edge in a process of its own. Names of origins are looked up in a file, so that DNS can be scripted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.processes import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
NAMES = "SCENARIO_NAMES"
CONFIG = """
edge: {{id: edge-1, pop: lab}}
server: {{listen: ["127.0.0.1:{port}"], workers: 1, access_log: {{path: "off"}}}}
admin: {{listen: "127.0.0.1:{admin}"}}
origins:
  pool:
    servers: [{servers}]
    allow_private: true
    timeouts: {{connect: 500ms, first_byte: 500ms, between_bytes: 500ms, max_age: {max_age}}}
    ejection: {{errors: 5, failures: 3, slower_than: 250ms, slow: 5, time: 2s}}
    breaker: {{failures: {breaker}, time: 500ms, longest: 2s}}
routes:
  - {{name: stored, match: {{path: "/stored/**"}}, origin: pool, cache: {{ttl: 100ms, stale_if_error: 1h}}}}
  - {{name: rest, match: {{path: "/**"}}, origin: pool, cache: false}}
"""


@dataclass(frozen=True)
class Edge:
    """A running edge: its port, and its supervisor's process id."""

    port: int
    pid: int

    def memory(self) -> int:
        """Bytes resident, all its processes together."""
        total, pids = 0, [self.pid]
        while pids:
            folder = Path("/proc") / str(pids.pop())
            with contextlib.suppress(OSError):  # a process that ended meanwhile
                total += int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
                for task in (folder / "task").iterdir():
                    pids += [int(pid) for pid in (task / "children").read_text().split()]
        return total


async def until_open(port: int) -> None:
    """Wait until somebody listens on this port of the loopback."""
    async with asyncio.timeout(15):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            writer.close()
            return


@contextlib.contextmanager
def running_edge(
    folder: Path, servers: list[str], *, breaker: int = 10, max_age: str = "0s"
) -> Generator[Edge, None, None]:
    """An edge in front of `servers`. It ends with the block."""
    port, path = free_port(), folder / "edge.yaml"
    listed = ", ".join(f'"{server}"' for server in servers)
    path.write_text(
        CONFIG.format(port=port, admin=free_port(), servers=listed, breaker=breaker, max_age=max_age)
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), NAMES: str(folder / "names.json")}
    with (folder / "edge.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.scenarios.edge", str(path)],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
    try:
        yield Edge(port, process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main() -> None:
    """`edgeproxy run` with names from the file, looked at twice a second."""
    from edgeproxy.cli import main as edgeproxy
    from edgeproxy.origin import resolve
    from edgeproxy.origin.names import Found

    names_file = Path(os.environ[NAMES])

    async def look_up(host: str) -> Found:
        names: dict[str, list[str]] = json.loads(names_file.read_text())  # noqa: ASYNC240 - a script, and a short file
        if host not in names:
            raise OSError("the name server does not answer")
        return Found(names[host], ttl=0.5)

    resolve.Resolver.__init__.__defaults__ = (look_up,)
    edgeproxy(["run", "--config", sys.argv[1]])


if __name__ == "__main__":
    main()
