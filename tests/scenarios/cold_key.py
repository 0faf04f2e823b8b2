#!/usr/bin/env python3
"""Many clients ask for one cold key at once: how often is the origin asked, and who waits for whom?

    .venv/bin/python tests/scenarios/cold_key.py                    10,000 clients, 2 workers
    .venv/bin/python tests/scenarios/cold_key.py --clients 200      fewer: they cost less than the edge

The origin thinks for a second, so that everybody is there before it answers. Ends with 1 when it was asked
more than once, or a client got less than the whole.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from tests.helpers.processes import free_port  # noqa: E402 - found only from here

BODY = b"x" * 1024
THINKS = 1.0  # seconds
CONFIG = """
edge: {{id: edge-1, pop: lab}}
server:
  listen: ["127.0.0.1:{port}"]
  workers: {workers}
  access_log: {{path: "off"}}
  limits: {{connections: 20000}}
admin: {{listen: null}}
origins: {{main: {{servers: ["http://127.0.0.1:{origin}"]}}}}
routes: [{{name: all, origin: main, cache: {{ttl: 60s}}}}]
"""


class Origin(asyncio.Protocol):
    """Answers after a while, and counts."""

    def __init__(self, requests: list[bytes], thinks: float) -> None:
        self._requests, self._thinks = requests, thinks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._requests.append(data.split(b" ", 2)[1])
        head = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: %d\r\n\r\n" % len(BODY)
        asyncio.get_running_loop().call_later(self._thinks, self._transport.write, head + BODY)


class Client(asyncio.Protocol):
    """One request; when its first byte came, and whether all of it did."""

    def __init__(self) -> None:
        self.first = 0.0
        self.answer = b""
        self.whole = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def ask(self) -> None:
        self.transport.write(b"GET /cold HTTP/1.1\r\nHost: example.com\r\n\r\n")

    def data_received(self, data: bytes) -> None:
        self.first = self.first or time.monotonic()
        self.answer += data
        if self.answer.endswith(BODY) and not self.whole.done():
            self.whole.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.whole.done():
            self.whole.set_result(None)


async def play(clients: int, workers: int) -> int:
    """Run it and print a line. The exit code."""
    loop = asyncio.get_running_loop()
    requests: list[bytes] = []
    server = await loop.create_server(lambda: Origin(requests, THINKS), "127.0.0.1", 0)
    with _running_edge(workers, server.sockets[0].getsockname()[1]) as port:
        asked = [await _connect(port) for _ in range(clients)]
        print(f"{clients} clients are connected", flush=True)
        for client in asked:
            client.ask()
        async with asyncio.timeout(30 + clients / 200):
            await asyncio.gather(*[client.whole for client in asked])
    return _judge(asked, requests)


@contextmanager
def _running_edge(workers: int, origin: int) -> Generator[int, None, None]:
    """An edge in front of the origin's port. Gives its own."""
    with tempfile.TemporaryDirectory() as folder:
        path, port = Path(folder) / "edge.yaml", free_port()
        path.write_text(CONFIG.format(port=port, workers=workers, origin=origin))
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "edgeproxy", "run", "--config", str(path)]
        edge = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL)
        try:
            yield port
        finally:
            edge.send_signal(signal.SIGTERM)
            edge.wait(20)


async def _connect(port: int) -> Client:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(20):
        while True:
            try:
                _, client = await loop.create_connection(Client, "127.0.0.1", port)
            except ConnectionError:
                await asyncio.sleep(0.1)
            else:
                return client


def _judge(asked: list[Client], requests: list[bytes]) -> int:
    whole = [client for client in asked if client.answer.endswith(BODY) and b" 200 OK" in client.answer[:20]]
    firsts = sorted(client.first for client in whole)
    leaders = [
        client for client in whole if b"collapsed" not in client.answer and b"; hit" not in client.answer
    ]
    began = leaders[0].first if leaders else 0.0
    late = [(first - began) * 1000 for first in firsts]
    print(f"requests to the origin: {len(requests)}; whole answers: {len(whole)} of {len(asked)}")
    if late:
        middle, last = late[len(late) // 2], late[-1]
        print(f"first byte after the leader's, ms: median {middle:.1f}, last {last:.1f}")
    return 0 if len(requests) == 1 and len(whole) == len(asked) else 1


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return asyncio.run(play(arguments.clients, arguments.workers))


if __name__ == "__main__":
    sys.exit(main())
