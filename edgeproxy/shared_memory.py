"""Memory that all worker processes of one machine see, and locks that die with their holder.

Rule 1: a segment is made before the fork; children inherit the mapping and the lock file.
Rule 2: locks are fcntl record locks. They belong to a process and the kernel drops them when it
dies, so `kill -9` leaves nothing locked. For the same reason threads of one process do not
exclude each other (one event loop per worker), and no second descriptor of the lock file may
ever be opened and closed: that would drop every lock of the process.
Rule 3: hold at most one stripe at a time, for a few microseconds: waiting blocks the loop.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial


def _lock_file() -> int:
    if sys.platform == "linux":
        return os.memfd_create("edgeproxy-locks", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:  # pragma: no cover - without a name nobody else can open it
        return os.dup(file.fileno())


def _no_lock(stripe: int, /) -> None:
    """What `lock` and `unlock` are when there is one process: nothing to exclude, no system call."""


class Segment:
    """`size` zeroed bytes shared with every process forked from this one.

    `buffer` is the mapping; `cells` the same bytes as unsigned 64-bit numbers (aligned, so one
    read or write is whole). `lock(stripe)` waits for a byte-range lock of that number and
    `unlock(stripe)` drops it; pair them with try/finally. They are C-level partials because the
    rate limiter pays them per request.
    With `locking=False` (one worker) both do nothing. `file` is the descriptor of a file to map in the
    place of memory: what is written outlives the processes. Raises OSError when memory is refused.
    """

    __slots__ = ("_lock_fd", "buffer", "cells", "lock", "unlock")

    def __init__(self, size: int, *, locking: bool = True, file: int = -1) -> None:
        self.buffer = mmap.mmap(file, size)
        self.cells = memoryview(self.buffer).cast("Q")
        self._lock_fd = -1
        self.lock: Callable[[int], object] = _no_lock
        self.unlock: Callable[[int], object] = _no_lock
        if locking:
            self._lock_fd = _lock_file()
            self.lock = partial(fcntl.lockf, self._lock_fd, fcntl.LOCK_EX, 1)
            self.unlock = partial(fcntl.lockf, self._lock_fd, fcntl.LOCK_UN, 1)

    def close(self) -> None:
        """Unmap, and drop every lock this process holds here. Other processes keep theirs."""
        self.cells.release()
        self.buffer.close()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1
