"""What the claims of a verified token must say (RFC 7519 §4.1), and how one becomes a header."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import inf
from typing import cast

from edgeproxy.policies.jwt_provider import JwtProvider
from edgeproxy.policies.jwt_token import Reason
from edgeproxy.record import record

Claims = Mapping[str, object]
Scalar = bool | int | float | str
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_LAST_DATE = 253_402_300_799  # the end of the year 9999; beyond are milliseconds, and tricks
_USUAL_TYPES = frozenset({"", "jwt", "at+jwt"})  # a logout token or a DPoP proof is no access token


@record
class Window:
    """When a token is valid: from `begins` until before `ends`, wall clock, leeway included."""

    begins: float
    ends: float


class Profile:
    """What one provider's tokens must say."""

    __slots__ = ("_audiences", "_issuer", "_leeway", "_max_lifetime", "_require_exp", "_types")

    def __init__(self, provider: JwtProvider) -> None:
        self._issuer = provider.issuer
        self._audiences = provider.audiences
        self._types = _USUAL_TYPES if provider.typ is None else frozenset({_media_type(provider.typ)})
        self._leeway = provider.leeway
        self._require_exp = provider.require_exp
        self._max_lifetime = provider.max_lifetime

    def check(self, typ: str | None, claims: Claims, wall: float) -> Window | Reason:
        """The window of a token that is good at `wall` (epoch seconds), or why it is not."""
        if _media_type(typ or "") not in self._types:
            return Reason.TYPE
        if claims.get("iss") != self._issuer:
            return Reason.ISSUER
        if not self._is_audience(claims):
            return Reason.AUDIENCE
        window = self._window(claims)
        if isinstance(window, Reason):
            return window
        if wall >= window.ends:
            return Reason.EXPIRED
        return Reason.NOT_YET_VALID if wall < window.begins else window

    def _is_audience(self, claims: Claims) -> bool:
        """RFC 7519 §4.1.3: a token that names audiences is for nobody else."""
        if not self._audiences:
            return "aud" not in claims
        audience = claims.get("aud")
        if isinstance(audience, str):
            return audience in self._audiences
        if not isinstance(audience, list):
            return False
        named = cast("list[object]", audience)
        return all(isinstance(name, str) for name in named) and not self._audiences.isdisjoint(named)

    def _window(self, claims: Claims) -> Window | Reason:
        try:
            expires, not_before, issued = (_date(claims, name) for name in ("exp", "nbf", "iat"))
        except ValueError:
            return Reason.CLAIMS
        if expires is None and self._require_exp:
            return Reason.CLAIMS
        ends = inf if expires is None else expires
        if self._max_lifetime is not None:
            if issued is None or (expires is not None and expires - issued > self._max_lifetime):
                return Reason.CLAIMS
            ends = min(ends, issued + self._max_lifetime)
        begins = max(-inf if not_before is None else not_before, -inf if issued is None else issued)
        return Window(begins - self._leeway, ends + self._leeway)


class Requirement:
    """One `require:` line: some value of a claim. Every word of `scope` is needed, one value else."""

    __slots__ = ("_path", "_values", "scope")

    def __init__(self, path: str, values: Scalar | tuple[Scalar, ...]) -> None:
        self._path = path
        several = values if isinstance(values, tuple) else (values,)
        words = [word for value in several for word in str(value).split()]
        self.scope = " ".join(words) if path == "scope" else ""
        self._values = frozenset(words) if path == "scope" else frozenset(map(_typed, several))

    def holds(self, claims: Claims) -> bool:
        """Whether the claims meet it. A list in the token counts by its elements."""
        if self.scope:
            return self._values <= _scopes(claims)
        found = find_claim(claims, self._path)
        several = cast("list[object]", found) if isinstance(found, list) else [found]
        return any(_typed(value) in self._values for value in several if isinstance(value, Scalar))


def find_claim(claims: Claims, path: str) -> object | None:
    """The claim of that very name (`https://example.com/roles`), else the one the dots lead to."""
    if path in claims:
        return claims[path]
    inner, _, name = path.rpartition(".")
    outer = find_claim(claims, inner) if inner else None
    return cast("Claims", outer).get(name) if isinstance(outer, Mapping) else None


def render_claim(value: object) -> bytes:
    """The field value of a claim: text, number, boolean, or a list of texts joined by commas.

    ValueError for anything else, and for what would not arrive as it was sent: control
    characters, outer blanks, a comma inside an element.
    """
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, int):
        return b"%d" % value
    if isinstance(value, list):
        parts = cast("list[object]", value)
        if any(isinstance(part, str) and "," in part for part in parts):
            raise ValueError("a comma in an element")
        return b",".join([_render_text(part) for part in parts])
    return _render_text(value)


def _render_text(value: object) -> bytes:
    if not isinstance(value, str) or _CONTROL.search(value) or value != value.strip():
        raise ValueError("a claim that is no plain text")
    return value.encode()


def _media_type(typ: str) -> str:
    """RFC 7515 §4.1.9: case does not count, `application/` may be left out."""
    return typ.lower().removeprefix("application/")


def _date(claims: Claims, name: str) -> float | None:
    """A NumericDate (RFC 7519 §2)."""
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, int | float) and not isinstance(value, bool) and value <= _LAST_DATE:
        return value
    raise ValueError(f"{name} is no date")


def _typed(value: Scalar) -> tuple[bool, Scalar]:
    """Python takes True for 1; a claim does not."""
    return isinstance(value, bool), value


def _scopes(claims: Claims) -> set[str]:
    """The words of `scope` (RFC 8693 §4.2), or of `scp`, which some issuers write instead."""
    value = claims.get("scope", claims.get("scp"))
    if isinstance(value, str):
        return set(value.split(" "))
    words = cast("list[object]", value) if isinstance(value, list) else []
    return {word for word in words if isinstance(word, str)}
