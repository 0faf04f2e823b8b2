"""`rate_limit`: who is counted, what is answered, and that refusals cost nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from edgeproxy.context import Context, Edit, Note, Op, Verdict
from edgeproxy.http.message import Field, Headers, Request, Response
from edgeproxy.policies.bucket_table import BucketTable
from edgeproxy.policies.in_flight_table import InFlightTable
from edgeproxy.policies.rate_limit import RateLimiter
from edgeproxy.policies.rate_limit_key import bucket_address
from edgeproxy.policies.rate_limit_rule import RateLimit
from tests.helpers.builds import STANDS_IN
from tests.helpers.requests import whole_body

NOW = 1_790_000_000.0


@pytest.fixture
def table() -> Iterator[BucketTable]:
    made = BucketTable(1024, shared=False)
    yield made
    made.close()


def ask(*fields: Field) -> Request:
    return Request(b"GET", b"example.com", b"/", b"", Headers(list(fields)), "127.0.0.1")


def known(
    client: str = "203.0.113.7", *, now: float = NOW, route: str = "api", claims: dict[str, Any] | None = None
) -> Context:
    ctx = Context(now, now, client, route, "req-1")
    ctx.claims = claims
    return ctx


def limiter(table: BucketTable, **limits: dict[str, Any]) -> RateLimiter:
    made = {name: RateLimit.model_validate(limit) for name, limit in limits.items()}
    return RateLimiter(made, table, InFlightTable(2, shared=False))


def status(policy: RateLimiter, request: Request, ctx: Context) -> int:
    answer = policy(request, ctx)
    return 0 if answer is None else answer.status


def field(answer: Response, name: bytes) -> bytes:
    return dict(answer.fields)[name]


def test_the_burst_is_allowed_and_the_next_is_refused_until_one_is_regained(table: BucketTable) -> None:
    policy = limiter(table, l={"rate": "10/s", "burst": 3})
    assert [status(policy, ask(), known()) for _ in range(4)] == [0, 0, 0, 429]
    assert status(policy, ask(), known(now=NOW + 0.05)) == 429
    assert [status(policy, ask(), known(now=NOW + 0.1001)) for _ in range(2)] == [0, 429]


def test_other_clients_have_their_own_bucket(table: BucketTable) -> None:
    policy = limiter(table, l={"rate": "1/s"})
    assert [status(policy, ask(), known(c)) for c in ("192.0.2.1", "192.0.2.2", "192.0.2.1")] == [0, 0, 429]


def test_an_allowed_answer_gets_both_fields_after_the_cache(table: BucketTable) -> None:
    policy = limiter(table, per_client={"rate": "100/s", "burst": 200})
    ctx = known()
    assert policy(ask(), ctx) is None
    assert ctx.to_client == [
        Edit(Op.ADD, b"RateLimit-Policy", b'"per_client";q=200;w=2'),
        Edit(Op.ADD, b"RateLimit", b'"per_client";r=199;t=1'),
    ]
    assert (ctx.to_origin, ctx.key_parts) == ([], ())


def test_a_refusal_is_a_problem_that_says_when_to_come_back(table: BucketTable) -> None:
    policy = limiter(table, per_client={"rate": "6/m", "burst": 1})
    policy(ask(), known())
    answer = policy(ask(), known(now=NOW + 0.5))
    assert answer is not None
    assert answer.status == 429
    assert field(answer, b"Retry-After") == b"10"
    assert field(answer, b"RateLimit-Policy") == b'"per_client";q=1;w=10'
    assert field(answer, b"RateLimit") == b'"per_client";r=0;t=10'
    assert field(answer, b"Cache-Control") == b"no-store"
    assert json.loads(whole_body(answer))["type"].endswith("quota-exceeded")


MEMBER = re.compile(rb'"(?:[ !#-\[\]-~]|\\["\\])*"(?:;[a-z]+=\d+)*')


@settings(max_examples=100, deadline=None)
@given(
    name=st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=20),
    count=st.integers(1, 1000),
    unit=st.sampled_from("smhd"),
    burst=st.integers(1, 400) | st.none(),
    waits=st.lists(st.floats(0, 100), max_size=5),
)
def test_fields_always_parse_and_retry_after_is_never_before_t(
    name: str, count: int, unit: str, burst: int | None, waits: list[float]
) -> None:
    table = BucketTable(16, shared=False)
    config = {"rate": f"{count}/{unit}", "burst": burst}
    policy = limiter(table, **{name: config})
    now = NOW
    for wait in (*waits, 0.0, 0.0):
        now += wait
        ctx = known(now=now)
        answer = policy(ask(), ctx)
        fields = list(answer.fields) if answer else [(edit.name, edit.value) for edit in ctx.to_client]
        values = [value for label, value in fields if label.startswith(b"RateLimit")]
        assert len(values) == 2
        assert all(MEMBER.fullmatch(value) for value in values)
        if answer is not None:
            after = int(field(answer, b"Retry-After"))
            assert after >= max(1, int(field(answer, b"RateLimit").rpartition(b"t=")[2]))
    table.close()


def test_the_name_of_a_limit_must_fit_in_a_field(table: BucketTable) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        limiter(table, käse={"rate": "1/s"})


@pytest.mark.parametrize(
    ("rate", "burst"), [("100/s", 100), ("600/m", 10), ("90/m", 1), ("5000/h", 1), ("1/d", 1), ("0.5/s", 1)]
)
def test_the_default_burst_is_what_a_second_gives(rate: str, burst: int) -> None:
    assert RateLimit(rate=rate).burst_size == burst


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"rate": "2000000/s"}, "above 1000000/s"),
        ({"rate": "1/d", "burst": 500}, "400 days"),
        ({"rate": "fast"}, "not a rate"),
        ({"rate": "1/s", "burst": 0}, "greater than or equal to 1"),
        ({"rate": "1/s", "by": "ip"}, "who is asking"),
        ({"rate": "1/s", "by": "header:"}, "who is asking"),
        ({"rate": "1/s", "by": "header:a b"}, "who is asking"),
        ({"rate": "1/s", "by": ["client_ip", "claim:"]}, "who is asking"),
        ({"rate": "1/s", "by": []}, "counts nobody"),
        ({"rate": "1/s", "ipv6_prefix": 8}, "greater than or equal to 32"),
        ({"rate": "1/s", "per": "client"}, "Extra inputs"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        RateLimit.model_validate(config)


@pytest.mark.parametrize(
    ("one", "other", "prefix", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", 64, True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", 64, False),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", 56, True),
        ("2001:DB8::A", "2001:db8:0::a", 128, True),
        ("2001:db8::a", "2001:db8::b", 128, False),
        ("::ffff:192.0.2.1", "192.0.2.1", 64, True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", 64, False),
        ("fe80::1%eth0", "fe80::1%eth1", 128, True),
        ("192.0.2.1", "192.0.2.2", 64, False),
        ("unix:", "", 64, False),
        ("0.0.0.4", "::4", 128, False),
    ],
)
def test_addresses_are_counted_as_one_when_they_are_one_customer(
    one: str, other: str, prefix: int, same: bool
) -> None:
    assert (bucket_address(one, prefix) == bucket_address(other, prefix)) is same


def test_a_whole_ipv6_network_shares_one_bucket(table: BucketTable) -> None:
    policy = limiter(table, l={"rate": "1/s", "burst": 2})
    answers = [status(policy, ask(), known(f"2001:db8::{n:x}:{n:x}")) for n in range(1, 50)]
    assert answers == [0, 0] + [429] * 47


TOKEN = {
    "sub": "ann",
    "org": {"id": 7},
    "a.b": "dotted",
    "admin": True,
    "list": [1],
    "empty": "",
    "deep": {"x": {}},
}


@pytest.mark.parametrize(
    ("by", "one", "other"),
    [
        ("header:X-Api-Key", (ask((b"x-api-key", b"1")), known()), (ask((b"x-api-key", b"2")), known())),
        ("cookie:id", (ask((b"Cookie", b"a=1; id=x")), known()), (ask((b"Cookie", b"id=y")), known())),
        ("claim:sub", (ask(), known(claims={"sub": "a"})), (ask(), known(claims={"sub": "b"}))),
        ("claim:org.id", (ask(), known(claims=TOKEN)), (ask(), known(claims={"org": {"id": 8}}))),
        ("claim:a.b", (ask(), known(claims=TOKEN)), (ask(), known(claims={"a.b": "else"}))),
        ("claim:admin", (ask(), known(claims=TOKEN)), (ask(), known(claims={"admin": False}))),
        ("route", (ask(), known(route="a")), (ask(), known(route="b"))),
        (["client_ip", "route"], (ask(), known(route="a")), (ask(), known(route="b"))),
        (["route", "client_ip"], (ask(), known("192.0.2.1")), (ask(), known("192.0.2.2"))),
    ],
    ids=lambda value: None if isinstance(value, tuple) else str(value),
)
def test_each_value_of_what_is_counted_by_has_its_bucket(
    table: BucketTable, by: Any, one: tuple[Request, Context], other: tuple[Request, Context]
) -> None:
    policy = limiter(table, l={"rate": "1/s", "by": by, "on_missing": "deny"})
    assert [status(policy, *each) for each in (one, one, other, other)] == [0, 429, 0, 429]


MISSING = [
    ("header:X-Key", ask(), None),
    ("header:X-Key", ask((b"X-Key", b"")), None),
    ("cookie:id", ask((b"Cookie", b"id=a; id=b")), None),
    ("cookie:id", ask((b"Cookie", b"xid=a; id2=b")), None),
    ("cookie:id", ask((b"Cookie", b"id=")), None),
    ("claim:sub", ask(), None),
    ("claim:list", ask(), TOKEN),
    ("claim:empty", ask(), TOKEN),
    ("claim:sub.x.y", ask(), TOKEN),
    ("claim:deep.x", ask(), TOKEN),
]


@pytest.mark.parametrize(("by", "request_", "claims"), MISSING)
@pytest.mark.parametrize(
    ("on_missing", "answers"), [("skip", [0, 0]), ("client_ip", [0, 429]), ("deny", [403, 403])]
)
def test_what_is_missing_is_skipped_replaced_or_refused(
    table: BucketTable, by: str, request_: Request, claims: Any, on_missing: str, answers: list[int]
) -> None:
    policy = limiter(table, l={"rate": "1/s", "by": by, "on_missing": on_missing})
    assert [status(policy, request_, known(claims=claims)) for _ in range(2)] == answers


def test_an_address_that_stands_in_is_not_the_value_of_the_same_text(table: BucketTable) -> None:
    policy = limiter(table, l={"rate": "1/s", "by": ["header:X-Key", "client_ip"]})
    claimed = ask((b"X-Key", b"203.0.113.7"))
    assert [status(policy, each, known()) for each in (ask(), claimed, ask(), claimed)] == [0, 0, 429, 429]


def test_parts_cannot_flow_into_each_other(table: BucketTable) -> None:
    policy = limiter(table, l={"rate": "1/s", "by": ["header:A", "header:B"]})
    pairs = [
        (b"x", b"yz"),
        (b"xy", b"z"),
        (b"x\0", b"yz"),
        (b"x\0\0\0\2y", b"z"),
        (b"\xff", b"\xfe"),
        (b"\xfe", b"\xff"),
    ]
    requests = [ask((b"A", a), (b"B", b)) for a, b in pairs]
    assert [status(policy, each, known()) for each in requests] == [0] * len(requests)


def test_values_of_ten_kilobytes_and_broken_text_are_counted_like_others(table: BucketTable) -> None:
    policy = limiter(table, l={"rate": "1/s", "by": "claim:sub"})
    for value in ("x" * 10_240, "\ud800", "\x00", "\udcff"):
        answers = [status(policy, ask(), known(claims={"sub": value})) for _ in range(2)]
        assert answers == [0, 429]


@STANDS_IN
def test_digests_of_short_values_are_remembered_and_those_of_long_ones_never(
    table: BucketTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[int] = []
    key = table.key
    monkeypatch.setattr(table, "key", lambda name: hashed.append(len(name)) or key(name))
    policy = limiter(table, l={"rate": "1/s", "by": "header:K"})
    for length in (10, 10, 255, 255, 256, 256):
        policy(ask((b"K", b"x" * length)), known())
    assert len(hashed) == 4  # a value carries one more character, which says that it was found


def test_several_limits_are_spent_all_or_nothing(table: BucketTable) -> None:
    policy = limiter(
        table, wide={"rate": "1/h", "burst": 10}, narrow={"rate": "1/s", "burst": 1, "by": "route"}
    )
    wide = limiter(table, wide={"rate": "1/h", "burst": 10})
    assert [status(policy, ask(), known()) for _ in range(20)] == [0] + [429] * 19
    assert [status(wide, ask(), known()) for _ in range(10)] == [0] * 9 + [429]


def test_a_missing_identity_gives_back_what_earlier_limits_spent(table: BucketTable) -> None:
    both = limiter(
        table,
        first={"rate": "1/h", "burst": 2},
        second={"rate": "1/s", "by": "claim:sub", "on_missing": "deny"},
    )
    first = limiter(table, first={"rate": "1/h", "burst": 2})
    assert [status(both, ask(), known()) for _ in range(5)] == [403] * 5
    assert [status(first, ask(), known()) for _ in range(3)] == [0, 0, 429]


def test_a_refusal_leaves_no_fields_of_the_limits_that_allowed(table: BucketTable) -> None:
    policy = limiter(table, a={"rate": "10/s"}, b={"rate": "1/s"})
    policy(ask(), known())
    ctx = known()
    answer = policy(ask(), ctx)
    assert answer is not None
    assert ctx.to_client == []
    assert field(answer, b"RateLimit").startswith(b'"b";r=0')


def test_routes_share_the_bucket_of_one_limit(table: BucketTable) -> None:
    policy = limiter(table, shared={"rate": "1/h", "burst": 2})
    assert [status(policy, ask(), known(route=route)) for route in "abc"] == [0, 0, 429]


def test_a_reload_keeps_the_buckets_and_a_new_rate_works_at_once(table: BucketTable) -> None:
    before, same, faster = (limiter(table, l={"rate": rate, "burst": 2}) for rate in ("1/h", "1/h", "1/s"))
    answers = [status(policy, ask(), known()) for policy in (before, before, same, faster)]
    assert answers == [0, 0, 429, 429]
    assert [status(faster, ask(), known(now=NOW + 1.001)) for _ in range(2)] == [0, 429]


def test_differently_named_limits_do_not_meet(table: BucketTable) -> None:
    one, two = limiter(table, one={"rate": "1/s"}), limiter(table, two={"rate": "1/s"})
    assert [status(policy, ask(), known()) for policy in (one, two)] == [0, 0]


def test_explaining_spends_nothing_and_tells_what_would_happen(table: BucketTable) -> None:
    policy = limiter(table, l={"rate": "1/m", "burst": 1})
    for _ in range(3):
        ctx = known()
        ctx.notes = []
        assert policy(ask(), ctx) is None
        assert ctx.notes == [
            Note(
                "rate_limit",
                Verdict.ALLOW,
                "l: 0 left after this one (1 at once, one more each 60 s)",
                "rate_limits.l",
                (("client_ip", "203.0.113.7"),),
            )
        ]
        assert [edit.name for edit in ctx.to_client] == [b"RateLimit-Policy", b"RateLimit"]
    assert status(policy, ask(), known()) == 0
    ctx = known()
    ctx.notes = []
    assert status(policy, ask(), ctx) == 429
    assert ctx.notes[0].verdict is Verdict.REFUSE
    assert "allowed again in 60 s" in ctx.notes[0].why


@pytest.mark.parametrize(
    ("on_missing", "verdict", "code"), [("skip", Verdict.ALLOW, 0), ("deny", Verdict.REFUSE, 403)]
)
def test_explaining_says_that_nobody_could_be_counted(
    table: BucketTable, on_missing: str, verdict: Verdict, code: int
) -> None:
    policy = limiter(table, l={"rate": "1/s", "by": "claim:sub", "on_missing": on_missing})
    ctx = known()
    ctx.notes = []
    assert status(policy, ask(), ctx) == code
    assert [note.verdict for note in ctx.notes] == [verdict]


@pytest.mark.parametrize(
    ("errors", "opens"), [(("allow",), True), (("deny",), False), (("allow", "deny"), False), ((), True)]
)
def test_the_policy_fails_open_only_when_all_its_limits_do(
    table: BucketTable, errors: tuple[str, ...], opens: bool
) -> None:
    policy = limiter(table, **{f"l{n}": {"rate": "1/s", "on_error": e} for n, e in enumerate(errors)})
    assert policy.fails_open is opens
