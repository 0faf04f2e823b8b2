"""What clients may make the cache do: store what was asked for often enough, ask again once in a while."""

from __future__ import annotations

CAP = 65_536  # keys counted at once
FORCED_CAP = 4096  # keys remembered that clients made the cache ask for
FORCED_EVERY = 1.0  # seconds


class Uses:
    """How often keys came that nothing is stored for. Bounded: the one seen first is forgotten first.

    Keys are counted by their hash: it is seeded anew in each process, and two keys that share one
    would only be stored a little sooner.
    """

    __slots__ = ("_cap", "_counts")

    def __init__(self, cap: int = CAP) -> None:
        self._cap = cap
        self._counts: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def count(self, key: bytes) -> None:
        """One more request for what is not stored."""
        counts, ident = self._counts, hash(key)
        if ident not in counts and len(counts) >= self._cap:
            del counts[next(iter(counts))]
        counts[ident] = counts.get(ident, 0) + 1

    def of(self, key: bytes) -> int:
        """How often it came."""
        return self._counts.get(hash(key), 0)

    def reaches(self, key: bytes, least: int) -> bool:
        """Did it come at least so often?"""
        return self.of(key) >= least


class Forced:
    """When clients last made the cache ask for what it held fresh: no more than once a second (A84).

    `no-cache` of a request is a preference (RFC 9111 §5.2.1.4), and the answer is not older than that.
    """

    __slots__ = ("_times",)

    def __init__(self) -> None:
        self._times: dict[int, float] = {}

    def allows(self, key: bytes, now: float) -> bool:
        """May the origin be asked now? If so, it was."""
        ident = hash(key)
        last = self._times.pop(ident, None)
        if last is not None and 0 <= now - last < FORCED_EVERY:
            self._times[ident] = last
            return False
        if len(self._times) >= FORCED_CAP:
            del self._times[next(iter(self._times))]
        self._times[ident] = now
        return True
