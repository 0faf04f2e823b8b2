"""What a limit can be beside one plain bucket: costs, overrides, quotas, delays, boxes, requests at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from edgeproxy.context import Context
from edgeproxy.http.message import Headers, Request
from edgeproxy.policies.bucket_table import BucketTable
from edgeproxy.policies.in_flight_table import InFlightTable
from edgeproxy.policies.rate_limit import RateLimiter
from edgeproxy.policies.rate_limit_rule import RateLimit

DAY = 86_400.0
NOW = 20_000 * DAY  # midnight, UTC


class Bench:
    """Tables, and limiters over them, as the workers of one machine have them."""

    def __init__(self) -> None:
        self.table = BucketTable(1024, shared=False)
        self.flights = InFlightTable(2, shared=False)

    def limiter(self, slot: int = 0, /, **limits: dict[str, Any]) -> RateLimiter:
        made = {name: RateLimit.model_validate(limit) for name, limit in limits.items()}
        return RateLimiter(made, self.table, self.flights, slot, {"dach": ["DE"]})


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.table.close()
    made.flights.close()


def ask(method: str = "GET", **fields: str) -> Request:
    headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
    return Request(method.encode(), b"example.com", b"/", b"", Headers(headers), "127.0.0.1")


def known(now: float = NOW, client: str = "203.0.113.7", **claims: Any) -> Context:
    ctx = Context(now, now, client, "api", "req-1")
    ctx.claims = claims or None
    return ctx


def status(policy: RateLimiter, request: Request, ctx: Context) -> int:
    answer = policy(request, ctx)
    return 0 if answer is None else answer.status


def end(ctx: Context, sent: int = 0, waited: float = 0.0) -> None:
    for ending in ctx.endings:
        ending(ctx.now, sent, waited)


def told(ctx: Context) -> list[bytes]:
    return [edit.value for edit in ctx.to_client]


def test_a_request_may_cost_more_than_one(bench: Bench) -> None:
    policy = bench.limiter(l={"rate": "1/s", "burst": 10, "cost": {"methods": {"POST": 4}}})
    methods = ["POST", "POST", "POST", "GET", "GET", "GET"]
    assert [status(policy, ask(method), known()) for method in methods] == [0, 0, 429, 0, 0, 429]


def test_what_an_answer_cost_is_charged_when_it_is_over(bench: Bench) -> None:
    cost = {"request": 0, "per_size": "1KiB", "per_origin_time": "100ms"}
    policy = bench.limiter(l={"rate": "1/s", "burst": 10, "cost": cost})
    ctx = known()
    assert status(policy, ask(), ctx) == 0
    end(ctx, sent=5 * 1024 + 1023, waited=0.35)
    after = known()
    assert status(policy, ask(), after) == 0
    assert told(after)[1] == b'"l";r=2;t=8'


def test_a_large_answer_leaves_a_debt_that_is_regained_first(bench: Bench) -> None:
    policy = bench.limiter(l={"rate": "1/s", "burst": 2, "cost": {"per_size": 1000}})
    ctx = known()
    assert status(policy, ask(), ctx) == 0
    end(ctx, sent=9000)  # 1 + 9 of 2: eight seconds of debt
    assert status(policy, ask(), known(NOW + 8.9)) == 429
    assert status(policy, ask(), known(NOW + 9.1)) == 0


def test_a_debt_has_an_end(bench: Bench) -> None:
    policy = bench.limiter(l={"rate": "1/s", "burst": 2, "cost": {"per_size": 1}})
    ctx = known()
    policy(ask(), ctx)
    end(ctx, sent=10**12)
    assert status(policy, ask(), known(NOW + 198.9)) == 429
    assert status(policy, ask(), known(NOW + 199.1)) == 0


OVERRIDES = {
    "rate": "1/s",
    "burst": 1,
    "exempt": "client in [198.51.100.0/24]",
    "overrides": [
        {"when": "claim:plan == gold", "rate": "1/s", "burst": 3},
        {"when": "header:X-Api-Key in [k1, k2]", "rate": "1/s", "burst": 2},
        {"when": "client in [192.0.2.0/24]", "rate": "1/s", "burst": 4},
    ],
}


@pytest.mark.parametrize(
    ("request_", "ctx", "allowed"),
    [
        (ask(), known, 1),
        (ask(), lambda: known(plan="gold"), 3),
        (ask(), lambda: known(plan="free"), 1),
        (ask(X_Api_Key="k2"), known, 2),
        (ask(), lambda: known(client="192.0.2.9"), 4),
        (ask(X_Api_Key="k1"), lambda: known(client="192.0.2.9"), 2),
        (ask(), lambda: known(client="198.51.100.3"), 9),
    ],
)
def test_the_first_override_that_fits_says_how_much(
    bench: Bench, request_: Request, ctx: Callable[[], Context], allowed: int
) -> None:
    policy = bench.limiter(l=OVERRIDES)
    assert [status(policy, request_, ctx()) for _ in range(9)].count(0) == allowed


def test_the_fields_are_those_of_the_override_and_none_for_who_is_exempt(bench: Bench) -> None:
    policy = bench.limiter(l=OVERRIDES)
    gold, exempt = known(plan="gold"), known(client="198.51.100.3")
    policy(ask(), gold)
    policy(ask(), exempt)
    assert told(gold) == [b'"l";q=3;w=3', b'"l";r=2;t=1']
    assert told(exempt) == []


def test_a_quota_begins_anew_with_the_window_of_the_calendar(bench: Bench) -> None:
    policy = bench.limiter(l={"quota": "3/d"})
    evening = NOW + DAY - 60
    ctx = known(evening)
    assert status(policy, ask(), ctx) == 0
    assert told(ctx) == [b'"l";q=3;w=86400', b'"l";r=2;t=60']
    assert [status(policy, ask(), known(evening)) for _ in range(3)] == [0, 0, 429]
    answer = policy(ask(), known(evening + 0.5))
    assert answer is not None
    assert dict(answer.fields)[b"Retry-After"] == b"60"
    assert [status(policy, ask(), known(NOW + DAY)) for _ in range(4)] == [0, 0, 0, 429]


@settings(max_examples=60, deadline=None)
@given(
    quota=st.integers(1, 7),
    unit=st.sampled_from("mhd"),
    waits=st.lists(st.floats(0, 40_000), min_size=1, max_size=40),
)
def test_a_quota_is_that_of_an_exact_model(quota: int, unit: str, waits: list[float]) -> None:
    bench, seconds, used, now = Bench(), {"m": 60, "h": 3600, "d": 86400}[unit], dict[int, int](), NOW
    policy = bench.limiter(l={"quota": f"{quota}/{unit}"})
    for wait in waits:
        now += wait
        window = int(now * 10**9) // (seconds * 10**9)
        expected = used.get(window, 0) < quota
        used[window] = used.get(window, 0) + expected
        ctx = known(now)
        assert (status(policy, ask(), ctx) == 0) is expected
        if expected:
            assert told(ctx)[1].startswith(b'"l";r=%d;' % (quota - used[window]))
    bench.table.close()


def test_refused_again_and_again_is_boxed(bench: Bench) -> None:
    policy = bench.limiter(
        l={"rate": "1/s", "burst": 1, "penalty": {"after": 3, "within": "10s", "time": "5m"}}
    )
    assert [status(policy, ask(), known()) for _ in range(4)] == [0, 429, 429, 429]
    ctx = known(NOW + 100)
    answer = policy(ask(), ctx)
    assert answer is not None, "the bucket is full, but the key is in the box"
    assert ctx.reason == "penalty-box"
    assert dict(answer.fields)[b"Retry-After"] == b"200"
    assert status(policy, ask(), known(NOW + 100, client="192.0.2.1")) == 0, "others are not"
    assert status(policy, ask(), known(NOW + 300.1)) == 0


def test_refusals_far_apart_box_nobody(bench: Bench) -> None:
    policy = bench.limiter(l={"rate": "1/d", "burst": 1, "penalty": {"after": 2, "within": "10s"}})
    reasons = set[str]()
    for number in range(50):
        ctx = known(NOW + number * 11)
        policy(ask(), ctx)
        reasons.add(ctx.reason)
    assert reasons == {"", "quota-exceeded"}


def test_a_request_waits_for_its_turn_instead_of_being_refused(bench: Bench) -> None:
    policy = bench.limiter(l={"rate": "10/s", "burst": 1, "delay": "250ms"})
    delays: list[float] = []
    for expected in (0, 0, 0, 429):
        ctx = known()
        assert status(policy, ask(), ctx) == expected
        delays.append(ctx.late.seconds if ctx.late is not None else 0.0)
    assert delays == [0.0, 0.1, 0.2, 0.0]


def test_so_many_may_wait_and_no_more(bench: Bench) -> None:
    policy = bench.limiter(l={"rate": "1/s", "burst": 1, "delay": "1s", "delay_queue": 2})
    reasons: list[str] = []
    for number in range(4):
        client = f"192.0.2.{number}"
        policy(ask(), known(client=client))
        ctx = known(client=client)
        policy(ask(), ctx)
        reasons.append(ctx.reason)
    assert reasons == ["", "", "queue-full", "queue-full"]
    ctx = known(NOW + 1.001, client="192.0.2.9")
    policy(ask(), known(NOW + 1.001, client="192.0.2.9"))
    assert status(policy, ask(), ctx) == 0, "those who waited have gone on"
    assert ctx.late is not None
    assert (ctx.late.seconds > 0.9, ctx.late.policy) == (True, "rate_limit")


def test_who_finds_the_queue_full_has_spent_nothing(bench: Bench) -> None:
    policy = bench.limiter(l={"rate": "1/s", "burst": 1, "delay": "1s", "delay_queue": 1})
    policy(ask(), known())
    policy(ask(), known())
    for _ in range(5):
        policy(ask(), known(client="192.0.2.1"))
    ctx = known(NOW + 1.001, client="192.0.2.1")
    assert status(policy, ask(), ctx) == 0
    assert ctx.late is None


def test_so_many_at_once_over_all_workers(bench: Bench) -> None:
    one, two = (bench.limiter(slot, l={"in_flight": 2}) for slot in (0, 1))
    first, second = known(), known()
    assert [status(one, ask(), first), status(two, ask(), second)] == [0, 0]
    assert told(first) == [b'"l";q=2;qu="concurrent-requests"', b'"l";r=1']
    assert status(one, ask(), known()) == 429
    assert status(one, ask(), known(client="192.0.2.1")) == 0
    end(second)
    assert status(one, ask(), known()) == 0


def test_what_was_not_let_through_is_not_under_way(bench: Bench) -> None:
    policy = bench.limiter(a={"in_flight": 1}, b={"rate": "1/d", "burst": 1})
    ctx = known()
    assert status(policy, ask(), ctx) == 0
    end(ctx)
    for _ in range(3):
        ctx = known()
        policy(ask(), ctx)
        assert (ctx.reason, ctx.endings) == ("quota-exceeded", ())


KINDS: dict[str, dict[str, Any]] = {
    "bucket": {"rate": "1/s", "burst": 3},
    "quota": {"quota": "4/d", "by": "route"},
    "flight": {"in_flight": 2},
    "cost": {"rate": "1/s", "burst": 9, "cost": 2, "by": "route"},
    "wait": {"rate": "10/s", "burst": 2, "delay": "1s"},
}


@settings(max_examples=80, deadline=None)
@given(
    order=st.permutations(sorted(KINDS)),
    steps=st.lists(st.tuples(st.floats(0, 3), st.sampled_from(["a", "b"]), st.booleans()), max_size=30),
)
def test_any_mix_is_spent_all_or_nothing(order: list[str], steps: list[tuple[float, str, bool]]) -> None:
    """Together they allow exactly what all of them, asked alone and only then, would have allowed."""
    together, alone = Bench(), Bench()
    policy = together.limiter(**{kind: KINDS[kind] for kind in order})
    singles = [alone.limiter(**{kind: KINDS[kind]}) for kind in order]
    now, flying = NOW, list[tuple[Context, list[Context]]]()
    for wait, client, ends in steps:
        now += wait
        if ends and flying:
            for ctx in (one := flying.pop())[1]:
                end(ctx)
            end(one[0])
        looks = [known(now, client) for _ in singles]
        for ctx in looks:
            ctx.notes = []
        expected = all(status(single, ask(), ctx) == 0 for single, ctx in zip(singles, looks, strict=True))
        ctx = known(now, client)
        assert (status(policy, ask(), ctx) == 0) is expected
        if expected:
            spent = [known(now, client) for _ in singles]
            assert [status(single, ask(), each) for single, each in zip(singles, spent, strict=True)] == [
                0
            ] * 5
            flying.append((ctx, spent))
            assert told(ctx) == [line for each in spent for line in told(each)]
    for bench in (together, alone):
        bench.table.close()
        bench.flights.close()


def test_explaining_tells_every_limit_and_spends_of_none(bench: Bench) -> None:
    policy = bench.limiter(
        **{**KINDS, "box": {"rate": "1/s", "burst": 1, "penalty": {"after": 1}}, "none": OVERRIDES}
    )
    for _ in range(5):
        ctx = known(plan="gold")
        ctx.notes = []
        assert policy(ask(), ctx) is None
        assert [note.rule for note in ctx.notes] == [
            *[f"rate_limits.{name}" for name in (*KINDS, "box")],
            "rate_limits.none where claim:plan == gold",
        ]
        assert (ctx.endings, ctx.late) == ((), None)
    assert status(policy, ask(), known()) == 0


def test_explaining_says_who_is_exempt_and_hides_credentials(bench: Bench) -> None:
    policy = bench.limiter(a=OVERRIDES, b={"rate": "1/s", "by": "header:X-Api-Key"})
    ctx = known(client="198.51.100.3")
    ctx.notes = []
    policy(ask(X_Api_Key="hush"), ctx)
    assert ctx.notes[0].why == "a: exempt"
    assert ctx.notes[1].values == (("header:X-Api-Key", "***"),)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "found none of rate"),
        ({"rate": "1/s", "quota": "1/d"}, "rate and quota"),
        ({"quota": "5/s"}, "per m, h or d"),
        ({"quota": "0.5/d"}, "whole number"),
        ({"quota": "5/d", "burst": 3}, "beside rate"),
        ({"quota": "5/d", "delay": "1s"}, "beside rate"),
        ({"rate": "1/s", "delay": "31s"}, "more than 30s"),
        ({"in_flight": 3, "cost": 2}, "each request is one"),
        ({"rate": "1/s", "cost": 2}, "may cost 2, more than the 1"),
        ({"rate": "1/s", "burst": 5, "cost": {"methods": {"POST": 6}}}, "may cost 6"),
        ({"rate": "1/s", "cost": {"methods": {"post": 1}}}, "pattern"),
        ({"rate": "1/s", "cost": {"per_size": 0}}, "more than 0"),
        ({"rate": "1/s", "overrides": [{"when": "method == GET", "in_flight": 3}]}, "without rate"),
        ({"rate": "1/s", "overrides": [{"when": "", "rate": "3/s"}]}, "expected a fact"),
        ({"rate": "1/s", "exempt": "client == here"}, "a network"),
        ({"rate": "1/s", "penalty": {"after": 1, "time": "0s"}}, "more than 0s"),
    ],
)
def test_what_does_not_go_together_is_refused(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        RateLimit.model_validate(config)
