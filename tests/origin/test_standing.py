"""Who may be asked: suspicion, ejection, levels, zones, panic and slow start, with a clock that is set."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeproxy.origin.balance import NONE_LEFT, RoundRobin, WeightedRoundRobin
from edgeproxy.origin.settings import Origin
from edgeproxy.origin.standing import HOLD_DOWN, Roster

NOW = 1000.0


def roster(count: int = 4, health: bytearray | None = None, **options: Any) -> Roster:
    servers: list[Any] = options.pop("servers", [{}] * count)
    entries = [{"url": f"http://10.0.0.{number}", **each} for number, each in enumerate(servers)]
    origin = Origin.model_validate({"servers": entries, **options})
    balance = WeightedRoundRobin() if origin.slow_start else RoundRobin()
    return Roster(origin, balance, memoryview(health) if health is not None else None)


def asked(made: Roster, now: float, times: int = 20) -> set[int]:
    return set(turns(made, now, times))


def turns(made: Roster, now: float, times: int) -> Counter[int]:
    chosen: Counter[int] = Counter()
    for _ in range(times):
        index = made.choose(now)
        made.took(index)
        chosen[index] += 1
    return chosen


def test_everybody_is_asked_at_first() -> None:
    assert asked(roster(), NOW) == {0, 1, 2, 3}


def test_a_server_that_cannot_be_connected_to_is_avoided_for_a_moment() -> None:
    made = roster()
    made.unreachable(1, NOW + HOLD_DOWN)
    assert asked(made, NOW) == {0, 2, 3}
    assert asked(made, NOW + HOLD_DOWN - 0.01) == {0, 2, 3}
    assert asked(made, NOW + HOLD_DOWN) == {0, 1, 2, 3}


def test_only_one_tries_a_suspected_server_when_its_time_is_over() -> None:
    made = roster()
    made.unreachable(1, NOW + HOLD_DOWN)
    later = NOW + HOLD_DOWN
    assert 1 in asked(made, later)
    made.trying(1, later + 3)
    assert asked(made, later) == {0, 2, 3}
    made.connected(1)
    assert asked(made, later) == {0, 1, 2, 3}


def test_only_one_tries_a_server_that_comes_back_from_an_ejection() -> None:
    made = roster(ejection={"failures": 3, "time": "10s"})
    for _ in range(3):
        hear(made, 1, "-")
    back = NOW + 10
    assert 1 in asked(made, back)
    made.trying(1, back + 15)
    made.connected(1)  # that alone is no answer
    assert asked(made, back) == {0, 2, 3}
    hear(made, 1, "200", back)
    assert asked(made, back) == {0, 1, 2, 3}


def test_answers_that_break_off_in_a_row_eject_a_server() -> None:
    made = roster(ejection={"failures": 3})
    for expected in ["", "", "failures"]:
        hear(made, 1, "200")  # its heads are good
        assert made.truncated(1, NOW) == expected
    assert asked(made, NOW) == {0, 2, 3}


def test_an_answer_that_is_whole_forgives_those_that_broke_off() -> None:
    made = roster(ejection={"failures": 2})
    for _ in range(5):
        assert made.truncated(1, NOW) == ""
        hear(made, 1, "200")
        assert made.servers[1].truncated  # so that the end is looked at
        made.completed(1)
        hear(made, 1, "200")
        assert not made.servers[1].marked


def test_one_that_broke_answers_off_is_back_when_one_is_whole() -> None:
    made = roster(ejection={"failures": 2, "time": "10s"})
    for _ in range(2):
        made.truncated(1, NOW)
    back = NOW + 10
    made.trying(1, back + 15)
    hear(made, 1, "200", back)  # a good head is what it gave before
    assert asked(made, back) == {0, 2, 3}
    made.completed(1)
    assert asked(made, back) == {0, 1, 2, 3}


def test_one_that_breaks_off_again_is_ejected_again_at_once() -> None:
    made = roster(ejection={"failures": 2, "time": "10s"})
    for _ in range(2):
        made.truncated(1, NOW)
    hear(made, 1, "200", NOW + 10)
    assert made.truncated(1, NOW + 10) == "failures"
    assert asked(made, NOW + 29) == {0, 2, 3}


def test_nobody_waits_for_a_server_that_was_not_suspected() -> None:
    made = roster()
    made.trying(1, NOW + 3)
    assert asked(made, NOW) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [("500", "errors"), ("-", "failures"), ("slow", "slow")],
)
def test_bad_answers_in_a_row_eject_a_server(bad: str, reason: str) -> None:
    made = roster(ejection={"errors": 3, "failures": 3, "slow": 3, "slower_than": "1s"})
    said = [hear(made, 2, bad) for _ in range(3)]
    assert said == ["", "", reason]
    assert asked(made, NOW) == {0, 1, 3}
    assert asked(made, NOW + 10.0) == {0, 1, 2, 3}
    assert made.ejected == 1


def hear(made: Roster, index: int, word: str, now: float = NOW) -> str:
    if word == "-":
        return made.failed(index, now)
    return made.answered(index, 200 if word == "slow" else int(word), 2.0 if word == "slow" else 0.01, now)


@pytest.mark.parametrize("bad", ["500", "-", "slow"])
def test_a_good_answer_between_them_forgives(bad: str) -> None:
    made = roster(ejection={"errors": 3, "failures": 3, "slow": 3, "slower_than": "1s"})
    for word in [bad, bad, "200", bad, bad, "404", bad, bad]:
        assert hear(made, 2, word) == ""
    assert asked(made, NOW) == {0, 1, 2, 3}


def test_a_connection_that_was_refused_and_an_answer_of_500_are_different_things() -> None:
    made = roster(ejection={"errors": 3, "failures": 3})
    for word in ["500", "-", "-", "500", "-", "-"]:
        assert hear(made, 2, word) == ""


def test_one_that_comes_back_and_fails_again_stays_away_twice_as_long() -> None:
    made = roster(ejection={"failures": 3, "time": "10s", "longest": "35s"})
    for _ in range(3):
        hear(made, 0, "-")
    at, lengths = NOW, [10.0]
    for _ in range(3):
        at += lengths[-1]
        assert asked(made, at) == {0, 1, 2, 3}
        assert hear(made, 0, "-", at) == "failures"  # one is enough now
        lengths.append(made.servers[0].ejected_until - at)
    assert lengths == [10.0, 20.0, 35.0, 35.0]


def test_one_that_did_well_for_long_is_treated_like_a_newcomer() -> None:
    made = roster(ejection={"failures": 3, "time": "10s"})
    for at in (NOW, NOW + 1000):
        for _ in range(3):
            hear(made, 0, "-", at)
        assert made.servers[0].ejected_until == at + 10
        assert hear(made, 0, "200", at + 10) == ""
        assert not made.servers[0].probation


def test_what_was_under_way_when_a_server_was_ejected_does_not_count_twice() -> None:
    made = roster(ejection={"failures": 3, "time": "10s"})
    for _ in range(30):
        hear(made, 0, "-")
    assert (made.servers[0].ejections, made.ejected) == (1, 1)


@pytest.mark.parametrize(
    ("count", "share", "out"), [(1, 0.5, 0), (2, 0.5, 1), (3, 0.5, 1), (5, 0.5, 2), (4, 1, 4)]
)
def test_never_more_than_the_share_is_ejected(count: int, share: float, out: int) -> None:
    made = roster(count, ejection={"failures": 1, "share": share})
    for index in range(count):
        hear(made, index, "-")
    assert sum(not made.usable(index, NOW) for index in range(count)) == out


def test_without_ejection_nothing_is_judged() -> None:
    made = roster(ejection=None)
    for word in ["500", "-"] * 100:
        hear(made, 0, word)
    assert asked(made, NOW) == {0, 1, 2, 3}


def test_what_the_prober_writes_is_seen_at_once() -> None:
    cells = bytearray(4)
    made = roster(health=cells)
    assert asked(made, NOW) == {0, 1, 2, 3}
    cells[3] = 2
    assert asked(made, NOW) == {0, 1, 2}
    cells[3] = 1
    assert asked(made, NOW) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("ill", "panic", "expected", "panics"),
    [
        ({0}, 0.25, {1, 2, 3}, False),
        ({0, 1, 2}, 0.25, {3}, False),
        ({0, 1, 2}, 0.5, {0, 1, 2, 3}, True),
        ({0, 1, 2, 3}, 0.0, {0, 1, 2, 3}, True),
    ],
)
def test_when_too_few_are_well_all_are_asked(
    ill: set[int], panic: float, expected: set[int], panics: bool
) -> None:
    made = roster(health=bytearray(2 if index in ill else 1 for index in range(4)), panic=panic)
    assert asked(made, NOW) == expected
    assert made.panic is panics


def test_in_panic_those_that_refuse_connections_are_still_left_out() -> None:
    made = roster(health=bytearray([2, 2, 2, 2]))
    made.unreachable(1, NOW + HOLD_DOWN)
    assert asked(made, NOW) == {0, 2, 3}
    for index in (0, 2, 3):
        made.unreachable(index, NOW + HOLD_DOWN)
    assert asked(made, NOW) == {0, 1, 2, 3}


LEVELS = [{"priority": 0}, {"priority": 0}, {"priority": 3}, {"priority": 1}]


@pytest.mark.parametrize(
    ("ill", "expected"),
    [
        (set[int](), {0, 1}),
        ({0}, {1}),
        ({0, 1}, {3}),
        ({0, 1, 3}, {2}),
        ({0, 1, 2, 3}, {0, 1, 2, 3}),
    ],
)
def test_the_next_level_is_asked_when_a_level_is_down(ill: set[int], expected: set[int]) -> None:
    health = bytearray(2 if index in ill else 1 for index in range(4))
    assert asked(roster(servers=LEVELS, health=health), NOW) == expected


ZONES = [{"zone": "a"}, {"zone": "a"}, {"zone": "b"}, {}]


@pytest.mark.parametrize(
    ("ill", "zone", "expected"),
    [
        (set[int](), "a", {0, 1}),
        ({0}, "a", {1}),
        ({0, 1}, "a", {2, 3}),
        (set[int](), "b", {2}),
        (set[int](), "nowhere", {0, 1, 2, 3}),
        (set[int](), None, {0, 1, 2, 3}),
    ],
)
def test_the_own_zone_is_preferred_while_half_of_it_is_well(
    ill: set[int], zone: str | None, expected: set[int]
) -> None:
    health = bytearray(2 if index in ill else 1 for index in range(4))
    assert asked(roster(servers=ZONES, prefer_zone=zone, health=health), NOW) == expected


def test_a_server_that_comes_back_starts_slowly() -> None:
    cells = bytearray([1, 2])
    made = roster(2, health=cells, slow_start="10s")
    assert asked(made, NOW) == {0}
    cells[1] = 1
    shares = [turns(made, NOW + seconds, 1000)[1] / 1000 for seconds in (0, 5, 9.9, 30)]
    assert shares == pytest.approx([0.1 / 1.1, 0.5 / 1.5, 0.99 / 1.99, 0.5], abs=0.02)


def test_all_start_at_once_without_a_slow_start() -> None:
    assert turns(roster(2, slow_start="10s"), NOW, 100) == {0: 50, 1: 50}


EVENTS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(["200", "500", "-", "cut", "connect", "trying", "connected", "ill", "well"]),
        st.floats(0, 30),
    ),
    max_size=60,
)


@given(EVENTS)
def test_whatever_happens_somebody_is_asked_and_the_share_is_kept(
    events: list[tuple[int, str, float]],
) -> None:
    cells = bytearray(3)
    made = roster(3, health=cells, ejection={"errors": 2, "failures": 2}, slow_start="5s")
    now = NOW
    for index, word, passed in events:
        now += passed
        if word in ("ill", "well"):
            cells[index] = 2 if word == "ill" else 1
        elif word == "connect":
            made.unreachable(index, now + HOLD_DOWN)
        elif word == "cut":
            made.truncated(index, now)
        elif word == "trying":
            made.trying(index, now + 3)
        elif word == "connected":
            made.connected(index)
        else:
            hear(made, index, word, now)
        chosen = made.choose(now)
        assert chosen != NONE_LEFT
        made.took(chosen)
        assert sum(now < each.ejected_until for each in made.servers) <= 1
        usable = [each for each in range(3) if made.usable(each, now)]
        assert made.panic or chosen in usable
