"""What all processes of one machine's edge share; made by the supervisor before it forks.

Cells for the numbers, buckets for the limits, the purge log, one byte of health per server, who fetches what,
the sockets between workers, and the text of the accepted configuration, which a reload replaces.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from edgeproxy import __build__, __version__
from edgeproxy.bucket_file import kept_table, mend
from edgeproxy.cache.marks import Marks
from edgeproxy.cache.renewals import SIZE as RENEWALS
from edgeproxy.config import Config, read_config
from edgeproxy.config.file import parse
from edgeproxy.config.sections import MachineSection, RateLimitTable
from edgeproxy.flight_table import FlightTable
from edgeproxy.machine.home import MachineHome
from edgeproxy.observe.cells import Cells, encode_series
from edgeproxy.observe.seen import SeenUnits
from edgeproxy.policies.bucket_table import BucketTable
from edgeproxy.policies.in_flight_table import InFlightTable
from edgeproxy.purge_log import PurgeLog

logger = logging.getLogger("edgeproxy.shared")

HEALTH_BYTES = 65_536  # servers whose health can be shared; more than any configuration names


class Shared:
    """Slots 0 to n-1 belong to the workers, n to the control process, n+1 to the supervisor."""

    def __init__(
        self, path: Path, workers: int, limits: RateLimitTable | None = None, *, controlled: bool = False
    ) -> None:
        """`limits` says how large the table of the rate limits is and where it is kept; `controlled`: there
        is a control process beside the workers."""
        self.path = path
        self.workers = workers
        self.cells = Cells(workers + 2)
        self._limits = limits or RateLimitTable()
        self.buckets = _bucket_table(self._limits, shared=workers > 1)
        self.in_flight = InFlightTable(workers + 2, shared=workers > 1)
        self.purge_log = PurgeLog()
        self.renewals = PurgeLog(RENEWALS)
        self.seen = SeenUnits()
        self.marks = Marks()
        self.health = memoryview(mmap.mmap(-1, HEALTH_BYTES))
        self.links = _links(workers) if workers > 1 or controlled else None
        self.started_at = time.time()
        self.machine: MachineHome | None = None
        self._doubtful: Path | None = None  # the state of a folder that could not be used
        self._text = _anonymous_file()
        self._slot = self.cells.slot(workers + 1)
        self._generation = 0

    @classmethod
    def create(
        cls, path: Path, workers: int, limits: RateLimitTable | None = None, *, controlled: bool = False
    ) -> Shared:
        """Everything, for so many workers. Raises OSError when a file cannot be read or made."""
        shared = cls(path, workers, limits, controlled=controlled)
        shared.publish(path.read_bytes())
        return shared

    def config(self) -> Config:
        """The accepted configuration, whatever happens to the file meanwhile. Raises ConfigError."""
        text = os.pread(self._text, os.fstat(self._text).st_size, 0)
        return read_config(parse(text, str(self.path), self.path.parent))

    def open_machine(self, section: MachineSection | None) -> None:
        """Take the folder of the machine tier. Before forking; without it the edge serves all the same."""
        if section is None:
            return
        try:
            self.machine = MachineHome(Path(section.path), section.max_bytes, self.purge_log)
        except OSError as error:
            if not isinstance(error, BlockingIOError):
                self._doubtful = Path(section.path) / "state"
            self._slot.counter("edgeproxy_cache_machine_errors_total", kind="folder").inc()
            reason = "another edge uses it" if isinstance(error, BlockingIOError) else error
            logger.error(  # noqa: TRY400 - the reason is the whole story
                "there will be no machine tier in %s: %s", section.path, reason
            )
        else:
            if self.machine.survived:  # any URL may be in it
                self.marks.store_all()
            self.tend_machine()

    def tend_machine(self) -> None:
        """What the owner of the folder does a few times a second."""
        if self._doubtful is not None and self.purge_log.position:
            # what lies there does not know of purges of this run: it must not be used after it
            with contextlib.suppress(OSError):
                self._doubtful.unlink(missing_ok=True)
                self._doubtful = None
        if self.machine is not None:
            self.machine.tend()
            for reason, count in self.machine.remade.items():
                column = self._slot.column("edgeproxy_cache_machine_remade_total", reason=reason)
                self._slot.values[column] = count

    def publish(self, text: bytes) -> None:
        """Replace the text that the processes will read at the next reload."""
        os.ftruncate(self._text, 0)
        os.pwrite(self._text, text, 0)

    def accepted(self) -> None:
        """A configuration is in force."""
        self._generation += 1
        gauge = self._slot.gauge
        gauge("edgeproxy_config_reload_success").set(1.0)
        gauge("edgeproxy_config_generation").set(self._generation)
        gauge("edgeproxy_config_loaded_timestamp_seconds").set(time.time())
        gauge("edgeproxy_build_info", version=__version__, build=__build__).set(1.0)

    def refused(self) -> None:
        """A reload was refused; what runs goes on."""
        self._slot.gauge("edgeproxy_config_reload_success").set(0.0)

    def died(self, slot: int) -> None:
        """A process ended on its own: what it had open is closed."""
        self.cells.clear_gauges(slot)
        if self.links is not None:
            self.links.flights.clear(slot)
        self.in_flight.forget(slot)
        if slot < self.workers:
            self._slot.counter("edgeproxy_worker_restarts_total").inc()

    def crashed(self) -> None:
        """A process was ended by a signal that a file may be the cause of: whatever it was, not again."""
        if self.machine is not None:
            self.machine.crashed()
        limits = self._limits
        if limits.file is not None and mend(Path(limits.file), limits.keys):
            logger.error("somebody made %s shorter: what was counted there is lost", limits.file)

    def ready(self, slot: int) -> None:
        """Said by a worker that accepts connections."""
        self.cells.slot(slot).gauge("edgeproxy_workers").set(1.0)

    def ready_workers(self) -> int:
        """How many workers accept connections now."""
        return int(self.cells.total(self._slot.cells.intern(encode_series("edgeproxy_workers"))))

    def forget_health(self) -> None:
        """After a reload the bytes belong to other servers: nothing is known of them."""
        self.health[:] = bytes(HEALTH_BYTES)

    def health_of(self, config: Config) -> Iterator[tuple[str, memoryview]]:
        """(origin, its cells), one byte per server, the same for every process of a configuration."""
        at = 0
        for name, origin in sorted(config.origins.items()):
            end = at + len(origin.servers)
            yield name, self.health[at:end]
            at = end


class Links:
    """How the workers are reached by one another and by the control process: a Unix socket each, which only
    we can name.

    The listeners stay open in the supervisor, so that a worker that restarts finds its own again.
    Raises OSError when there is no place to make them.
    """

    def __init__(self, workers: int) -> None:
        self.flights = FlightTable()
        self.secret = secrets.token_bytes(32)
        self._files: list[int] = []
        self._folder = tempfile.TemporaryDirectory(prefix="edgeproxy-", ignore_cleanup_errors=True)
        self.paths = [str(Path(self._folder.name, f"worker-{slot}")) for slot in range(workers)]
        self.listeners = [_listener(path) for path in self.paths]
        if sys.platform == "linux":
            # Held open, the sockets are reached by descriptor: `kill -9` leaves no folder behind.
            self._files = [os.open(path, os.O_PATH) for path in self.paths]
            self.paths = [f"/proc/self/fd/{file}" for file in self._files]
            self._folder.cleanup()

    def close(self) -> None:
        """Nobody can name the sockets any more; for the supervisor, at the end."""
        self._folder.cleanup()
        while self._files:
            os.close(self._files.pop())


def _links(workers: int) -> Links | None:
    try:
        return Links(workers)
    except OSError as error:
        logger.warning("workers do not share what they fetch: no place for their sockets: %s", error)
        return None


def _listener(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(1024)
    listener.setblocking(False)
    return listener


def _bucket_table(limits: RateLimitTable, *, shared: bool) -> BucketTable:
    if limits.file is None:
        return BucketTable(limits.keys, shared=shared)
    return kept_table(Path(limits.file), limits.keys, shared=shared)


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("edgeproxy-config")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
