"""Which units were counted already, by all workers: 64-bit digests in a fixed piece of shared memory.

Nothing is locked. Two workers that see a unit in the same microsecond may both count it; a digest that was
pushed out by others is counted again. Both are rarer than what a chi-square test of them would notice.
"""

from __future__ import annotations

from hashlib import blake2b

from edgeproxy.shared_memory import Segment

_WAYS = 8
DEFAULT_ENTRIES = 1_048_576  # 8 MiB, of which only what is used is there


class SeenUnits:
    """At least `entries` digests. Made before the fork; every process then adds to the same."""

    def __init__(self, entries: int = DEFAULT_ENTRIES) -> None:
        self._sets = -(-entries // _WAYS)
        self._cells = Segment(self._sets * _WAYS * 8, locking=False).cells

    def add(self, name: bytes) -> bool:
        """Remember `name`; True when it was not known."""
        digest = int.from_bytes(blake2b(name, digest_size=8).digest(), "little") or 1
        start = digest % self._sets * _WAYS
        known = self._cells[start : start + _WAYS].tolist()
        if digest in known:
            return False
        way = known.index(0) if 0 in known else digest // self._sets % _WAYS
        self._cells[start + way] = digest
        return True
