"""Two clocks, read once per request: a steady one that never steps, and the wall clock.

The steady clock is CLOCK_MONOTONIC plus an offset taken when the module is first imported, which is in
the supervisor before it forks: all workers of a machine agree on it, and it reads like epoch
seconds. Freshness and limits use it; a token's `exp` is compared with the wall clock.
"""

from __future__ import annotations

import time
from email.utils import formatdate

OFFSET = time.time() - time.monotonic()
_monotonic = time.monotonic

wall = time.time


def steady() -> float:
    """Epoch seconds that never jump, the same in every process of this machine's edge."""
    return _monotonic() + OFFSET


class DateLine:
    """The `Date` field of the current second, rendered at most once a second (RFC 9110 §6.6.1)."""

    __slots__ = ("_second", "line", "value")

    def __init__(self) -> None:
        self._second = 0
        self.value = b""
        self.line = b""

    def at(self, now: float) -> bytes:
        """`Date: ...\\r\\n` for `now`."""
        second = int(now)
        if second != self._second:
            self._second = second
            self.value = formatdate(second, usegmt=True).encode()
            self.line = b"Date: " + self.value + b"\r\n"
        return self.line
