"""The supervisor: binds the sockets, forks the workers, restarts the dead, reloads, drains. Serves nobody.

Rule 1: it is plain and synchronous: no event loop, no threads, so that forking is safe.
Rule 2: each worker slot has sockets of its own (SO_REUSEPORT), made before the first fork and kept open
here: connections that arrive while a worker restarts wait in the queue instead of being refused.
Rule 3: what the processes share (`shared.Shared`) is made before the fork.
Rule 4: it alone holds the writing end of a pipe; its end, however it comes, is theirs too.
"""

from __future__ import annotations

import errno
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from edgeproxy.config import Config, load_config, read_config
from edgeproxy.config.file import parse
from edgeproxy.errors import ConfigError
from edgeproxy.origin.servers import is_address
from edgeproxy.record import record
from edgeproxy.rehearsal import rehearse_apart
from edgeproxy.server.cores import usable_cores
from edgeproxy.server.descriptors import raise_limit
from edgeproxy.server.worker import run_worker
from edgeproxy.shared import Shared
from edgeproxy.units import Address

logger = logging.getLogger("edgeproxy.supervisor")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1)
BACK_OFF = (0.0, 0.0, 0.5, 1.0, 2.0, 5.0, 10.0)  # seconds before the n-th restart in a row
BAD_MEMORY = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT})  # as damaged files may cause
SETTLED = 10.0  # a process that lived this long starts over with its restarts
BACKLOG = 2048
PATIENCE = 1.0  # seconds that a port may still be in use
_MEANS = {  # why an address cannot be had, and what helps
    errno.EADDRINUSE: "; another edge or server has it: `ss -ltnp` names it",
    errno.EADDRNOTAVAIL: "; no network interface here has it: `ip address` lists those that do",
    errno.EACCES: "; a port below 1024 needs root or the capability CAP_NET_BIND_SERVICE",
}


@record
class Child:
    """One running process: its slot and when it started."""

    slot: int
    started: float


def run(path: Path | str) -> int:
    """Run the edge of a configuration until SIGTERM or SIGINT. Returns the exit code.

    Raises ConfigError when the configuration is wrong, OSError when an address cannot be bound.
    """
    config = load_config(path)
    for module in only_needed_by(config):  # once here, and not by each worker
        import_module(module)
    rehearse_apart(config)
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    for chatty in ("httpx", "uvicorn"):  # of every probe, and of every process that starts and stops
        logging.getLogger(chatty).setLevel(logging.WARNING)
    return Supervisor(Path(path), config).run()


def only_needed_by(config: Config) -> Iterator[str]:
    """The modules that this configuration needs and others do not."""
    if any(provider.jwks is not None for provider in config.jwt_providers.values()):
        yield "edgeproxy.feeds.jwks"
    hosts = [url.host for origin in config.origins.values() for url in origin.urls if not url.socket]
    if not all(map(is_address, hosts)):
        yield "edgeproxy.origin.name_servers"


def worker_count(config: Config) -> int:
    """`auto` is one worker per core this process may use, 32 at most."""
    return min(usable_cores(), 32) if config.server.workers == "auto" else config.server.workers


def bind(address: Address, count: int) -> list[socket.socket]:
    """So many listening sockets that share a port, which must be nobody else's. Raises OSError.

    Without the first look two edges would share it too, and each see half of the requests and purges.
    """
    _bound(address, shared=False).close()
    listeners = [_bound(address, shared=True) for _ in range(count)]
    for listener in listeners:
        listener.listen(BACKLOG)
        listener.setblocking(False)
    return listeners


