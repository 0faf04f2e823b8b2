"""`jwt:` lets a request pass when it carries a good token of one issuer (RFC 7519, 6750, 8725).

Rule 1: it fails closed. No keys, no token, any doubt: no pass. Refusals look alike until a
signature was verified, so they teach nothing to who forges.
Rule 2: a verified token is remembered under the bytes it came in, for the very keys that verified
it, and never past `exp`: both are compared on each hit.
Rule 3: the token appears in no note, no log, no answer.

What the origin learns changes its answer, so claims that become headers join the cache key. A
token forwarded in Authorization is under RFC 9111 §3.5 instead; one forwarded by another way has no
such rule, so its digest joins the key.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from types import MappingProxyType
from typing import TypeVar

from edgeproxy.context import Context, Edit, Op, Verdict
from edgeproxy.http.message import Request, Response
from edgeproxy.http.replies import problem
from edgeproxy.policies.jwt_claims import Claims, Profile, Requirement, find_claim, render_claim
from edgeproxy.policies.jwt_keys import KeySet
from edgeproxy.policies.jwt_provider import JwtProvider, configured_keys
from edgeproxy.policies.jwt_rule import JwtRule
from edgeproxy.policies.jwt_sources import Sources
from edgeproxy.policies.jwt_token import Reason, Token, parse_object, parse_token
from edgeproxy.record import record
from edgeproxy.snapshot import Snapshot

__all__ = ["JwtAuth", "JwtProvider", "JwtRule", "Reason", "configured_keys"]

_LONG = 1024  # a longer token is remembered by its digest: a str, which no received bytes can equal
_REFUSED_SIZE = 1024
_REFUSED_FOR = 10.0  # seconds
# Refusals worth remembering: they cost a signature, and only other keys would change them.
_COSTLY = frozenset(
    {
        Reason.SIGNATURE,
        Reason.TYPE,
        Reason.ISSUER,
        Reason.AUDIENCE,
        Reason.EXPIRED,
        Reason.CLAIMS,
        Reason.SCOPE,
    }
)
_DESCRIPTIONS = {
    Reason.TYPE: "the token is of another type",
    Reason.ISSUER: "the token is from another issuer",
    Reason.AUDIENCE: "the token is for another audience",
    Reason.EXPIRED: "the token has expired",
    Reason.NOT_YET_VALID: "the token is not valid yet",
    Reason.CLAIMS: "a claim is missing or cannot be used",
    Reason.SCOPE: "the token does not grant this",
    Reason.AMBIGUOUS: "one token is expected",
}
_SENTENCES = {
    **_DESCRIPTIONS,
    Reason.MISSING: "no token",
    Reason.MALFORMED: "not a compact JWS that has one reading",
    Reason.TOO_LONG: "longer than 8 KiB",
    Reason.ALGORITHM: "an algorithm that the provider or the key does not allow",
    Reason.UNKNOWN_KEY: "no key of that kid",
    Reason.NO_KEYS: "the keys were never loaded",
    Reason.SIGNATURE: "the signature does not match",
    Reason.AMBIGUOUS: "more than one token",
}
_INVALID = (401, "invalid-token", "The access token is not valid here.")
_ANSWERS = {
    Reason.MISSING: (401, "token-missing", "An access token is needed."),
    Reason.AMBIGUOUS: (400, "invalid-request", "The request carries more than one access token."),
    Reason.SCOPE: (403, "insufficient-scope", "The access token does not grant this."),
}
V = TypeVar("V")


@record
class _Passed:
    """A verified token, and everything a pass does."""

    keys: KeySet
    begins: float
    ends: float
    claims: Claims
    edits: tuple[Edit, ...]
    key_parts: tuple[bytes, ...]


@record
class _Refused:
    """A refusal that cost a signature: given again until `ends` (steady clock) or other keys."""

    keys: KeySet
    ends: float
    reason: Reason


class JwtAuth:
    """The policy of one route. `hidden_query` names what must never go on in a URL or into a key."""

    name = "jwt"
    fails_open = False
    repeatable = True

    def __init__(
        self,
        rule: JwtRule,
        provider: JwtProvider,
        keys: Snapshot[KeySet | None],
        on_unknown_kid: Callable[[], None] | None = None,
        on_refusal: Callable[[Reason], None] | None = None,
    ) -> None:
        """`keys.value` is None until the first were fetched. The hooks must be cheap and never raise."""
        self._keys = keys
        self._on_unknown_kid = on_unknown_kid
        self._on_refusal = on_refusal
        self._optional = rule.optional
        self._forward = rule.forward
        self._algorithms = frozenset(provider.algorithms)
        self._profile = Profile(provider)
        self._sources = Sources(provider)
        self._header = self._sources.header
        self._only_header = self._sources.only_header
        self._requirements = [Requirement(path, values) for path, values in rule.require.items()]
        self._headers = [(claim, name.encode()) for claim, name in rule.claims_to_headers.items()]
        self._keyed_by_token = rule.forward and not (self._only_header and self._header == b"authorization")
        self._passed: dict[bytes | str, _Passed] = {}
        self._refused: dict[bytes | str, _Refused] = {}
        self._cache_size = provider.cache_size
        self._scope = " ".join(filter(None, (needed.scope for needed in self._requirements)))
        self._realm = rule.provider
        self.asserted = tuple(name.lower() for _, name in self._headers)
        self.hidden_query: tuple[bytes, ...] = (provider.query.encode(),) if provider.query else ()

    def __call__(self, request: Request, ctx: Context, /) -> Response | None:
        if self._only_header:
            credential = request.headers.index.get(self._header) or Reason.MISSING
        else:
            credential = self._sources.find(request)
        if isinstance(credential, Reason):
            return self._refuse(request, ctx, credential)
        known = credential if len(credential) <= _LONG else sha256(credential).hexdigest()
        passed = self._passed.get(known)
        if (
            passed is None
            or passed.keys is not self._keys.value
            or not passed.begins <= ctx.wall < passed.ends
            or ctx.notes is not None
        ):
            outcome = self._judge(credential, known, ctx)
            if isinstance(outcome, Reason):
                return self._refuse(request, ctx, outcome)
            passed = outcome
        if ctx.recorder is not None:
            ctx.recorder.reads(self._keys, passed.keys)
            ctx.recorder.within(passed.begins, passed.ends)
        ctx.claims = passed.claims
        if passed.edits:
            ctx.to_origin.extend(passed.edits)
        if passed.key_parts:
            ctx.key_parts += passed.key_parts
        if not self._only_header:
            ctx.to_origin.extend(self._sources.edits(request, credential, self._forward))
        return None

    def _judge(self, credential: bytes, known: bytes | str, ctx: Context) -> _Passed | Reason:
        """Verify, or repeat a recent refusal. While explaining, nothing is remembered."""
        keys = self._keys.value
        refused = self._refused.get(known)
        if refused is not None and refused.keys is keys and ctx.now < refused.ends and ctx.notes is None:
            return refused.reason
        token = self._sources.from_header(credential) if self._only_header else credential
        parsed = parse_token(token) if isinstance(token, bytes) else token
        if isinstance(parsed, Reason):
            return parsed
        if keys is None:
            self._ask_for_keys(ctx)
            return Reason.NO_KEYS
        outcome = self._verify(parsed, keys, ctx)
        if ctx.notes is not None:
            return outcome
        if isinstance(outcome, _Passed):
            _remember(self._passed, known, outcome, self._cache_size)
        elif outcome in _COSTLY:
            again = _Refused(keys, ctx.now + _REFUSED_FOR, outcome)
            _remember(self._refused, known, again, _REFUSED_SIZE)
        return outcome

    def _verify(self, token: Token, keys: KeySet, ctx: Context) -> _Passed | Reason:
        if token.alg not in self._algorithms:
            return Reason.ALGORITHM
        key = keys.find(token.kid, token.alg)
        if key is None and keys.knows(token.kid):
            return Reason.ALGORITHM
        if key is None:
            self._ask_for_keys(ctx)
            return Reason.UNKNOWN_KEY
        if not key.verify(token.signed, token.signature):
            return Reason.SIGNATURE
        try:
            claims = parse_object(token.payload)
        except ValueError:
            return Reason.CLAIMS
        window = self._profile.check(token.typ, claims, ctx.wall)
        if isinstance(window, Reason):
            return window
        if not all(needed.holds(claims) for needed in self._requirements):
            return Reason.SCOPE
        try:
            edits, key_parts = self._tell_origin(token, claims)
        except ValueError:
            return Reason.CLAIMS
        if ctx.notes is not None:
            ctx.note(self.name, Verdict.ALLOW, f"{self._realm}: {token.alg} token of key {key.kid!r} is good")
        return _Passed(keys, window.begins, window.ends, MappingProxyType(claims), edits, key_parts)

    def _ask_for_keys(self, ctx: Context) -> None:
        if self._on_unknown_kid is not None and ctx.notes is None:
            self._on_unknown_kid()

    def _tell_origin(self, token: Token, claims: Claims) -> tuple[tuple[Edit, ...], tuple[bytes, ...]]:
        """Headers from claims, and what the origin learns as parts of the cache key."""
        edits: list[Edit] = []
        parts: list[bytes] = []
        if self._only_header and not self._forward:
            edits.append(Edit(Op.REMOVE, self._header))
        if self._keyed_by_token:
            digest = sha256(token.signed + b"." + token.signature)
            parts.append(b"token:" + digest.hexdigest().encode())
        for claim, name in self._headers:
            found = find_claim(claims, claim)
            if found is not None:
                value = render_claim(found)
                edits.append(Edit(Op.SET, name, value))
                parts.append(b"claim:%b=%b" % (claim.encode(), value))
        return tuple(edits), tuple(parts)

    def _refuse(self, request: Request, ctx: Context, reason: Reason) -> Response | None:
        """The answer of RFC 6750 §3; None where a token is optional and there is none."""
        passes = reason is Reason.MISSING and self._optional
        if ctx.notes is not None:
            verdict = Verdict.ALLOW if passes else Verdict.REFUSE
            ctx.note(self.name, verdict, f"{self._realm}: {_SENTENCES[reason]}")
        elif self._on_refusal is not None and not passes:
            self._on_refusal(reason)
        if passes:
            return None
        if reason is Reason.NO_KEYS:
            detail = "The keys that verify tokens are not known yet."
            return problem(request, ctx, 503, "no-keys", detail, [(b"Retry-After", b"5")])
        status, kind, detail = _ANSWERS.get(reason, _INVALID)
        return problem(request, ctx, status, kind, detail, [self._challenge(kind, reason)])

    def _challenge(self, kind: str, reason: Reason) -> tuple[bytes, bytes]:
        parts = [f'realm="{self._realm}"']
        if reason is not Reason.MISSING:
            parts.append(f'error="{kind.replace("-", "_")}"')
            parts.append(f'error_description="{_DESCRIPTIONS.get(reason, "the token is not valid")}"')
        if reason is Reason.SCOPE and self._scope:
            parts.append(f'scope="{self._scope}"')
        return b"WWW-Authenticate", ("Bearer " + ", ".join(parts)).encode()


def _remember(memo: dict[bytes | str, V], key: bytes | str, value: V, size: int) -> None:
    """Keep `value`; the oldest entry goes when there would be more than `size`."""
    memo.pop(key, None)
    if len(memo) >= size > 0:
        del memo[next(iter(memo))]
    if size > 0:
        memo[key] = value
