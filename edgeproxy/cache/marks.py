"""What all workers know of URLs, and of groups: whether anybody stored one, and when an unsafe request last
changed it.

So a request that changes what nobody stored costs next to nothing, and what was fetched before it is not
stored after it. Each has a place in shared memory. Two that share one only are purged once too often.
"""

from __future__ import annotations

import mmap
from zlib import crc32

from edgeproxy.cache.entry import Location

PLACES = 2**20
_DOUBLE = 8


def place_of(location: Location) -> int:
    """The place of a URL."""
    host, path, query = location
    return crc32(query, crc32(path, crc32(host))) % PLACES


def place_of_group(tag: bytes) -> int:
    """The place of a group, by its tag."""
    return crc32(tag) % PLACES


class Marks:
    """Make it before the processes fork. Times in steady seconds."""

    __slots__ = ("_changed", "_stored")

    def __init__(self) -> None:
        self._stored = memoryview(mmap.mmap(-1, PLACES))
        self._changed = memoryview(mmap.mmap(-1, PLACES * _DOUBLE)).cast("d")

    def store_all(self) -> None:
        """Any of them may be stored: by an earlier start."""
        self._stored[:] = b"\1" * PLACES

    def store(self, place: int, began: float) -> bool:
        """Somebody stores what was asked for at `began`. Was it changed since?"""
        self._stored[place] = 1
        return self.is_changed(place, began)

    def is_changed(self, place: int, since: float) -> bool:
        """Did an unsafe request change it since then?"""
        return self._changed[place] >= since

    def change(self, place: int, now: float) -> bool:
        """An unsafe request changed it. May anybody have it stored?"""
        self._changed[place] = now  # first: who stores it looks here after having said so
        return self._stored[place] != 0