def _bound(address: Address, *, shared: bool) -> socket.socket:
    """The processes of an edge that was killed take a moment to be gone."""
    made = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            made.bind((address.host, address.port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE and time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            made.close()
            said = os.strerror(error.errno or 0) + _MEANS.get(error.errno or 0, "")
            raise OSError(error.errno, f"cannot listen on {address}: {said}") from None
        return made


def needs_restart(old: Config, new: Config) -> list[str]:
    """The changed settings that a reload cannot put in force: what they shape is made at the start."""
    pairs = {
        "server.listen": (old.server.listen, new.server.listen),
        "server.workers": (old.server.workers, new.server.workers),
        "server.access_log": (old.server.access_log, new.server.access_log),
        "admin.listen": (old.admin.listen, new.admin.listen),
        "cache.machine": (old.cache.machine, new.cache.machine),
        "rate_limit_table": (old.rate_limit_table, new.rate_limit_table),
    }
    return [name for name, (before, after) in pairs.items() if before != after]


class Supervisor:
    """Slots 0 to n-1 are workers; slot n is the control process (admin, health probes)."""

    def __init__(self, path: Path, config: Config) -> None:
        self._path = path
        self._config = self._started_with = config
        raise_limit(config)  # before anything is opened, and for all who are forked
        self._workers = worker_count(config)
        addresses = [one.address for one in config.server.listen]
        self._sockets = list(map(list, zip(*[bind(one, self._workers) for one in addresses], strict=True)))
        self._admin = bind(config.admin.listen, 1) if config.admin.listen is not None else []
        self._shared = Shared.create(path, self._workers, config.rate_limit_table, controlled=True)
        self._shared.open_machine(config.cache.machine)
        self._lifeline, self._held = os.pipe()
        self._tick = 2.0 if self._shared.machine is None else 0.25
        self._children: dict[int, Child] = {}
        self._restarts: dict[int, int] = {}
        self._due: dict[int, float] = {}  # slot -> when it may start again
        self._stopping = False
        self._deadline = float("inf")

    def run(self) -> int:
        """Fork, then wait for signals. 0 after a drain, 1 when workers had to be killed."""
        gc.freeze()  # shared with the workers; a collector that walked it would copy it
        gc.enable()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self._shared.accepted()
        for slot in range(self._workers + 1):
            self._fork(slot)
        where = ", ".join(str(one.address) for one in self._config.server.listen)
        logger.info(
            "serving %s with %d worker(s), admin on %s", where, self._workers, self._config.admin.listen
        )
        while self._children or not self._stopping:
            arrived = signal.sigtimedwait(SIGNALS, 0.25 if self._stopping or self._due else self._tick)
            if arrived is not None:
                self._on_signal(signal.Signals(arrived.si_signo))
            self._reap()
            self._shared.tend_machine()
            now = time.monotonic()
            for slot in [slot for slot, due in self._due.items() if due <= now and not self._stopping]:
                self._fork(slot)
            if now > self._deadline:
                logger.warning(
                    "drain took longer than %gs: ending %d process(es)",
                    self._config.server.limits.drain,
                    len(self._children),
                )
                self._signal_all(signal.SIGKILL)
                self._deadline = now + 5.0
        os.close(self._held)
        os.close(self._lifeline)
        if self._shared.links is not None:
            self._shared.links.close()
        if self._shared.machine is not None:
            self._shared.machine.close()
        logger.info("stopped")
        return 0

    def _on_signal(self, arrived: signal.Signals) -> None:
        if arrived in (signal.SIGTERM, signal.SIGINT):
            if self._stopping:  # asked twice: at once
                self._signal_all(signal.SIGKILL)
                return
            logger.info("%s: draining, at most %gs", arrived.name, self._config.server.limits.drain)
            self._stopping = True
            self._deadline = time.monotonic() + self._config.server.limits.drain + 2.0
            self._due.clear()
            self._signal_all(signal.SIGTERM)
        elif arrived == signal.SIGHUP and not self._stopping:
            self._reload()
        elif arrived == signal.SIGUSR1:
            self._signal_all(signal.SIGUSR1)  # reopen the access log

    def _reload(self) -> None:
        """Check the new configuration here; the processes swap it in only when it is good (A160)."""
        try:
            text = self._path.read_bytes()
            config = read_config(parse(text, str(self._path), self._path.parent))
            rehearse_apart(config)
            self._shared.publish(text)
        except (ConfigError, OSError) as error:
            self._shared.refused()
            said = f"{self._path}: {error.strerror or error}" if isinstance(error, OSError) else error
            logger.error(  # noqa: TRY400 - the message is the whole story, a traceback is not
                "reload refused, the running configuration stays:\n%s", said
            )
            return
        if waiting := needs_restart(self._started_with, config):
            logger.warning("not in force before the next restart: %s", ", ".join(waiting))
        raise_limit(config)
        self._shared.accepted()
        self._config = config
        self._signal_all(signal.SIGHUP)
        logger.info("configuration reloaded")

    def _reap(self) -> None:
        while self._children:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self._children.pop(pid, None)
            if child is not None and not self._stopping:
                self._died(pid, child, status)

    def _died(self, pid: int, child: Child, status: int) -> None:
        lived = time.monotonic() - child.started
        times = 0 if lived > SETTLED else self._restarts.get(child.slot, 0) + 1
        self._restarts[child.slot] = times
        wait = BACK_OFF[min(times, len(BACK_OFF) - 1)]
        self._due[child.slot] = time.monotonic() + wait
        code = os.waitstatus_to_exitcode(status)
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        who = "the control process" if child.slot == self._workers else f"worker {child.slot}"
        logger.error("%s (pid %d) ended by %s after %.1fs; starts again in %gs", who, pid, how, lived, wait)
        self._shared.died(child.slot)
        if -code in BAD_MEMORY:
            self._shared.crashed()

    def _fork(self, slot: int) -> None:
        self._due.pop(slot, None)
        pid = os.fork()
        if pid:
            self._children[pid] = Child(slot, time.monotonic())
            return
        os._exit(self._child(slot))

    def _child(self, slot: int) -> int:
        """In the new process: give up what belongs to others, run, and say how it went."""
        try:
            for number in (signal.SIGTERM, signal.SIGINT):  # it may just end, as long as it serves nobody
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            os.close(self._held)
            for other, sockets in enumerate([*self._sockets, self._admin]):
                if other != slot:
                    _close(sockets)
            if slot == self._workers:
                # Starlette, httpx and prometheus-client are for this process alone: no worker waits for them.
                from edgeproxy.server.control import run_control

                return run_control(self._shared, slot, self._admin, self._lifeline)
            return run_worker(self._shared, slot, self._sockets[slot], self._lifeline)
        except BaseException:
            logger.exception("slot %d failed", slot)
            return 1
        finally:
            sys.stderr.flush()
            sys.stdout.flush()

    def _signal_all(self, number: signal.Signals) -> None:
        for pid in tuple(self._children):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue


def _close(sockets: list[socket.socket]) -> None:
    for one in sockets:
        one.close()
