"""Which server is next."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeproxy.origin.balance import (
    NONE_LEFT,
    Balance,
    LeastRequests,
    Rendezvous,
    RoundRobin,
    Sticky,
    WeightedRoundRobin,
)

LABELS = [f"http://10.0.0.{number}:80" for number in range(8)]


def adopted(balance: Balance, candidates: tuple[int, ...], weights: tuple[float, ...] = ()) -> Balance:
    balance.adopt(candidates, weights or (1.0,) * len(candidates))
    return balance


def take(balance: Balance, times: int, key: bytes = b"", avoid: tuple[int, ...] = ()) -> list[int]:
    chosen: list[int] = []
    for _ in range(times):
        index = balance.choose(key, avoid)
        balance.took(index)
        chosen.append(index)
    return chosen


def every_balance() -> list[Balance]:
    random = Random(1).randrange
    least = LeastRequests(lambda _: 0, random)
    return [
        RoundRobin(),
        WeightedRoundRobin(),
        least,
        Rendezvous(LABELS, random),
        Sticky(LABELS, LeastRequests(lambda _: 0, random)),
    ]


@pytest.mark.parametrize("balance", every_balance(), ids=lambda balance: type(balance).__name__)
@pytest.mark.parametrize("key", [b"", b"somebody"])
@given(
    candidates=st.lists(st.integers(0, 7), min_size=1, unique=True).map(sorted),
    avoid=st.frozensets(st.integers(0, 7)),
)
def test_only_a_candidate_that_need_not_be_avoided_is_chosen(
    balance: Balance, key: bytes, candidates: list[int], avoid: frozenset[int]
) -> None:
    adopted(balance, tuple(candidates))
    left = set(candidates) - avoid
    for _ in range(5):
        index = balance.choose(key, avoid)
        assert index in (left or {NONE_LEFT})
        if left:
            balance.took(index)


@pytest.mark.parametrize(
    ("candidates", "chosen"),
    [
        ((0, 1, 2), [0, 1, 2, 0, 1, 2]),
        ((0, 2), [0, 2, 0, 2, 0, 2]),
        ((1,), [1, 1, 1, 1, 1, 1]),
    ],
    ids=["all", "one out", "one left"],
)
def test_round_robin_takes_candidates_in_turn(candidates: tuple[int, ...], chosen: list[int]) -> None:
    assert take(adopted(RoundRobin(), candidates), 6) == chosen


def test_round_robin_goes_on_where_it_was_when_the_candidates_change() -> None:
    balance = adopted(RoundRobin(), (0, 1, 2))
    assert take(balance, 2) == [0, 1]
    adopted(balance, (0, 1, 2, 3))
    assert take(balance, 3) == [2, 3, 0]


@pytest.mark.parametrize("balance", [RoundRobin(), WeightedRoundRobin()], ids=["plain", "weighted"])
def test_choosing_does_not_take_the_turn(balance: Balance) -> None:
    adopted(balance, (0, 1, 2))
    assert [balance.choose(b"", ()) for _ in range(3)] == [0, 0, 0]


def test_weights_are_spread_evenly_over_the_turns() -> None:
    balance = adopted(WeightedRoundRobin(), (0, 1, 2), (5, 1, 1))
    assert take(balance, 7) == [0, 0, 1, 0, 2, 0, 0]


def test_weights_hold_when_they_change_on_the_way() -> None:
    balance = adopted(WeightedRoundRobin(), (0, 1), (1, 1))
    take(balance, 10)
    adopted(balance, (0, 1), (3, 1))
    assert Counter(take(balance, 400)) == {0: 300, 1: 100}


def test_a_turn_of_a_server_that_is_no_candidate_any_more_changes_nothing() -> None:
    balance = adopted(WeightedRoundRobin(), (0, 1), (1, 1))
    balance.took(7)
    assert take(balance, 4) == [0, 1, 0, 1]


def test_least_requests_prefers_the_less_busy_of_two() -> None:
    loads = [9, 0, 9]
    balance = adopted(LeastRequests(loads.__getitem__, Random(1).randrange), (0, 1, 2))
    chosen = Counter(take(balance, 600))
    assert chosen[1] > chosen[0] + chosen[2]  # two thirds of all pairs hold it


def test_least_requests_is_even_when_all_are_equally_busy() -> None:
    balance = adopted(LeastRequests(lambda _: 0, Random(2).randrange), (0, 1, 2, 3))
    chosen = Counter(take(balance, 4000))
    assert all(800 < chosen[index] < 1200 for index in range(4))


def test_a_heavier_server_may_be_busier() -> None:
    balance = adopted(LeastRequests([7, 1].__getitem__, Random(3).randrange), (0, 1), (10, 1))
    assert set(take(balance, 50)) == {0}


def test_the_two_candidates_are_never_the_same() -> None:
    balance = adopted(LeastRequests([5, 1].__getitem__, Random(4).randrange), (0, 1))
    assert set(take(balance, 50)) == {1}


KEYS = [f"client {number}".encode() for number in range(2000)]


def placed(candidates: tuple[int, ...], weights: tuple[float, ...] = ()) -> dict[bytes, int]:
    balance = adopted(Rendezvous(LABELS, Random(5).randrange), candidates, weights)
    return {key: balance.choose(key, ()) for key in KEYS}


def test_a_key_stays_with_its_server_in_every_process() -> None:
    assert placed((0, 1, 2)) == placed((0, 1, 2))
    assert list(placed((0, 1, 2)).values())[:10] == [1, 0, 2, 1, 2, 1, 1, 2, 2, 0]  # and version


def test_keys_are_spread_by_weight() -> None:
    even = Counter(placed((0, 1, 2, 3)).values())
    assert all(400 < even[index] < 600 for index in range(4))
    uneven = Counter(placed((0, 1), (3, 1)).values())
    assert 1400 < uneven[0] < 1600


def test_only_the_keys_of_a_server_that_leaves_move() -> None:
    before, after = placed((0, 1, 2, 3)), placed((0, 1, 3))
    moved = [key for key in KEYS if before[key] != after[key]]
    assert moved == [key for key in KEYS if before[key] == 2]


def test_requests_without_a_key_go_anywhere() -> None:
    balance = adopted(Rendezvous(LABELS, Random(6).randrange), (0, 1, 2))
    assert set(take(balance, 50)) == {0, 1, 2}


def test_a_sticky_client_stays_while_its_server_is_a_candidate() -> None:
    balance = Sticky(LABELS, RoundRobin())
    adopted(balance, (0, 1, 2))
    ident = balance.idents[1]
    assert take(balance, 3, ident) == [1, 1, 1]
    assert balance.choose(ident, {1}) == 2
    adopted(balance, (0, 2))
    assert balance.choose(ident, ()) in (0, 2)
    assert balance.choose(b"made up", ()) in (0, 2)
    assert len(set(balance.idents)) == len(LABELS)
