"""The numbers of all processes of this machine, in one anonymous shared mapping.

Rule 1: a row belongs to one slot (one worker, or the supervisor), and only its owner writes there, so
nothing is locked. A restarted worker takes its slot's row over: totals survive it and never shrink.
Rule 2: a series is interned once, when the configuration is built; what happens per request is
`values[column] += 1`.

    header | table of names, append-only | row of slot 0 | row of slot 1 | ...

The names table is [u16 length][JSON] after each other. Its count is written after the name, so readers
need no lock and a writer that dies half-way leaves nothing behind.
"""

from __future__ import annotations

import json
import struct
from bisect import bisect_left
from collections.abc import Generator
from contextlib import contextmanager

from edgeproxy.observe.families import FAMILIES, GAUGES, Kind
from edgeproxy.record import record
from edgeproxy.shared_memory import Segment

SINK = 0  # the column of every series that found no room; never shown
OVERFLOW = 1  # how many those were
_HEADER = 64
_COUNT, _ROWS = 0, 1  # u64 cells of the header: names in the table, rows in use
_LENGTH = struct.Struct("<H")


@record
class Series:
    """One line of `/metrics` or one part of a histogram: a name and its labels, sorted."""

    name: str
    labels: tuple[tuple[str, str], ...]


def encode_series(name: str, /, **labels: str) -> str:
    """The canonical text of a series, which is what the names table holds."""
    return json.dumps([name, dict(sorted(labels.items()))], separators=(",", ":"))


def decode_series(text: str) -> Series:
    """The series of a canonical text."""
    name, labels = json.loads(text)
    return Series(name, tuple(labels.items()))


class Cells:
    """Shared numbers. Create before forking; every process then opens its own `slot`.

    `slots` is how many processes can ever write at once, `columns` how many series there can be,
    `names_size` the bytes for their names. Nothing grows beyond that; pages are used when touched.
    """

    def __init__(self, slots: int, columns: int = 8192, names_size: int = 1024 * 1024) -> None:
        self.slots = slots
        self.columns = columns
        self._names_end = _HEADER + names_size
        self._rows_at = (self._names_end + 7) // 8 * 8
        self._segment = Segment(self._rows_at + slots * columns * 8)
        self._header = self._segment.cells
        self._bytes = memoryview(self._segment.buffer)
        self._known: dict[str, int] = {}  # series -> column, as far as this process has read
        self._read_to = _HEADER
        self._header[_ROWS] = 1  # row 0 holds the overflow, whoever finds no room
        self.intern(encode_series(""))
        self.intern(encode_series("edgeproxy_metrics_overflow_total"))

    def intern(self, series: str) -> int:
        """The column of a series; made when new. SINK, and counted, when there is no room."""
        column = self._known.get(series)
        if column is None:
            with self._locked():
                self._refresh()
                column = self._known.get(series)
                if column is None:
                    column = self._append(series)
        return column

    def row(self, slot: int) -> memoryview[float]:
        """The float64 cells of a slot: its owner writes, anybody may read. ValueError if there is none."""
        if not 0 <= slot < self.slots:
            raise ValueError(f"slot {slot} is not one of the {self.slots} slots")
        if slot >= self._header[_ROWS]:
            with self._locked():
                self._header[_ROWS] = max(slot + 1, self._header[_ROWS])
        return self._row(slot)

    def slot(self, number: int) -> Slot:
        """The named counters and gauges of one process. Open it after forking, once per process."""
        return Slot(self, number)

    def clear_gauges(self, slot: int) -> None:
        """Forget what a dead process had open. For the supervisor; counters stay."""
        values = self.row(slot)
        for column, text in enumerate(self.names()):
            family = FAMILIES.get(decode_series(text).name)
            if family is not None and family.kind in GAUGES:
                values[column] = 0.0

    def names(self) -> list[str]:
        """The series interned so far by any process; the place in the list is the column."""
        self._refresh()
        return list(self._known)

    def total(self, column: int) -> float:
        """The sum of one column over all slots."""
        return sum(self._row(slot)[column] for slot in range(self._header[_ROWS]))

    def snapshot(self, count: int) -> list[list[float]]:
        """The first `count` columns of each row in use, for a scrape."""
        return [list(self._row(slot)[:count]) for slot in range(self._header[_ROWS])]

    @contextmanager
    def _locked(self) -> Generator[None, None, None]:
        self._segment.lock(0)
        try:
            yield
        finally:
            self._segment.unlock(0)

    def _row(self, slot: int) -> memoryview[float]:
        start = self._rows_at + slot * self.columns * 8
        return self._bytes[start : start + self.columns * 8].cast("d")

    def _append(self, series: str) -> int:
        """Add a name. The caller holds the lock and has read all names before."""
        text = series.encode()
        count = len(self._known)
        after = self._read_to + _LENGTH.size + len(text)
        if count >= self.columns or after > self._names_end or len(text) > 0xFFFF:
            self._row(0)[OVERFLOW] += 1.0  # the one cell that is written under the lock
            return SINK
        self._bytes[self._read_to : after] = _LENGTH.pack(len(text)) + text
        self._header[_COUNT] = count + 1
        self._refresh()
        return count

    def _refresh(self) -> None:
        """Read the names that other processes appended."""
        for column in range(len(self._known), self._header[_COUNT]):
            (length,) = _LENGTH.unpack_from(self._bytes, self._read_to)
            start = self._read_to + _LENGTH.size
            self._read_to = start + length
            self._known[bytes(self._bytes[start : self._read_to]).decode()] = column


