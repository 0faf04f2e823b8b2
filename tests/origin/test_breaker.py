"""When an origin is not asked at all, and how many may try again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeproxy.origin.breaker import BURST, Breaker, RetryBudget

NOW = 1000.0


def opened(failures: int = 3) -> Breaker:
    breaker = Breaker(failures, time=1.0, longest=5.0)
    for _ in range(failures):
        assert breaker.admit(NOW)
        breaker.failed(NOW, everywhere=True)
    return breaker


def test_it_opens_after_failures_in_a_row() -> None:
    breaker = opened()
    assert (breaker.is_open, breaker.opened) == (True, 1)
    assert not breaker.admit(NOW + 0.99)


def test_an_answer_between_them_keeps_it_closed() -> None:
    breaker = Breaker(3, 1.0, 5.0)
    for _ in range(10):
        breaker.failed(NOW, everywhere=True)
        breaker.failed(NOW, everywhere=True)
        assert not breaker.is_open
        breaker.answered()


def test_failures_of_one_server_do_not_open_it() -> None:
    breaker = Breaker(3, 1.0, 5.0)
    for _ in range(100):
        breaker.failed(NOW, everywhere=False)
    assert not breaker.is_open
    breaker.failed(NOW, everywhere=True)
    assert breaker.is_open


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
        breaker.failed(now, everywhere=True)
    assert waits == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_what_was_under_way_when_it_opened_does_not_make_the_wait_longer() -> None:
    breaker = opened()
    for _ in range(50):
        breaker.failed(NOW + 0.5, everywhere=True)
    assert breaker.next_try == NOW + 1


def test_after_it_closed_the_first_wait_is_short_again() -> None:
    breaker = opened()
    for now in (NOW + 1, NOW + 3):
        assert breaker.admit(now)
        breaker.failed(now, everywhere=True)
    breaker.answered()
    for _ in range(3):
        breaker.failed(NOW + 20, everywhere=True)
    assert breaker.next_try == NOW + 21


def test_a_trial_that_never_ends_does_not_keep_it_open() -> None:
    breaker = opened()
    assert breaker.admit(NOW + 1)
    assert not breaker.admit(NOW + 1.5)
    assert breaker.admit(NOW + 2)


def test_none_means_never() -> None:
    breaker = Breaker(0, 1.0, 5.0)
    for _ in range(1000):
        breaker.failed(NOW, everywhere=True)
    assert breaker.admit(NOW)


def taken(budget: RetryBudget, answered: int) -> int:
    count = 0
    while budget.take(answered):
        count += 1
    return count


def test_a_share_of_what_is_answered_may_be_tried_again() -> None:
    budget = RetryBudget(0.2, 3)
    assert taken(budget, 0) == 3
    assert taken(budget, 100) == 20
    assert taken(budget, 100) == 0
    assert budget.denied == 3


def test_a_few_may_be_in_every_second() -> None:
    budget, counts = RetryBudget(0.2, 3), list[int]()
    for _ in range(3):
        counts.append(taken(budget, 0))
        budget.tick(0)
    assert counts == [3, 3, 3]


def test_the_few_of_a_second_are_part_of_its_share() -> None:
    assert taken(RetryBudget(0.2, 3), 100) == 20


@pytest.mark.parametrize(("a_second", "saved"), [(10, 3), (100, 20), (250, BURST), (10_000, BURST)])
def test_no_more_is_saved_up_than_a_second_earned_or_than_die_with_a_server(
    a_second: int, saved: int
) -> None:
    budget = RetryBudget(0.2, 3)
    for second in range(1, 61):
        budget.tick(second * a_second)
    assert taken(budget, 60 * a_second) == saved


def test_what_was_saved_is_gone_after_a_second_without_answers() -> None:
    budget = RetryBudget(0.2, 3)
    budget.tick(1000)
    budget.tick(1000)
    budget.tick(1000)
    assert taken(budget, 1000) == 3


@pytest.mark.parametrize("rate", [15, 50, 100, 1000, 20_000])
def test_an_origin_that_answers_nobody_is_asked_a_fifth_more_at_most_from_the_first_second_on(
    rate: int,
) -> None:
    budget, answered = RetryBudget(0.2, 3), 0
    for _ in range(30):
        answered += rate
        budget.tick(answered)
    asked = again = 0
    for _ in range(5):
        asked += rate
        again += sum(budget.take(answered) for _ in range(rate))
        assert again <= 0.2 * asked
        budget.tick(answered)


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans()), min_size=1, max_size=300))
def test_retries_never_exceed_share_and_floor(steps: list[tuple[int, bool]]) -> None:
    budget = RetryBudget(0.2, 3)
    answered = retried = seconds = 0
    for answers, second in steps:
        answered += answers
        retried += sum(budget.take(answered) for _ in range(answers + 5))
        if second:
            budget.tick(answered)
            seconds += 1
        assert retried <= 0.2 * answered + 3 * (seconds + 1) + 1e-6
