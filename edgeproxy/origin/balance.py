"""Which server is next? Pure: indices in, an index out.

When no server is usable all of them are used (panic mode): a wrong health check must not take a
site down that would still answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Usable = Callable[[int], bool]
Load = Callable[[int], int]
Pick = Callable[[int], int]
"""A random number below its argument: `random.randrange`."""


class Balance(Protocol):
    """`peek` tells the next server without taking its turn; `advance` takes it."""

    def peek(self, count: int, usable: Usable) -> int: ...
    def advance(self, count: int, chosen: int) -> None: ...


class RoundRobin:
    """Each usable server in turn."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = 0

    def peek(self, count: int, usable: Usable) -> int:
        first = self._next
        for step in range(count):
            index = (first + step) % count
            if usable(index):
                return index
        return first % count

    def advance(self, count: int, chosen: int) -> None:
        self._next = (chosen + 1) % count


class LeastRequests:
    """The less busy of two usable servers picked at random: the power of two choices."""

    __slots__ = ("_load", "_pick")

    def __init__(self, load: Load, pick: Pick) -> None:
        self._load = load
        self._pick = pick

    def peek(self, count: int, usable: Usable) -> int:
        candidates = [index for index in range(count) if usable(index)] or list(range(count))
        one = self._pick(len(candidates))
        if len(candidates) == 1:
            return candidates[0]
        other = (one + 1 + self._pick(len(candidates) - 1)) % len(candidates)
        first, second = candidates[one], candidates[other]
        return second if self._load(second) < self._load(first) else first

    def advance(self, count: int, chosen: int) -> None:
        """Nothing to remember."""
