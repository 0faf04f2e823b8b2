"""Token buckets: exact against a naive model, fair when full, shared by processes that may die."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeproxy.policies.bucket_table import SECOND, BucketKey, BucketTable, Evictions
from tests.helpers.processes import fork

START = 1_790_000_000 * SECOND


@pytest.fixture
def table() -> Iterator[BucketTable]:
    made = BucketTable(64, shared=False)
    yield made
    made.close()


@pytest.fixture
def one_set() -> Iterator[BucketTable]:
    """Sixteen ways: every key meets every other."""
    made = BucketTable(16, shared=True)
    yield made
    made.close()


class Grant(NamedTuple):
    """What `spend` or `owed` says, in requests and whole seconds."""

    allowed: bool
    remaining: int
    retry_after: int
    reset: int


def take(table: BucketTable, key: BucketKey, cost: int, interval: int, burst: int, now: int) -> Grant:
    """Spend `cost` of a bucket that holds `burst` and regains one each `interval` nanoseconds."""
    capacity = burst * interval
    return grant(table.spend(key, cost * interval, capacity, capacity, now), cost, interval, burst)


def peek(table: BucketTable, key: BucketKey, cost: int, interval: int, burst: int, now: int) -> Grant:
    """What `take` would say."""
    return grant(min(table.owed(key, now), burst * interval), cost, interval, burst)


def grant(owed: int, cost: int, interval: int, burst: int) -> Grant:
    capacity = burst * interval
    after = owed + cost * interval
    if after <= capacity:
        return Grant(True, (capacity - after) // interval, 0, -(-after // SECOND))
    left = max(0, capacity - owed) // interval
    return Grant(False, left, max(1, -(-(after - capacity) // SECOND)), -(-owed // SECOND))


class NaiveBucket:
    """Credit in nanoseconds: what everybody understands a token bucket to be."""

    def __init__(self, interval: int, burst: int) -> None:
        self.interval = interval
        self.capacity = self.credit = interval * burst
        self.at = START

    def take(self, cost: int, now: int) -> tuple[bool, int]:
        self.credit = min(self.capacity, self.credit + now - self.at)
        self.at = now
        allowed = self.credit >= cost * self.interval
        if allowed:
            self.credit -= cost * self.interval
        return allowed, self.credit // self.interval


waits = st.one_of(st.just(0), st.integers(0, 50), st.integers(0, 5 * SECOND))


@settings(max_examples=150, deadline=None)
@given(
    interval=st.integers(1, 2 * SECOND),
    burst=st.integers(1, 50),
    steps=st.lists(st.tuples(waits, st.integers(0, 4)), max_size=60),
)
def test_every_answer_is_that_of_a_naive_model(
    interval: int, burst: int, steps: list[tuple[int, int]]
) -> None:
    table = BucketTable(16, shared=False)
    model = NaiveBucket(interval, burst)
    key, now = table.key(b"k"), START
    for wait, cost in steps:
        now += wait
        seen = peek(table, key, cost, interval, burst, now)
        grant = take(table, key, cost, interval, burst, now)
        assert seen == grant
        assert (grant.allowed, grant.remaining) == model.take(cost, now)
        assert grant.reset == -(-(model.capacity - model.credit) // SECOND)
        assert (grant.retry_after == 0) is grant.allowed
    table.close()


@settings(max_examples=100, deadline=None)
@given(
    interval=st.integers(1, 2 * SECOND),
    burst=st.integers(1, 20),
    steps=st.lists(st.integers(-3600 * SECOND, 3600 * SECOND), max_size=40),
)
def test_steps_of_the_clock_give_no_negative_and_no_extra(
    interval: int, burst: int, steps: list[int]
) -> None:
    table = BucketTable(16, shared=False)
    key, now, forward, admitted = table.key(b"k"), START, 0, 0
    for step in steps:
        now += step
        forward += max(step, 0)
        for _ in range(3):
            grant = take(table, key, 1, interval, burst, now)
            admitted += grant.allowed
            assert 0 <= grant.remaining <= burst
            assert 0 <= grant.reset <= -(-burst * interval // SECOND) + 2
    assert admitted * interval <= burst * interval + forward
    table.close()


def test_a_clock_that_stepped_back_empties_a_bucket_but_does_not_stop_it(table: BucketTable) -> None:
    key = table.key(b"k")
    while take(table, key, 1, SECOND, 3, START).allowed:
        pass
    back = START - 3600 * SECOND
    assert peek(table, key, 1, SECOND, 3, back).retry_after == 1
    assert not take(table, key, 1, SECOND, 3, back).allowed
    assert take(table, key, 1, SECOND, 3, back + SECOND).allowed
    assert not take(table, key, 1, SECOND, 3, back + SECOND).allowed


@pytest.mark.parametrize("behind", [1, 1000, SECOND // 2])
def test_a_worker_whose_clock_is_a_little_behind_gets_nothing_extra(table: BucketTable, behind: int) -> None:
    key = table.key(b"k")
    for _ in range(3):
        assert take(table, key, 1, SECOND, 3, START).allowed
    assert not take(table, key, 1, SECOND, 3, START - behind).allowed
    assert not take(table, key, 1, SECOND, 3, START + SECOND - 1).allowed
    assert take(table, key, 1, SECOND, 3, START + SECOND).allowed


def test_a_refusal_spends_nothing_and_says_when_to_come_back(table: BucketTable) -> None:
    key, interval = table.key(b"k"), 10 * SECOND
    assert take(table, key, 2, interval, 2, START).remaining == 0
    for _ in range(5):
        grant = take(table, key, 1, interval, 2, START + SECOND // 2)
        assert (grant.allowed, grant.retry_after, grant.reset) == (False, 10, 20)
    assert take(table, key, 1, interval, 2, START + 10 * SECOND).allowed


def test_retry_after_is_at_least_one_second(table: BucketTable) -> None:
    key = table.key(b"k")
    take(table, key, 1, 1000, 1, START)
    assert take(table, key, 1, 1000, 1, START).retry_after == 1


def test_a_cost_above_the_burst_is_never_allowed(table: BucketTable) -> None:
    grant = take(table, table.key(b"k"), 4, SECOND, 3, START)
    assert (grant.allowed, grant.remaining) == (False, 3)


def test_what_is_given_back_can_be_spent_again(table: BucketTable) -> None:
    key = table.key(b"k")
    take(table, key, 1, SECOND, 2, START)
    take(table, key, 1, SECOND, 2, START)
    table.give_back(key, 1, SECOND)
    assert take(table, key, 1, SECOND, 2, START).allowed
    assert not take(table, key, 1, SECOND, 2, START).allowed


def test_giving_back_to_an_evicted_bucket_changes_no_other(table: BucketTable) -> None:
    take(table, table.key(b"other"), 1, SECOND, 2, START)
    before = table._cells.tolist()
    table.give_back(table.key(b"gone"), 1, SECOND)
    assert table._cells.tolist() == before


def test_peek_leaves_the_memory_as_it_was(table: BucketTable) -> None:
    key = table.key(b"k")
    take(table, key, 1, SECOND, 1, START)
    before = table._cells.tolist()
    assert not peek(table, key, 1, SECOND, 1, START).allowed
    assert peek(table, table.key(b"never seen"), 1, SECOND, 1, START).allowed
    assert table._cells.tolist() == before


def test_an_exhausted_bucket_survives_a_flood_of_other_keys(one_set: BucketTable) -> None:
    victim = one_set.key(b"exhausted")
    assert take(one_set, victim, 100, SECOND, 100, START).allowed
    for number in range(5000):
        assert take(one_set, one_set.key(b"%d" % number), 1, SECOND, 100, START).allowed
    assert not take(one_set, victim, 1, SECOND, 100, START).allowed
    assert one_set.evictions().early == 5000 - 15


def test_a_full_set_gives_up_a_bucket_that_is_full_again_and_forgets_nothing(one_set: BucketTable) -> None:
    for number in range(16):
        take(one_set, one_set.key(b"%d" % number), 1 + number, SECOND, 20, START)
    later = START + SECOND  # only bucket 0 is full again
    take(one_set, one_set.key(b"new"), 1, SECOND, 20, later)
    assert one_set.evictions() == Evictions(idle=1, early=0)
    left = [peek(one_set, one_set.key(b"%d" % n), 0, SECOND, 20, later).remaining for n in range(16)]
    assert left == [20 - number for number in range(16)]


def test_when_all_are_exhausted_the_one_closest_to_full_goes(one_set: BucketTable) -> None:
    for number in range(16):
        take(one_set, one_set.key(b"%d" % number), 5 + number, SECOND, 20, START)
    assert take(one_set, one_set.key(b"new"), 1, SECOND, 20, START).allowed
    assert one_set.evictions() == Evictions(idle=0, early=1)
    assert peek(one_set, one_set.key(b"0"), 0, SECOND, 20, START).remaining == 20
    assert peek(one_set, one_set.key(b"1"), 0, SECOND, 20, START).remaining == 20 - 6


def test_a_refused_newcomer_evicts_nobody(one_set: BucketTable) -> None:
    for number in range(16):
        take(one_set, one_set.key(b"%d" % number), 1, SECOND, 1, START)
    take(one_set, one_set.key(b"new"), 2, SECOND, 1, START)
    assert one_set.evictions() == Evictions(0, 0)


def test_a_million_entries_fit_in_64_megabytes() -> None:
    table = BucketTable(1_000_000, shared=False)
    assert 1_000_000 * 24 <= len(table._segment.buffer) <= 64 * 10**6
    table.close()


def test_a_table_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one entry"):
        BucketTable(0)


def test_keys_depend_on_the_secret_and_spread_over_all_sets() -> None:
    one, same, other = (BucketTable(640, shared=False, secret=s) for s in (b"a" * 16, b"a" * 16, b"b" * 16))
    assert one.key(b"k") == same.key(b"k") != other.key(b"k")
    assert {one.key(b"%d" % n)[1] for n in range(2000)} == set(range(40))
    assert BucketTable(16, shared=False).key(b"k") != BucketTable(16, shared=False).key(b"k")


def test_four_processes_admit_exactly_burst_plus_rate_times_time() -> None:
    """100/s, burst 20, eleven instants 0.1 s apart, every process asking 40 times at each."""
    table = BucketTable(64)
    key, interval, burst, phases = table.key(b"k"), SECOND // 100, 20, 11
    pipes = [(os.pipe(), os.pipe()) for _ in range(4)]

    def worker(go: int, answer: int) -> None:
        for phase in range(phases):
            os.read(go, 1)
            now = START + phase * SECOND // 10
            count = sum(take(table, key, 1, interval, burst, now).allowed for _ in range(40))
            os.write(answer, bytes([count]))

    pids = [fork(lambda go=go[0], answer=answer[1]: worker(go, answer)) for go, answer in pipes]
    totals: list[int] = []
    for _ in range(phases):
        for go, _ in pipes:
            os.write(go[1], b"g")
        totals.append(sum(os.read(answer[0], 1)[0] for _, answer in pipes))
    for pid in pids:
        os.waitpid(pid, 0)
    for go, answer in pipes:
        for descriptor in (*go, *answer):
            os.close(descriptor)
    assert totals == [20] + [10] * 10
    table.close()


def test_killing_takers_in_the_middle_stops_nobody_else(one_set: BucketTable) -> None:
    keys = [one_set.key(b"%d" % number) for number in range(24)]
    started, starting = os.pipe()

    def take_for_ever() -> None:
        os.write(starting, b"x")
        now = START
        while True:
            now += 1000
            take_all(one_set, keys, now)

    def too_late(*_: object) -> None:
        raise TimeoutError("a dead process holds a lock")

    previous = signal.signal(signal.SIGALRM, too_late)
    survivor = fork(take_for_ever)
    os.read(started, 1)
    try:
        for round_ in range(20):
            pid = fork(take_for_ever)
            os.read(started, 1)
            take_all(one_set, keys, START + round_)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            signal.alarm(5)
            take_all(one_set, keys, START + round_)
            signal.alarm(0)
        assert os.waitpid(survivor, os.WNOHANG) == (0, 0)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
        os.kill(survivor, signal.SIGKILL)
        os.waitpid(survivor, 0)
        os.close(started)
        os.close(starting)


def take_all(table: BucketTable, keys: list[BucketKey], now: int) -> None:
    for key in keys:
        take(table, key, 1, 100, 10, now)
