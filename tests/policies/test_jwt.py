"""The policy: who passes, what is refused and how, what the origin learns (A86-A107)."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from hashlib import sha256
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from edgeproxy.context import Context, Edit, Op, Verdict
from edgeproxy.http.message import Headers, Request, Response
from edgeproxy.policies.jwt import Issuer, JwtAuth, JwtProvider, JwtRule, Reason, configured_keys
from edgeproxy.policies.jwt_answers import SENTENCES
from edgeproxy.policies.jwt_keys import KeySet
from edgeproxy.policies.jwt_load import load_keys
from edgeproxy.snapshot import Snapshot
from tests.helpers.requests import whole_body
from tests.policies.jwt_tokens import (
    GOOD,
    ISSUER,
    NOW,
    SECRET,
    b64,
    context,
    hs256,
    jwk,
    pem,
    policy,
    private_key,
    provider,
    request,
    sign,
)
from tests.policies.test_jwt_keys import public_key_spellings

RSA = private_key("RS256")


def without(*names: str) -> dict[str, object]:
    return {name: value for name, value in GOOD.items() if name not in names}


def judged(auth: JwtAuth, req: Request, ctx: Context | None = None) -> tuple[int | None, str]:
    """Status (None: passed) and the reason that was counted."""
    reasons: list[str] = []
    auth._on_refusal = lambda reason: reasons.append(reason.value)
    answer = auth(req, ctx or context())
    return (answer.status if answer else None), " ".join(reasons)


def asking(
    of: JwtProvider, keys: Snapshot[KeySet | None], on_unknown_kid: Callable[[], None], **rule: object
) -> JwtAuth:
    issuer = Issuer("main", of, keys, on_unknown_kid)
    return JwtAuth(JwtRule.model_validate({"provider": "main", **rule}), {"main": issuer})


def challenge(answer: Response | None) -> str:
    assert answer is not None
    return dict(answer.fields)[b"WWW-Authenticate"].decode()


def test_a_good_token_passes_with_its_claims() -> None:
    ctx = context()
    assert policy()(request(hs256()), ctx) is None
    assert ctx.claims == GOOD
    assert (ctx.to_origin, ctx.key_parts) == ([], ())


@pytest.mark.parametrize("alg", ["RS256", "PS256", "ES256", "ES512", "Ed25519", "EdDSA"])
def test_a_good_token_of_each_family_passes(alg: str) -> None:
    key = private_key("Ed25519" if alg == "EdDSA" else alg)
    auth = policy(provider(public_key=pem(key), algorithms=[alg]))
    assert auth(request(sign(GOOD, alg, key)), context()) is None


@pytest.mark.parametrize("scheme", [b"Bearer", b"bearer", b"BEARER", b"Bearer "])
def test_the_scheme_is_case_insensitive(scheme: bytes) -> None:
    assert policy()(request(authorization=scheme + b" " + hs256()), context()) is None


# --- A86 to A100: bad tokens


def changed(**claims: object) -> bytes:
    return hs256({**GOOD, **claims})


BAD: dict[str, tuple[bytes, str]] = {
    "A86 none": (sign(GOOD, "none", None, {"alg": "none"}), "algorithm"),
    "A86 none, padded": (sign(GOOD, "none", None, {"alg": "none"}) + b"c2ln", "algorithm"),
    "A86 None": (hs256(header={"alg": "None"}), "algorithm"),
    "A86 noNE": (hs256(header={"alg": "noNE"}), "algorithm"),
    "A86 empty": (hs256(header={"alg": ""}), "algorithm"),
    "A86 null": (hs256(header={"alg": None}), "algorithm"),
    "A86 missing": (hs256(header=b"{}"), "algorithm"),
    "A86 list": (hs256(header={"alg": ["HS256"]}), "algorithm"),
    "A86 hs256": (hs256(header={"alg": "hs256"}), "algorithm"),
    "A86 blank": (hs256(header={"alg": "HS256 "}), "algorithm"),
    "A86 NUL": (hs256(header={"alg": "HS256\0"}), "algorithm"),
    "A86 dotless i": (hs256(header={"alg": "HS\uff1256"}), "algorithm"),
    "A88 other HMAC": (sign(GOOD, "HS512", SECRET), "algorithm"),
    "A88 other family": (sign(GOOD, "RS256", RSA), "algorithm"),
    "A91 jku": (hs256(header={"jku": "https://evil.example/jwks"}), "malformed"),
    "A91 x5u": (hs256(header={"x5u": "https://evil.example/"}), "malformed"),
    "A91 jwk": (hs256(header={"jwk": jwk(RSA)}), "malformed"),
    "A91 x5c": (hs256(header={"x5c": ["MII"]}), "malformed"),
    "A92 crit unknown": (hs256(header={"crit": ["x"], "x": 1}), "malformed"),
    "A92 crit empty": (hs256(header={"crit": []}), "malformed"),
    "A92 crit no list": (hs256(header={"crit": "exp"}), "malformed"),
    "A92 b64": (hs256(header={"b64": False, "crit": ["b64"]}), "malformed"),
    "A93 no exp": (hs256(without("exp")), "claims"),
    "A93 expired": (changed(exp=NOW - 60), "expired"),
    "A93 exp text": (changed(exp="9999999999"), "claims"),
    "A93 exp bool": (changed(exp=True), "claims"),
    "A93 exp null": (changed(exp=None), "claims"),
    "A93 exp NaN": (hs256(json.dumps({**GOOD, "exp": float("nan")}).encode()), "claims"),
    "A93 exp 1e400": (hs256(json.dumps(GOOD).replace("1800000600.0", "1e400").encode()), "claims"),
    "A93 exp in milliseconds": (changed(exp=(NOW + 600) * 1000), "claims"),
    "A93 exp 1e300": (changed(exp=1e300), "claims"),
    "A93 exp far behind": (changed(exp=-1e300), "expired"),
    "A93 exp list": (changed(exp=[NOW + 600]), "claims"),
    "A93 iat bool": (changed(iat=False), "claims"),
    "A93 nbf 1e300": (changed(nbf=1e300), "claims"),
    "A93 nbf future": (changed(nbf=NOW + 61), "not-yet-valid"),
    "A93 nbf text": (changed(nbf="0"), "claims"),
    "A93 iat future": (changed(iat=NOW + 61), "not-yet-valid"),
    "A94 no iss": (hs256(without("iss")), "issuer"),
    "A94 other iss": (changed(iss="https://evil.example/"), "issuer"),
    "A94 prefix": (changed(iss=ISSUER[:-1]), "issuer"),
    "A94 longer": (changed(iss=ISSUER + "x"), "issuer"),
    "A94 array": (changed(iss=[ISSUER]), "issuer"),
    "A95 no aud": (hs256(without("aud")), "audience"),
    "A95 other aud": (changed(aud="other"), "audience"),
    "A95 substring": (changed(aud="sho"), "audience"),
    "A95 superstring": (changed(aud="shop2"), "audience"),
    "A95 empty list": (changed(aud=[]), "audience"),
    "A95 list of others": (changed(aud=["a", "b"]), "audience"),
    "A95 list with a number": (changed(aud=["shop", 1]), "audience"),
    "A95 object": (changed(aud={"shop": 1}), "audience"),
    "A95 logout token": (hs256(header={"typ": "logout+jwt"}), "type"),
    "A96 duplicate members": (hs256(b'{"iss":"a","iss":"b"}'), "claims"),
    "A96 deep": (hs256(b'{"a":' + b"[" * 2000 + b"]" * 2000 + b"}"), "claims"),
    "A96 bad UTF-8": (hs256(b'{"a":"\xff"}'), "claims"),
    "A96 huge number": (hs256(b'{"exp":' + b"9" * 1000 + b"}"), "claims"),
    "A96 no object": (hs256(b"[]"), "claims"),
    "A97 two segments": (b"e30.e30", "malformed"),
    "A97 four segments": (hs256() + b".e30", "malformed"),
    "A97 padding": (hs256() + b"=", "malformed"),
    "A97 space inside": (hs256().replace(b".", b". ", 1), "malformed"),
    "A97 JSON": (b'{"payload":"e30","signatures":[]}', "malformed"),
    "A98 JWE": (b".".join([b64(b'{"alg":"dir","enc":"A128GCM"}'), b"", b"e30", b"e30", b"e30"]), "malformed"),
    "A98 zip": (hs256(header={"zip": "DEF"}), "malformed"),
    "A98 PBES2": (hs256(header={"alg": "PBES2-HS256+A128KW", "p2c": 10**9}), "algorithm"),
    "A99 long": (hs256({**GOOD, "x": "y" * 7000}), "too-long"),
    "no signature": (hs256().rpartition(b".")[0] + b".", "signature"),
    "other secret": (sign(GOOD, "HS256", "x" * 64), "signature"),
    "other payload": (
        b".".join([hs256().split(b".")[0], b64(json.dumps(GOOD).encode() + b" "), b"c2ln"]),
        "signature",
    ),
    "non-ASCII": ("é".encode(), "malformed"),
    "empty": (b" ", "malformed"),
}


@pytest.mark.parametrize(("token", "reason"), BAD.values(), ids=BAD.keys())
def test_a_bad_token_is_refused_closed_and_says_little(token: bytes, reason: str) -> None:
    auth, ctx = policy(), context()
    for _ in range(2):
        status, counted = judged(auth, request(token), ctx)
        assert (status, counted) == (401, reason)
    answer = auth(request(token), ctx)
    assert answer is not None
    assert challenge(answer).startswith('Bearer realm="main", error="invalid_token", error_description="')
    assert (b"Cache-Control", b"no-store") in answer.fields
    assert json.loads(whole_body(answer))["detail"] == "The access token is not valid here."
    assert (ctx.claims, ctx.to_origin, ctx.key_parts) == (None, [], ())
    if len(token) > 40:
        assert token not in whole_body(answer) + answer.head


def test_before_a_signature_was_verified_all_refusals_look_the_same() -> None:
    blind = {"malformed", "algorithm", "too-long", "signature", "unknown-key"}
    answers = {policy()(request(token), context()).head for token, reason in BAD.values() if reason in blind}  # type: ignore[union-attr]
    assert len(answers) == 1


@pytest.mark.parametrize("spelling", public_key_spellings().values(), ids=public_key_spellings().keys())
def test_a_public_key_used_as_a_secret_verifies_nothing(spelling: bytes) -> None:
    """A87: HS256 over our public key, in every spelling."""
    auth = policy(provider(keys=[jwk(RSA, kid="a", alg="RS256")], algorithms=["RS256"]))
    kids: list[dict[str, object]] = [{}, {"kid": "a"}]
    for kid in kids:
        signed = sign(GOOD, "HS256", SECRET, kid).rpartition(b".")[0]
        forged = signed + b"." + b64(hmac.new(spelling, signed, hashlib.sha256).digest())
        assert judged(auth, request(forged)) == (401, "algorithm")


def test_the_header_cannot_change_the_algorithm_of_a_key() -> None:
    """A88: RS256 and PS256 are both allowed, each key is for one."""
    keys = [jwk(RSA, kid="r", alg="RS256"), jwk(private_key("PS256"), kid="p", alg="PS256")]
    auth = policy(provider(keys=keys, algorithms=["RS256", "PS256"]))
    assert auth(request(sign(GOOD, "PS256", private_key("PS256"), {"kid": "p"})), context()) is None
    assert judged(auth, request(sign(GOOD, "PS256", RSA, {"kid": "r"}))) == (401, "algorithm")


@pytest.mark.parametrize("kid", ["x", "../../dev/null", "' OR 1=1 --", "k" * 5000, "a\0"])
def test_an_unknown_kid_asks_for_keys_and_is_refused(kid: str) -> None:
    """A90: a dictionary is asked, nothing else."""
    asked: list[int] = []
    of = provider(keys=[jwk(RSA, kid="a", alg="RS256")], algorithms=["RS256"])
    auth = asking(of, Snapshot(configured_keys(of)), lambda: asked.append(1))
    assert judged(auth, request(sign(GOOD, "RS256", RSA, {"kid": kid}))) == (401, "unknown-key")
    assert asked == [1]


def test_a_kid_that_is_a_number_is_refused() -> None:
    assert judged(policy(), request(hs256(header={"kid": 1}))) == (401, "malformed")


# --- claims


@pytest.mark.parametrize(
    ("claims", "wall", "reason"),
    [
        ({"exp": NOW}, NOW + 59.9, ""),
        ({"exp": NOW}, NOW + 60, "expired"),
        ({"nbf": NOW}, NOW - 60, ""),
        ({"nbf": NOW}, NOW - 60.1, "not-yet-valid"),
        ({"iat": NOW, "nbf": NOW - 500}, NOW - 61, "not-yet-valid"),
        ({"exp": NOW + 0.5}, NOW, ""),
        ({"aud": ["x", "shop"]}, NOW, ""),
    ],
)
def test_leeway_is_forgiven_to_the_second(claims: dict[str, object], wall: float, reason: str) -> None:
    assert judged(policy(), request(changed(**claims)), context(wall))[1] == reason


@pytest.mark.parametrize(
    ("settings", "claims", "reason"),
    [
        ({"audience": None}, without("aud"), ""),
        ({"audience": None}, GOOD, "audience"),
        ({"audience": ["a", "shop"]}, GOOD, ""),
        ({"require_exp": False}, without("exp"), ""),
        ({"max_lifetime": "610s"}, GOOD, ""),
        ({"max_lifetime": "609s"}, GOOD, "claims"),
        ({"max_lifetime": "1h"}, without("iat"), "claims"),
        ({"max_lifetime": "1h", "require_exp": False}, {**without("exp"), "iat": NOW - 3661}, "expired"),
        ({"leeway": 0}, {**GOOD, "exp": NOW}, "expired"),
    ],
)
def test_a_provider_says_what_its_tokens_must_say(
    settings: dict[str, object], claims: dict[str, object], reason: str
) -> None:
    assert judged(policy(provider(**settings)), request(hs256(claims)))[1] == reason


@pytest.mark.parametrize(
    ("wanted", "typ", "passes"),
    [
        (None, None, True),
        (None, "JWT", True),
        (None, "at+jwt", True),
        (None, "application/jwt", True),
        (None, "dpop+jwt", False),
        ("at+jwt", "at+jwt", True),
        ("at+jwt", "application/AT+JWT", True),
        ("application/at+jwt", "at+jwt", True),
        ("at+jwt", "JWT", False),
        ("at+jwt", None, False),
    ],
)
def test_typ_is_compared_as_a_media_type(wanted: str | None, typ: str | None, passes: bool) -> None:
    """A95."""
    auth = policy(provider(typ=wanted))
    status, reason = judged(auth, request(hs256(header={"typ": typ} if typ else {})))
    assert (status, reason) == ((None, "") if passes else (401, "type"))


@pytest.mark.parametrize(
    ("require", "claims", "passes"),
    [
        ({"scope": "read"}, {}, True),
        ({"scope": "read write"}, {}, True),
        ({"scope": ["write", "read"]}, {}, True),
        ({"scope": "read admin"}, {}, False),
        ({"scope": "rea"}, {}, False),
        ({"scope": "read"}, {"scope": ["read"]}, True),
        ({"scope": "read"}, {"scope": 1}, False),
        ({"scope": "read"}, {"scope": None, "scp": "read"}, False),
        ({"role": "admin"}, {"role": "admin"}, True),
        ({"role": ["admin", "owner"]}, {"role": "owner"}, True),
        ({"role": "admin"}, {"role": ["user", "admin"]}, True),
        ({"role": "admin"}, {"role": "administrator"}, False),
        ({"role": "admin"}, {"role": {"admin": 1}}, False),
        ({"role": "admin"}, {}, False),
        ({"level": 1}, {"level": True}, False),
        ({"level": 1}, {"level": "1"}, False),
        ({"level": 1}, {"level": 1.0}, True),
        ({"mfa": True}, {"mfa": True}, True),
        ({"mfa": True}, {"mfa": 1}, False),
        ({"realm_access.roles": "admin"}, {"realm_access": {"roles": ["admin"]}}, True),
        ({"realm_access.roles": "admin"}, {"realm_access": ["roles"]}, False),
        ({"https://id.example/roles": "a"}, {"https://id.example/roles": ["a"]}, True),
        ({"https://id.example/x.roles": "a"}, {"https://id.example/x": {"roles": "a"}}, True),
        ({"a.b": "x", "scope": "read"}, {"a": {"b": "y"}}, False),
    ],
)
def test_requirements_are_checked_after_the_token(
    require: dict[str, object], claims: dict[str, object], passes: bool
) -> None:
    status, reason = judged(policy(require=require), request(changed(**claims)))
    assert (status, reason) == ((None, "") if passes else (403, "scope"))


def test_scp_is_read_where_there_is_no_scope() -> None:
    token = hs256({**without("scope"), "scp": ["read", "write"]})
    assert policy(require={"scope": "read"})(request(token), context()) is None


def test_insufficient_scope_names_the_scope_that_is_needed() -> None:
    answer = policy(require={"scope": ["admin", "read"]})(request(hs256()), context())
    assert 'error="insufficient_scope"' in challenge(answer)
    assert challenge(answer).endswith('scope="admin read"')
    assert "scope=" not in challenge(policy(require={"role": "x"})(request(hs256()), context()))


@pytest.mark.parametrize(
    "rule",
    [
        {"require": {"scope": 'a"b'}},
        {"require": {"scope": ""}},
        {"require": {"scope": []}},
        {"require": {"scope": "é"}},
        {"require": {"role": {}}},
        {"claims_to_headers": {"sub": "Host"}},
        {"claims_to_headers": {"sub": "authorization"}},
        {"claims_to_headers": {"sub": "X User"}},
        {"claims_to_headers": {"sub": "X:\r\n"}},
        {"provider": 'a"b'},
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(rule: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        JwtRule.model_validate({"provider": "main", **rule})


# --- no token, two tokens, other places


@pytest.mark.parametrize(
    "value", [None, b"Basic dTpw", b"", b"Digest a=b, c=d"], ids=["absent", "basic", "empty", "digest"]
)
def test_without_a_token_the_challenge_has_no_error(value: bytes | None) -> None:
    """RFC 6750 §3.1."""
    req = request() if value is None else request(authorization=value)
    auth = policy()
    assert judged(auth, req) == (401, "missing")
    assert challenge(auth(req, context())) == 'Bearer realm="main"'
    assert judged(policy(optional=True), req) == (None, "")


def test_optional_lets_the_anonymous_pass_and_the_forger_not() -> None:
    auth, ctx = policy(optional=True, claims_to_headers={"sub": "X-User"}), context()
    assert auth(request(), ctx) is None
    assert (ctx.claims, ctx.to_origin, ctx.key_parts) == (None, [], ())
    assert auth.asserted == (b"x-user",)
    for token, reason in BAD.values():
        assert judged(auth, request(token))[0] == 401, reason


@pytest.mark.parametrize(
    "lines",
    [
        [b"Bearer %b", b"Bearer %b"],
        [b"Bearer %b, Bearer %b"],
        [b"Basic dTpw", b"Bearer %b"],
        [b"Bearer %b,bearer\t%b"],
        [b"Bearer %b", b"Bearer"],
    ],
)
@pytest.mark.parametrize("optional", [False, True])
def test_two_credentials_are_refused(lines: list[bytes], optional: bool) -> None:
    """A105."""
    raw = [(b"Authorization", line.replace(b"%b", hs256())) for line in lines]
    req = Request(b"GET", b"h", b"/", b"", Headers(raw), "192.0.2.1")
    auth = policy(optional=optional)
    assert judged(auth, req) == (400, "ambiguous")
    assert 'error="invalid_request"' in challenge(auth(req, context()))


@pytest.mark.parametrize("value", [b"Bearer", b"Bearer\t%b", b"bearer,%b", b"Bearer=%b", b"Bearer \t%b"])
def test_what_an_origin_could_read_as_a_token_is_never_let_pass_as_none(value: bytes) -> None:
    raw = [(b"Authorization", value.replace(b"%b", hs256()))]
    req = Request(b"GET", b"h", b"/", b"", Headers(raw), "192.0.2.1")
    assert judged(policy(optional=True), req) == (401, "malformed")


def test_a_token_in_the_query_is_no_token_unless_configured() -> None:
    assert judged(policy(), request(query=b"access_token=" + hs256())) == (401, "missing")


def test_a_token_may_stand_in_another_header_a_cookie_or_the_query() -> None:
    token = hs256()
    auth = policy(provider(header="X-Token", cookie="session", query="t"))
    for req in (
        request(x_token=token),
        request(x_token=b"Bearer " + token),
        request(cookie=b"a=b; session=" + token + b"; c"),
        request(query=b"a=b&t=" + token),
        request(x_token=token, cookie=b"session=" + token),
        request(x_token=token, cookie=b"session="),
    ):
        assert auth(req, context()) is None
    for req in (request(), request(token), request(cookie=b"session="), request(cookie=b"xsession=" + token)):
        assert judged(auth, req) == (401, "missing")
    for req in (
        request(x_token=token, cookie=b"session=" + changed(sub="u-2")),
        request(cookie=b"session=" + token + b"; session=x"),
        request(query=b"t=" + token + b"&t=x"),
        request(x_token=token + b", Bearer " + token),
    ):
        assert judged(auth, req) == (400, "ambiguous")
    assert judged(auth, request(x_token=b"Basic dTpw")) == (401, "malformed")
    assert auth.hidden_query == (b"t",)


# --- what the origin sees


def test_claims_become_headers_and_parts_of_the_key() -> None:
    auth = policy(
        claims_to_headers={"sub": "X-User", "org.id": "X-Org", "roles": "X-Roles", "ok": "X-Ok", "no": "X-No"}
    )
    ctx = context()
    assert auth(request(changed(org={"id": 7}, roles=["a", "b"], ok=True, no=None)), ctx) is None
    assert ctx.to_origin == [
        Edit(Op.SET, b"X-User", b"u-1"),
        Edit(Op.SET, b"X-Org", b"7"),
        Edit(Op.SET, b"X-Roles", b"a,b"),
        Edit(Op.SET, b"X-Ok", b"true"),
    ]
    assert ctx.key_parts == (b"claim:sub=u-1", b"claim:org.id=7", b"claim:roles=a,b", b"claim:ok=true")
    assert auth.asserted == (b"x-user", b"x-org", b"x-roles", b"x-ok", b"x-no")


@pytest.mark.parametrize(
    "value",
    [
        "a\r\nX-Admin: 1",
        "a\nb",
        "a\0",
        "\x7f",
        " admin",
        "admin ",
        1.5,
        {"a": 1},
        ["a", 1],
        ["a,b"],
        ["a\n"],
        "\ud800",
    ],
)
def test_a_claim_that_cannot_be_a_header_is_never_emitted(value: object) -> None:
    """A39."""
    ctx = context()
    assert judged(policy(claims_to_headers={"sub": "X-User"}), request(changed(sub=value)), ctx) == (
        401,
        "claims",
    )
    assert (ctx.to_origin, ctx.key_parts, ctx.claims) == ([], (), None)


def test_a_token_that_is_not_forwarded_is_taken_out() -> None:
    token = hs256()
    ctx = context()
    assert policy(forward=False)(request(token), ctx) is None
    assert ctx.to_origin == [Edit(Op.REMOVE, b"authorization")]
    auth, ctx = policy(provider(cookie="s"), forward=False), context()
    assert auth(request(cookie=b"a=1; s=" + token + b"; b=2"), ctx) is None
    assert ctx.to_origin == [Edit(Op.REMOVE, b"authorization"), Edit(Op.SET, b"Cookie", b"a=1; b=2")]
    ctx = context()
    assert auth(request(token, cookie=b"s=" + token), ctx) is None
    assert ctx.to_origin == [Edit(Op.REMOVE, b"authorization"), Edit(Op.REMOVE, b"Cookie")]
    assert ctx.key_parts == ()


def test_a_token_forwarded_outside_authorization_joins_the_key_as_a_digest() -> None:
    auth = policy(provider(header=None, cookie="s"))
    parts: set[tuple[bytes, ...]] = set()
    for token in (hs256(), changed(sub="u-2")):
        for _ in range(2):
            ctx = context()
            assert auth(request(cookie=b"s=" + token), ctx) is None
            assert token not in b"".join(ctx.key_parts)
            parts.add(ctx.key_parts)
    assert len(parts) == 2


def test_a_token_from_the_url_goes_on_in_authorization() -> None:
    auth, ctx = policy(provider(query="t")), context()
    assert auth(request(query=b"t=" + hs256()), ctx) is None
    assert ctx.to_origin == [Edit(Op.SET, b"Authorization", b"Bearer " + hs256())]


# --- keys and memory


def test_without_keys_nobody_passes_and_keys_are_asked_for() -> None:
    """A103."""
    asked: list[int] = []
    of = provider(jwks="https://id.example.com/jwks", algorithms=["RS256"])
    keys: Snapshot[KeySet | None] = Snapshot(None)
    auth = asking(of, keys, lambda: asked.append(1), optional=True)
    req = request(sign(GOOD, "RS256", RSA, {"kid": "a"}))
    assert judged(auth, req) == (503, "no-keys")
    answer = auth(req, context())
    assert answer is not None
    assert b"retry-after" in answer.names
    assert asked == [1, 1]
    keys.value = load_keys([jwk(RSA, kid="a", alg="RS256")], ["RS256"])
    assert judged(auth, req) == (None, "")
    keys.value = None
    assert judged(auth, req) == (503, "no-keys")


def test_a_key_that_is_gone_verifies_nothing_even_for_a_remembered_token() -> None:
    """A104."""
    old, new = (load_keys([jwk(private_key("ES256", n), kid=str(n))], ["ES256"]) for n in (1, 2))
    keys: Snapshot[KeySet | None] = Snapshot(old)
    of = provider(jwks="https://id.example.com/jwks", algorithms=["ES256"])
    auth = policy(of, keys)
    first, second = (request(sign(GOOD, "ES256", private_key("ES256", n), {"kid": str(n)})) for n in (1, 2))
    assert judged(auth, first) == (None, "")
    assert judged(auth, second) == (401, "unknown-key")
    keys.value = new
    assert judged(auth, first) == (401, "unknown-key")
    assert judged(auth, second) == (None, "")


def test_a_token_refused_for_its_signature_passes_once_the_right_key_comes() -> None:
    wrong, right = (load_keys([jwk(private_key("ES256", n), kid="a")], ["ES256"]) for n in (1, 2))
    keys: Snapshot[KeySet | None] = Snapshot(wrong)
    auth = policy(provider(jwks="https://id.example.com/j", algorithms=["ES256"]), keys)
    req = request(sign(GOOD, "ES256", private_key("ES256", 2), {"kid": "a"}))
    assert judged(auth, req) == (401, "signature")
    keys.value = right
    assert judged(auth, req) == (None, "")


def counting(auth: JwtAuth) -> list[int]:
    """A list that grows by one whenever the policy verifies."""
    calls: list[int] = []
    verify = auth._first._verify

    def counted(*args: object) -> object:
        calls.append(1)
        return verify(*args)  # type: ignore[arg-type]

    auth._first._verify = counted  # type: ignore[method-assign,assignment]
    return calls


@pytest.mark.parametrize("size", [100, 3000], ids=["short", "by digest"])
def test_a_verified_token_is_verified_once(size: int) -> None:
    auth = policy(claims_to_headers={"sub": "X-User"})
    calls = counting(auth)
    seen: list[object] = []
    for _ in range(3):
        ctx = context()
        assert auth(request(changed(pad="x" * size)), ctx) is None
        seen.append((ctx.claims, ctx.to_origin, ctx.key_parts))
    assert len(calls) == 1
    assert seen[0] == seen[1] == seen[2]


def test_the_digest_of_a_token_is_not_the_token() -> None:
    auth = policy()
    value = b"Bearer " + changed(pad="x" * 3000)
    assert auth(request(authorization=value), context()) is None
    for digest in (sha256(value).digest(), sha256(value).hexdigest().encode()):
        assert auth(request(authorization=digest), context()) is not None


@settings(max_examples=60, deadline=None)
@given(
    expires=st.integers(-200, 200),
    begins=st.integers(-200, 200),
    walls=st.lists(st.integers(-400, 400), min_size=1, max_size=12),
)
def test_the_memory_never_outlives_exp_and_never_precedes_nbf(
    expires: int, begins: int, walls: list[int]
) -> None:
    auth = policy()
    token = request(hs256({**without("iat"), "exp": NOW + expires, "nbf": NOW + begins}))
    for step, wall in enumerate(walls):
        # Steady time moves on, so that a remembered refusal is not what answers.
        passes = auth(token, context(NOW + wall, now=100.0 * step)) is None
        assert passes == (begins - 60 <= wall < expires + 60)


def test_the_memories_are_bounded_and_drop_the_oldest() -> None:
    auth = policy(provider(cache_size=3))
    for number in range(10):
        assert auth(request(changed(sub=str(number))), context()) is None
    assert len(auth._first.passed) == 3
    calls = counting(auth)
    assert auth(request(changed(sub="9")), context()) is None
    assert auth(request(changed(sub="0")), context()) is None
    assert len(calls) == 1
    off = policy(provider(cache_size=0, max_failures=None))
    assert off(request(hs256()), context()) is None
    assert off._first.passed == {}
    signed = hs256().rpartition(b".")[0]
    for number in range(1100):
        assert off(request(signed + b"." + b64(b"%d" % number)), context()) is not None
    assert len(off._first.refused) == 1024


def test_a_bad_signature_is_remembered_for_ten_seconds_only() -> None:
    auth = policy()
    calls = counting(auth)
    req = request(sign(GOOD, "HS256", "x" * 64))
    for now in (0.0, 9.9, 10.0, 11.0):
        assert judged(auth, req, context(now=now)) == (401, "signature")
    assert len(calls) == 2


def test_a_token_that_is_not_yet_valid_is_let_in_as_soon_as_it_is() -> None:
    auth = policy()
    req = request(changed(nbf=NOW + 61))
    assert judged(auth, req, context(NOW)) == (401, "not-yet-valid")
    assert judged(auth, req, context(NOW + 1)) == (None, "")


def test_claims_handed_out_cannot_be_changed() -> None:
    ctx = context()
    policy()(request(hs256()), ctx)
    with pytest.raises(TypeError):
        ctx.claims["sub"] = "root"  # type: ignore[index]


# --- explain


def test_explaining_spends_nothing_and_tells_no_token() -> None:
    asked: list[object] = []
    of = provider()
    keys = Snapshot(configured_keys(of))
    auth = asking(of, keys, lambda: asked.append(1))
    auth._on_refusal = asked.append
    good, forged, unknown = hs256(), sign(GOOD, "HS256", "x" * 64), hs256(header={"alg": "HS384"})
    for token, verdict, words in (
        (good, Verdict.ALLOW, "main: HS256 token of key None is good"),
        (forged, Verdict.REFUSE, "main: the signature does not match"),
        (unknown, Verdict.REFUSE, "main: an algorithm that the provider or the key does not allow"),
        (None, Verdict.REFUSE, "main: no token"),
        (changed(exp=NOW - 61), Verdict.REFUSE, "main: the token has expired"),
    ):
        ctx = context()
        ctx.notes = []
        answer = auth(request(token), ctx)
        assert (answer is None) == (verdict is Verdict.ALLOW)
        assert [(note.policy, note.verdict, note.why) for note in ctx.notes] == [("jwt", verdict, words)]
    assert (auth._first.passed, auth._first.refused, asked) == ({}, {}, [])
    ctx = context()
    ctx.notes = []
    assert policy(optional=True)(request(), ctx) is None
    assert ctx.notes[0].verdict is Verdict.ALLOW


@pytest.mark.parametrize(
    ("token", "settings", "rule", "values"),
    [
        (changed(iss="x"), {}, f"issuer: {ISSUER}", {"iss": "x"}),
        (changed(aud=["a", "b"]), {}, 'audience: ["shop"]', {"aud": '["a", "b"]'}),
        (changed(sub="s\n"), {"subjects": ["svc-*"]}, 'subjects: ["svc-*"]', {"sub": "'s\\n'"}),
        (
            hs256({**without("iat"), "exp": NOW - 99}),
            {},
            "leeway: 60s",
            {"exp": str(NOW - 99), "iat": "null", "now": f"{NOW:.0f}"},
        ),
        (
            hs256(without("exp", "iat")),
            {},
            "require_exp: true",
            {"exp": "null", "nbf": "null", "iat": "null"},
        ),
        (hs256(header={"typ": "dpop+jwt"}), {}, "typ: none, JWT or at+jwt", {"typ": "dpop+jwt"}),
        (changed(org={"plan": "free"}), {}, 'require: {"org.plan": "pro"}', {"org": '{"plan": "free"}'}),
        (sign(GOOD, "HS256", "x" * 64), {}, "", {}),
    ],
)
def test_an_explanation_shows_the_rule_and_the_claims_that_decided(
    token: bytes, settings: dict[str, object], rule: str, values: dict[str, str]
) -> None:
    require = {"org.plan": "pro"} if "org.plan" in rule else {}
    auth = policy(provider(**settings), require=require)
    for _ in range(2):
        ctx = context()
        ctx.notes = []
        assert auth(request(token), ctx) is not None
        assert [(note.rule, dict(note.values)) for note in ctx.notes] == [(rule, values)]
    told = context()
    told.notes = []
    assert auth(request(), told) is not None
    assert (told.notes[0].rule, told.notes[0].values) == ("", ()), "nothing of another request"


def test_explaining_without_keys_asks_for_none() -> None:
    asked: list[int] = []
    of = provider(jwks="https://id.example.com/j", algorithms=["RS256"])
    auth = asking(of, Snapshot(None), lambda: asked.append(1))
    ctx = context()
    ctx.notes = []
    assert auth(request(sign(GOOD, "RS256", RSA)), ctx) is not None
    assert asked == []


def test_every_reason_has_a_sentence() -> None:
    assert set(SENTENCES) == set(Reason)


# --- forgeries

GOOD_TOKEN = hs256()
FUZZED = policy(provider(max_failures=None), claims_to_headers={"sub": "X-User"}, require={"scope": "read"})


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=400))
def test_random_bytes_never_raise_and_never_pass(value: bytes) -> None:
    assert FUZZED(request(authorization=value), context()) is not None
    assert FUZZED(request(value), context()) is not None


@settings(max_examples=400, deadline=None)
@given(st.integers(0, len(GOOD_TOKEN) - 1), st.binary(min_size=0, max_size=3), st.integers(0, 3))
def test_a_changed_token_never_raises_and_never_passes(at: int, inserted: bytes, dropped: int) -> None:
    token = GOOD_TOKEN[:at] + inserted + GOOD_TOKEN[at + dropped :]
    ctx = context()
    # Blanks before the token belong to the header's syntax, not to the token.
    assert (FUZZED(request(token), ctx) is None) == (token.strip(b" ") == GOOD_TOKEN)


@pytest.mark.parametrize("alg", ["RS256", "ES256", "Ed25519"])
def test_every_flipped_bit_of_a_signature_is_refused(alg: str) -> None:
    key = private_key(alg)
    auth = policy(provider(public_key=pem(key), algorithms=[alg]))
    signed, _, _ = sign(GOOD, alg, key).rpartition(b".")
    scheme = {"RS256": 256, "ES256": 64, "Ed25519": 64}[alg]
    for junk in (b"\0", b"\xff"):
        for size in (1, scheme - 1, scheme, scheme + 1, 2 * scheme):
            assert judged(auth, request(signed + b"." + b64(junk * size))) == (401, "signature")


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["iss", "aud", "exp", "nbf", "iat", "scope", "sub"]),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=5)
        | st.lists(st.text(max_size=3)),
    )
)
def test_claims_of_any_shape_never_raise(claims: dict[str, object]) -> None:
    ctx = context()
    answer = FUZZED(request(hs256({**GOOD, **claims})), ctx)
    assert answer is None or answer.status in (401, 403)
    if answer is None:
        assert ctx.claims is not None
        assert ctx.claims["iss"] == ISSUER
        assert -inf < NOW - 60 < float(str(ctx.claims["exp"]))
