"""A lock on a file that one edge holds at a time, all its processes together.

It belongs to the open file: children of the fork hold it too, and the kernel drops it with the last of them.
"""

from __future__ import annotations

import fcntl
import time

PATIENCE = 3.0  # seconds; an edge that was killed takes a moment to be gone, see `worker.LAST_WORDS`


def take(file: int, patience: float = PATIENCE) -> None:
    """Lock the file behind a descriptor; the lock goes when all its copies are closed.

    Raises BlockingIOError when another edge holds it for longer than `patience` seconds.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(0.02)
