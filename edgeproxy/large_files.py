"""Bodies too large for memory, in files beside the machine tier: one thread per worker writes them.

Rule 1: room is made before the first byte: a file has all its blocks when it is begun, so that a full disk is
found out then, and the sum of all files never grows above the bound.
Rule 2: the client goes first. When the disk is slower than the origin, the file is given up.
Rule 3: what a file is the body of is known to memory and to the machine tier. A file that they have forgotten
goes when it is the one not asked for longest.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from edgeproxy.cache.body_file import BodyFile
from edgeproxy.observe.cells import Slot

logger = logging.getLogger("edgeproxy.large")

AT_ONCE = 8  # files being written, per worker
BEHIND = 32 * 2**20  # bytes that the disk may be behind the origin, all files of a worker together
PAUSE = 10.0  # seconds without new files after the disk refused one
_PART = ".part"
_DEAD = 3600.0  # seconds after which a part that nobody writes to is somebody's who died
Done = Callable[[BodyFile | None], None]


class LargeFiles:
    """The files of one folder, shared by all workers. `max_bytes` bounds them all, `object_size` each."""

    def __init__(self, folder: Path, max_bytes: int, object_size: int, clock: Callable[[], float]) -> None:
        """Raises OSError when the folder cannot be made."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = str(folder)
        self.max_bytes, self.object_size = max_bytes, object_size
        self.behind = 0  # bytes that wait to be written
        self.spools = 0
        self.stored = self.failed = self.given_up = self.evicted = 0
        self._clock = clock
        self._paused_until = 0.0
        self._bytes = 0
        self.thread = ThreadPoolExecutor(1, "large-files")

    def takes(self, size: int) -> bool:
        """Would a body of this size be written down now?"""
        return size <= self.object_size and self.spools < AT_ONCE and self._clock() >= self._paused_until

    def spool(self, size: int) -> Spool:
        """Begin a file of that size; write to it what comes."""
        return Spool(self, size)

    def open(self, name: str, size: int) -> BodyFile | None:
        """The body that an entry names; None when it is gone."""
        try:
            return BodyFile(self.folder, name, size)
        except (OSError, ValueError):
            return None

    def refused(self, error: OSError) -> None:
        """The disk did not want one."""
        self.failed += 1
        self._paused_until = self._clock() + PAUSE
        logger.warning("large answers are not kept for %gs: %s", PAUSE, error)

    def publish(self, slot: Slot) -> None:
        """Figures for the metrics."""
        values, column = slot.values, slot.column
        for result in ("stored", "failed", "given_up"):
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
        with open(os.path.join(self.folder, "lock"), "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two workers must not count on the same room
            self._make_room(size)
            file = os.open(os.path.join(self.folder, name + _PART), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.posix_fallocate(file, 0, size)
            except OSError:
                os.close(file)
                self.remove(name + _PART)
                raise
        self._bytes += size
        return file

    def remove(self, name: str) -> None:
        with suppress(OSError):
            os.unlink(os.path.join(self.folder, name))

    def publish_file(self, name: str) -> None:
        """From now on it can be opened."""
        os.rename(os.path.join(self.folder, name + _PART), os.path.join(self.folder, name))

    def _make_room(self, size: int) -> None:
        found: list[tuple[float, int, str]] = []
        total, dead = 0, time.time() - _DEAD
        with os.scandir(self.folder) as listing:
            for one in listing:
                with suppress(OSError):  # another worker was faster
                    stat = one.stat()
                    total += stat.st_size
                    if not one.name.endswith(_PART) and one.name != "lock":
                        found.append((stat.st_mtime, stat.st_size, one.name))
                    elif one.name != "lock" and stat.st_mtime < dead:
                        found.append((0.0, stat.st_size, one.name))
        for _, length, name in sorted(found):
            if total + size <= self.max_bytes:
                break
            self.remove(name)
            self.evicted += 1
            total -= length
        self._bytes = total


class Spool:
    """One file while it is written. `add` never waits."""

    def __init__(self, files: LargeFiles, size: int) -> None:
        self._files, self._size = files, size
        self._name = secrets.token_hex(16)
        self._loop = asyncio.get_running_loop()
        self._given_up = False
        self._received = 0
        self._file = -1  # the thread's
        files.spools += 1
        files.thread.submit(self._create)

    def add(self, data: bytes) -> None:
        """The next bytes of the body."""
        files = self._files
        self._received += len(data)
        if self._given_up:
            return
        if files.behind > BEHIND or self._received > self._size:
            self._given_up = True
            files.given_up += 1
            return
        files.behind += len(data)
        files.thread.submit(self._write, data)

    def finish(self, done: Done) -> None:
        """The body is whole: `done` is told the file once it can be read, or None when there is none."""
        whole = self._received == self._size and not self._given_up
        self._files.thread.submit(self._end, done if whole else None)
        if not whole:
            done(None)

    def drop(self) -> None:
        """The body broke off."""
        self._given_up = True
        self._files.thread.submit(self._end, None)

    # --- in the thread

    def _create(self) -> None:
        try:
            self._file = self._files.create(self._name, self._size)
        except OSError as error:
            self._fail(error)

    def _write(self, data: bytes) -> None:
        try:
            if self._file >= 0:
                view = memoryview(data)
                while view:
                    view = view[os.write(self._file, view) :]
        except OSError as error:
            self._close()
            self._fail(error)
        finally:
            self._call(self._written, len(data))

    def _end(self, done: Done | None) -> None:
        body = None
        try:
            if self._file >= 0 and done is not None:
                self._files.publish_file(self._name)
                body = self._files.open(self._name, self._size)
        except OSError as error:
            self._fail(error)
        self._close()
        self._call(self._over, done, body)

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            self._files.remove(self._name + _PART)

    def _fail(self, error: OSError) -> None:
        self._call(self._files.refused, error)

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop has ended: nobody waits any more
            self._loop.call_soon_threadsafe(function, *arguments)

    # --- in the loop again

    def _written(self, size: int) -> None:
        self._files.behind -= size

    def _over(self, done: Done | None, body: BodyFile | None) -> None:
        self._files.spools -= 1
        if body is not None:
            self._files.stored += 1
        if done is not None:
            done(body)
