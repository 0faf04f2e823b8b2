"""`edgeproxy run` as an operator has it: processes, signals, and a file that changes under it."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from edgeproxy.config import Config, read_config
from edgeproxy.config.file import parse
from edgeproxy.server.descriptors import needed
from edgeproxy.server.supervisor import bind, needs_restart, only_needed_by
from edgeproxy.units import Address
from tests.helpers.processes import free_port

CONFIG = """
edge: {{id: edge-1, pop: ams}}
server: {{listen: ["127.0.0.1:{port}"], workers: {workers}, access_log: {{path: "off"}}}}
admin: {{listen: "127.0.0.1:{admin}", token: "${{file:admin.token}}"}}
origins: {{main: {{servers: ["{origin}"]}}}}
routes: [{{name: {route}, origin: main}}]
"""
ORIGIN = "http://127.0.0.1:1"
OLD, NEW = "an-old-token-of-this-test", "a-later-token-of-this-test"


class Edge:
    """A running `edgeproxy run` in a folder of its own."""

    def __init__(self, folder: Path, under: Sequence[str] = (), **changes: object) -> None:
        """`under` is a command that runs it."""
        self.folder = folder
        self.ports = {"port": free_port(), "admin": free_port()}
        self.log = folder / "log.txt"
        self.write(**changes)
        self.write_token(OLD)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*under, sys.executable, "-m", "edgeproxy", "run", "--config", str(folder / "edge.yaml")],
                stdout=log,
                stderr=log,
                cwd="/",
                env={**os.environ, "TMPDIR": str(folder)},
                start_new_session=True,
            )

    def write(self, **changes: object) -> None:
        text = CONFIG.format(**{**self.ports, "workers": 2, "route": "all", "origin": ORIGIN, **changes})
        (self.folder / "edge.yaml").write_text(text, encoding="utf-8")

    def write_token(self, token: str) -> None:
        (self.folder / "admin.token").write_text(f"{token}\n", encoding="utf-8")

    def ask(self, path: str, token: str = "") -> httpx.Response:
        with httpx.Client(trust_env=False, timeout=5.0) as client:
            fields = {"Authorization": f"Bearer {token}"} if token else {}
            return client.get(f"http://127.0.0.1:{self.ports['admin']}{path}", headers=fields)

    def status(self, path: str, token: str = "") -> int:
        try:
            return self.ask(path, token).status_code
        except httpx.TransportError:
            return 0

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait for what another process does; fails with the edge's log."""
        for _ in range(400):
            if holds():
                return
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        pytest.fail(self.log.read_text())

    def says(self, text: str) -> bool:
        return text in self.log.read_text()

    def reload(self) -> None:
        self.process.send_signal(signal.SIGHUP)

    def end(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(timeout=40)


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Edge]:
    edge = Edge(tmp_path)
    try:
        yield edge
    finally:
        edge.end()


def test_a_reload_puts_another_admin_token_in_force_and_keeps_what_was_good(edge: Edge) -> None:
    edge.until(lambda: edge.status("/readyz") == 200)
    assert (edge.status("/config", OLD), edge.status("/config", NEW)) == (200, 401)

    edge.write_token(NEW)
    edge.reload()
    edge.until(lambda: edge.status("/config", NEW) == 200)
    assert edge.status("/config", OLD) == 401

    edge.write(route="[no, name]")
    edge.reload()
    edge.until(lambda: edge.says("reload refused"))
    assert "routes[0].name" in edge.log.read_text()
    assert "edgeproxy_config_reload_success 0.0" in edge.ask("/metrics").text
    assert edge.status("/config", NEW) == 200

    (edge.folder / "edge.yaml").unlink()
    edge.reload()
    edge.until(lambda: edge.says(f"{edge.folder / 'edge.yaml'}: No such file or directory"))

    edge.write(route="all, policies: [{use: 'nope:Policy'}]")
    edge.reload()
    edge.until(lambda: edge.says("nope:Policy cannot be used"))
    assert edge.status("/readyz") == 200

    edge.write(route="later", workers=1)
    edge.reload()
    edge.until(lambda: "later" in edge.ask("/config", NEW).text)
    warning = "not in force before the next restart: server.workers"
    assert edge.says(warning)
    edge.reload()
    edge.until(lambda: edge.log.read_text().count(warning) == 2)

    assert edge.end() == 0
    log = edge.log.read_text()
    assert "Traceback" not in log
    assert OLD not in log
    assert NEW not in log


def test_an_edge_opens_as_many_files_as_the_system_lets_it_and_says_when_they_may_not_do(
    tmp_path: Path,
) -> None:
    edge = Edge(tmp_path, ["sh", "-c", 'ulimit -S -n 250 && ulimit -H -n 900 && exec "$@"', "sh"])
    try:
        edge.until(lambda: edge.status("/readyz") == 200)
        for pid in children_of(edge.process.pid) | {edge.process.pid}:
            assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (900, 900)
        assert edge.says("a worker may need 11280 descriptors (server.limits.connections 10000, ")
        assert edge.says("and the system allows 900")
    finally:
        edge.end()


