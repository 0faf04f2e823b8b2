"""Sample-ratio mismatch: the statistic, its probability, and when it is said."""

from __future__ import annotations

from math import isclose

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeproxy.observe.ratio import FEWEST, ratio, survival

# Upper critical values, NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.4
CRITICAL = [
    (1, 0.05, 3.841), (1, 0.001, 10.828), (2, 0.05, 5.991), (2, 0.001, 13.816), (3, 0.01, 11.345),
    (4, 0.001, 18.467), (5, 0.10, 9.236), (9, 0.001, 27.877), (10, 0.05, 18.307), (30, 0.001, 59.703),
    (63, 0.001, 103.442),
]  # fmt: skip


@pytest.mark.parametrize(("freedom", "probability", "statistic"), CRITICAL)
def test_the_published_critical_values_come_out(freedom: int, probability: float, statistic: float) -> None:
    assert isclose(survival(statistic, freedom), probability, rel_tol=0.002)


@given(st.floats(0, 5000), st.integers(1, 63))
def test_it_is_always_a_probability_that_falls(statistic: float, freedom: int) -> None:
    assert 0 <= survival(statistic + 1, freedom) <= survival(statistic, freedom) + 1e-12 <= 1 + 1e-12


@pytest.mark.parametrize(
    ("observed", "expected", "mismatch"),
    [
        ([500, 500], [500, 500], False),
        ([550, 450], [500, 500], False),
        ([560, 440], [500, 500], True),
        ([5_060, 4_940], [5_000, 5_000], False),
        ([5_170, 4_830], [5_000, 5_000], True),
        ([999, 0], [499.5, 499.5], False),
        ([1000, 0], [500, 500], True),
        ([900, 100], [900, 100], False),
        ([700, 150, 150], [900, 50, 50], True),
        ([1000, 0], [1000, 0], False),
        ([995, 5], [1000, 0], True),
        ([0, 0], [0, 0], False),
    ],
)
def test_a_mismatch_is_said_when_it_is_no_accident(
    observed: list[float], expected: list[float], mismatch: bool
) -> None:
    assert ratio(observed, expected).mismatch is mismatch


def test_nothing_is_said_before_there_is_enough() -> None:
    assert ratio([FEWEST - 1, 0], [FEWEST / 2, FEWEST / 2]).probability == 1.0
