"""One issuer's tokens on one route: verified once, and remembered under the bytes they came in.

Rule 1: a pass is good for the very keys that verified it and the list of revoked tokens that does not
name it, and never past `exp`: all are compared on each hit. A refusal that cost a signature is given again
for a while, to whoever repeats the token.
Rule 2: a client whose tokens were forged too often within a second has no more of them looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from edgeproxy.context import Context, Edit, Op, Pause, Verdict, Wake
from edgeproxy.http.message import Request
from edgeproxy.policies.claims import Claims, find_claim
from edgeproxy.policies.failure_budget import FailureBudget
from edgeproxy.policies.jwt_claims import Profile, Requirement, render_claim
from edgeproxy.policies.jwt_evidence import NO_EVIDENCE, evidence
from edgeproxy.policies.jwt_provider import JwtProvider
from edgeproxy.policies.jwt_revoked import NOTHING_REVOKED, Revocations
from edgeproxy.policies.jwt_rule import JwtRule
from edgeproxy.policies.jwt_sources import Sources
from edgeproxy.policies.jwt_token import Reason, Token, parse_object, parse_token
from edgeproxy.record import record
from edgeproxy.snapshot import Snapshot

if TYPE_CHECKING:
    from edgeproxy.policies.jwt_keys import KeySet

_LONG = 1024  # a longer token is remembered by its digest: a str, which no received bytes can equal
_REFUSED_SIZE = 1024
_REFUSED_FOR = 10.0  # seconds
_KEYS_WITHIN = 5.0  # seconds that a request waits for keys that are being fetched
# Refusals worth remembering: they cost a signature, and only other keys would change them.
_COSTLY = frozenset(
    {
        Reason.SIGNATURE,
        Reason.TYPE,
        Reason.ISSUER,
        Reason.AUDIENCE,
        Reason.SUBJECT,
        Reason.EXPIRED,
        Reason.REVOKED,
        Reason.CLAIMS,
        Reason.SCOPE,
    }
)
# Refusals of what nobody signed, as far as we can tell.
_UNPROVEN = frozenset({Reason.MALFORMED, Reason.ALGORITHM, Reason.UNKNOWN_KEY, Reason.SIGNATURE})
V = TypeVar("V")

NEVER = Snapshot(NOTHING_REVOKED)
"""Of issuers without a list of revoked tokens."""


class Issuer:
    """One provider at work in one process; its budget is shared by all routes.

    `keys.value` is None until the first were fetched, `revoked` is NEVER where there is no list.
    `on_unknown_kid` asks for a fetch, and says how to hear of its end if that is near; it must be cheap and
    never raise.
    """

    __slots__ = ("budget", "keys", "name", "on_unknown_kid", "provider", "revoked")

    def __init__(
        self,
        name: str,
        provider: JwtProvider,
        keys: Snapshot[KeySet | None],
        on_unknown_kid: Callable[[], Wake | None] | None = None,
        revoked: Snapshot[Revocations] | None = None,
    ) -> None:
        self.name = name
        self.revoked = NEVER if revoked is None else revoked
        self.provider = provider
        self.keys = keys
        self.on_unknown_kid = on_unknown_kid
        self.budget = FailureBudget(provider.max_failures) if provider.max_failures else None


@record
class Passed:
    """A verified token, and everything a pass does."""

    keys: KeySet
    revoked: Revocations
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


class Verifier:
    """What a route asks of one issuer's tokens. `rule` is its part of the route's rule.

    `alone` says that the route takes no other issuer's tokens. Where it also reads one field only
    (`raw`), what is remembered is the whole field, so that a hit takes nothing apart.
    """

    def __init__(self, issuer: Issuer, rule: JwtRule, *, alone: bool) -> None:
        provider = issuer.provider
        self.name = issuer.name
        self.evidence = NO_EVIDENCE  # of the last refusal that was explained
        self._provider, self._rule = provider, rule
        self.keys = issuer.keys
        self.revoked = issuer.revoked
        self.issuer = provider.issuer
        self.sources = Sources(provider)
        self.raw = alone and self.sources.only_header
        self.scope = " ".join(dict.fromkeys(filter(None, [each.scope for each in _all(rule)])))
        self._on_unknown_kid = issuer.on_unknown_kid
        self._budget = issuer.budget
        self._algorithms = frozenset(provider.algorithms)
        self._profile = Profile(provider)
        self._alternatives = _alternatives(rule)
        self._headers = [(claim, name.encode()) for claim, name in rule.claims_to_headers.items()]
        in_authorization = self.sources.only_header and self.sources.header == b"authorization"
        self._keyed_by_token = rule.forward and not in_authorization
        self._removes_header = self.raw and not rule.forward
        self.passed: dict[bytes | str, Passed] = {}
        self.refused: dict[bytes | str, _Refused] = {}
        self._cache_size = provider.cache_size

    def find(self, request: Request) -> bytes | Reason:
        """The credential of a request, as `judge` wants it."""
        if self.raw:
            return request.headers.index.get(self.sources.header) or Reason.MISSING
        return self.sources.find(request)

    def recall(self, credential: bytes, ctx: Context) -> Passed | None:
        """What is remembered of a token, if it is still good."""
        passed = self.passed.get(credential if len(credential) <= _LONG else _digest(credential))
        if (
            passed is not None
            and passed.keys is self.keys.value
            and passed.revoked is self.revoked.value
            and passed.begins <= ctx.wall < passed.ends
        ):
            return passed
        return None

    def judge(self, credential: bytes, ctx: Context) -> Passed | Reason:
        """Verify, or repeat a recent refusal. While explaining, nothing is remembered or spent."""
        explaining, keys = ctx.notes is not None, self.keys.value
        known = credential if len(credential) <= _LONG else _digest(credential)
        if not explaining:
            refused = self.refused.get(known)
            if refused is not None and refused.keys is keys and ctx.now < refused.ends:
                return refused.reason
            passed = self.passed.get(known)
            if passed is not None and passed.keys is keys and passed.begins <= ctx.wall < passed.ends:
                return self._look_up(known, passed)
            if self._budget is not None and self._budget.is_spent(ctx.client, ctx.now):
                return Reason.TOO_MANY
        outcome = self._look_at(credential, keys, ctx)
        if explaining:
            return outcome
        if isinstance(outcome, Passed):
            _remember(self.passed, known, outcome, self._cache_size)
            return outcome
        if outcome in _COSTLY and keys is not None:
            _remember(self.refused, known, _Refused(keys, ctx.now + _REFUSED_FOR, outcome), _REFUSED_SIZE)
        if outcome in _UNPROVEN and self._budget is not None and ctx.pause is None:
            self._budget.charge(ctx.client, ctx.now)
        return outcome

    def _look_up(self, known: bytes | str, passed: Passed) -> Passed | Reason:
        """Only the list of revoked tokens changed since it was verified."""
        revoked = self.revoked.value
        if revoked.name(passed.claims):
            del self.passed[known]
            return Reason.REVOKED
        renewed = Passed(
            passed.keys, revoked, passed.begins, passed.ends, passed.claims, passed.edits, passed.key_parts
        )
        self.passed[known] = renewed
        return renewed

    def _look_at(self, credential: bytes, keys: KeySet | None, ctx: Context) -> Passed | Reason:
        token = self.sources.from_header(credential) if self.raw else credential
        parsed = parse_token(token) if isinstance(token, bytes) else token
        if isinstance(parsed, Reason):
            return parsed
        if keys is None:
            self._ask_for_keys(ctx)
            return Reason.NO_KEYS
        return self._verify(parsed, keys, ctx)

    def _verify(self, token: Token, keys: KeySet, ctx: Context) -> Passed | Reason:
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
        outcome = self._look_at_claims(token, claims, keys, ctx)
        if ctx.notes is None:
            return outcome
        if isinstance(outcome, Reason):
            self.evidence = evidence(outcome, self._provider, self._rule, token, claims, ctx.wall)
        else:
            values = (("sub", str(claims.get("sub"))[:200]), ("good for", f"{outcome.ends - ctx.wall:.0f} s"))
            said = f"{self.name}: {token.alg} token of key {key.kid!r} is good"
            ctx.note("jwt", Verdict.ALLOW, said, "", values)
        return outcome

    def _look_at_claims(self, token: Token, claims: Claims, keys: KeySet, ctx: Context) -> Passed | Reason:
        window = self._profile.check(token.typ, claims, ctx.wall)
        if isinstance(window, Reason):
            return window
        revoked = self.revoked.value
        if revoked.name(claims):
            return Reason.REVOKED
        if not any(all(each.holds(claims) for each in group) for group in self._alternatives):
            return Reason.SCOPE
        try:
            edits, key_parts = self._tell_origin(token, claims)
        except ValueError:
            return Reason.CLAIMS
        return Passed(keys, revoked, window.begins, window.ends, MappingProxyType(claims), edits, key_parts)

    def _ask_for_keys(self, ctx: Context) -> None:
        if self._on_unknown_kid is None or ctx.notes is not None:
            return
        wake = self._on_unknown_kid()
        if wake is not None and ctx.pause is None:
            ctx.pause = Pause(_KEYS_WITHIN, wake)

    def _tell_origin(self, token: Token, claims: Claims) -> tuple[tuple[Edit, ...], tuple[bytes, ...]]:
        """Headers from claims, and what the origin learns as parts of the cache key."""
        edits: list[Edit] = []
        parts: list[bytes] = []
        if self._removes_header:
            edits.append(Edit(Op.REMOVE, self.sources.header))
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


def _alternatives(rule: JwtRule) -> list[list[Requirement]]:
    """Groups of requirements: all of one group must hold. No requirement at all is one empty group."""
    groups = rule.require if isinstance(rule.require, tuple) else (rule.require,)
    return [[Requirement(path, wanted) for path, wanted in group.items()] for group in groups]


def _all(rule: JwtRule) -> list[Requirement]:
    return [each for group in _alternatives(rule) for each in group]


def _digest(credential: bytes) -> str:
    return sha256(credential).hexdigest()


def _remember(memo: dict[bytes | str, V], key: bytes | str, value: V, size: int) -> None:
    """Keep `value`; the oldest entry goes when there would be more than `size`."""
    memo.pop(key, None)
    if len(memo) >= size > 0:
        del memo[next(iter(memo))]
    if size > 0:
        memo[key] = value