class Counter:
    """A number that only grows."""

    __slots__ = ("_values", "column")

    def __init__(self, values: memoryview[float], column: int) -> None:
        self._values = values
        self.column = column

    def inc(self, amount: float = 1.0) -> None:
        self._values[self.column] += amount


class Gauge:
    """A number that goes up and down; `families` says how those of all processes are merged."""

    __slots__ = ("_column", "_values")

    def __init__(self, values: memoryview[float], column: int) -> None:
        self._values = values
        self._column = column
        self.set(0.0)  # what a dead predecessor in this slot had open is closed

    def set(self, value: float) -> None:
        self._values[self._column] = value


class Histogram:
    """How often a value fell into each bucket, and the sum; buckets are cumulated at scrape."""

    __slots__ = ("bounds", "buckets", "sum", "values")

    def __init__(
        self, values: memoryview[float], bounds: tuple[float, ...], buckets: tuple[int, ...], total: int
    ) -> None:
        self.values = values
        self.bounds = bounds  # upper edges, ascending
        self.buckets = buckets  # columns, one more than bounds: the last is beyond all of them
        self.sum = total  # column

    def observe(self, value: float) -> None:
        self.values[self.buckets[bisect_left(self.bounds, value)]] += 1.0
        self.values[self.sum] += value


class Slot:
    """One process's row, with names. Asking again for a series gives the same cell.

    Names and labels are those of `families.FAMILIES`; anything else raises ValueError.
    """

    def __init__(self, cells: Cells, number: int) -> None:
        self.cells = cells
        self.number = number
        self.values = cells.row(number)
        self._gauges: dict[str, Gauge] = {}

    def counter(self, name: str, /, **labels: str) -> Counter:
        """A counter of this process."""
        return Counter(self.values, self.column(name, **labels))

    def column(self, name: str, /, **labels: str) -> int:
        """The column of a counter, for those who write `slot.values[column] += 1` themselves."""
        _check(name, labels, frozenset({Kind.COUNTER}))
        return self.cells.intern(encode_series(name, **labels))

    def gauge(self, name: str, /, **labels: str) -> Gauge:
        """A gauge of this process: zero when first asked for, as it was when asked again."""
        _check(name, labels, GAUGES)
        series = encode_series(name, **labels)
        gauge = self._gauges.get(series)
        if gauge is None:
            gauge = self._gauges[series] = Gauge(self.values, self.cells.intern(series))
        return gauge

    def histogram(self, name: str, bounds: tuple[float, ...], /, **labels: str) -> Histogram:
        """A histogram of this process. `bounds` must be the same wherever the name is used."""
        _check(name, labels, frozenset({Kind.HISTOGRAM}))
        intern = self.cells.intern
        edges = [*(format(bound, "g") for bound in bounds), "+Inf"]
        buckets = tuple([intern(encode_series(name, **labels, le=edge)) for edge in edges])
        return Histogram(self.values, bounds, buckets, intern(encode_series(f"{name}_sum", **labels)))


def _check(name: str, labels: dict[str, str], kinds: frozenset[Kind]) -> None:
    family = FAMILIES.get(name)
    if family is None or family.kind not in kinds or set(labels) != set(family.labels):
        raise ValueError(f"{name} with labels {sorted(labels)} is not in families.FAMILIES as such")
