"""`ab`: sticky without trust, in the cache key, and never what a client wrote."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from edgeproxy.context import Context, Edit, Op, Verdict
from edgeproxy.http.message import Field, Headers, Request
from edgeproxy.policies.ab import AbTest
from edgeproxy.policies.ab_hash import bucket_ranges, choose_variation, fraction
from edgeproxy.policies.ab_rule import Experiment

UNIT = "AAAAAAAAAAAAAAAAAAAAAA"
FRESH = "BBBBBBBBBBBBBBBBBBBBBB"
HALVES = {"variants": {"control": 50, "fast": 50}}


def ask(*fields: Field, query: bytes = b"", secure: bool = False) -> Request:
    return Request(b"GET", b"example.com", b"/", query, Headers(list(fields)), "127.0.0.1", secure)


def known(client: str = "203.0.113.7", claims: dict[str, Any] | None = None) -> Context:
    ctx = Context(0.0, 0.0, client, "shop", "req-1")
    ctx.claims = claims
    return ctx


def policy(**experiments: dict[str, Any]) -> AbTest:
    models = {name: Experiment.model_validate(each) for name, each in experiments.items()}
    return AbTest(models, new_id=lambda: FRESH)


def run(test: AbTest, request: Request, ctx: Context | None = None) -> Context:
    ctx = ctx or known()
    assert test(request, ctx) is None
    return ctx


def cookie(unit: str = UNIT) -> Field:
    return b"Cookie", b"edge_ab=" + unit.encode()


def expected(seed: str, unit: str, names: tuple[str, ...] = ("control", "fast")) -> str:
    position = fraction(seed, unit)
    assert position is not None
    return names[choose_variation(position, bucket_ranges(len(names), 1.0))]


def set_cookies(ctx: Context) -> list[bytes]:
    return [edit.value for edit in ctx.to_client if edit.name == b"Set-Cookie"]


def test_a_known_visitor_gets_growthbooks_variant_in_key_header_and_context() -> None:
    ctx = run(policy(checkout=HALVES), ask(cookie()))
    variant = expected("checkout", UNIT)
    assert ctx.variants == {"checkout": variant}
    assert ctx.key_parts == (b"variant:checkout=" + variant.encode(),)
    assert ctx.to_origin == [Edit(Op.SET, b"X-Variant-checkout", variant.encode())]
    assert ctx.to_client == []


def test_a_new_visitor_gets_a_random_unit_and_the_variant_that_it_will_keep() -> None:
    test = policy(checkout=HALVES)
    ctx = run(test, ask())
    assert ctx.to_client == [
        Edit(
            Op.ADD,
            b"Set-Cookie",
            b"edge_ab=%b; Path=/; Max-Age=2592000; HttpOnly; SameSite=Lax" % FRESH.encode(),
        )
    ]
    assert run(test, ask(cookie(FRESH))).variants == ctx.variants


@pytest.mark.parametrize(
    ("config", "secure", "attributes"),
    [
        ({}, True, b"; Path=/; Max-Age=2592000; HttpOnly; SameSite=Lax; Secure"),
        ({"secure": True}, False, b"; Path=/; Max-Age=2592000; HttpOnly; SameSite=Lax; Secure"),
        ({"secure": False, "max_age": "1h"}, True, b"; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax"),
        ({"max_age": 0, "same_site": "strict"}, False, b"; Path=/; HttpOnly; SameSite=Strict"),
        (
            {"same_site": "none", "secure": True},
            False,
            b"; Path=/; Max-Age=2592000; HttpOnly; SameSite=None; Secure",
        ),
    ],
)
def test_the_cookie_has_the_configured_attributes(config: Any, secure: bool, attributes: bytes) -> None:
    ctx = run(policy(checkout={**HALVES, "cookie": config}), ask(secure=secure))
    assert set_cookies(ctx) == [b"edge_ab=" + FRESH.encode() + attributes]


@pytest.mark.parametrize(
    "header",
    [
        b"edge_ab=",
        b"edge_ab=fast",
        b"edge_ab=" + b"A" * 21,
        b"edge_ab=" + b"A" * 23,
        b"edge_ab=" + b"A" * 21 + b"\xff",
        b"edge_ab=" + b"A" * 22 + b"\n",
        b'edge_ab="' + b"A" * 20 + b'"',
        b"edge_ab=" + b"A" * 22 + b"; edge_ab=" + b"C" * 22,
        b"edge_ab=" + b"A" * 22 + b";edge_ab=" + b"A" * 22,
        b"xedge_ab=" + b"A" * 22,
        b"EDGE_AB=" + b"A" * 22,
        b"other=edge_ab",
    ],
)
def test_an_invalid_or_doubled_cookie_is_as_absent(header: bytes) -> None:
    ctx = run(policy(checkout=HALVES), ask((b"Cookie", header)))
    assert ctx.variants == {"checkout": expected("checkout", FRESH)}
    assert len(set_cookies(ctx)) == 1


def test_the_cookie_is_found_among_others() -> None:
    header = b"a=1; edge_ab=" + UNIT.encode() + b" ;b=2"
    ctx = run(policy(checkout=HALVES), ask((b"Cookie", header)))
    assert set_cookies(ctx) == []
    assert ctx.variants == {"checkout": expected("checkout", UNIT)}


def test_by_cookie_is_the_default() -> None:
    assert Experiment.model_validate({**HALVES, "by": "cookie"}) == Experiment.model_validate(HALVES)


@pytest.mark.parametrize("policies", [1, 2], ids=["one policy", "two policies"])
def test_one_visitor_has_one_unit_for_all_experiments(policies: int) -> None:
    ids = iter([FRESH, UNIT])
    parts = [{name: Experiment.model_validate(HALVES)} for name in ("a", "b")]
    tests = parts if policies == 2 else [{**parts[0], **parts[1]}]
    ctx = known()
    for each in tests:
        AbTest(each, new_id=lambda: next(ids))(ask(), ctx)
    assert len(set_cookies(ctx)) == 1
    assert ctx.variants == {"a": expected("a", FRESH), "b": expected("b", FRESH)}
    assert len(ctx.key_parts) == 2


def test_experiments_with_their_own_cookie_have_their_own_visitor() -> None:
    ids = iter([FRESH, UNIT])
    experiments = {
        "a": Experiment.model_validate(HALVES),
        "b": Experiment.model_validate({**HALVES, "cookie": {"name": "other"}}),
    }
    ctx = run(AbTest(experiments, new_id=lambda: next(ids)), ask())
    assert [value[:10] for value in set_cookies(ctx)] == [b"edge_ab=BB", b"other=AAAA"]


@pytest.mark.parametrize(
    ("by", "request_", "ctx", "unit"),
    [
        ("client_ip", ask(), known("192.0.2.9"), "192.0.2.9"),
        ("claim:sub", ask(), known(claims={"sub": "ann"}), "ann"),
        ("header:X-User", ask((b"x-user", "Zoë😀".encode())), known(), "Zoë😀"),
        ("cookie:session", ask((b"Cookie", b"session=s1")), known(), "s1"),
    ],
    ids=["client_ip", "claim", "header", "cookie of the application"],
)
def test_a_unit_can_be_what_identifies_the_request(
    by: str, request_: Request, ctx: Context, unit: str
) -> None:
    names = tuple(f"v{n}" for n in range(16))
    run(policy(exp={"variants": dict.fromkeys(names, 1), "by": by}), request_, ctx)
    assert ctx.variants == {"exp": expected("exp", unit, names)}
    assert ctx.to_client == []


@pytest.mark.parametrize(
    "request_",
    [ask(), ask((b"X-User", b"")), ask((b"X-User", b"u" * 257))],
    ids=["absent", "empty", "too long"],
)
def test_without_a_unit_a_request_takes_no_part_but_has_a_key_part(request_: Request) -> None:
    ctx = run(policy(exp={**HALVES, "by": "header:X-User"}), request_)
    assert (ctx.variants, ctx.to_origin, ctx.to_client) == ({}, [], [])
    assert ctx.key_parts == (b"variant:exp=",)


def test_units_outside_the_coverage_take_no_part() -> None:
    test = policy(exp={**HALVES, "coverage": 0.3, "by": "client_ip"})
    seen = Counter(run(test, ask(), known(f"u{n}")).key_parts[0] for n in range(2000))
    assert set(seen) == {b"variant:exp=", b"variant:exp=control", b"variant:exp=fast"}
    assert 1300 < seen[b"variant:exp="] < 1500


def test_weights_are_in_any_scale() -> None:
    test = policy(exp={"variants": {"a": 9, "b": 1, "never": 0}, "by": "client_ip"})
    seen = Counter(run(test, ask(), known(f"u{n}")).variants["exp"] for n in range(3000))
    assert set(seen) == {"a", "b"}
    assert 230 < seen["b"] < 370


def test_disjoint_parts_of_a_namespace_never_share_a_unit() -> None:
    parts = {"a": [0, 0.4], "b": [0.4, 1]}
    test = policy(
        **{
            n: {**HALVES, "by": "client_ip", "namespace": {"name": "ns", "range": r}}
            for n, r in parts.items()
        }
    )
    taken = Counter(tuple(run(test, ask(), known(f"u{n}")).variants) for n in range(500))
    assert set(taken) == {("a",), ("b",)}


def test_experiments_of_one_seed_agree() -> None:
    test = policy(**{n: {**HALVES, "seed": "same", "by": "client_ip"} for n in ("a", "b")})
    for n in range(50):
        variants = run(test, ask(), known(f"u{n}")).variants
        assert variants["a"] == variants["b"]


OTHER = "fast" if expected("checkout", UNIT) == "control" else "control"
OTHER_INDEX = str(["control", "fast"].index(OTHER)).encode()


@pytest.mark.parametrize(
    "query",
    [
        b"ab_checkout=" + OTHER.encode(),
        b"x=1&ab_checkout=" + OTHER_INDEX,
        b"ab_checkout=%b&y" % OTHER.encode(),
    ],
)
def test_a_tester_can_force_a_variant_which_is_in_the_key_and_not_sticky(query: bytes) -> None:
    ctx = run(policy(checkout=HALVES), ask(query=query))
    assert ctx.variants == {"checkout": OTHER}
    assert ctx.key_parts == (b"variant:checkout=" + OTHER.encode(),)
    assert ctx.to_client == []
    assert run(policy(checkout=HALVES), ask(cookie(), query=query)).variants == {"checkout": OTHER}


@pytest.mark.parametrize(
    "query",
    [
        b"ab_checkout=",
        b"ab_checkout=none",
        b"ab_checkout=2",
        b"ab_checkout=-1",
        b"ab_checkout=" + b"9" * 5000,
        b"xab_checkout=" + OTHER.encode(),
        b"ab_other=" + OTHER.encode(),
        b"ab_checkout=\xff\r\n",
    ],
)
def test_an_override_that_names_no_variant_changes_nothing(query: bytes) -> None:
    ctx = run(policy(checkout=HALVES), ask(cookie(), query=query))
    assert ctx.variants == {"checkout": expected("checkout", UNIT)}


@pytest.mark.parametrize(
    ("allowed", "client", "works"),
    [
        (True, "198.51.100.1", True),
        (False, "10.0.0.1", False),
        (["10.0.0.0/8", "2001:db8::/32"], "10.0.0.1", True),
        (["10.0.0.0/8"], "::ffff:10.0.0.1", True),
        (["10.0.0.0/8", "2001:db8::/32"], "2001:db8::1", True),
        (["10.0.0.0/8"], "198.51.100.1", False),
        (["10.0.0.0/8"], "unix:", False),
        ([], "10.0.0.1", False),
    ],
)
def test_the_override_is_for_everybody_nobody_or_some_networks(
    allowed: Any, client: str, works: bool
) -> None:
    test = policy(checkout={**HALVES, "override": allowed})
    ctx = run(test, ask(cookie(), query=b"ab_checkout=" + OTHER.encode()), known(client))
    assert (ctx.variants["checkout"] == OTHER) is works


def test_header_and_parameter_can_be_named() -> None:
    test = policy(checkout={**HALVES, "header": "X-Arm", "override_parameter": "arm"})
    ctx = run(test, ask(query=b"arm=fast"))
    assert ctx.to_origin == [Edit(Op.SET, b"X-Arm", b"fast")]
    assert test.asserted == (b"x-arm",)


def test_the_headers_it_asserts_are_named_in_lower_case() -> None:
    assert policy(Checkout=HALVES, b=HALVES).asserted == (b"x-variant-checkout", b"x-variant-b")


@settings(max_examples=100, deadline=None)
@given(
    header=st.binary(max_size=60) | st.binary(max_size=30).map(lambda b: b"edge_ab=" + b),
    query=st.binary(max_size=40) | st.binary(max_size=20).map(lambda b: b"ab_checkout=" + b),
    user=st.binary(max_size=40),
)
def test_nothing_a_client_writes_reaches_key_header_or_label(
    header: bytes, query: bytes, user: bytes
) -> None:
    test = policy(checkout=HALVES, by_user={**HALVES, "by": "header:X-User"})
    ctx = run(test, ask((b"Cookie", header), (b"X-User", user), query=query))
    arms = {b"", b"control", b"fast"}
    assert [part.partition(b"=")[0] for part in ctx.key_parts] == [b"variant:checkout", b"variant:by_user"]
    assert {part.partition(b"=")[2] for part in ctx.key_parts} <= arms
    assert {edit.value for edit in ctx.to_origin} <= arms
    assert all(value.startswith(b"edge_ab=" + FRESH.encode()) for value in set_cookies(ctx))


def test_the_key_part_is_always_the_variant_that_the_origin_is_told() -> None:
    test = policy(exp={**HALVES, "by": "client_ip", "coverage": 0.8})
    for n in range(300):
        ctx = run(test, ask(), known(f"u{n}"))
        told = b"".join(edit.value for edit in ctx.to_origin)
        assert ctx.key_parts == (b"variant:exp=" + told,)


@pytest.mark.parametrize(
    ("request_", "config", "said"),
    [
        (ask(cookie()), {}, "drawn by cookie"),
        (ask(query=b"ab_exp=fast"), {}, "fast, forced by the query parameter ab_exp"),
        (ask(), {"by": "claim:sub"}, "takes no part: no unit by claim:sub"),
    ],
)
def test_explaining_says_why(request_: Request, config: Any, said: str) -> None:
    ctx = known()
    ctx.notes = []
    run(policy(exp={**HALVES, **config}), request_, ctx)
    assert [(note.policy, note.verdict) for note in ctx.notes] == [("ab", Verdict.ALLOW)]
    assert said in ctx.notes[0].why


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"variants": {}}, "at least 1"),
        ({"variants": {"a": -1}}, "greater than or equal to 0"),
        ({"variants": {"a": 0, "b": 0}}, "all weights are 0"),
        ({"variants": {"a": float("inf")}}, "finite"),
        ({"variants": {"a\r\nb": 1}}, "pattern"),
        ({"variants": {f"v{n}": 1 for n in range(65)}}, "at most 64"),
        ({"coverage": 1.5}, "less than or equal to 1"),
        ({"by": "route"}, "same for everybody"),
        ({"by": "session"}, "who is asking"),
        ({"header": "Host"}, "chooses the site"),
        ({"header": "a b"}, "not a field name"),
        ({"override_parameter": "a=b"}, "not a token"),
        ({"override": ["10.0.0.1/8"]}, "not a network"),
        ({"cookie": {"name": "a b"}}, "not a token"),
        ({"cookie": {"same_site": "none"}}, "secure: true"),
        ({"namespace": {"name": "n", "range": [0.5, 0.5]}}, "empty"),
        ({"namespace": {"name": "n", "range": [0, 2]}}, "less than or equal to 1"),
        ({"wieght": 1}, "Extra inputs"),
    ],
)
def test_an_experiment_that_makes_no_sense_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Experiment.model_validate({**HALVES, **change})


@pytest.mark.parametrize(
    ("experiments", "said"),
    [
        ({"a=b": HALVES}, "needs another name"),
        ({"a\n": HALVES}, "needs another name"),
        ({"a": {**HALVES, "header": "X-V"}, "b": {**HALVES, "header": "x-v"}}, "same header"),
        ({"a": HALVES, "b": {**HALVES, "cookie": {"secure": True}}}, "otherwise"),
    ],
)
def test_experiments_that_contradict_each_other_are_refused(experiments: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        policy(**experiments)


def test_the_random_unit_is_one_that_is_recognised_again() -> None:
    test = AbTest({"a": Experiment.model_validate(HALVES)})
    first = run(test, ask())
    value = set_cookies(first)[0].partition(b"=")[2].partition(b";")[0]
    again = run(test, ask((b"Cookie", b"edge_ab=" + value)))
    assert set_cookies(again) == []
    assert again.variants == first.variants
    assert set_cookies(run(test, ask()))[0] != set_cookies(first)[0]
