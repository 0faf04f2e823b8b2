"""`edgeproxy demo`: two origins, an issuer and an edge on this machine, and a tour of curl lines.

Rule: whatever it starts or writes is gone when it ends, however early it is told to.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import edgeproxy
from edgeproxy.demo.tour import render, steps

PORTS = (8080, 9900, 8001, 8002, 8003)
"""Wanted for the edge, its admin listener, origins eu and us, and the issuer."""

_ENDING = (signal.SIGINT, signal.SIGTERM)
_PACKAGE = Path(edgeproxy.__file__).parent


class _Ended(Exception):  # noqa: N818 - it is not an error
    """Told to end while it starts."""


def run_demo(workers: int = 1) -> int:
    """Run until Ctrl-C or SIGTERM. Returns the exit code.

    Raises OSError when there is no free port or a helper does not come up.
    """
    with suppress(_Ended), _endings_wait():
        from edgeproxy.server import supervisor

        listen, admin, eu, us, issuer = addresses(PORTS)
        with tempfile.TemporaryDirectory(prefix="edgeproxy-demo-") as folder, _helpers(eu, us, issuer):
            log, revoked = Path(folder) / "access.log", Path(folder) / "revoked.jsonl"
            revoked.touch()
            database = str(config_file("demo-geo.mmdb"))
            os.environ.update(
                DEMO_LISTEN=listen,
                DEMO_ADMIN=admin,
                DEMO_EU=eu,
                DEMO_US=us,
                DEMO_ISSUER=issuer,
                DEMO_GEO_DB=database,
                DEMO_WORKERS=str(workers),
                DEMO_LOG=str(log),
                DEMO_REVOKED=str(revoked),
            )
            tour = steps(f"http://{listen}", f"http://{admin}", f"http://{eu}", f"http://{issuer}", database)
            print("edgeproxy demo: two origins (eu, us), a token issuer, and the edge in front of them.")
            print(f"Open http://{listen}/ in a browser, or take the tour in another terminal:")
            print(render(tour))
            print(f"\nThe access log of this run is {log}. Ctrl-C ends the demo.\n", flush=True)
            return supervisor.run(config_file("demo.yaml"))
    return 0


def config_file(name: str) -> Path:
    """A file of the demo: in the package when installed, beside it in a checkout."""
    installed = _PACKAGE / "demo" / "config" / name
    return installed if installed.exists() else _PACKAGE.parent / "config" / name


def addresses(wanted: tuple[int, ...]) -> list[str]:
    """`127.0.0.1:port` for each wanted port, with a free one in place of each that is taken.

    Raises OSError when there is none.
    """
    with ExitStack() as held:  # all held until the last is found: no two may be the same
        return [f"127.0.0.1:{_bound(held, port)}" for port in wanted]


def _bound(held: ExitStack, wanted: int) -> int:
    for port in (wanted, 0):
        probe = held.enter_context(socket.socket())
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return int(probe.getsockname()[1])
    raise OSError("no free port on 127.0.0.1")


@contextmanager
def _helpers(eu: str, us: str, issuer: str) -> Generator[None, None, None]:
    """The origins and the issuer, each a process that answers already."""
    commands = {
        eu: ("edgeproxy.demo.origins", "--name", "eu"),
        us: ("edgeproxy.demo.origins", "--name", "us"),
        issuer: ("edgeproxy.demo.issuer",),
    }
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for address, command in commands.items():
            running[address] = _start(*command, "--listen", address)
        for address, helper in running.items():
            _wait_for(address, helper)
        yield
    finally:
        for helper in running.values():
            helper.terminate()
        for helper in running.values():
            _end(helper)


def _start(*command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own modules
        [sys.executable, "-m", *command, "--end-with-stdin"],
        stdin=subprocess.PIPE,  # never written to: it ends with this process, however that ends
        start_new_session=True,  # Ctrl-C is for the edge, which drains before they go
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING),  # noqa: PLW1509 - one thread
    )


def _wait_for(address: str, helper: subprocess.Popen[bytes]) -> None:
    host, _, port = address.rpartition(":")
    for _ in range(400):
        if helper.poll() is not None:
            break
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            if signal.sigtimedwait(_ENDING, 0.05) is not None:
                raise _Ended from None
        else:
            return
    raise OSError(f"the demo's helper on {address} did not start")


def _end(helper: subprocess.Popen[bytes]) -> None:
    try:
        helper.wait(timeout=10)
    except subprocess.TimeoutExpired:
        helper.kill()
        helper.wait()


@contextmanager
def _endings_wait() -> Generator[None, None, None]:
    """Ctrl-C and SIGTERM wait until somebody looks: a helper is never started and not remembered, and
    nothing else swallows them. The supervisor looks, and whoever waits for a helper does."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        while signal.sigtimedwait(_ENDING, 0) is not None:
            pass  # it ends already
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
