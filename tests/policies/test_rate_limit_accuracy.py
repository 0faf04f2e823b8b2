"""Limits let through what they say, over all workers, at any rate; the clock is ours."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeproxy.context import Context
from edgeproxy.policies.bucket_table import BucketTable
from edgeproxy.policies.in_flight_table import InFlightTable
from edgeproxy.policies.rate_limit import RateLimiter
from edgeproxy.policies.rate_limit_rule import RateLimit
from tests.helpers.requests import NOW, request

REGAINED = 500  # requests in the time that is looked at
RATES = {"1/m": 1 / 60, "7/m": 7 / 60, "1/s": 1.0, "30/s": 30.0, "999/s": 999.0, "10000/s": 10_000.0}
REQUEST = request()


@contextmanager
def workers(**limit: object) -> Generator[list[RateLimiter]]:
    """Two that share their tables."""
    table, flights = BucketTable(64, shared=False), InFlightTable(2, shared=False)
    rule = {"l": RateLimit.model_validate(limit)}
    yield [RateLimiter(rule, table, flights, slot) for slot in (0, 1)]
    table.close()
    flights.close()


def admitted(worker: RateLimiter, now: float) -> bool:
    return worker(REQUEST, Context(now, now, "192.0.2.1", "r", "id")) is None


@pytest.mark.parametrize("extra", [{}, {"cost": {"methods": {"POST": 2}}}], ids=["plain", "with more to it"])
@pytest.mark.parametrize("rate", RATES)
@settings(max_examples=8, deadline=None)
@given(
    burst=st.integers(2, 50),
    pattern=st.lists(st.tuples(st.integers(0, 1), st.floats(0.05, 0.6)), min_size=1, max_size=40),
)
def test_two_workers_let_through_the_burst_and_then_the_rate(
    rate: str, extra: dict[str, object], burst: int, pattern: list[tuple[int, float]]
) -> None:
    """Requests come faster than they are regained, in any rhythm, to any worker."""
    with workers(rate=rate, burst=burst, **extra) as both:
        at_once = [admitted(both[number % 2], NOW) for number in range(burst + 5)]
        assert at_once == [True] * burst + [False] * 5
        passed, now, step = 0, NOW, 0
        while (now - NOW) * RATES[rate] < REGAINED:
            which, pause = pattern[step % len(pattern)]
            now += pause / RATES[rate]
            passed += admitted(both[which], now)
            step += 1
        assert passed == pytest.approx((now - NOW) * RATES[rate], rel=0.02)
