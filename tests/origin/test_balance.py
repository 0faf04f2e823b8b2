"""Which server is next."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from edgeproxy.origin.balance import Balance, LeastRequests, RoundRobin


def take(balance: Balance, count: int, usable: set[int], times: int) -> list[int]:
    chosen: list[int] = []
    for _ in range(times):
        index = balance.peek(count, usable.__contains__)
        balance.advance(count, index)
        chosen.append(index)
    return chosen


@pytest.mark.parametrize(
    ("usable", "chosen"),
    [
        ({0, 1, 2}, [0, 1, 2, 0, 1, 2]),
        ({0, 2}, [0, 2, 0, 2, 0, 2]),
        ({1}, [1, 1, 1, 1, 1, 1]),
        (set[int](), [0, 1, 2, 0, 1, 2]),
    ],
    ids=["all", "one out", "one left", "panic"],
)
def test_round_robin_takes_usable_servers_in_turn(usable: set[int], chosen: list[int]) -> None:
    assert take(RoundRobin(), 3, usable, 6) == chosen


def test_peeking_does_not_take_the_turn() -> None:
    balance = RoundRobin()
    assert [balance.peek(3, lambda _: True) for _ in range(3)] == [0, 0, 0]


def test_least_requests_prefers_the_less_busy_of_two() -> None:
    loads = [9, 0, 9]
    chosen = Counter(take(LeastRequests(loads.__getitem__, Random(1).randrange), 3, {0, 1, 2}, 600))
    assert chosen[1] > chosen[0] + chosen[2]  # two thirds of all pairs hold it


def test_least_requests_is_even_when_all_are_equally_busy() -> None:
    chosen = Counter(take(LeastRequests(lambda _: 0, Random(2).randrange), 4, {0, 1, 2, 3}, 4000))
    assert all(800 < chosen[index] < 1200 for index in range(4))


@pytest.mark.parametrize(
    ("usable", "allowed"),
    [({2}, {2}), ({1, 2}, {1, 2}), (set[int](), {0, 1, 2})],
    ids=["one left", "two left", "panic"],
)
def test_least_requests_keeps_to_usable_servers(usable: set[int], allowed: set[int]) -> None:
    chosen = take(LeastRequests(lambda _: 0, Random(3).randrange), 3, usable, 100)
    assert set(chosen) == allowed


def test_the_two_candidates_are_never_the_same() -> None:
    loads = [5, 1]
    chosen = take(LeastRequests(loads.__getitem__, Random(4).randrange), 2, {0, 1}, 50)
    assert set(chosen) == {1}
