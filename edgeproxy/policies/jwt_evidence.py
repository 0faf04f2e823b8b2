"""What `explain` shows of a verified token that was refused: the rule that decided, and the claims it read.

Rule: only after the signature was verified, only for who may ask for explanations, and never the token.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from edgeproxy.policies.jwt_provider import JwtProvider
from edgeproxy.policies.jwt_rule import JwtRule
from edgeproxy.policies.jwt_token import Reason, Token

Evidence = tuple[str, tuple[tuple[str, str], ...]]
"""The rule, as it stands in the configuration, and (fact, value)."""

NO_EVIDENCE: Evidence = ("", ())
_LONGEST = 200
_CLAIMS: dict[Reason, tuple[str, ...]] = {
    Reason.ISSUER: ("iss",),
    Reason.AUDIENCE: ("aud",),
    Reason.SUBJECT: ("sub",),
    Reason.EXPIRED: ("exp", "iat"),
    Reason.NOT_YET_VALID: ("nbf", "iat"),
    Reason.CLAIMS: ("exp", "nbf", "iat"),
    Reason.REVOKED: ("jti", "sub", "iat"),
}


def evidence(
    reason: Reason,
    provider: JwtProvider,
    rule: JwtRule,
    token: Token,
    claims: Mapping[str, object],
    wall: float,
) -> Evidence:
    """Why `reason`, at `wall` (epoch seconds)."""
    if reason is Reason.TYPE:
        return _shown("typ", provider.typ or "none, JWT or at+jwt"), (("typ", _text(token.typ)),)
    if reason is Reason.SCOPE:
        groups = rule.require if isinstance(rule.require, tuple) else (rule.require,)
        names = dict.fromkeys([path.partition(".")[0] for group in groups for path in group])
        return _shown("require", rule.model_dump(mode="json")["require"]), _values(claims, tuple(names))
    found = _values(claims, _CLAIMS.get(reason, ()))
    if reason in (Reason.EXPIRED, Reason.NOT_YET_VALID):
        found += (("now", f"{wall:.0f}"),)
    return _rule(reason, provider), found


def _rule(reason: Reason, provider: JwtProvider) -> str:
    match reason:
        case Reason.ISSUER:
            return _shown("issuer", provider.issuer)
        case Reason.AUDIENCE:
            return _shown("audience", sorted(provider.audiences))
        case Reason.SUBJECT:
            return _shown("subjects", provider.subjects)
        case Reason.EXPIRED | Reason.NOT_YET_VALID:
            return f"leeway: {provider.leeway:.0f}s"
        case Reason.CLAIMS if provider.max_lifetime is not None:
            return f"max_lifetime: {provider.max_lifetime:.0f}s"
        case Reason.CLAIMS:
            return f"require_exp: {str(provider.require_exp).lower()}"
        case Reason.REVOKED:
            return _shown("revoked", str(provider.revoked))
        case _:
            return ""


def _values(claims: Mapping[str, object], names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    return tuple([(name, _text(claims.get(name))) for name in names])


def _shown(key: str, value: object) -> str:
    return f"{key}: {_text(value)}"


def _text(value: object) -> str:
    """Short, on one line."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=True, default=str)
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
