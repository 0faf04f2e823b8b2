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
from hashlib import blake2b

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


@record
class Grant:
    """What a bucket said. Times are whole seconds, rounded up, because header fields are."""

    allowed: bool
    remaining: int  # how many more could be spent at this moment
    retry_after: int  # until the same cost would be allowed: 0 when it was, else at least 1
    reset: int  # until the bucket is full again


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
        self._segment = Segment(self._sets * _SET_BYTES, locking=shared, file=file)
        self._hash = blake2b(key=os.urandom(16) if secret is None else secret, digest_size=_DIGEST)
        self._cells = self._segment.cells
        self._find = self._segment.buffer.find
        self._lock = self._segment.lock
        self._unlock = self._segment.unlock

    def key(self, name: bytes) -> BucketKey:
        """Where the bucket called `name` is. Costs a hash: remember it for names that come again."""
        keyed = self._hash.copy()
        keyed.update(name)
        digest = keyed.digest()
        return digest, int.from_bytes(digest[:8], "little") % self._sets

    def take(self, key: BucketKey, cost: int, interval: int, burst: int, now: int) -> Grant:
        """Spend `cost` of a bucket that holds `burst` and regains one each `interval` nanoseconds.

        `now` is in nanoseconds. All or nothing: a refusal spends nothing. A cost above `burst` is
        never allowed. Raises OSError when the kernel is out of locks.
        """
        digest, index = key
        base = index * _SET_BYTES
        capacity = burst * interval
        self._lock(index)
        try:
            # A match across two ways would need 128 equal bits by chance: not worth a check.
            at = self._find(digest, base, base + _KEYS_BYTES)
            if at >= 0:
                cell = index * _SET_CELLS + _TAT + (at - base) // _DIGEST
                owed = self._cells[cell] - now
                if owed < 0:
                    owed = 0
                elif owed > capacity + _SKEW:
                    # The clock stepped back, or a reload made the limit smaller: empty, not stuck.
                    owed = capacity
                    self._cells[cell] = now + owed
            else:
                cell = -1
                owed = 0
            after = owed + cost * interval
            if after <= capacity:
                if cell < 0:
                    cell = self._claim(digest, index, now)
                self._cells[cell] = now + after
                return Grant(True, (capacity - after) // interval, 0, -(-after // SECOND))
        finally:
            self._unlock(index)
        return _refusal(owed, after, interval, capacity)

    def spend(self, key: BucketKey, step: int, most: int, ceiling: int, now: int) -> tuple[int, bool]:
        """(nanoseconds owed before, whether `step` more was spent): spent when that makes `most` at the
        most. More than `ceiling` cannot be owed: it counts as `most`."""
        digest, index = key
        self._lock(index)
        try:
            cell = self._cell(digest, index)
            owed = max(self._cells[cell] - now, 0) if cell >= 0 else 0
            if owed > ceiling + _SKEW:  # as in `take`: empty, not stuck
                owed = most
                self._cells[cell] = now + owed
            if owed + step > most:
                return owed, False
            if cell < 0:
                cell = self._claim(digest, index, now)
            self._cells[cell] = now + owed + step
            return owed, True
        finally:
            self._unlock(index)

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

    def peek(self, key: BucketKey, cost: int, interval: int, burst: int, now: int) -> Grant:
        """What `take` would say; spends nothing and takes no lock."""
        capacity = burst * interval
        owed = self.owed(key, now)
        if owed > capacity + _SKEW:
            owed = capacity
        after = owed + cost * interval
        if after <= capacity:
            return Grant(True, (capacity - after) // interval, 0, -(-after // SECOND))
        return _refusal(owed, after, interval, capacity)

    def give_back(self, key: BucketKey, cost: int, interval: int) -> None:
        """Undo a `take` of the same instant: another limit of the same request refused."""
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


def _refusal(owed: int, after: int, interval: int, capacity: int) -> Grant:
    remaining = max(0, (capacity - owed) // interval)
    return Grant(False, remaining, max(1, -(-(after - capacity) // SECOND)), -(-owed // SECOND))
