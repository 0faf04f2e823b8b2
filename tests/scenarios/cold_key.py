#!/usr/bin/env python3
"""Many clients ask for one cold key at once: how often is the origin asked, and who waits for whom?

    .venv/bin/python tests/scenarios/cold_key.py                      50 to 10,000 clients, 2 workers
    .venv/bin/python tests/scenarios/cold_key.py --clients 200        so many only

The origin answers when everybody is there. When an answer reached its client is what the kernel says of its
packet (SO_TIMESTAMPNS); clients read when all is over: they cost the edge's cores nothing meanwhile, as if
they were on other machines. The floor is as many processes as workers that do nothing but send the same bytes
to as many sockets. Ends with 1 when the origin was asked more than once, or a client got less than the whole.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from tests.helpers.processes import free_port  # noqa: E402 - found only from here

BODY = b"x" * 1024
ANSWER = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
SO_TIMESTAMPNS = 35
TIMESPEC = struct.Struct("@qq")
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
HEADING = "clients  requests  collapsed  p50 ms  p90 ms  p99 ms  max ms   leader ms  hit beside it, worst ms"


class Origin:
    """Answers what it is asked at once, but for cold keys: those when `may` is set. One thread each."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.asked: list[bytes] = []
        self.may = threading.Event()
        self.answered = 0.0  # wall-clock seconds
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        while data := connection.recv(65536):
            target = data.split(b" ", 2)[1]
            if target != b"/warm":
                self.asked.append(target)
                self.may.wait()
                self.answered = time.time()
            connection.sendall(ANSWER)


class Client:
    """A connection that asks and does not read before it is told to."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.socket.settimeout(30)
        self.answer = b""
        self.at = 0.0  # wall-clock seconds when its bytes arrived

    def read(self) -> None:
        while not self.answer.endswith(BODY):
            data, notes, _, _ = self.socket.recvmsg(65536, 256)
            if not data:
                return
            self.answer += data
            for _, kind, value in notes:
                if kind == SO_TIMESTAMPNS and not self.at:
                    seconds, nanoseconds = TIMESPEC.unpack(value)
                    self.at = seconds + nanoseconds / 1e9


class Beside(threading.Thread):
    """Asks for what is stored, on a few connections in turn, and notes how long the longest answer took."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(4)]
        self.worst = 0.0  # seconds
        self.over = False

    def run(self) -> None:
        while not self.over:
            for connection in self._sockets:
                began = time.perf_counter()
                _ask(connection, b"/warm")
                answer = b""
                while not answer.endswith(BODY):
                    answer += connection.recv(65536)
                self.worst = max(self.worst, time.perf_counter() - began)
                time.sleep(0.001)
        for connection in self._sockets:
            connection.close()


def _ask(connection: socket.socket, target: bytes) -> None:
    connection.sendall(b"GET %b HTTP/1.1\r\nHost: example.com\r\n\r\n" % target)


class Round:
    """What one round with so many clients came to."""

    def __init__(self, port: int, origin: Origin, clients: int, number: int) -> None:
        target = b"/cold-%d-%d" % (clients, number)
        beside = Beside(port)
        asked = [Client(port) for _ in range(clients)]
        origin.may.clear()
        for client in asked:
            _ask(client.socket, target)
        time.sleep(1 + clients / 10_000)  # all are there by then
        beside.start()
        time.sleep(0.1)
        beside.worst = 0.0
        origin.may.set()
        time.sleep(0.5 + clients / 4000)
        beside.over = True
        beside.join()
        with suppress(TimeoutError):
            for client in asked:
                client.read()
                client.socket.close()
        self.requests = origin.asked.count(target)
        self.whole = [
            client for client in asked if client.answer.endswith(BODY) and b" 200 OK" in client.answer
        ]
        self.collapsed = sum(b"; collapsed" in client.answer for client in asked)
        leaders = [
            client.at
            for client in self.whole
            if b"stored" in client.answer and b"collapsed" not in client.answer
        ]
        self.good = self.requests == 1 and len(self.whole) == clients and len(leaders) == 1
        self.leader = (leaders[0] - origin.answered if leaders else 0.0) * 1000
        self.late = spread([client.at for client in self.whole], leaders[0] if leaders else 0.0)
        self.worst = beside.worst * 1000


def spread(at: Sequence[float], began: float) -> list[float]:
    """The 50th, 90th, 99th and last of a hundred, in milliseconds since `began`."""
    late = sorted([(moment - began) * 1000 for moment in at]) or [0.0]
    return [late[min(len(late) - 1, len(late) * share // 100)] for share in (50, 90, 99, 100)]


def floor(clients: int, writers: int) -> list[float]:
    """The same for processes that only send."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    told, tell = os.pipe()
    children = [_writer(listener, clients // writers, told) for _ in range(writers)]
    readers = [Client(listener.getsockname()[1]) for _ in range(clients // writers * writers)]
    time.sleep(0.2)  # all are accepted
    os.write(tell, b"." * writers)
    for child in children:
        os.waitpid(child, 0)
    for reader in readers:
        reader.read()
        reader.socket.close()
    for end in (told, tell):
        os.close(end)
    listener.close()
    return spread([reader.at for reader in readers], min([reader.at for reader in readers]))


def _writer(listener: socket.socket, count: int, told: int) -> int:
    child = os.fork()
    if child:
        return child
    try:
        accepted = [listener.accept()[0] for _ in range(count)]
        os.read(told, 1)
        for connection in accepted:
            connection.send(ANSWER)
    finally:
        os._exit(0)


@contextmanager
def running_edge(workers: int, origin: int) -> Generator[int, None, None]:
    """An edge in front of the origin's port. Gives its own."""
    with tempfile.TemporaryDirectory() as folder:
        path, port = Path(folder) / "edge.yaml", free_port()
        path.write_text(CONFIG.format(port=port, workers=workers, origin=origin))
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "edgeproxy", "run", "--config", str(path)]
        edge = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL)
        try:
            _await(port)
            yield port
        finally:
            edge.send_signal(signal.SIGTERM)
            edge.wait(20)


def _await(port: int) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with suppress(ConnectionError):
            client = Client(port)
            _ask(client.socket, b"/warm")
            client.read()
            client.socket.close()
            return
        time.sleep(0.1)
    raise TimeoutError("the edge does not answer")


def _line(figures: Sequence[float]) -> str:
    return "".join([f"{figure:8.1f}" for figure in figures])


def play(clients: Sequence[int], workers: int, rounds: int) -> int:
    """Run it and print a table, medians of the rounds. The exit code."""
    origin = Origin()
    good = True
    print(HEADING, flush=True)
    with running_edge(workers, origin.port) as port:
        for count in clients:
            played = [Round(port, origin, count, number) for number in range(rounds)]
            floors = [floor(count, workers) for _ in range(rounds)]
            good = good and all(one.good for one in played)
            late = [median(figures) for figures in zip(*[one.late for one in played], strict=True)]
            least = [median(figures) for figures in zip(*floors, strict=True)]
            requests, collapsed = max(one.requests for one in played), min(one.collapsed for one in played)
            leader, worst = median([one.leader for one in played]), median([one.worst for one in played])
            print(f"{count:7}{requests:10}{collapsed:11}{_line(late)}{leader:12.1f}{worst:12.1f}")
            print(f"{'only sending':>28}{_line(least)}", flush=True)
    return 0 if good else 1


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, nargs="+", default=[50, 200, 1000, 10_000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return play(arguments.clients, arguments.workers, arguments.rounds)


if __name__ == "__main__":
    sys.exit(main())
