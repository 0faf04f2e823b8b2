"""How many requests of a key are in flight, over all workers, in one fixed piece of shared memory.

Rule 1: each process counts in a column of its own, so that what a dead one held can be taken away.
Rule 2: a key lives in one set of 16 ways and one lock covers a set. A way whose counts are all zero is
free. When a set has no free way the key is not counted: the request passes, and is told as overflow.

A set: 16 key digests of 16 bytes | 16 times a 16-bit count per slot. Behind all sets: 64 bits of overflows
per slot.
"""

from __future__ import annotations

from edgeproxy.policies.bucket_table import BucketKey
from edgeproxy.shared_memory import Segment

MOST = 60_000  # in flight per key: counts have 16 bits
_WAYS = 16
_DIGEST = 16
_KEYS_BYTES = _WAYS * _DIGEST


class InFlightTable:
    """At least `entries` keys, `slots` processes. `shared=False` skips the locks."""

    def __init__(self, slots: int, entries: int = 16_384, *, shared: bool = True) -> None:
        self._slots = slots
        self._sets = -(-entries // _WAYS)
        self._set_bytes = _KEYS_BYTES + -(-_WAYS * slots * 2 // 8) * 8
        self._overflows = self._sets * self._set_bytes // 8  # first of their cells
        self._segment = Segment((self._overflows + slots) * 8, locking=shared)
        self._counts = memoryview(self._segment.buffer).cast("H")
        self._lock, self._unlock = self._segment.lock, self._segment.unlock

    def enter(self, key: BucketKey, slot: int, most: int) -> tuple[int, bool]:
        """(in flight before, may it enter): it may when fewer than `most` are; -1 when nobody can count."""
        digest, index = self._place(key)
        self._lock(index)
        try:
            at = self._way(digest, index)
            if at < 0:
                at = self._free(digest, index)
                if at < 0:
                    self._segment.cells[self._overflows + slot] += 1
                    return -1, True
            flying = sum(self._counts[at : at + self._slots])
            if flying >= most:
                return flying, False
            self._counts[at + slot] += 1
            return flying, True
        finally:
            self._unlock(index)

    def leave(self, key: BucketKey, slot: int) -> None:
        """One that entered is over."""
        digest, index = self._place(key)
        self._lock(index)
        try:
            at = self._way(digest, index)
            if at >= 0 and self._counts[at + slot]:
                self._counts[at + slot] -= 1
        finally:
            self._unlock(index)

    def flying(self, key: BucketKey) -> int:
        """How many are in flight. Takes no lock."""
        at = self._way(*self._place(key))
        return sum(self._counts[at : at + self._slots]) if at >= 0 else 0

    def overflows(self) -> int:
        """How often nobody could count, since the table was made, over all processes."""
        return sum(self._segment.cells[self._overflows :])

    def forget(self, slot: int) -> None:
        """A process ended: nothing of it is in flight any more."""
        for index in range(self._sets):
            first = (index * self._set_bytes + _KEYS_BYTES) // 2
            if not any(self._counts[first : first + _WAYS * self._slots]):
                continue
            self._lock(index)
            try:
                for way in range(_WAYS):
                    self._counts[first + way * self._slots + slot] = 0
            finally:
                self._unlock(index)

    def close(self) -> None:
        """Give the memory back."""
        self._counts.release()
        self._segment.close()

    def _place(self, key: BucketKey) -> tuple[bytes, int]:
        digest = key[0]
        return digest, int.from_bytes(digest[8:], "little") % self._sets

    def _way(self, digest: bytes, index: int) -> int:
        """Where the counts of a digest begin; -1 when it has none."""
        base = index * self._set_bytes
        at = self._segment.buffer.find(digest, base, base + _KEYS_BYTES)
        return (base + _KEYS_BYTES) // 2 + (at - base) // _DIGEST * self._slots if at >= 0 else -1

    def _free(self, digest: bytes, index: int) -> int:
        """A way that is this digest's from here on; -1 when none is free. Called with the set locked."""
        base = index * self._set_bytes
        first = (base + _KEYS_BYTES) // 2
        for way in range(_WAYS):
            at = first + way * self._slots
            if not any(self._counts[at : at + self._slots]):
                start = base + way * _DIGEST
                self._segment.buffer[start : start + _DIGEST] = digest
                return at
        return -1
