"""What a refused token is answered with (RFC 6750 §3), and what `explain` says about it.

Rule: until a signature was verified all refusals look alike, so that they teach nothing to who forges.
"""

from __future__ import annotations

from edgeproxy.context import Context, Pause
from edgeproxy.http.message import Request, Response
from edgeproxy.http.replies import problem
from edgeproxy.policies.jwt_token import Reason

_DESCRIPTIONS = {
    Reason.TYPE: "the token is of another type",
    Reason.ISSUER: "the token is from another issuer",
    Reason.AUDIENCE: "the token is for another audience",
    Reason.SUBJECT: "the token is of another subject",
    Reason.EXPIRED: "the token has expired",
    Reason.NOT_YET_VALID: "the token is not valid yet",
    Reason.REVOKED: "the token was revoked",
    Reason.CLAIMS: "a claim is missing or cannot be used",
    Reason.SCOPE: "the token does not grant this",
    Reason.AMBIGUOUS: "one token is expected",
}
SENTENCES = {
    **_DESCRIPTIONS,
    Reason.MISSING: "no token",
    Reason.INCOMPLETE: "not a token of each issuer",
    Reason.MALFORMED: "not a compact JWS that has one reading",
    Reason.TOO_LONG: "longer than 8 KiB",
    Reason.ALGORITHM: "an algorithm that the provider or the key does not allow",
    Reason.UNKNOWN_KEY: "no key of that kid",
    Reason.NO_KEYS: "the keys were never loaded",
    Reason.SIGNATURE: "the signature does not match",
    Reason.TOO_MANY: "too many forged tokens from that client within a second",
    Reason.AMBIGUOUS: "more than one token",
}
"""Of every reason, what `explain` says."""

FORGER = Pause(1.0)
_INVALID = (401, "invalid-token", "The access token is not valid here.")
_ANSWERS = {
    Reason.MISSING: (401, "token-missing", "An access token is needed."),
    Reason.INCOMPLETE: (401, "token-missing", "An access token of each issuer is needed."),
    Reason.AMBIGUOUS: (400, "invalid-request", "The request carries more than one access token."),
    Reason.SCOPE: (403, "insufficient-scope", "The access token does not grant this."),
}
# Not about the token: the client may come again, after so many seconds.
_LATER = {
    Reason.NO_KEYS: (503, "no-keys", "The keys that verify tokens are not known yet.", b"5"),
    Reason.TOO_MANY: (429, "too-many-tokens", "Too many tokens of this client were not valid.", b"1"),
}


def refusal(request: Request, ctx: Context, reason: Reason, realm: str, scope: str) -> Response:
    """The answer to a request whose token was refused. `scope` is what would have been needed."""
    later = _LATER.get(reason)
    if later is not None:
        status, kind, detail, seconds = later
        answer = problem(request, ctx, status, kind, detail, [(b"Retry-After", seconds)])
    else:
        status, kind, detail = _ANSWERS.get(reason, _INVALID)
        answer = problem(request, ctx, status, kind, detail, [_challenge(kind, reason, realm, scope)])
    if reason is Reason.TOO_MANY:
        ctx.pause = FORGER  # whoever forges at full speed gets his next refusal in the next second
    ctx.reason = reason.value  # for metrics and log, which tell no stranger
    return answer


def _challenge(kind: str, reason: Reason, realm: str, scope: str) -> tuple[bytes, bytes]:
    parts = [f'realm="{realm}"']
    if reason not in (Reason.MISSING, Reason.INCOMPLETE):
        parts.append(f'error="{kind.replace("-", "_")}"')
        parts.append(f'error_description="{_DESCRIPTIONS.get(reason, "the token is not valid")}"')
    if reason is Reason.SCOPE and scope:
        parts.append(f'scope="{scope}"')
    return b"WWW-Authenticate", ("Bearer " + ", ".join(parts)).encode()
