"""Which worker of this machine fetches what, or did a moment ago: so that one cold key is one request.

A cell of shared memory per key's digest: which worker, until when that is believed, and whether its fetch
is over. A worker that dies leaves cells that expire, and the supervisor clears them. Two keys that fall into
one cell do not wait for each other: the second is fetched as if it were alone, which costs a request.
"""

from __future__ import annotations

from edgeproxy.shared_memory import Segment

CELLS = 16_384
LONGEST = 30.0  # seconds a claim is believed
_MILLISECOND = 1000
_SLOT_BITS = 10
_LANDED = 1 << _SLOT_BITS
_DEADLINE = 1 << _SLOT_BITS + 1


class FlightTable:
    """`CELLS` claims. Make it before the processes fork. Times in steady seconds."""

    __slots__ = ("_cells", "_segment")

    def __init__(self) -> None:
        self._segment = Segment(CELLS * 16)
        self._cells = self._segment.cells  # digest, then deadline in ms, whether landed, and slot

    def claim(
        self, digest: bytes, slot: int, now: float, *, instead_of: int = -1, anew: bool = False
    ) -> int | None:
        """None when this worker leads now, or may go alone; else the slot of the worker that leads or led.

        `instead_of` is a worker that was asked in vain; `anew`: a fetch that is over will not do.
        `digest` has at least 8 bytes. Raises OSError when the kernel is out of locks.
        """
        number, at = _place(digest)
        cells = self._cells
        moment = int(now * _MILLISECOND)
        self._segment.lock(at)
        try:
            deadline, rest = divmod(cells[2 * at + 1], _DEADLINE)
            leader = rest % _LANDED
            over = rest >= _LANDED
            if deadline > moment and leader not in (slot, instead_of) and not (anew and over):
                if cells[2 * at] == number:
                    return leader
                if not over:
                    return None  # somebody fetches another key: both go their way
            cells[2 * at] = number
            cells[2 * at + 1] = (moment + int(LONGEST * _MILLISECOND)) * _DEADLINE + slot
        finally:
            self._segment.unlock(at)
        return None

    def landed(self, digest: bytes, slot: int, until: float) -> None:
        """The fetch of this worker is over. It can be asked for the answer until then; 0 for not at all."""
        number, at = _place(digest)
        cells = self._cells
        self._segment.lock(at)
        try:
            if cells[2 * at] == number and cells[2 * at + 1] % _LANDED == slot:
                cells[2 * at + 1] = int(until * _MILLISECOND) * _DEADLINE + _LANDED + slot if until else 0
        finally:
            self._segment.unlock(at)

    def clear(self, slot: int) -> None:
        """A worker ended: nothing of what it claimed can be had from it any more."""
        for at in range(CELLS):
            if self._cells[2 * at + 1] and self._cells[2 * at + 1] % _LANDED == slot:
                self._cells[2 * at + 1] = 0


def _place(digest: bytes) -> tuple[int, int]:
    number = int.from_bytes(digest[:8], "little")
    return number, number % CELLS
