"""Which server is next? Pure: candidates and weights in, an index out.

`Roster` says who may be chosen and how much of the traffic each should get; a balance only picks one
of them. `choose` takes no turn: whoever really uses the server says so with `took`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from hashlib import blake2b
from typing import Protocol

Load = Callable[[int], int]
Pick = Callable[[int], int]
"""A random number below its argument: `random.randrange`."""

NONE_LEFT = -1
_MASK = (1 << 64) - 1


class Balance(Protocol):
    """`adopt` is called whenever candidates or weights change; weights are more than 0, in their order."""

    def adopt(self, candidates: tuple[int, ...], weights: Sequence[float]) -> None: ...
    def choose(self, key: bytes, avoid: Collection[int]) -> int:
        """One of the candidates that is not to be avoided, or NONE_LEFT."""
        ...

    def took(self, index: int) -> None: ...


class RoundRobin:
    """Each candidate in turn."""

    __slots__ = ("_candidates", "_last")

    def __init__(self) -> None:
        self._candidates: tuple[int, ...] = ()
        self._last = -1

    def adopt(self, candidates: tuple[int, ...], weights: Sequence[float]) -> None:
        self._candidates = candidates

    def choose(self, key: bytes, avoid: Collection[int]) -> int:
        last, first = self._last, NONE_LEFT
        for index in self._candidates:  # in ascending order
            if index in avoid:
                continue
            if index > last:
                return index
            if first == NONE_LEFT:
                first = index
        return first

    def took(self, index: int) -> None:
        self._last = index


class WeightedRoundRobin:
    """In turn, by weight, spread evenly: 5, 1, 1 gives a a b a c a a and not five times a first."""

    __slots__ = ("_candidates", "_credit", "_weights")

    def __init__(self) -> None:
        self._candidates: tuple[int, ...] = ()
        self._weights: Sequence[float] = ()
        self._credit: dict[int, float] = {}

    def adopt(self, candidates: tuple[int, ...], weights: Sequence[float]) -> None:
        self._candidates, self._weights = candidates, weights
        self._credit = {index: self._credit.get(index, 0.0) for index in candidates}

    def choose(self, key: bytes, avoid: Collection[int]) -> int:
        best, most = NONE_LEFT, -math.inf
        credit = self._credit
        for index, weight in zip(self._candidates, self._weights, strict=True):
            if index not in avoid and credit[index] + weight > most:
                best, most = index, credit[index] + weight
        return best

    def took(self, index: int) -> None:
        credit = self._credit
        if index not in credit:  # it is no candidate any more
            return
        for each, weight in zip(self._candidates, self._weights, strict=True):
            credit[each] += weight
        credit[index] -= sum(self._weights)


class LeastRequests:
    """The less busy, by its weight, of two candidates picked at random: the power of two choices."""

    __slots__ = ("_candidates", "_load", "_pick", "_weights")

    def __init__(self, load: Load, pick: Pick) -> None:
        self._candidates: tuple[int, ...] = ()
        self._weights: dict[int, float] = {}
        self._load = load
        self._pick = pick

    def adopt(self, candidates: tuple[int, ...], weights: Sequence[float]) -> None:
        self._candidates = candidates
        self._weights = dict(zip(candidates, weights, strict=True))

    def choose(self, key: bytes, avoid: Collection[int]) -> int:
        candidates: Sequence[int] = self._candidates
        if avoid:
            candidates = [index for index in candidates if index not in avoid]
        count = len(candidates)
        if count < 2:
            return candidates[0] if count else NONE_LEFT
        one = self._pick(count)
        first, second = candidates[one], candidates[(one + 1 + self._pick(count - 1)) % count]
        return second if self._pressure(second) < self._pressure(first) else first

    def _pressure(self, index: int) -> float:
        return (self._load(index) + 1) / self._weights[index]

    def took(self, index: int) -> None:
        """Nothing to remember: the load tells."""


class Rendezvous:
    """The candidate that wins the draw of the key (highest random weight).

    The same key goes to the same server in every process and after every restart. When a server
    leaves only its keys move; when it returns they come back. A request without a key is sent anywhere.
    """

    __slots__ = ("_candidates", "_pick", "_seeds", "_weights")

    def __init__(self, labels: Sequence[str], pick: Pick) -> None:
        self._seeds = [_number(label.encode()) for label in labels]
        self._candidates: tuple[int, ...] = ()
        self._weights: Sequence[float] = ()
        self._pick = pick

    def adopt(self, candidates: tuple[int, ...], weights: Sequence[float]) -> None:
        self._candidates, self._weights = candidates, weights

    def choose(self, key: bytes, avoid: Collection[int]) -> int:
        if not key:
            left = [index for index in self._candidates if index not in avoid]
            return left[self._pick(len(left))] if left else NONE_LEFT
        number, seeds = _number(key), self._seeds
        best, highest = NONE_LEFT, -1.0
        for index, weight in zip(self._candidates, self._weights, strict=True):
            if index in avoid:
                continue
            draw = (_mixed(number ^ seeds[index]) + 1) / (_MASK + 2)  # between 0 and 1, never either
            score = -weight / math.log(draw)
            if score > highest:
                best, highest = index, score
        return best

    def took(self, index: int) -> None:
        """Nothing to remember: the key decides."""


class Sticky:
    """The server that the client's cookie names, while it is a candidate; else what `other` says."""

    __slots__ = ("_by_ident", "_candidates", "_other", "idents")

    def __init__(self, labels: Sequence[str], other: Balance) -> None:
        self.idents = [blake2b(label.encode(), digest_size=8).hexdigest().encode() for label in labels]
        self._by_ident = {ident: index for index, ident in enumerate(self.idents)}
        self._candidates: frozenset[int] = frozenset()
        self._other = other

    def adopt(self, candidates: tuple[int, ...], weights: Sequence[float]) -> None:
        self._candidates = frozenset(candidates)
        self._other.adopt(candidates, weights)

    def choose(self, key: bytes, avoid: Collection[int]) -> int:
        index = self._by_ident.get(key, NONE_LEFT)
        if index in self._candidates and index not in avoid:
            return index
        return self._other.choose(key, avoid)

    def took(self, index: int) -> None:
        self._other.took(index)


def _number(text: bytes) -> int:
    return int.from_bytes(blake2b(text, digest_size=8).digest())


def _mixed(number: int) -> int:
    """Every bit of the result depends on every bit of `number` (the finaliser of splitmix64)."""
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK
    return number ^ (number >> 31)
