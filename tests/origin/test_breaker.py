"""When an origin is not asked at all, and how many may try again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeproxy.origin.breaker import Breaker, RetryBudget

NOW = 1000.0


def opened(failures: int = 3) -> Breaker:
    breaker = Breaker(failures, time=1.0, longest=5.0)
    for _ in range(failures):
        assert breaker.admit(NOW)
        breaker.failed(NOW)
    return breaker


def test_it_opens_after_failures_in_a_row() -> None:
    breaker = opened()
    assert (breaker.is_open, breaker.opened) == (True, 1)
    assert not breaker.admit(NOW + 0.99)


def test_an_answer_between_them_keeps_it_closed() -> None:
    breaker = Breaker(3, 1.0, 5.0)
    for _ in range(10):
        breaker.failed(NOW)
        breaker.failed(NOW)
        breaker.answered()
    assert breaker.admit(NOW)


def test_one_may_try_when_the_time_is_over() -> None:
    breaker = opened()
    assert [breaker.admit(NOW + 1) for _ in range(3)] == [True, False, False]
    breaker.answered()
    assert [breaker.admit(NOW + 1) for _ in range(3)] == [True, True, True]
    assert not breaker.is_open


def test_each_trial_that_fails_makes_the_wait_longer() -> None:
    breaker, now, waits = opened(), NOW, list[float]()
    for _ in range(5):
        waits.append(breaker.next_try - now)
        now = breaker.next_try
        assert breaker.admit(now)
        breaker.failed(now)
    assert waits == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_what_was_under_way_when_it_opened_does_not_make_the_wait_longer() -> None:
    breaker = opened()
    for _ in range(50):
        breaker.failed(NOW + 0.5)
    assert breaker.next_try == NOW + 1


def test_after_it_closed_the_first_wait_is_short_again() -> None:
    breaker = opened()
    for now in (NOW + 1, NOW + 3):
        assert breaker.admit(now)
        breaker.failed(now)
    breaker.answered()
    for _ in range(3):
        breaker.failed(NOW + 20)
    assert breaker.next_try == NOW + 21


def test_a_trial_that_never_ends_does_not_keep_it_open() -> None:
    breaker = opened()
    assert breaker.admit(NOW + 1)
    assert not breaker.admit(NOW + 1.5)
    assert breaker.admit(NOW + 2)


def test_none_means_never() -> None:
    breaker = Breaker(0, 1.0, 5.0)
    for _ in range(1000):
        breaker.failed(NOW)
    assert breaker.admit(NOW)


@pytest.mark.parametrize(("active", "allowed"), [(1, 3), (15, 3), (100, 16), (0, 3)])
def test_a_share_of_what_is_under_way_may_try_again(active: int, allowed: int) -> None:
    """Those that try again are themselves under way: 16 of 100 are 20 % of the other 84."""
    budget = RetryBudget(0.2, 3)
    taken = 0
    while budget.take(active):
        taken += 1
    assert (taken, budget.running, budget.denied) == (allowed, allowed, 1)
    budget.done()
    assert budget.take(active)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 500)), max_size=200))
def test_never_more_than_the_share_or_the_least(steps: list[tuple[bool, int]]) -> None:
    budget = RetryBudget(0.2, 3)
    for start, active in steps:
        if not start and budget.running:
            budget.done()
        elif start:
            before = budget.running
            if budget.take(active):
                assert budget.running <= max(3, 0.2 * (active - before))
