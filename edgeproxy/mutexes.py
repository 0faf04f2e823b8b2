"""Mutexes between processes that make no system call unless somebody waits, and that die with their holder.

They are the C library's robust mutexes (POSIX `pthread_mutexattr_setrobust`). Half a microsecond for both
calls, where record locks of the kernel take two: the rate limiter pays it in every request.

Rule: hold one for a few microseconds and never two. Who waits keeps the interpreter's lock too.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys

AVAILABLE = sys.platform == "linux"  # macOS has none that are robust
_COUNT = 256
_SIZE = 64  # bytes for one; a `pthread_mutex_t` has 40 or 48
_SHARED = _ROBUST = 1  # PTHREAD_PROCESS_SHARED and PTHREAD_MUTEX_ROBUST of glibc and musl


class Mutexes:
    """Some mutexes, shared with every process forked from this one; each stands for many stripes.

    What a dead holder left half-written is for the next one to bear. Raises OSError when memory is refused.
    """

    __slots__ = ("_addresses", "_give", "_memory", "_mend", "_take")

    def __init__(self) -> None:
        library = ctypes.PyDLL(None)
        self._take = library.pthread_mutex_lock
        self._give = library.pthread_mutex_unlock
        self._mend = library.pthread_mutex_consistent
        for call in (self._take, self._give, self._mend):
            call.argtypes = [ctypes.c_void_p]
        # Nobody may close it: an address would outlive what it points to.
        self._memory = mmap.mmap(-1, _COUNT * _SIZE)
        first = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._addresses = [first + number * _SIZE for number in range(_COUNT)]
        kind = ctypes.create_string_buffer(_SIZE)
        _check(library.pthread_mutexattr_init(kind))
        _check(library.pthread_mutexattr_setpshared(kind, _SHARED))
        _check(library.pthread_mutexattr_setrobust(kind, _ROBUST))
        for address in self._addresses:
            _check(library.pthread_mutex_init(ctypes.c_void_p(address), kind))

    def lock(self, stripe: int) -> None:
        """Wait until nobody else is in the stripe."""
        mutex = self._addresses[stripe % _COUNT]
        said = self._take(mutex)
        if said:
            _check(self._mend(mutex) if said == errno.EOWNERDEAD else said)  # its holder died: it is ours

    def unlock(self, stripe: int) -> None:
        """Leave the stripe."""
        self._give(self._addresses[stripe % _COUNT])


def _check(said: int) -> None:
    if said:
        raise OSError(said, os.strerror(said))
