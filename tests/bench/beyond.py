"""What requests per second do not tell: latency of one connection, a second worker, memory of readers."""

from __future__ import annotations

import os
import resource
import socket
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from load import CONNECTIONS, Sample, ask, listens, wrk
from peers import Place, Server

FIGURES = ("latency", "scaling", "stalled")
FIELDS = ["Host: bench.example"]
READERS = 1000
MIB = 1024 * 1024


def latency(place: Place, servers: list[Server], requests: int) -> Iterator[str]:
    """One connection that asks, waits, and asks again: how much longer than going direct?"""
    ways = {"direct": place.origin_port, **{one.name: one.port for one in servers if "pass" in one.cases}}
    times: dict[str, list[float]] = {name: [] for name in ways}
    usual = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {int(place.load_core)})
    try:
        for _ in range(10):  # in turn: the machine is not the same from second to second
            for name, port in ways.items():
                times[name] += _closed_loop(port, requests // 10)
    finally:
        os.sched_setaffinity(0, usual)
    yield "| latency of pass, one connection | p50 µs | p99 µs | added p50 | added p99 |"
    yield "|---|---:|---:|---:|---:|"
    p50, p99 = _percentiles(times["direct"])
    for name, taken in times.items():
        mid, high = _percentiles(taken)
        added = "|  |  |" if name == "direct" else f"| {mid - p50:.0f} | {high - p99:.0f} |"
        yield f"| {name} | {mid:.0f} | {high:.0f} {added}"


def _closed_loop(port: int, requests: int) -> list[float]:
    """Seconds of each request, the first few left out."""
    request = b"GET /pass HTTP/1.1\r\nHost: bench.example\r\n\r\n"
    taken: list[float] = []
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(requests + 20):
            began = time.perf_counter()
            client.sendall(request)
            answer = client.recv(65536)
            while len(answer) < answer.find(b"\r\n\r\n") + 4 + 1024:
                answer += client.recv(65536)
            taken.append(time.perf_counter() - began)
    return taken[20:]


def _percentiles(seconds: list[float]) -> tuple[float, float]:
    """p50 and p99 in microseconds."""
    ordered = sorted(seconds)
    return 1e6 * ordered[len(ordered) // 2], 1e6 * ordered[int(len(ordered) * 0.99)]


def scaling(place: Place, rounds: int, seconds: float) -> Iterator[str]:
    """Two workers against one. The load needs a core of its own, or what it takes is missing here."""
    cores = [str(core) for core in sorted(os.sched_getaffinity(0))]
    spare = next((core for core in cores if core not in (place.server_core, place.load_core)), "")
    both = f"{place.server_core},{spare or place.load_core}"
    yield "| scaling | 1 worker req/s | 2 workers req/s | ratio | CPU µs per request: 1 | 2 | by CPU time |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    edges = [(1, place.edge(1, place.server_core)), (2, place.edge(2, both))]
    for _, edge in edges:
        if not listens(edge.port):
            raise SystemExit(f"edgeproxy does not start\n{place.logs()}")
    for case in ("hit", "pass"):
        rates: dict[int, list[float]] = {1: [], 2: []}
        costs: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(rounds):
            for workers, edge in edges:
                before = _cpu(edge)
                sample = _load(place, edge, case, seconds)
                rates[workers].append(sample.rate)
                costs[workers].append((_cpu(edge) - before) / (sample.rate * seconds) * 1e6)
        one, two = statistics.median(rates[1]), statistics.median(rates[2])
        each, shared = statistics.median(costs[1]), statistics.median(costs[2])
        yield (
            f"| {case} | {one:,.0f} | {two:,.0f} | {two / one:.2f}x | {each:.0f} | {shared:.0f} "
            f"| {2 * each / shared:.2f}x |"
        )
    if not spare:
        yield f"\nOnly {len(cores)} cores: the second worker shares one with load and origin."
        yield "The last column is what two workers would do by the CPU time of a request."
    for _, edge in edges:
        place.end(edge)


def _load(place: Place, edge: Server, case: str, seconds: float) -> Sample:
    url = f"http://127.0.0.1:{edge.port}/{case}"
    return wrk(place.load_core, url, FIELDS, CONNECTIONS, seconds)


def stalled(place: Place, readers: int) -> Iterator[str]:
    """Clients that ask for 1 MiB and read nothing: what does each cost the edge?"""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    yield "| stalled streams of 1 MiB | how many | KiB of the edge's memory each | one that reads on gets |"
    yield "|---|---:|---:|---:|"
    for case in ("large-pass", "large-hit"):
        edge = place.edge(1, place.server_core)
        if not listens(edge.port):
            raise SystemExit(f"edgeproxy does not start\n{place.logs()}")
        for _ in range(3):
            ask(edge.port, f"/{case}", FIELDS)
        before = _memory(edge)
        clients = [_ask_only(edge.port, case) for _ in range(readers)]
        grown = _settled(edge) - before
        whole = _read_on(clients[0])
        for client in clients:
            client.close()
        place.end(edge)
        yield f"| {case} | {readers} | {grown / readers / 1024:.0f} | {whole / MIB:.2f} MiB |"


def _ask_only(port: int, case: str) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(10)
    client.connect(("127.0.0.1", port))
    client.sendall(f"GET /{case} HTTP/1.1\r\nHost: bench.example\r\n\r\n".encode())
    return client


def _settled(edge: Server) -> int:
    """Memory, once all that the readers make the edge do is done."""
    deadline, seen = time.monotonic() + 30, 0
    while time.monotonic() < deadline:
        time.sleep(0.5)
        last, seen = seen, _memory(edge)
        if last == seen:
            break
    return seen


def _read_on(client: socket.socket) -> int:
    """How many bytes of body one of them gets when it reads after all."""
    answer = client.recv(65536)
    size = len(answer) - answer.index(b"\r\n\r\n") - 4
    while size < MIB and (data := client.recv(65536)):
        size += len(data)
    return size


def _processes(edge: Server) -> list[Path]:
    """The supervisor's and its children's places in /proc."""
    assert edge.process is not None
    found, pids = [], [edge.process.pid]
    while pids:
        place = Path("/proc") / str(pids.pop())
        found.append(place)
        for task in (place / "task").iterdir():
            pids += [int(pid) for pid in (task / "children").read_text().split()]
    return found


def _memory(edge: Server) -> int:
    """Bytes resident, all its processes together."""
    pages = sum(int((one / "statm").read_text().split()[1]) for one in _processes(edge))
    return pages * os.sysconf("SC_PAGE_SIZE")


def _cpu(edge: Server) -> float:
    """Seconds of CPU so far, all its processes together."""
    ticks = 0
    for one in _processes(edge):
        fields = (one / "stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
