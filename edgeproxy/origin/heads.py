"""Response heads that a server repeats: the same bytes mean the same, so they are read once.

Origins say the same again and again: within a second not even Date changes. What was parsed and checked
is kept by its bytes, and everything that follows from it alone can be kept with its `Headers`.
"""

from __future__ import annotations

import math

from edgeproxy.http.message import Headers
from edgeproxy.record import record

HEADS = 64  # kept per server; most are never seen again, so all go when there is no more room
LONGEST = 4096  # bytes of a head that is kept


@record
class Head:
    """A final response head, parsed and found good: `body` bytes follow it, `length` is what it says.
    `patience` is that of its Keep-Alive field, in seconds."""

    status: int
    headers: Headers
    length: int | None
    body: int
    keep: bool
    patience: float = math.inf


class Heads:
    """The heads of one server. Only those whose body, if any, is counted, and not those that answer HEAD."""

    __slots__ = ("_known", "find")

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}
        self.find = self._known.get

    def learn(self, raw: bytes, head: Head) -> None:
        """Keep what `raw`, its empty line included, was read as."""
        if len(raw) > LONGEST:
            return
        if len(self._known) >= HEADS:
            self._known.clear()
        self._known[raw] = head
