"""`jwt:` lets a request pass when it carries a good token of an issuer (RFC 7519, 6750, 8725).

Rule 1: it fails closed. No keys, no token, any doubt: no pass. Refusals look alike until a
signature was verified, so they teach nothing to who forges.
Rule 2: the token appears in no note, no log, no answer.
Rule 3: where several issuers are named, a request carries no token that nobody verified: `any_of`
takes one token, in whatever place; `all_of` takes one of each, each in a place of its own.

What the origin learns changes its answer, so claims that become headers join the cache key. A
token forwarded in Authorization is under RFC 9111 §3.5 instead; one forwarded by another way has no
such rule, so its digest joins the key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edgeproxy.context import Context, Verdict
from edgeproxy.http.message import Request, Response
from edgeproxy.policies.jwt_answers import SENTENCES, refusal
from edgeproxy.policies.jwt_evidence import NO_EVIDENCE
from edgeproxy.policies.jwt_provider import JwtProvider, configured_keys
from edgeproxy.policies.jwt_rule import JwtRule
from edgeproxy.policies.jwt_sources import token_edits
from edgeproxy.policies.jwt_token import Reason, peek_issuer
from edgeproxy.policies.jwt_verifier import NEVER, Issuer, Passed, Verifier

__all__ = ["Issuer", "JwtAuth", "JwtProvider", "JwtRule", "Reason", "configured_keys"]

Found = tuple[Verifier, bytes]
"""An issuer, and the token that was found where its tokens stand."""


class JwtAuth:
    """The policy of one route. `hidden_query` names what must never go on in a URL or into a key."""

    name = "jwt"
    reasons = tuple([reason.value for reason in Reason])
    fails_open = False
    repeatable = True

    def __init__(
        self,
        rule: JwtRule,
        issuers: Mapping[str, Issuer],
        on_refusal: Callable[[Reason], None] | None = None,
    ) -> None:
        """`issuers` has every name of the rule. The hook must be cheap and never raise."""
        names = rule.providers
        self._verifiers = [Verifier(issuers[name], rule.of(name), alone=len(names) == 1) for name in names]
        if rule.all_of is not None:
            _check_places(self._verifiers)
        self._first = first = self._verifiers[0]
        self._header = first.sources.header
        self._raw = first.raw
        self._judge = self._one if len(names) == 1 else self._any if rule.any_of else self._all
        self._on_refusal = on_refusal
        self._optional = rule.optional
        self._forward = rule.forward
        self._realm = " ".join(names)
        self._scope = first.scope
        self.asserted = tuple(name.lower().encode() for name in rule.claims_to_headers.values())
        hidden = [issuers[name].provider.query for name in names]
        self.hidden_query: tuple[bytes, ...] = tuple([name.encode() for name in hidden if name])

    def __call__(self, request: Request, ctx: Context, /) -> Response | None:
        if self._raw and ctx.notes is None:
            credential = request.headers.index.get(self._header)
            passed = None if credential is None else self._first.recall(credential, ctx)
            if passed is not None:
                self._apply(passed, self._first, ctx)
                return None
        if ctx.notes is not None:
            for verifier in self._verifiers:
                verifier.evidence = NO_EVIDENCE
        found = self._judge(request, ctx)
        if isinstance(found, Reason):
            return self._refuse(request, ctx, found)
        ctx.pause = None  # one issuer of several had no key, another did
        if not self._raw:
            ctx.to_origin.extend(token_edits(request, [(v.sources, t) for v, t in found], self._forward))
        return None

    def _one(self, request: Request, ctx: Context) -> list[Found] | Reason:
        credential = self._first.find(request)
        if isinstance(credential, Reason):
            return credential
        outcome = self._known_or_judged(self._first, credential, ctx)
        if isinstance(outcome, Reason):
            return outcome
        self._apply(outcome, self._first, ctx)
        return [(self._first, credential)]

    def _any(self, request: Request, ctx: Context) -> list[Found] | Reason:
        """One token, of whichever issuer."""
        found = _tokens(self._verifiers, request)
        if isinstance(found, Reason):
            return found
        token = found[0][1]
        if any(other != token for _, other in found):
            return Reason.AMBIGUOUS
        said = peek_issuer(token)
        # Who names nobody we know gets the refusal of the first, like any other forger.
        fitting = [verifier for verifier, _ in found if verifier.issuer == said] or [found[0][0]]
        reasons: list[Reason] = []
        for verifier in fitting:
            outcome = self._known_or_judged(verifier, token, ctx)
            if isinstance(outcome, Passed):
                self._apply(outcome, verifier, ctx)
                return found
            reasons.append(outcome)
        return Reason.SCOPE if Reason.SCOPE in reasons else reasons[0]

    def _all(self, request: Request, ctx: Context) -> list[Found] | Reason:
        """A token of each; the claims are those of the first."""
        found = _tokens(self._verifiers, request)
        if isinstance(found, Reason):
            return found
        passed: list[tuple[Passed, Verifier]] = []
        for verifier, token in found:
            outcome = self._known_or_judged(verifier, token, ctx)
            if isinstance(outcome, Reason):
                return outcome
            passed.append((outcome, verifier))
        if len(found) < len(self._verifiers):
            # Not MISSING: a part of what is needed is no anonymous request
            return Reason.INCOMPLETE
        for outcome, verifier in reversed(passed):
            self._apply(outcome, verifier, ctx)
        return found

    def _known_or_judged(self, verifier: Verifier, credential: bytes, ctx: Context) -> Passed | Reason:
        passed = verifier.recall(credential, ctx) if ctx.notes is None else None
        return passed or verifier.judge(credential, ctx)

    def _apply(self, passed: Passed, verifier: Verifier, ctx: Context) -> None:
        if ctx.recorder is not None:
            ctx.recorder.reads(verifier.keys, passed.keys)
            ctx.recorder.within(passed.begins, passed.ends)
            if verifier.revoked is not NEVER:
                ctx.recorder.reads(verifier.revoked, passed.revoked)
        ctx.claims = passed.claims
        if passed.edits:
            ctx.to_origin.extend(passed.edits)
        if passed.key_parts:
            ctx.key_parts += passed.key_parts

    def _refuse(self, request: Request, ctx: Context, reason: Reason) -> Response | None:
        """The answer of RFC 6750 §3; None where a token is optional and there is none."""
        passes = reason is Reason.MISSING and self._optional
        if ctx.notes is not None:
            verdict = Verdict.ALLOW if passes else Verdict.REFUSE
            rule, values = next(filter(any, [each.evidence for each in self._verifiers]), NO_EVIDENCE)
            ctx.note(self.name, verdict, f"{self._realm}: {SENTENCES[reason]}", rule, values)
        elif self._on_refusal is not None and not passes:
            self._on_refusal(reason)
        return None if passes else refusal(request, ctx, reason, self._realm, self._scope)


def _tokens(verifiers: list[Verifier], request: Request) -> list[Found] | Reason:
    """What stands in each issuer's places: MISSING when in none, any other reason as soon as one has it."""
    found: list[Found] = []
    for verifier in verifiers:
        token = verifier.find(request)
        if isinstance(token, bytes):
            found.append((verifier, token))
        elif token is not Reason.MISSING:
            return token
    return found or Reason.MISSING


def _check_places(verifiers: list[Verifier]) -> None:
    """ValueError when two tokens that are both needed would have to stand in one place."""
    taken: dict[str, str] = {}
    for verifier in verifiers:
        for place in verifier.sources.places:
            if place in taken:
                both = f"{taken[place]} and {verifier.name}"
                raise ValueError(f"all_of: {both} both read {place}, where only one token can stand")
            taken[place] = verifier.name
