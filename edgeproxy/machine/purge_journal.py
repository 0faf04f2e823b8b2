"""The purges that a cache which outlives its process must still know after a restart: a file, appended to.

Rule 1: a purge is written here before any worker hears of it, so that what was ever in force stays in force.
Rule 2: what cannot be written, or not be read again, costs the cache: `append` says so, `load` answers None.
Nothing is synced: the file is only trusted when the machine did not stop in between, as the cache itself.

    header | record | record ...          header: magic, era, floor, position, crc32
                                          record: crc32 of the rest, position, length, kind, soft, value
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

from edgeproxy.cache.clocks import PurgeClocks
from edgeproxy.purge_log import Purge, PurgeKind

ERA = 16  # bytes
MAGIC = b"EPPURGE1"  # the digit is the version
LARGE = 16 * 2**20  # bytes after which a file is worth writing anew
_HEADER = struct.Struct(f"<8s{ERA}sQQ")
_CRC = struct.Struct("<I")
_RECORD = struct.Struct("<QHBB")
_RECORDS_AT = _HEADER.size + _CRC.size


class PurgeJournal:
    """One file, as one process writes it. Everybody who appends holds the lock of the purge log."""

    def __init__(self, path: Path) -> None:
        """Raises OSError when it cannot be opened."""
        self.path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return os.fstat(self._fd).st_size

    def append(self, purge: Purge) -> bool:
        """Write a purge down. False when it could not be, or not all of it."""
        record = encode_purge(purge)
        try:
            return os.write(self._fd, record) == len(record)
        except OSError:
            return False

    def close(self) -> None:
        os.close(self._fd)


def create(path: Path, era: bytes, clocks: PurgeClocks) -> None:
    """A journal that begins with what these clocks know; it appears whole or not at all. Raises OSError."""
    header = _HEADER.pack(MAGIC, era, clocks.floor, clocks.position)
    draft = path.with_suffix(".draft")
    with draft.open("wb") as file:
        file.write(header + _CRC.pack(crc32(header)))
        for purge in clocks.purges():
            file.write(encode_purge(purge))
    draft.replace(path)


def load(path: Path, era: bytes) -> PurgeClocks | None:
    """What was purged, or None when that is not known for sure. Raises OSError."""
    data = path.read_bytes()
    if len(data) < _RECORDS_AT:
        return None
    magic, of, floor, position = _HEADER.unpack_from(data)
    (crc,) = _CRC.unpack_from(data, _HEADER.size)
    if (magic, of, crc) != (MAGIC, era, crc32(data[: _HEADER.size])):
        return None
    clocks = PurgeClocks(floor, floor)
    last = floor
    for purge in _records(data):
        if purge is None or purge.position < last:  # a hard and a soft one of one name may share a position
            return None
        clocks.record(purge)
        last = purge.position
    clocks.position = max(position, clocks.position)
    return clocks


def encode_purge(purge: Purge) -> bytes:
    """The record of a purge."""
    content = _RECORD.pack(purge.position, len(purge.value), purge.kind, purge.soft) + purge.value
    return _CRC.pack(crc32(content)) + content


def _records(data: bytes) -> Iterator[Purge | None]:
    """The records of a file; None for one that is not sound. One that is torn may hide others behind it."""
    at = _RECORDS_AT
    while at < len(data):
        start = at + _CRC.size
        if start + _RECORD.size > len(data):
            yield None
            return
        position, length, kind, soft = _RECORD.unpack_from(data, start)
        end = start + _RECORD.size + length
        if _CRC.unpack_from(data, at)[0] != crc32(data[start:end]) or kind not in _KINDS:
            yield None
            return
        yield Purge(PurgeKind(kind), data[start + _RECORD.size : end], bool(soft), position)
        at = end


_KINDS = frozenset(PurgeKind)
