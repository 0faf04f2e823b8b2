"""What one operation costs inside a worker, without sockets, against its bar. Exit code 1 when one is missed.

.venv/bin/python -m tests.bench.operations                   # all of them
.venv/bin/python -m tests.bench.operations --only hit,chain

A figure is the best of many short rounds, in CPU time: so what else the machine does hardly shows.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from email.utils import formatdate
from itertools import cycle
from pathlib import Path
from typing import Any

import jwt
import maxminddb
import uvicorn
from uvicorn.server import ServerState

from edgeproxy.app import EdgeApp
from edgeproxy.clock import steady
from edgeproxy.context import Context
from edgeproxy.http.message import Headers, Request
from edgeproxy.policies.ab_draw import drawer
from edgeproxy.policies.ab_rule import Experiment
from edgeproxy.policies.bucket_table import BucketTable
from edgeproxy.policies.geo_data import GeoDatabase
from edgeproxy.policies.in_flight_table import InFlightTable
from edgeproxy.policies.ip import IpList, IpRule
from edgeproxy.policies.rate_limit import RateLimiter
from edgeproxy.policies.rate_limit_rule import RateLimit
from edgeproxy.server.protocol import EdgeProtocol
from edgeproxy.server.worker import Worker

HERE = Path(__file__).resolve().parent
GEO = HERE.parent.parent / "config" / "demo-geo.mmdb"
SECRET = "bench-secret-bench-secret-bench-secret!!"
ROUNDS, CALLS = 150, 400
REQUEST = Request(b"GET", b"example.com", b"/", b"", Headers([]), "192.0.2.1")

BARS: dict[str, tuple[float, str]] = {
    "hit": (5.0, "1 KiB from the memory cache, from the request's bytes to the answer's"),
    "304": (5.0, "the same, asked with If-None-Match"),
    "chain": (8.3, "a hit behind a country rule, a limit, a token and an A/B draw"),
    "limit": (3.0, "one token bucket of a table that two busy workers share"),
    "draw": (2.0, "the first A/B draw of a unit"),
    "geo-cold": (60.0, "the place of an address never seen"),
    "geo-warm": (0.5, "the place of an address seen before"),
    "ip-cold": (2.0, "an address never seen against 10,000 networks"),
}


def best(operation: Callable[[Any], object], item: Callable[[], object]) -> float:
    """Microseconds of CPU time of one call with a fresh item."""
    figure = float("inf")
    for _ in range(ROUNDS):
        items = [item() for _ in range(CALLS)]
        began = time.process_time()
        for one in items:
            operation(one)
        figure = min(figure, (time.process_time() - began) / CALLS * 1e6)
    return figure


# --- requests, through the native door


class Origin(asyncio.Protocol):
    """Answers everything with 1 KiB that may be cached."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        head = (
            "HTTP/1.1 200 OK", f"Date: {formatdate(usegmt=True)}", "Content-Type: text/plain", 'ETag: "abc"',
            "Cache-Control: public, max-age=3600", "Content-Length: 1024", "", "",
        )  # fmt: skip
        self.transport.write("\r\n".join(head).encode() + bytes(1024))


