"""What has been purged: a ring in shared memory, appended by the admin API, read by every worker.

A position is the number of bytes ever appended. A cached response remembers the position of its fetch;
a worker compares one cell per request and reads the records behind it only when there are some.
The record is written first, then the position, so readers need no lock. A reader that fell behind by
more than the ring is told so, and drops everything. Each reader adds to a record what it dropped for it, so
that who purged can be told what was reached.

Positions go on after a restart where the caches that survive it say so (`begin`), and whoever keeps such a
cache is told of each record before readers are (`journal`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator
from contextlib import contextmanager
from enum import IntEnum

from edgeproxy.record import record
from edgeproxy.shared_memory import Segment

_HEADER = 64
_RECORD = struct.Struct("<HBBHI")  # length of the value, kind, soft; readers, and what they dropped
_TALLY = struct.Struct("<HI")
_TALLY_AT = _RECORD.size - _TALLY.size
_POSITION, _FLOOR = 0, 1  # cells of the header
MAX_VALUE = 16 * 1024  # bytes; longer than any URL the doors accept
MAX_RECORD = _RECORD.size + MAX_VALUE


class PurgeKind(IntEnum):
    """What a purge names. The number is what the ring holds."""

    URL = 1  # `host/path?query`, in every variant
    PREFIX = 2  # `host/path`, and everything that starts with it
    HOST = 3
    TAG = 4
    ALL = 5

    @property
    def word(self) -> str:
        """As people write it: `url`."""
        return self.name.lower()


@record
class Purge:
    """One purge. Soft: what it names becomes stale, and may be served while it is refreshed."""

    kind: PurgeKind
    value: bytes  # empty for ALL
    soft: bool
    position: int  # where the log stood after it: a reader that applied it is there

    @property
    def start(self) -> int:
        """Where the log stood before it."""
        return self.position - _RECORD.size - len(self.value)


def split_location(value: bytes) -> tuple[bytes, bytes, bytes]:
    """(host, path, query) of the value of a URL or PREFIX purge, normalised as in a Request."""
    location, _, query = value.partition(b"?")
    host, slash, path = location.partition(b"/")
    return host, slash + path, query


def joined_location(location: tuple[bytes, bytes, bytes]) -> bytes:
    """The value of a URL purge of a location: the inverse of `split_location`."""
    host, path, query = location
    return host + path + (b"?" + query if query else b"")


class PurgeLog:
    """The ring, `size` bytes. Create it before forking. `head[0]` is `position` without a call."""

    __slots__ = ("_bytes", "_segment", "_size", "head", "journal")

    def __init__(self, size: int = 1024 * 1024) -> None:
        if size < 2 * MAX_RECORD:
            raise ValueError(f"a purge log needs at least {2 * MAX_RECORD} bytes")
        self._segment = Segment(_HEADER + size + -size % 8)
        self.head = self._segment.cells
        self._bytes = memoryview(self._segment.buffer)[_HEADER : _HEADER + size]
        self._size = size
        self.journal: Callable[[Purge], None] = _nobody

    def begin(self, position: int) -> None:
        """Go on where the log of an earlier start ended. Before anything is appended, and before forking."""
        self.head[_POSITION] = self.head[_FLOOR] = position

    @property
    def position(self) -> int:
        """Where the next record goes. One read of one cell."""
        return self.head[_POSITION]

    @contextmanager
    def held(self) -> Generator[None]:
        """Nobody in another process appends meanwhile."""
        self._segment.lock(0)
        try:
            yield
        finally:
            self._segment.unlock(0)

    def append(self, kind: PurgeKind, value: bytes, soft: bool = False) -> int:
        """Publish a purge; the position after it. ValueError when the value is too long."""
        if len(value) > MAX_VALUE:
            raise ValueError(f"what is purged may have {MAX_VALUE} bytes, not {len(value)}")
        data = _RECORD.pack(len(value), kind, soft, 0, 0) + value
        self._segment.lock(0)
        try:
            start = self.head[_POSITION]
            end = start + len(data)
            self.journal(Purge(kind, value, soft, end))  # first: what readers know of survives a restart
            self._write(start, data)
            self.head[_POSITION] = end
        finally:
            self._segment.unlock(0)
        return end

    def report(self, purge: Purge, dropped: int) -> None:
        """Said by a reader once it applied a purge: how many responses that was."""
        self._segment.lock(0)
        try:
            if self.head[_POSITION] - purge.start <= self._size:  # not yet written over
                at = purge.start + _TALLY_AT
                readers, total = _TALLY.unpack(self._read(at, at + _TALLY.size))
                tally = _TALLY.pack(min(readers + 1, 0xFFFF), min(total + dropped, 0xFFFFFFFF))
                self._write(at, tally)
        finally:
            self._segment.unlock(0)

    def reached(self, value: bytes, position: int) -> tuple[int, int]:
        """(readers that applied it, responses they dropped) of the purge of `value` with that position."""
        start = position - _RECORD.size - len(value)
        if self.head[_POSITION] - start > self._size:
            return 0, 0
        readers, dropped = _TALLY.unpack(self._read(start + _TALLY_AT, start + _RECORD.size))
        return readers, dropped

    def since(self, position: int) -> tuple[list[Purge], bool]:
        """(purges after `position`, oldest first; lost).

        When `lost`, the reader was too far behind: what it missed is unknown. It reads `position`
        anew, and after that drops everything it holds.
        """
        end = self.head[_POSITION]
        # A writer may be at work on the record after `end`: what it can overwrite is not read.
        safe = self._size - MAX_RECORD
        if not 0 <= end - position <= safe or position < self.head[_FLOOR]:
            return [], True
        data = self._read(position, end)
        if self.head[_POSITION] - position > safe:  # overtaken while copying
            return [], True
        return _parse(data, position), False

    def _write(self, position: int, data: bytes) -> None:
        start = position % self._size
        first = min(len(data), self._size - start)
        self._bytes[start : start + first] = data[:first]
        self._bytes[: len(data) - first] = data[first:]

    def _read(self, position: int, end: int) -> bytes:
        start = position % self._size
        length = end - position
        head = bytes(self._bytes[start : start + length])
        return head + bytes(self._bytes[: length - len(head)])


def _nobody(purge: Purge) -> None:
    """No cache survives a restart."""


def _parse(data: bytes, position: int) -> list[Purge]:
    purges: list[Purge] = []
    at = 0
    while at < len(data):
        length, kind, soft, _, _ = _RECORD.unpack_from(data, at)
        start = at + _RECORD.size
        at = start + length
        purges.append(Purge(PurgeKind(kind), data[start:at], bool(soft), position + at))
    return purges
