#!/usr/bin/env python3
"""Forged tokens at full speed beside good clients: how much slower are the good ones?

    .venv/bin/python tests/scenarios/forgeries.py                   8 good clients, 8 forgers
    .venv/bin/python tests/scenarios/forgeries.py --forgers 32

One worker, RS256, a stored answer behind `jwt`. The good clients repeat their requests. Each forged token is
another one: a known `kid`, a random signature. The forgers come from an address of their own, and do not
pause. Three rounds of each: good clients alone, beside as many more good ones, beside the forgers. Ends
with 1 when the forgers made them more than twice as slow, a good request was refused, or a forged one passed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from tests.helpers.processes import free_port  # noqa: E402
from tests.policies.jwt_tokens import b64, jwk, private_key, sign  # noqa: E402 - found only from here
from tests.scenarios.edge import until_open  # noqa: E402

SECONDS = 2.0
ROUNDS = 3
MOST = 2.0  # times slower
CONFIG = """
edge: {{id: edge-1, pop: lab}}
server: {{listen: ["127.0.0.1:{port}"], workers: 1, access_log: {{path: "off"}}}}
admin: {{listen: null}}
origins: {{main: {{servers: ["http://127.0.0.1:{origin}"]}}}}
jwt_providers:
  main: {{issuer: me, audience: shop, algorithms: [RS256], keys: [{key}]}}
routes: [{{name: all, origin: main, policies: [{{jwt: {{provider: main}}}}], cache: {{ttl: 60s}}}}]
"""
KEY = private_key("RS256")
ANSWER = b"HTTP/1.1 200 OK\r\nCache-Control: public, max-age=60\r\nContent-Length: 1024\r\n\r\n" + b"x" * 1024


def good(number: int) -> bytes:
    claims = {"iss": "me", "aud": "shop", "sub": f"u{number}", "exp": time.time() + 3600}
    return sign(claims, "RS256", KEY, {"kid": "k"})


class Client(asyncio.Protocol):
    """Asks again as soon as it was answered. `statuses` counts answers by their first digit."""

    def __init__(self, token: bytes, *, forge: bool) -> None:
        self.statuses: dict[bytes, int] = {}
        self._signed, _, _ = token.rpartition(b".")
        self._token, self._forge = token, forge
        self._left, self._head = 0, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        token = self._signed + b"." + b64(os.urandom(256)) if self._forge else self._token
        self._transport.write(
            b"GET /a HTTP/1.1\r\nHost: example.com\r\nAuthorization: Bearer %b\r\n\r\n" % token
        )

    def data_received(self, data: bytes) -> None:
        self._head += data
        head, ended, rest = self._head.partition(b"\r\n\r\n")
        if not ended:
            return
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(rest) >= length:
            status = head[9:12]
            self.statuses[status] = self.statuses.get(status, 0) + 1
            self._head = b""
            self._ask()


async def _run(port: int, source: str, clients: int, seconds: float, *, forge: bool) -> dict[bytes, int]:
    loop = asyncio.get_running_loop()
    made = [
        (
            await loop.create_connection(
                lambda number=number: Client(good(number % 8), forge=forge),
                "127.0.0.1",
                port,
                local_addr=(source, 0),
            )
        )[1]
        for number in range(clients)
    ]
    await asyncio.sleep(0.3)
    before = [dict(client.statuses) for client in made]
    await asyncio.sleep(seconds)
    counts: dict[bytes, int] = {}
    for client, earlier in zip(made, before, strict=True):
        for status, count in client.statuses.items():
            counts[status] = counts.get(status, 0) + count - earlier.get(status, 0)
    return counts


def _work(pipe: Connection, port: int, source: str, clients: int, forge: bool) -> None:
    pipe.send(asyncio.run(_run(port, source, clients, SECONDS, forge=forge)))


def beside(port: int, clients: int, others: int, *, forge: bool) -> tuple[dict[bytes, int], dict[bytes, int]]:
    """Statuses that the good clients and the others got in so many seconds."""
    jobs = [("127.0.0.1", clients, False)] + ([("127.0.0.2", others, forge)] if others else [])
    pipes: list[Connection] = []
    workers: list[multiprocessing.Process] = []
    for source, count, forged in jobs:
        here, there = multiprocessing.Pipe()
        worker = multiprocessing.Process(target=_work, args=(there, port, source, count, forged))
        worker.start()
        pipes.append(here)
        workers.append(worker)
    counts: list[dict[bytes, int]] = [pipe.recv() for pipe in pipes]
    for worker in workers:
        worker.join()
    return counts[0], counts[1] if others else {}


@contextmanager
def _running(origin: int) -> Generator[int, None, None]:
    with tempfile.TemporaryDirectory() as folder:
        path, port = Path(folder) / "edge.yaml", free_port()
        key = json.dumps(jwk(KEY, kid="k", alg="RS256"))
        path.write_text(CONFIG.format(port=port, origin=origin, key=key))
        command = [sys.executable, "-m", "edgeproxy", "run", "--config", str(path)]
        edge = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL
        )
        try:
            yield port
        finally:
            edge.send_signal(signal.SIGTERM)
            edge.wait(20)


async def _origin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.readuntil(b"\r\n\r\n"):
        writer.write(ANSWER)


async def play(clients: int, forgers: int) -> int:
    """Measure and print. The exit code."""
    server = await asyncio.start_server(_origin, "127.0.0.1", 0)
    rates: dict[str, list[float]] = {"alone": [], "more good": [], "forgers": []}
    refused = passed = forged = 0
    with _running(server.sockets[0].getsockname()[1]) as port:
        await until_open(port)
        for _ in range(ROUNDS):
            for name, others in (("alone", 0), ("more good", forgers), ("forgers", forgers)):
                forge = name == "forgers"
                mine, theirs = await asyncio.to_thread(beside, port, clients, others, forge=forge)
                rates[name].append(mine.get(b"200", 0) / SECONDS)
                refused += sum(mine.values()) - mine.get(b"200", 0)
                if forge:
                    forged += sum(theirs.values())
                    passed += theirs.get(b"200", 0)
    middle = {name: statistics.median(each) for name, each in rates.items()}
    slower = middle["alone"] / middle["forgers"]
    print(
        f"{clients} good clients, requests a second: alone {middle['alone']:.0f}, beside {forgers} more good"
    )
    print(f"ones {middle['more good']:.0f}, beside {forgers} forgers {middle['forgers']:.0f}")
    print(f"{slower:.2f} times slower; good requests refused: {refused}")
    print(f"forged tokens: {forged / ROUNDS / SECONDS:.0f} a second, passed: {passed}")
    return 0 if slower <= MOST and refused == passed == 0 else 1


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--forgers", type=int, default=8)
    arguments = parser.parse_args()
    return asyncio.run(play(arguments.clients, arguments.forgers))


if __name__ == "__main__":
    sys.exit(main())