def test_what_a_worker_may_have_open_follows_from_its_limits(tmp_path: Path) -> None:
    text = (
        CONFIG.format(port=1, admin=2, workers=1, route="all", origin=ORIGIN)
        + """
cache: {memory: 64MiB, object_size: 1MiB, machine: {path: x, files: {max_bytes: 500MiB, object_size: 2MiB}}}
"""
    )
    (tmp_path / "admin.token").write_text(OLD)
    config = read_config(parse(text.encode(), "edge.yaml", tmp_path))
    assert needed(config) == {
        "server.limits.connections": 10_000, "max_connections of the origins": 1024,
        "cache.machine.files": 1000, "others": 256,
    }  # fmt: skip


def children_of(pid: int) -> set[int]:
    return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def runs(pid: int) -> bool:
    """Whether it is more than an entry that nobody has asked for yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_supervisor_that_is_killed_takes_its_processes_along_and_leaves_no_file(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:  # an origin that never answers
        url = f"http://127.0.0.1:{hanging.getsockname()[1]}"
        edge = Edge(tmp_path, origin=url)
        edge.until(lambda: edge.status("/readyz") == 200)
        processes = children_of(edge.process.pid)
        assert len(processes) == 3
        with socket.create_connection(("127.0.0.1", edge.ports["port"])) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            with hanging.accept()[0]:
                edge.process.kill()
                edge.process.wait(timeout=10)
                deadline = time.monotonic() + 20
                while any(map(runs, processes)) and time.monotonic() < deadline:
                    time.sleep(0.05)
                left = [pid for pid in processes if runs(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, edge.log.read_text()
    assert edge.log.read_text().count("the supervisor is gone") == 3
    assert not list(tmp_path.glob("edgeproxy-*"))


def test_two_edges_do_not_share_an_address(edge: Edge) -> None:
    edge.until(lambda: edge.status("/readyz") == 200)
    done = subprocess.run(
        [sys.executable, "-m", "edgeproxy", "run", str(edge.folder / "edge.yaml")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    said = f"Error: cannot listen on 127.0.0.1:{edge.ports['port']}: Address already in use; another edge"
    assert done.stderr.startswith(said)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (
            errno.EADDRNOTAVAIL,
            "127.0.0.1:80: Cannot assign requested address; no network interface here has it",
        ),
        (errno.EACCES, "127.0.0.1:80: Permission denied; a port below 1024 needs root or the capability"),
        (errno.ENOBUFS, "127.0.0.1:80: No buffer space available"),
    ],
)
def test_an_address_that_cannot_be_had_is_named_with_what_helps(
    monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    class Refused(socket.socket):
        def bind(self, address: object, /) -> None:
            raise OSError(number, "whatever")

    monkeypatch.setattr("socket.socket", Refused)
    with pytest.raises(OSError, match=re.escape(f"cannot listen on {said}")):
        bind(Address("127.0.0.1", 80), 1)


def test_a_process_that_ends_is_named_and_so_is_how_it_ended(edge: Edge) -> None:
    edge.until(lambda: edge.status("/readyz") == 200)
    first, *_, last = sorted(children_of(edge.process.pid))
    for pid, who in ((first, "worker 0"), (last, "the control process")):
        os.kill(pid, signal.SIGKILL)
        edge.until(lambda said=f"{who} (pid {pid}) ended by signal SIGKILL": edge.says(said))


def test_an_edge_that_cannot_be_built_does_not_start(tmp_path: Path) -> None:
    text = CONFIG.format(
        port=free_port(),
        admin=free_port(),
        workers=2,
        route="all, policies: [{use: 'nope:P'}]",
        origin=ORIGIN,
    )
    (tmp_path / "edge.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "admin.token").write_text(OLD, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "edgeproxy", "run", "--config", str(tmp_path / "edge.yaml")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "nope:P cannot be used" in done.stderr
    assert "Traceback" not in done.stderr
    assert "serving" not in done.stderr


def read(more: object = "", **changes: object) -> Config:
    values = {"port": 1, "admin": 2, "workers": 1, "route": "all", "origin": ORIGIN, **changes}
    text = f"{CONFIG.format(**values)}{more}"
    return read_config(parse(text.replace("${file:admin.token}", NEW).encode(), "edge.yaml", Path()))


@pytest.mark.parametrize(
    ("changes", "waiting"),
    [
        ({}, []),
        ({"route": "other"}, []),
        ({"port": 3}, ["server.listen"]),
        ({"workers": 2, "admin": 4}, ["server.workers", "admin.listen"]),
    ],
)
def test_what_a_reload_cannot_change_is_named(changes: dict[str, object], waiting: list[str]) -> None:
    assert needs_restart(read(), read(**changes)) == waiting


ISSUER = "jwt_providers: {a: {issuer: a, algorithms: [ES256], jwks: 'https://id.example.com/jwks.json'}}"


@pytest.mark.parametrize(
    ("config", "modules"),
    [
        (read(), []),
        (read(origin="http://[::1]:1"), []),
        (read(origin="unix:/run/origin.sock"), []),
        (read(origin="http://origin.example.com"), ["edgeproxy.origin.name_servers"]),
        (read(ISSUER), ["edgeproxy.feeds.jwks"]),
    ],
)
def test_what_only_some_configurations_need_is_imported_for_them(config: Config, modules: list[str]) -> None:
    assert list(only_needed_by(config)) == modules
