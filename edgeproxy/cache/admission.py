"""Whether an answer has been asked for often enough to be stored (`min_uses`): one-off URLs stay out."""

from __future__ import annotations

CAP = 65_536  # keys counted at once


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

    def reaches(self, key: bytes, least: int) -> bool:
        """Did it come at least so often?"""
        return self._counts.get(hash(key), 0) >= least
