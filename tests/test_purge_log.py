"""The ring of purges: positions, wrapping, readers that fell behind, writers that died."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeproxy.purge_log import MAX_RECORD, MAX_VALUE, Purge, PurgeKind, PurgeLog, split_location

SMALL = 2 * MAX_RECORD


def test_a_reader_gets_what_came_after_its_position():
    log = PurgeLog()
    assert log.position == 0
    first = log.append(PurgeKind.URL, b"a/x")
    second = log.append(PurgeKind.ALL, b"", soft=True)
    assert log.position == log.head[0] == second
    assert log.since(0) == (
        [Purge(PurgeKind.URL, b"a/x", False, first), Purge(PurgeKind.ALL, b"", True, second)],
        False,
    )
    assert log.since(first) == ([Purge(PurgeKind.ALL, b"", True, second)], False)
    assert log.since(second) == ([], False)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(PurgeKind), st.binary(max_size=3000), st.booleans()),
        min_size=1,
        max_size=60,
    )
)
def test_a_reader_that_keeps_up_sees_every_purge_however_the_ring_wraps(purges):
    log = PurgeLog(SMALL)
    seen = []
    position = log.position
    for kind, value, soft in purges:
        after = log.append(kind, value, soft)
        new, lost = log.since(position)
        assert not lost
        position = new[-1].position
        assert position == after == log.position
        seen += [(purge.kind, purge.value, purge.soft) for purge in new]
    assert seen == purges


def test_a_reader_that_fell_behind_is_told_so():
    log = PurgeLog(SMALL)
    start = log.append(PurgeKind.TAG, b"x" * 1000)
    while log.position - start <= SMALL - MAX_RECORD:
        assert log.since(start)[1] is False
        log.append(PurgeKind.TAG, b"x" * 1000)
    assert log.since(start) == ([], True)


def test_a_reader_overtaken_while_it_copies_is_told_so(monkeypatch):
    log = PurgeLog(SMALL)
    log.append(PurgeKind.TAG, b"x")
    read = log._read

    def slow_read(position: int, end: int) -> bytes:
        for _ in range(3):
            log.append(PurgeKind.TAG, b"y" * MAX_VALUE)
        return read(position, end)

    monkeypatch.setattr(PurgeLog, "_read", lambda _, position, end: slow_read(position, end))
    assert log.since(0) == ([], True)


def test_a_position_from_the_future_is_not_of_this_ring():
    assert PurgeLog().since(1) == ([], True)


def test_a_value_has_a_limit_and_nothing_is_written_beyond_it():
    log = PurgeLog()
    log.append(PurgeKind.URL, b"x" * MAX_VALUE)
    before = log.position
    with pytest.raises(ValueError, match="bytes"):
        log.append(PurgeKind.URL, b"x" * (MAX_VALUE + 1))
    assert log.position == before


def test_a_ring_too_small_for_its_records_is_refused():
    with pytest.raises(ValueError, match="at least"):
        PurgeLog(SMALL - 1)


def test_another_process_reads_what_this_one_appends_and_the_other_way_round():
    log = PurgeLog()
    log.append(PurgeKind.HOST, b"www.example.com")
    pid = os.fork()
    if pid == 0:
        purges, lost = log.since(0)
        log.append(PurgeKind.TAG, purges[0].value + b"-seen")
        os._exit(int(lost))
    assert os.waitpid(pid, 0)[1] == 0
    assert [purge.value for purge in log.since(0)[0]] == [b"www.example.com", b"www.example.com-seen"]


def test_a_writer_that_was_killed_half_way_leaves_neither_lock_nor_record():
    log = PurgeLog()
    pid = os.fork()
    if pid == 0:
        log._segment.lock(0)
        log._write(0, b"half a record")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert log.since(0) == ([], False)
    log.append(PurgeKind.TAG, b"t")
    assert [purge.value for purge in log.since(0)[0]] == [b"t"]


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        (b"a.example/", (b"a.example", b"/", b"")),
        (b"a.example:8443/x/y?a=b?c", (b"a.example:8443", b"/x/y", b"a=b?c")),
        (b"[::1]/x", (b"[::1]", b"/x", b"")),
    ],
)
def test_a_location_splits_into_what_a_request_has(value, parts):
    assert split_location(value) == parts


def test_readers_say_what_they_dropped_and_whoever_purged_is_told():
    log = PurgeLog(SMALL)
    for _ in range(7):  # the tally wraps with the ring
        end = log.append(PurgeKind.TAG, b"x" * 9001)
        (purge,), _ = log.since(end - MAX_RECORD + MAX_VALUE - 9001)
        assert log.reached(b"x" * 9001, end) == (0, 0)
        log.report(purge, 3)
        log.report(purge, 4)
        assert log.reached(b"x" * 9001, end) == (2, 7)
        assert log.since(purge.start) == ([purge], False), "the tally is not part of the purge"


def test_a_tally_that_is_written_over_is_left_alone():
    log = PurgeLog(SMALL)
    first = log.append(PurgeKind.TAG, b"a")
    (purge,), _ = log.since(0)
    while log.position - first < SMALL:
        log.append(PurgeKind.URL, b"y" * MAX_VALUE)
    kept = bytes(log._bytes)
    log.report(purge, 9)
    assert bytes(log._bytes) == kept
    assert log.reached(b"a", first) == (0, 0)


def test_positions_go_on_where_an_earlier_log_ended():
    log = PurgeLog(SMALL)
    log.begin(10**12)
    assert log.since(10**12) == ([], False)
    assert log.since(10**12 - 1) == ([], True), "what came before this start is not in the ring"
    log.append(PurgeKind.HOST, b"h")
    assert [purge.value for purge in log.since(10**12)[0]] == [b"h"]


def test_the_journal_hears_of_a_purge_before_its_readers_do():
    log, heard = PurgeLog(), []
    log.journal = lambda purge: heard.append((purge, log.position))
    log.append(PurgeKind.TAG, b"t", soft=True)
    assert heard == [(log.since(0)[0][0], 0)]
