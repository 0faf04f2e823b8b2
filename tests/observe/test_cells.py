"""Shared numbers: interning, rows that survive their owners, names from several processes."""

from __future__ import annotations

import os
import signal

import pytest

from edgeproxy.observe.cells import OVERFLOW, SINK, Cells, decode_series, encode_series
from tests.helpers.processes import fork

BAD = "edgeproxy_bad_requests_total"


def in_child(work) -> int:
    """Run `work` in a forked process; its wait status."""
    return os.waitpid(fork(work), 0)[1]


@pytest.mark.parametrize(
    "labels",
    [{}, {"route": "a"}, {"route": 'a"b\\c\nd\x1f', "code": "2xx"}, {"route": "cafe\u0301", "a": ""}],
    ids=["none", "one", "awkward", "not ascii"],
)
def test_a_series_survives_the_names_table(labels):
    cells = Cells(1)
    series = encode_series("edgeproxy_x", **labels)
    column = cells.intern(series)
    read = decode_series(cells.names()[column])
    assert (read.name, dict(read.labels)) == ("edgeproxy_x", labels)


def test_interning_is_idempotent_and_label_order_does_not_matter():
    cells = Cells(1)
    assert cells.intern(encode_series("m", a="1", b="2")) == cells.intern(encode_series("m", b="2", a="1"))
    assert cells.intern(encode_series("m", a="1", b="3")) != cells.intern(encode_series("m", a="1", b="2"))


def test_slots_are_separate_rows_and_totals_sum_them():
    cells = Cells(3)
    column = cells.intern(encode_series("m"))
    for slot in range(3):
        cells.row(slot)[column] += 10**slot
    assert cells.total(column) == 111
    assert [row[column] for row in cells.snapshot(column + 1)] == [1, 10, 100]


@pytest.mark.parametrize("slot", [-1, 2, 99])
def test_a_slot_that_is_not_there_is_refused(slot):
    with pytest.raises(ValueError, match="slot"):
        Cells(2).row(slot)


def test_a_child_may_intern_and_the_parent_sees_name_and_number():
    cells = Cells(2)
    before = len(cells.names())

    def work():
        cells.slot(1).counter(BAD, reason="from-child").inc(5)

    assert in_child(work) == 0
    names = cells.names()
    assert len(names) == before + 1
    assert dict(decode_series(names[-1]).labels) == {"reason": "from-child"}
    assert cells.total(len(names) - 1) == 5


def test_two_processes_that_intern_different_names_never_share_a_column():
    cells = Cells(2)

    def work():
        for number in range(200):
            cells.intern(encode_series("m", child=str(number)))

    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    mine = {number: cells.intern(encode_series("m", parent=str(number))) for number in range(200)}
    os.waitpid(pid, 0)
    names = cells.names()
    assert len(names) == len(set(names)) == 402
    assert all(names[column] == encode_series("m", parent=str(number)) for number, column in mine.items())


def test_a_worker_that_was_killed_leaves_its_totals_and_no_lock():
    cells = Cells(2)
    column = cells.intern(encode_series("m"))

    def work():
        cells.row(1)[column] += 7
        cells._segment.lock(0)
        os.kill(os.getpid(), signal.SIGKILL)

    assert os.WTERMSIG(in_child(work)) == signal.SIGKILL
    cells.row(1)[column] += 1  # the worker that took the slot over
    assert cells.total(column) == 8
    assert cells.intern(encode_series("after")) == column + 1


def test_a_full_table_of_columns_goes_to_the_sink_and_is_counted():
    cells = Cells(2, columns=4)
    slot = cells.slot(1)
    kept = [slot.column(BAD, reason=str(number)) for number in range(4)]
    assert kept == [2, 3, SINK, SINK]
    slot.counter(BAD, reason="9").inc(100)
    assert cells.total(OVERFLOW) == 3
    assert len(cells.names()) == 4


def test_a_full_table_of_names_goes_to_the_sink_and_is_counted():
    cells = Cells(1, names_size=256)
    assert cells.intern(encode_series("m", value="x" * 300)) == SINK
    assert cells.intern(encode_series("m", value="x")) == 2
    assert cells.total(OVERFLOW) == 1


@pytest.mark.parametrize(
    ("make", "name", "labels"),
    [
        ("counter", "edgeproxy_nonsense_total", {}),
        ("counter", BAD, {}),
        ("counter", BAD, {"reason": "x", "path": "/"}),
        ("counter", "edgeproxy_connections", {}),
        ("gauge", BAD, {"reason": "x"}),
    ],
    ids=["unknown name", "label missing", "label too many", "a gauge as counter", "a counter as gauge"],
)
def test_what_is_not_documented_cannot_be_made(make, name, labels):
    slot = Cells(1).slot(0)
    with pytest.raises(ValueError, match="families"):
        getattr(slot, make)(name, **labels)


def test_a_histogram_needs_a_documented_name():
    with pytest.raises(ValueError, match="families"):
        Cells(1).slot(0).histogram("edgeproxy_connections", (1.0,))


def test_gauges_are_kept_when_asked_for_again():
    slot = Cells(1).slot(0)
    gauge = slot.gauge("edgeproxy_connections")
    gauge.set(2)
    assert slot.gauge("edgeproxy_connections") is gauge  # a reload must not zero open connections
    assert slot.values[slot.cells.intern(encode_series("edgeproxy_connections"))] == 2


def test_a_restarted_worker_starts_its_gauges_at_zero_but_not_its_counters():
    cells = Cells(1)
    first = cells.slot(0)
    first.gauge("edgeproxy_connections").set(12)
    first.counter(BAD, reason="x").inc()
    again = cells.slot(0)
    again.gauge("edgeproxy_connections")
    again.counter(BAD, reason="x").inc()
    assert cells.total(cells.intern(encode_series("edgeproxy_connections"))) == 0
    assert cells.total(cells.intern(encode_series(BAD, reason="x"))) == 2


def test_clearing_gauges_leaves_counters():
    cells = Cells(2)
    slot = cells.slot(1)
    slot.gauge("edgeproxy_connections").set(12)
    slot.counter(BAD, reason="x").inc(4)
    cells.clear_gauges(1)
    assert cells.total(cells.intern(encode_series("edgeproxy_connections"))) == 0
    assert cells.total(cells.intern(encode_series(BAD, reason="x"))) == 4


@pytest.mark.parametrize(
    ("value", "bucket"),
    [(-1.0, 0), (0.0, 0), (1.0, 0), (1.5, 1), (10.0, 1), (11.0, 2)],
    ids=["below zero", "zero", "on the first bound", "between", "on the last bound", "beyond"],
)
def test_a_histogram_counts_a_value_in_the_bucket_whose_bound_is_not_below_it(value, bucket):
    slot = Cells(1).slot(0)
    histogram = slot.histogram("edgeproxy_request_duration_seconds", (1.0, 10.0), route="a")
    histogram.observe(value)
    assert [slot.values[column] for column in histogram.buckets] == [float(n == bucket) for n in range(3)]
    assert slot.values[histogram.sum] == value
