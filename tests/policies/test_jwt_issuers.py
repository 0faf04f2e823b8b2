"""Several issuers on one route, what they demand of claims, and how many forgeries a client may try."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from edgeproxy.context import Context, Edit, Op, Verdict
from edgeproxy.http.message import Request
from edgeproxy.policies.failure_budget import FailureBudget
from edgeproxy.policies.jwt import Issuer, JwtAuth, JwtRule, configured_keys
from edgeproxy.recall import Recorder
from edgeproxy.snapshot import Snapshot
from tests.policies.jwt_tokens import (
    GOOD,
    NOW,
    SECRET,
    b64,
    context,
    hs256,
    policy,
    provider,
    request,
    sign,
)

OTHER, OTHER_SECRET = "https://partner.example.net/", "another secret of at least 32 bytes"
MAIN_TOKEN = hs256()
OTHER_CLAIMS = {**GOOD, "iss": OTHER, "sub": "p-1", "scope": "partner"}
OTHER_TOKEN = sign(OTHER_CLAIMS, "HS256", OTHER_SECRET)
FORGED = sign(OTHER_CLAIMS, "HS256", SECRET)  # names one issuer, signed with the key of the other


def auth(
    main: Mapping[str, object] | None = None, other: Mapping[str, object] | None = None, **rule: object
) -> JwtAuth:
    providers = {
        "main": provider(**(main or {})),
        "other": provider(**{"issuer": OTHER, "secret": OTHER_SECRET, **(other or {})}),
    }
    issuers = {name: Issuer(name, of, Snapshot(configured_keys(of))) for name, of in providers.items()}
    return JwtAuth(JwtRule.model_validate(rule), issuers)


def judged(made: JwtAuth, req: Request, ctx: Context | None = None) -> tuple[int | None, str]:
    reasons: list[str] = []
    made._on_refusal = lambda reason: reasons.append(reason.value)
    answer = made(req, ctx or context())
    return (answer.status if answer else None), " ".join(reasons)


ANY: Any = {"any_of": ["main", "other"]}
ALL: Any = {"all_of": ["main", "other"]}
APART: Any = {"other": {"header": "X-Partner"}}


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (MAIN_TOKEN, (None, "")),
        (OTHER_TOKEN, (None, "")),
        (FORGED, (401, "signature")),
        (sign(GOOD, "HS256", OTHER_SECRET), (401, "signature")),
        (hs256({**GOOD, "iss": "https://nobody.example/"}), (401, "issuer")),
        (sign({**OTHER_CLAIMS, "iss": "https://nobody.example/"}, "HS256", OTHER_SECRET), (401, "signature")),
        (sign({**OTHER_CLAIMS, "aud": "x"}, "HS256", OTHER_SECRET), (401, "audience")),
        (b"e30.e30", (401, "malformed")),
        (hs256(b"[]"), (401, "claims")),
        (None, (401, "missing")),
    ],
)
def test_any_of_takes_a_token_of_each_issuer_by_its_own_key(
    token: bytes | None, said: tuple[int | None, str]
) -> None:
    """A94: a key of one issuer signs nothing for another."""
    made = auth(**ANY)
    for _ in range(2):
        assert judged(made, request(token)) == said


def test_any_of_goes_by_the_claims_of_whom_it_took() -> None:
    made = auth(**ANY, claims_to_headers={"sub": "X-User"})
    for token, name in ((MAIN_TOKEN, b"u-1"), (OTHER_TOKEN, b"p-1")):
        ctx = context()
        assert made(request(token), ctx) is None
        assert ctx.to_origin == [Edit(Op.SET, b"X-User", name)]
        assert b"claim:sub=" + name in ctx.key_parts
    assert made.asserted == (b"x-user",)


def test_two_providers_of_one_issuer_are_both_tried() -> None:
    made = auth({"audience": "a"}, {"issuer": GOOD["iss"], "audience": "shop"}, **ANY)
    assert judged(made, request(sign(GOOD, "HS256", OTHER_SECRET))) == (None, "")
    needs = auth({"audience": "a"}, {"issuer": GOOD["iss"], "secret": SECRET}, **ANY, require={"scope": "x"})
    assert judged(needs, request(MAIN_TOKEN)) == (403, "scope"), "the refusal that got furthest"


def test_with_any_of_two_tokens_that_differ_are_refused_wherever_they_stand() -> None:
    """The origin might read the one that nobody verified."""
    made = auth(**ANY, **APART)
    assert judged(made, request(MAIN_TOKEN)) == (None, "")
    assert judged(made, request(x_partner=OTHER_TOKEN)) == (None, "")
    assert judged(made, request(MAIN_TOKEN, x_partner=OTHER_TOKEN)) == (400, "ambiguous")
    assert judged(made, request(MAIN_TOKEN, x_partner=b"not a token")) == (401, "malformed")


def test_any_of_may_be_optional_and_is_hard_on_forgers_all_the_same() -> None:
    made = auth(**ANY, optional=True)
    assert judged(made, request()) == (None, "")
    assert judged(made, request(FORGED)) == (401, "signature")


@pytest.mark.parametrize(
    ("main", "partner", "said"),
    [
        (MAIN_TOKEN, OTHER_TOKEN, (None, "")),
        (MAIN_TOKEN, None, (401, "incomplete")),
        (None, OTHER_TOKEN, (401, "incomplete")),
        (MAIN_TOKEN, FORGED, (401, "signature")),
        (MAIN_TOKEN, MAIN_TOKEN, (401, "signature")),
        (FORGED, OTHER_TOKEN, (401, "issuer")),
        (OTHER_TOKEN, MAIN_TOKEN, (401, "signature")),
        (None, None, (401, "missing")),
    ],
)
@pytest.mark.parametrize("optional", [False, True])
def test_all_of_needs_a_token_of_each(
    main: bytes | None, partner: bytes | None, said: tuple[int | None, str], optional: bool
) -> None:
    made = auth(**ALL, **APART, optional=optional, require={"scope": "read"})
    req = request(main, x_partner=partner) if partner else request(main)
    anonymous = main is None and partner is None
    for _ in range(2):
        assert judged(made, req) == ((None, "") if optional and anonymous else said)


def test_all_of_goes_by_the_claims_of_the_first_and_keys_by_what_the_origin_sees() -> None:
    made, ctx = auth(**ALL, **APART, claims_to_headers={"sub": "X-User"}), context()
    assert made(request(MAIN_TOKEN, x_partner=OTHER_TOKEN), ctx) is None
    assert ctx.claims is not None
    assert ctx.claims["sub"] == "u-1"
    assert ctx.to_origin == [Edit(Op.SET, b"X-User", b"u-1")]
    assert sorted(part.partition(b":")[0] for part in ctx.key_parts) == [b"claim", b"token"]
    hidden = auth(**ALL, **APART, forward=False)
    ctx = context()
    assert hidden(request(MAIN_TOKEN, x_partner=OTHER_TOKEN), ctx) is None
    assert ctx.to_origin == [Edit(Op.REMOVE, b"authorization"), Edit(Op.REMOVE, b"x-partner")]
    assert ctx.key_parts == ()


def test_tokens_in_two_cookies_are_both_taken_out() -> None:
    made = auth({"header": None, "cookie": "a"}, {"header": None, "cookie": "b"}, **ALL, forward=False)
    ctx = context()
    assert made(request(cookie=b"a=" + MAIN_TOKEN + b"; c=1; b=" + OTHER_TOKEN), ctx) is None
    assert ctx.to_origin == [Edit(Op.SET, b"Cookie", b"c=1")]


def test_a_token_of_the_url_takes_no_other_tokens_place() -> None:
    made = auth({"header": None, "query": "t"}, **ALL)
    ctx = context()
    assert made(request(OTHER_TOKEN, query=b"t=" + MAIN_TOKEN), ctx) is None
    assert ctx.to_origin == []
    assert made.hidden_query == (b"t",)


def test_all_of_with_one_place_for_two_tokens_is_refused_at_start() -> None:
    with pytest.raises(ValueError, match="main and other both read header authorization"):
        auth(**ALL)
    with pytest.raises(ValueError, match="both read cookie s"):
        auth({"cookie": "s"}, {"header": "X-Partner", "cookie": "s"}, **ALL)


def test_a_recorded_run_rests_on_the_keys_of_each_issuer() -> None:
    made, ctx = auth(**ALL, **APART), context()
    ctx.recorder = Recorder()
    assert made(request(MAIN_TOKEN, x_partner=OTHER_TOKEN), ctx) is None
    assert len(ctx.recorder.guards) == 2
    assert ctx.recorder.ends == NOW + 660


def test_several_issuers_explain_which_one_said_what() -> None:
    for made, req, words in (
        (auth(**ANY), request(OTHER_TOKEN), [(Verdict.ALLOW, "other: HS256 token of key None is good")]),
        (auth(**ANY), request(FORGED), [(Verdict.REFUSE, "main other: the signature does not match")]),
        (
            auth(**ALL, **APART),
            request(MAIN_TOKEN),
            [
                (Verdict.ALLOW, "main: HS256 token of key None is good"),
                (Verdict.REFUSE, "main other: not a token of each issuer"),
            ],
        ),
    ):
        ctx = context()
        ctx.notes = []
        made(req, ctx)
        assert [(note.verdict, note.why) for note in ctx.notes] == words
        assert not any(each.passed or each.refused for each in made._verifiers)


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"provider": "a", "any_of": ["b"]},
        {"any_of": ["a"], "all_of": ["b"]},
        {"any_of": []},
        {"any_of": ["a", "a"]},
        {"all_of": ["a", "b", "a"]},
        {"provider": "a", "require": [{}]},
        {"provider": "a", "require": []},
        {"provider": "a", "require": {"role": {}}},
        {"provider": "a", "require": {"role": {"some": ["x"]}}},
        {"provider": "a", "require": {"role": {"any": []}}},
        {"provider": "a", "require": {"scope": {"all": ["a\tb"]}}},
    ],
)
def test_a_rule_that_says_nothing_or_two_things_is_refused(rule: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        JwtRule.model_validate(rule)


# --- subjects and requirements


@pytest.mark.parametrize(
    ("subjects", "subject", "passes"),
    [
        (["u-1"], "u-1", True),
        (["u-2", "u-1"], "u-1", True),
        (["u-"], "u-1", False),
        (["u-*"], "u-1", True),
        (["svc-*"], "u-1", False),
        (["svc-*"], "SVC-1", False),
        (["*"], "anything", True),
        (["*"], None, False),
        (["*"], 1, False),
        (["*"], ["u-1"], False),
    ],
)
def test_subjects_are_names_or_beginnings_of_names(
    subjects: list[str], subject: object, passes: bool
) -> None:
    token = hs256({**GOOD, "sub": subject})
    expected = (None, "") if passes else (401, "subject")
    assert judged(policy(provider(subjects=subjects)), request(token)) == expected


@pytest.mark.parametrize(
    ("require", "claims", "passes"),
    [
        ({"scope": {"any": ["admin", "read"]}}, {}, True),
        ({"scope": {"any": ["admin", "owner"]}}, {}, False),
        ({"scope": {"all": ["read", "write"]}}, {}, True),
        ({"scope": {"none": ["write"]}}, {}, False),
        ({"scope": {"any": ["read"], "none": ["admin"]}}, {}, True),
        ({"role": {"all": ["a", "b"]}}, {"role": ["b", "a", "c"]}, True),
        ({"role": {"all": ["a", "b"]}}, {"role": "a"}, False),
        ({"role": {"none": ["guest"]}}, {}, True),
        ({"role": {"none": ["guest"]}}, {"role": "guest"}, False),
        ({"role": {"none": [True]}}, {"role": 1}, True),
        ({"org.plan": {"any": ["pro", "max"]}}, {"org": {"plan": "pro"}}, True),
        ({"org.plan": {"any": ["pro", "max"]}}, {"org": {"plan": "free"}}, False),
        ([{"role": "admin"}, {"scope": "read"}], {}, True),
        ([{"role": "admin"}, {"scope": "x"}], {}, False),
        ([{"role": "admin", "scope": "x"}, {"role": "b"}], {"role": "admin"}, False),
    ],
)
def test_requirements_are_any_all_none_and_alternatives(
    require: object, claims: dict[str, object], passes: bool
) -> None:
    token = hs256({**GOOD, **claims})
    expected = (None, "") if passes else (403, "scope")
    assert judged(policy(require=require), request(token)) == expected


# --- forgeries of one client


def forgery(number: int) -> bytes:
    return MAIN_TOKEN.rpartition(b".")[0] + b"." + b64(b"%032d" % number)


def test_a_client_that_forges_too_often_waits_for_the_next_second_others_do_not() -> None:
    made = policy(provider(max_failures=3))
    assert judged(made, request(MAIN_TOKEN)) == (None, "")
    for number in range(3):
        assert judged(made, request(forgery(number))) == (401, "signature")
    assert judged(made, request(forgery(3))) == (429, "too-many")
    answer = made(request(hs256({**GOOD, "sub": "fresh"})), context())
    assert answer is not None
    assert (b"Retry-After", b"1") in answer.fields
    assert judged(made, request(MAIN_TOKEN)) == (None, ""), "what is remembered as good passes"
    assert judged(made, request(forgery(0))) == (401, "signature"), "and what is remembered as bad costs none"
    stranger = context()
    stranger.client = "192.0.2.2"
    assert judged(made, request(hs256({**GOOD, "sub": "b"})), stranger) == (None, "")
    assert judged(made, request(hs256({**GOOD, "sub": "c"})), context(now=5001.0)) == (None, "")


def test_forgeries_of_two_routes_are_counted_together_and_explaining_counts_none() -> None:
    issuer = Issuer("main", of := provider(max_failures=2), Snapshot(configured_keys(of)))
    first, second = (JwtAuth(JwtRule(provider="main"), {"main": issuer}) for _ in range(2))
    told = context()
    told.notes = []
    for number in range(5):
        first(request(forgery(number)), told)
    assert judged(first, request(forgery(1))) == (401, "signature")
    assert judged(second, request(forgery(2))) == (401, "signature")
    assert judged(second, request(forgery(3))) == (429, "too-many")


def test_a_good_client_may_bring_as_many_tokens_as_it_likes() -> None:
    made = policy(provider(max_failures=1))
    for number in range(50):
        assert judged(made, request(hs256({**GOOD, "sub": str(number)}))) == (None, "")


def test_an_ipv6_client_is_its_network_and_the_second_ends() -> None:
    budget = FailureBudget(2)
    budget.charge("2001:db8::1", 7.0)
    budget.charge("2001:db8:0:0:ffff::2", 7.9)
    assert budget.is_spent("2001:db8::abcd", 7.95)
    assert not budget.is_spent("2001:db8:0:1::1", 7.95)
    assert not budget.is_spent("2001:db8::1", 8.0)
    budget.charge("not:an:address", 8.0)
    assert not budget.is_spent("2001:db8::1", 8.1)


def test_the_budget_is_bounded_and_leaves_room_for_who_never_forged() -> None:
    budget = FailureBudget(50)
    for number in range(10_000):
        budget.charge(f"10.0.{number // 256}.{number % 256}", 1.0)
    assert len(budget._failed) == 4096
    assert budget.is_spent("10.0.0.1", 1.0), "one failure is enough once all together had so many"
    assert not budget.is_spent("192.0.2.1", 1.0)
