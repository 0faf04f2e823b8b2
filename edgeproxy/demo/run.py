"""`edgeproxy demo`: two origins, an issuer and an edge on this machine, and a tour of curl lines."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import edgeproxy
from edgeproxy.demo.tour import render, steps

_PACKAGE = Path(edgeproxy.__file__).parent


def run_demo(workers: int = 1) -> int:
    """Run until Ctrl-C or SIGTERM. Returns the exit code."""
    from edgeproxy.server import supervisor

    listen, admin = _port(8080), _port(9900)
    eu, us, issuer = _port(8001), _port(8002), _port(8003)
    folder = Path(tempfile.mkdtemp(prefix="edgeproxy-demo-"))
    os.environ.update(
        DEMO_LISTEN=listen,
        DEMO_ADMIN=admin,
        DEMO_EU=eu,
        DEMO_US=us,
        DEMO_ISSUER=issuer,
        DEMO_GEO_DB=str(config_file("demo-geo.mmdb")),
        DEMO_WORKERS=str(workers),
        DEMO_LOG=str(folder / "access.log"),
    )
    commands = [
        ("edgeproxy.demo.origins", "--name", "eu", "--listen", eu),
        ("edgeproxy.demo.origins", "--name", "us", "--listen", us),
        ("edgeproxy.demo.issuer", "--listen", issuer),
    ]
    # a session of their own: Ctrl-C is for the edge, which drains before they go
    helpers = [
        subprocess.Popen([sys.executable, "-m", *command], start_new_session=True)  # noqa: S603 - our own modules
        for command in commands
    ]
    try:
        for address in (eu, us, issuer):
            _wait_for(address)
        tour = steps(f"http://{listen}", f"http://{admin}", f"http://{eu}", f"http://{issuer}")
        print("edgeproxy demo: two origins (eu, us), a token issuer, and the edge in front of them.")
        print(f"Open http://{listen}/ in a browser, or take the tour in another terminal:")
        print(render(tour))
        print(f"\nThe access log is {folder / 'access.log'}. Ctrl-C ends the demo.\n", flush=True)
        return supervisor.run(config_file("demo.yaml"))
    except KeyboardInterrupt:
        return 0
    finally:
        for helper in helpers:
            helper.terminate()
        for helper in helpers:
            helper.wait(timeout=10)


def config_file(name: str) -> Path:
    """A file of the demo: in the package when installed, beside it in a checkout."""
    installed = _PACKAGE / "demo" / "config" / name
    return installed if installed.exists() else _PACKAGE.parent / "config" / name


def _port(wanted: int) -> str:
    """`127.0.0.1:port` with the wanted port, or a free one when it is taken."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return f"127.0.0.1:{probe.getsockname()[1]}"
    raise OSError("no free port on 127.0.0.1")


def _wait_for(address: str) -> None:
    host, _, port = address.rpartition(":")
    for _ in range(200):
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(f"nothing answers on {address}")
