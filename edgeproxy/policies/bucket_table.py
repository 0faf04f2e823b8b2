"""Token buckets of all clients, in one fixed piece of shared memory.

Each bucket is one number (GCRA): the theoretical arrival time, TAT, at which it is full again.
Spending moves it forward by `cost * interval`; it may not run further ahead of now than
`burst * interval`. Time is in whole nanoseconds, so burst and rate are exact up to a million
a second, and a bucket that is full is indistinguishable from one that is not stored.

Rule 1: a key lives in one set of 16 ways and one lock covers a set, so an operation takes one lock.
Rule 2: a full set gives up the smallest TAT. That is at once the idlest bucket among those full
again (nothing is forgotten) and, when none is, the one closest to full (counted as `early`).

A set, 448 bytes: 16 key digests of 16 bytes | 16 TATs | count of idle evictions, of early ones, 6 spare.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import blake2b

from edgeproxy.mutexes import AVAILABLE, Mutexes
from edgeproxy.record import record
from edgeproxy.shared_memory import Segment

SECOND = 10**9
DEFAULT_ENTRIES = 65_536  # 1.75 MiB

_WAYS = 16
_DIGEST = 16
_KEYS_BYTES = _WAYS * _DIGEST
_TAT = _KEYS_BYTES // 8  # first TAT, in cells from the start of a set
_IDLE = _TAT + _WAYS
_EARLY = _IDLE + 1
_SET_CELLS = _IDLE + 8
_SET_BYTES = _SET_CELLS * 8
_SKEW = SECOND  # a TAT further beyond the burst than this means that the clock stepped back

BucketKey = tuple[bytes, int]
"""Where a bucket is: (digest, set). Made by `BucketTable.key`, valid in that table only."""

Spend = Callable[[BucketKey, int, int, int, int], int]
"""(key, step, most, ceiling, now) -> nanoseconds owed before, until the bucket was full again.

If `step` more makes `most` at the most, it was spent; else nothing was. More than `ceiling` cannot be owed:
it counts as `most`. `now` is in nanoseconds. Raises OSError when the kernel is out of locks.
"""


def bytes_for(entries: int) -> int:
    """Bytes of a table of so many buckets."""
    return -(-entries // _WAYS) * _SET_BYTES


@record
class Evictions:
    """How often a full set gave a bucket up: `idle` ones lost nothing, `early` ones were refilled."""

    idle: int
    early: int


class BucketTable:
    """At least `entries` buckets, shared by every process forked after this was made.

    `shared=False` skips the locks: for one process. `secret` keys the digests, so that nobody
    outside can aim keys at one set; it is drawn per table.
    """

    def __init__(
        self,
        entries: int = DEFAULT_ENTRIES,
        *,
        shared: bool = True,
        secret: bytes | None = None,
        file: int = -1,
    ) -> None:
        """`file` is the descriptor of an open file of `bytes_for(entries)` or more, which then holds them."""
        if entries < 1:
            raise ValueError(f"a bucket table needs at least one entry, not {entries}")
        self._sets = -(-entries // _WAYS)
        size = self._sets * _SET_BYTES
        self._segment = Segment(size, locking=shared and not AVAILABLE, file=file)
        self._hash = blake2b(key=os.urandom(16) if secret is None else secret, digest_size=_DIGEST)
        self._cells = self._segment.cells
        self._find = self._segment.buffer.find
        locks = Mutexes() if shared and AVAILABLE else self._segment
        self._lock, self._unlock = locks.lock, locks.unlock
        self.spend: Spend = self._spend_locked if shared else self._spend

    def key(self, name: bytes) -> BucketKey:
        """Where the bucket called `name` is. Costs a hash: remember it for names that come again."""
        keyed = self._hash.copy()
        keyed.update(name)
        digest = keyed.digest()
        return digest, int.from_bytes(digest[:8], "little") % self._sets

    def _spend(self, key: BucketKey, step: int, most: int, ceiling: int, now: int) -> int:
        """What `spend` is, with the set locked."""
        digest, index = key
        first = index * _SET_BYTES
        cells = self._cells
        # `_cell`, without the call. A match across two ways would need 128 equal bits by chance.
        at = self._find(digest, first, first + _KEYS_BYTES)
        if at < 0:
            if step <= most:
                cells[self._claim(digest, index, now)] = now + step
            return 0
        cell = index * _SET_CELLS + _TAT + (at - first) // _DIGEST
        owed = cells[cell] - now
        if owed < 0:
            owed = 0
        elif owed > ceiling + _SKEW:
            # The clock stepped back, or a reload made the limit smaller: empty, not stuck.
            owed = most
            cells[cell] = now + owed
        if owed + step <= most:
            cells[cell] = now + owed + step
        return owed

    def _spend_locked(self, key: BucketKey, step: int, most: int, ceiling: int, now: int) -> int:
        self._lock(key[1])
        try:
            return self._spend(key, step, most, ceiling, now)
        finally:
            self._unlock(key[1])

    def charge(self, key: BucketKey, step: int, ceiling: int, now: int) -> None:
        """Spend `step` whatever is left, up to `ceiling` owed: for costs that are known afterwards."""
        digest, index = key
        self._lock(index)
        try:
            cell = self._cell(digest, index)
            if cell < 0:
                cell = self._claim(digest, index, now)
            owed = max(self._cells[cell] - now, 0)
            self._cells[cell] = now + max(owed, min(owed + step, ceiling))
        finally:
            self._unlock(index)

    def owed(self, key: BucketKey, now: int) -> int:
        """Nanoseconds until the bucket is full again. Takes no lock."""
        digest, index = key
        cell = self._cell(digest, index)
        return max(self._cells[cell] - now, 0) if cell >= 0 else 0

    def give_back(self, key: BucketKey, cost: int, interval: int) -> None:
        """Undo a `spend` of the same instant: another limit of the same request refused."""
        digest, index = key
        self._lock(index)
        try:
            cell = self._cell(digest, index)
            if cell >= 0:  # else evicted since: then it is full anyway
                self._cells[cell] = max(self._cells[cell] - cost * interval, 0)
        finally:
            self._unlock(index)

    def evictions(self) -> Evictions:
        """Counts since the table was made, over all processes. Walks all sets: for scrapes."""
        return Evictions(sum(self._cells[_IDLE::_SET_CELLS]), sum(self._cells[_EARLY::_SET_CELLS]))

    def close(self) -> None:
        """Give the memory back; the table cannot be used afterwards."""
        self._segment.close()

    def _cell(self, digest: bytes, index: int) -> int:
        """The TAT cell of a digest in its set; -1 when it has none."""
        base = index * _SET_BYTES
        at = self._find(digest, base, base + _KEYS_BYTES)
        return index * _SET_CELLS + _TAT + (at - base) // _DIGEST if at >= 0 else -1

    def _claim(self, digest: bytes, index: int, now: int) -> int:
        """The TAT cell of the way that now belongs to `digest`. Called with the set locked."""
        first = index * _SET_CELLS
        tats = self._cells[first + _TAT : first + _TAT + _WAYS].tolist()
        oldest = min(tats)
        way = tats.index(oldest)
        if oldest:
            self._cells[first + (_EARLY if oldest > now else _IDLE)] += 1
        start = index * _SET_BYTES + way * _DIGEST
        self._segment.buffer[start : start + _DIGEST] = digest
        return first + _TAT + way
