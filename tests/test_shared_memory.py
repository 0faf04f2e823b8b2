"""Segments are seen by forked processes, and their locks die with their holder."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Iterator

import pytest

from edgeproxy.shared_memory import Segment
from tests.helpers.processes import fork


@pytest.fixture
def segment() -> Iterator[Segment]:
    made = Segment(4096)
    yield made
    made.close()


def is_locked(segment: Segment, stripe: int) -> bool:
    try:
        fcntl.lockf(segment._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, stripe)
    except OSError:
        return True
    segment.unlock(stripe)
    return False


def test_what_a_child_writes_its_parent_reads(segment: Segment) -> None:
    def work() -> None:
        segment.cells[3] = 2**64 - 1

    os.waitpid(fork(work), 0)
    assert segment.cells[3] == 2**64 - 1
    assert segment.buffer[24:32] == b"\xff" * 8


def test_cells_start_at_zero_and_cover_the_whole_size(segment: Segment) -> None:
    assert segment.cells.tolist() == [0] * 512


def test_kill_nine_of_a_holder_leaves_nothing_locked(segment: Segment) -> None:
    holding, held = os.pipe()

    def work() -> None:
        segment.lock(7)
        os.write(held, b"x")
        time.sleep(60)

    pid = fork(work)
    os.read(holding, 1)
    assert is_locked(segment, 7)
    assert not is_locked(segment, 8)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert not is_locked(segment, 7)
    os.close(holding)
    os.close(held)


def test_a_process_that_ends_does_not_drop_the_locks_of_another(segment: Segment) -> None:
    segment.lock(1)
    os.waitpid(fork(segment.close), 0)
    seen, report = os.pipe()

    def look() -> None:
        os.write(report, b"y" if is_locked(segment, 1) else b"n")

    os.waitpid(fork(look), 0)
    assert os.read(seen, 1) == b"y"
    segment.unlock(1)
    os.close(seen)
    os.close(report)


def test_increments_under_the_lock_are_never_lost(segment: Segment) -> None:
    def work() -> None:
        for _ in range(2000):
            segment.lock(0)
            try:
                segment.cells[0] += 1
            finally:
                segment.unlock(0)

    for pid in [fork(work) for _ in range(3)]:
        os.waitpid(pid, 0)
    assert segment.cells[0] == 6000


def test_without_locking_there_is_no_lock_file() -> None:
    segment = Segment(64, locking=False)
    segment.lock(0)
    segment.unlock(0)
    assert segment._lock_fd == -1
    segment.close()


def test_a_closed_segment_has_given_everything_back() -> None:
    segment = Segment(64)
    descriptor = segment._lock_fd
    segment.close()
    assert segment.buffer.closed
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