class Client(asyncio.Transport):
    """A connection that swallows what is written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 8080)})
        self.last = b""

    def write(self, data: Any) -> None:
        self.last = data

    def is_closing(self) -> bool:
        return False


async def requests(names: list[str]) -> dict[str, float]:
    """The figures of whole requests."""
    loop = asyncio.get_running_loop()
    origin = await loop.create_server(Origin, "127.0.0.1", 0)
    values = {
        "port": 8080, "admin": 9900, "workers": 1, "sink": 9, "secret": SECRET, "geo": GEO,
        "origin": origin.sockets[0].getsockname()[1],
    }  # fmt: skip
    text = (HERE / "edgeproxy.yaml").read_text()
    for key, value in values.items():
        text = text.replace(f"@{key}@", str(value))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "edge.yaml"
        path.write_text(text)
        worker = Worker.alone(path)
    app = EdgeApp(worker=worker)
    config = uvicorn.Config(app, http=EdgeProtocol, lifespan="off", proxy_headers=False, log_config=None)
    config.load()
    figures: dict[str, float] = {}
    for name in names:
        protocol = EdgeProtocol(config, ServerState(), {}, _loop=loop)
        figures[name] = await _request(protocol, name)
    origin.close()
    return figures


async def _request(protocol: EdgeProtocol, name: str) -> float:
    claims = {"iss": "https://bench.example/", "aud": "bench", "sub": "u1", "exp": int(time.time()) + 3600}
    token = jwt.encode(claims, SECRET, "HS256")
    fields = {
        "304": 'If-None-Match: "abc"\r\n',
        "chain": f"Authorization: Bearer {token}\r\nCookie: edge_ab={'a' * 22}\r\n",
    }.get(name, "")
    asked = f"GET /{name} HTTP/1.1\r\nHost: example.com\r\n{fields}\r\n".encode()
    client = Client()
    protocol.connection_made(client)
    protocol.data_received(asked)
    async with asyncio.timeout(10):
        while b"stored" not in client.last:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    gc.collect()
    gc.freeze()
    figure = best(protocol.data_received, lambda: asked)
    expected = b"HTTP/1.1 304" if name == "304" else b"HTTP/1.1 200"
    if not client.last.startswith(expected) or b"bench; hit" not in client.last:
        raise RuntimeError(f"{name}: not a hit: {client.last[:300]!r}")
    return figure


# --- single operations


def context(client: str = "192.0.2.1") -> Context:
    return Context(steady(), time.time(), client, "r", "id")


def address() -> str:
    return f"{random.randrange(1, 224)}.{'.'.join(str(random.randrange(256)) for _ in range(3))}"


def limit() -> float:
    """While another worker spends from the same table as fast as it can."""
    table = BucketTable()
    rule = RateLimit.model_validate({"rate": "1000000/s", "burst": 1_000_000, "by": "client_ip"})
    policy = RateLimiter({"per_client": rule}, table, InFlightTable(2))
    other = os.fork()
    if not other:
        while True:
            policy(REQUEST, context("192.0.2.2"))
    try:
        return best(lambda ctx: policy(REQUEST, ctx), context)
    finally:
        os.kill(other, signal.SIGKILL)
        os.waitpid(other, 0)


def draw() -> float:
    experiment = Experiment.model_validate({"variants": {"control": 90, "fast": 10}})
    return best(drawer("checkout", experiment), lambda: secrets.token_urlsafe(16))


def geo(*, warm: bool) -> float:
    with maxminddb.open_database(str(GEO)) as reader:
        database = GeoDatabase([reader])
        seen = cycle([address() for _ in range(1000)])
        return best(database.place, lambda: next(seen) if warm else address())


def ip() -> float:
    networks = [f"{address().rpartition('.')[0]}.0/24" for _ in range(10_000)]
    policy = IpList(IpRule(deny=networks))
    return best(lambda ctx: policy(REQUEST, ctx), lambda: context(address()))


OPERATIONS: dict[str, Callable[[], float]] = {
    "limit": limit,
    "draw": draw,
    "geo-cold": lambda: geo(warm=False),
    "geo-warm": lambda: geo(warm=True),
    "ip-cold": ip,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default=",".join(BARS), help="some of them, with commas between")
    names = parser.parse_args().only.split(",")
    if unknown := set(names) - set(BARS):
        parser.error(f"{', '.join(unknown)}: not one of {', '.join(BARS)}")
    random.seed(1)
    figures = asyncio.run(requests([name for name in names if name not in OPERATIONS]))
    print("| operation | µs | bar | |\n|---|---:|---:|---|")
    missed = 0
    for name in names:
        figure = figures[name] if name in figures else OPERATIONS[name]()
        bar, what = BARS[name]
        missed += figure > bar
        print(f"| {name} | {figure:.2f} | {bar:g} | {what}{': MISSED' if figure > bar else ''} |", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
