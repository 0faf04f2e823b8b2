"""What compression takes and gives."""

from __future__ import annotations

from edgeproxy.observe.cells import Slot


class CodingMeters:
    """The cells of one route and coding."""

    __slots__ = ("_given", "_taken")

    def __init__(self, slot: Slot, route: str, coding: str) -> None:
        name = "edgeproxy_compression_bytes_total"
        self._taken = slot.counter(name, route=route, coding=coding, side="before")
        self._given = slot.counter(name, route=route, coding=coding, side="after")

    def pressed(self, taken: int, given: int) -> None:
        """A body of `taken` bytes has become one of `given`."""
        self._taken.inc(taken)
        self._given.inc(given)
