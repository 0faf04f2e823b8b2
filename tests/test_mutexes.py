"""Mutexes keep processes apart, and whoever dies with one leaves it to the next."""

from __future__ import annotations

import mmap
import os
import signal
import sys
import time

import pytest

from edgeproxy.mutexes import Mutexes
from tests.helpers.processes import fork

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has robust ones")


def test_increments_of_several_processes_are_never_lost() -> None:
    mutexes = Mutexes()
    cells = memoryview(mmap.mmap(-1, 8)).cast("Q")

    def work() -> None:
        for _ in range(5000):
            mutexes.lock(3)
            cells[0] += 1
            mutexes.unlock(3)

    for pid in [fork(work) for _ in range(3)]:
        os.waitpid(pid, 0)
    assert cells[0] == 15_000


@pytest.mark.parametrize("stripe", [0, 7, 10**9])
def test_kill_nine_of_a_holder_leaves_nothing_locked(stripe: int) -> None:
    mutexes = Mutexes()
    holding, held = os.pipe()

    def hold() -> None:
        mutexes.lock(stripe)
        os.write(held, b"x")
        time.sleep(60)

    def take() -> None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(5)
        mutexes.lock(stripe + 1)  # another one is free meanwhile
        mutexes.unlock(stripe + 1)
        mutexes.lock(stripe)
        mutexes.unlock(stripe)

    pid = fork(hold)
    os.read(holding, 1)
    waiter = fork(take)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert os.waitpid(waiter, 0)[1] == 0
    for _ in range(3):
        mutexes.lock(stripe)
        mutexes.unlock(stripe)
    os.close(holding)
    os.close(held)


def test_who_holds_it_keeps_others_waiting() -> None:
    mutexes = Mutexes()
    mutexes.lock(1)

    def impatient() -> None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        mutexes.lock(1)

    ended = os.waitpid(fork(impatient), 0)[1]
    assert os.WTERMSIG(ended) == signal.SIGALRM
    mutexes.unlock(1)
    assert os.waitpid(fork(lambda: mutexes.lock(1)), 0)[1] == 0


def test_what_the_library_refuses_is_an_error() -> None:
    mutexes = Mutexes()
    os.waitpid(fork(lambda: mutexes.lock(0)), 0)
    mutexes._take(mutexes._addresses[0])
    mutexes.unlock(0)  # without saying that what the dead one left was looked at
    with pytest.raises(OSError, match="recoverable"):
        mutexes.lock(0)
