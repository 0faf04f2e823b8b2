"""Requests in flight: counted over processes, and forgotten with the process that held them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeproxy.policies.bucket_table import BucketKey
from edgeproxy.policies.in_flight_table import InFlightTable
from edgeproxy.shared import Shared


@pytest.fixture
def table() -> Iterator[InFlightTable]:
    made = InFlightTable(3, 16, shared=False)
    yield made
    made.close()


def key(number: int) -> BucketKey:
    return number.to_bytes(8, "big") * 2, 0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.booleans()), max_size=60))
def test_it_counts_like_a_naive_model(steps: list[tuple[int, int, bool]]) -> None:
    table, model = InFlightTable(3, 64, shared=False), dict[tuple[int, int], int]()
    for number, slot, entering in steps:
        flying = sum(model.get((number, each), 0) for each in range(3))
        assert table.flying(key(number)) == flying
        if entering:
            assert table.enter(key(number), slot, 3) == (flying, flying < 3)
            model[number, slot] = model.get((number, slot), 0) + (flying < 3)
        elif model.get((number, slot)):
            table.leave(key(number), slot)
            model[number, slot] -= 1
    table.close()


def test_a_dead_process_holds_nothing(table: InFlightTable) -> None:
    for slot in (0, 1, 1):
        table.enter(key(1), slot, 9)
    table.forget(1)
    assert table.flying(key(1)) == 1


def test_a_set_without_room_counts_nobody_more_and_lets_pass(table: InFlightTable) -> None:
    for number in range(16):
        assert table.enter(key(number), 0, 1) == (0, True)
    assert table.enter(key(99), 0, 1) == (-1, True)
    table.leave(key(99), 0)
    table.leave(key(3), 0)
    assert table.enter(key(99), 0, 1) == (0, True)
    assert [table.flying(key(number)) for number in (2, 3, 99)] == [1, 0, 1]
    assert table.enter(key(100), 2, 1) == (-1, True)
    table.forget(2)
    assert table.overflows() == 2


def test_it_is_one_count_for_all_processes() -> None:
    table = InFlightTable(2, 16)
    pid = os.fork()
    if pid == 0:
        table.enter(key(1), 1, 9)
        os._exit(0)
    os.waitpid(pid, 0)
    assert table.enter(key(1), 0, 1) == (1, False)
    table.forget(1)
    assert table.enter(key(1), 0, 1) == (0, True)
    table.close()


def test_whatever_happens_in_a_set_its_lock_is_given_back(table: InFlightTable) -> None:
    held: list[int] = []
    table._lock, table._unlock = held.append, held.remove
    for number in range(17):  # the last one finds no room
        table.enter(key(number), 0, 1)
        assert held == []
    for done in (
        lambda: table.enter(key(0), 1, 1),  # not let in
        lambda: table.leave(key(0), 0),
        lambda: table.leave(key(99), 0),
        lambda: table.forget(0),
    ):
        done()
        assert held == []


def test_what_a_dead_worker_held_is_given_back() -> None:
    shared = Shared(Path(), 1)
    table = shared.in_flight
    table.enter(key(1), 0, 9)
    table.enter(key(1), 1, 9)
    shared.died(1)
    assert table.flying(key(1)) == 1
