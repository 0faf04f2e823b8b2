"""Bodies too large for memory, in files beside the machine tier: one thread per worker writes them.

Rule 1: room is made before it is written to: a file has all its blocks when it is begun, or step by step
when nobody knows how long the body is. So a full disk is found out then, and the sum of all files never grows
above the bound.
Rule 2: the client goes first. When the disk is slower than the origin, the file is given up.
Rule 3: what a file is the body of is known to memory and to the machine tier. A file that they have forgotten
goes when it is the one not asked for longest.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from edgeproxy.cache.body_file import BodyFile
from edgeproxy.machine.spool import PART, Borrowed, Spool
from edgeproxy.observe.cells import Slot

logger = logging.getLogger("edgeproxy.large")

AT_ONCE = 32  # files being written, per worker
BEHIND = 32 * 2**20  # bytes that the disk may be behind the origin, all files of a worker together
PAUSES = (10.0, 30.0, 120.0)  # seconds without new files after the disk refused the n-th in a row


class LargeFiles:
    """The files of one folder, shared by all workers. `max_bytes` bounds them all, `object_size` each."""

    def __init__(self, folder: Path, max_bytes: int, object_size: int, clock: Callable[[], float]) -> None:
        """Raises OSError when the folder cannot be made."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = str(folder)
        self.max_bytes, self.object_size = max_bytes, object_size
        self.behind = 0  # bytes that wait to be written
        self.spools = 0
        self.refusals = 0  # since a file was kept
        self.stored = self.failed = self.given_up = self.lost = self.evicted = 0
        self._clock = clock
        self._paused_until = 0.0
        self._bytes = 0
        self.thread = ThreadPoolExecutor(1, "large-files")

    def takes(self, size: int) -> bool:
        """Would a body of this size be written down now?"""
        return size <= self.object_size and self.spools < AT_ONCE and self._clock() >= self._paused_until

    def spool(self, size: int | None) -> Spool:
        """Begin a file of that size, None when nobody knows it; write to it what comes."""
        return Spool(self, size)

    def borrow(self, name: str) -> Borrowed:
        """A file that another worker writes, to read along."""
        return Borrowed(self.folder, name)

    def open(self, name: str, size: int) -> BodyFile | None:
        """The body that an entry names; None when it is gone."""
        try:
            return BodyFile(self.folder, name, size, self._lose)
        except OSError:
            return None
        except (ValueError, EOFError):
            self._lose(name)
            return None

    def _lose(self, name: str) -> None:
        """Its file is not what was written: it is of no use to anybody, and found no more."""
        self.lost += 1
        self.remove(name)
        logger.warning("a stored answer is lost: somebody changed the length of %s", name)

    def refused(self, error: Exception) -> None:
        """The disk did not want one."""
        self.failed += 1
        now = self._clock()
        if now < self._paused_until:
            return  # one of those that were under way
        pause = PAUSES[min(self.refusals, len(PAUSES) - 1)]
        self.refusals += 1
        self._paused_until = now + pause
        logger.warning("large answers are not kept for %gs: %s", pause, error)

    def publish(self, slot: Slot) -> None:
        """Figures for the metrics."""
        values, column = slot.values, slot.column
        for result in ("stored", "failed", "given_up", "lost"):
            values[column("edgeproxy_cache_files_total", result=result)] = getattr(self, result)
        values[column("edgeproxy_cache_files_evictions_total")] = self.evicted
        if self._bytes:
            slot.gauge("edgeproxy_cache_files_bytes").set(self._bytes)

    def close(self) -> None:
        """Finish what is being written."""
        self.thread.shutdown(wait=True)

    # --- in the thread

    def create(self, name: str, size: int) -> int:
        """A file of that size, and room for it. Raises OSError."""
        with self._alone():
            file = os.open(os.path.join(self.folder, name + PART), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)  # as long as somebody writes it
                self._allocate(file, 0, size)
            except OSError:
                os.close(file)
                self.remove(name + PART)
                raise
        return file

    def extend(self, file: int, before: int, size: int) -> None:
        """Let a file of `before` bytes have `size`. Raises OSError."""
        with self._alone():
            self._allocate(file, before, size)

    @contextmanager
    def _alone(self) -> Generator[None]:
        """Two workers must not count on the same room."""
        Path(self.folder).mkdir(mode=0o700, parents=True, exist_ok=True)  # somebody may have removed it
        with open(os.path.join(self.folder, "lock"), "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _allocate(self, file: int, before: int, size: int) -> None:
        if not self._make_room(size - before):
            raise OSError(errno.EDQUOT, "what is being written takes all of max_bytes")
        os.posix_fallocate(file, before, size - before)
        self._bytes += size - before

    def remove(self, name: str) -> None:
        with suppress(OSError):
            os.unlink(os.path.join(self.folder, name))

    def publish_file(self, name: str) -> None:
        """From now on it can be opened."""
        os.rename(os.path.join(self.folder, name + PART), os.path.join(self.folder, name))

    def _make_room(self, size: int) -> bool:
        """Remove what was not asked for longest. False when what is being written leaves no room."""
        found: list[tuple[float, int, str]] = []
        total = kept = 0
        with os.scandir(self.folder) as listing:
            for one in listing:
                with suppress(OSError):  # another worker was faster
                    stat = one.stat()
                    total += stat.st_size
                    if one.name.endswith(PART) and _is_written(one.path):
                        kept += stat.st_size
                    elif one.name != "lock":
                        found.append((stat.st_mtime, stat.st_size, one.name))
        self._bytes = total
        if kept + size > self.max_bytes:
            return False
        for _, length, name in sorted(found, key=lambda one: (not one[2].endswith(PART), one)):
            if total + size <= self.max_bytes and not name.endswith(PART):
                break
            self.remove(name)
            self.evicted += 1
            total -= length
        self._bytes = total
        return True


def _is_written(path: str) -> bool:
    """Does a worker still write this file? Those that died left theirs unlocked. Raises OSError."""
    file = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False
