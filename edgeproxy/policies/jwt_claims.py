"""What the claims of a verified token must say (RFC 7519 §4.1), and how one becomes a header."""

from __future__ import annotations

import re
from math import inf
from typing import Annotated, cast

from pydantic import Field, PlainValidator, model_validator

from edgeproxy.policies.claims import Claims, find_claim
from edgeproxy.policies.field_names import is_plain
from edgeproxy.policies.jwt_provider import JwtProvider
from edgeproxy.policies.jwt_token import Reason
from edgeproxy.record import record
from edgeproxy.units import Model

Scalar = bool | int | float | str


def _scalar(value: object) -> Scalar:
    if isinstance(value, Scalar):
        return value
    raise ValueError("expected text, a number, true or false")


ScalarField = Annotated[Scalar, PlainValidator(_scalar, json_schema_input_type=Scalar)]
Values = Annotated[tuple[ScalarField, ...], Field(min_length=1, max_length=256)]
_SCOPE_WORD = re.compile(r"[!#-\[\]-~]+")  # RFC 6749 §3.3
_LAST_DATE = 253_402_300_799  # the end of the year 9999; beyond are milliseconds, and tricks
_USUAL_TYPES = frozenset({"", "jwt", "at+jwt"})  # a logout token or a DPoP proof is no access token


@record
class Window:
    """When a token is valid: from `begins` until before `ends`, wall clock, leeway included."""

    begins: float
    ends: float


class Profile:
    """What one provider's tokens must say."""

    __slots__ = (
        "_audiences",
        "_leeway",
        "_max_lifetime",
        "_prefixes",
        "_require_exp",
        "_subjects",
        "_types",
        "issuer",
    )

    def __init__(self, provider: JwtProvider) -> None:
        self.issuer = provider.issuer
        exact = [name for name in provider.subjects or () if not name.endswith("*")]
        self._subjects = None if provider.subjects is None else frozenset(exact)
        self._prefixes = tuple(name[:-1] for name in provider.subjects or () if name.endswith("*"))
        self._audiences = provider.audiences
        self._types = _USUAL_TYPES if provider.typ is None else frozenset({_media_type(provider.typ)})
        self._leeway = provider.leeway
        self._require_exp = provider.require_exp
        self._max_lifetime = provider.max_lifetime

    def check(self, typ: str | None, claims: Claims, wall: float) -> Window | Reason:
        """The window of a token that is good at `wall` (epoch seconds), or why it is not."""
        if _media_type(typ or "") not in self._types:
            return Reason.TYPE
        if claims.get("iss") != self.issuer:
            return Reason.ISSUER
        if not self._is_audience(claims):
            return Reason.AUDIENCE
        if self._subjects is not None and not self._is_subject(claims.get("sub")):
            return Reason.SUBJECT
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

    def _is_subject(self, subject: object) -> bool:
        if not isinstance(subject, str) or self._subjects is None:
            return False
        return subject in self._subjects or subject.startswith(self._prefixes)

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


class Wanted(Model):
    """Which values of a claim are wanted. A list counts by its elements, `scope` by its words."""

    any: Values | None = None
    """One of these, at least."""

    all: Values | None = None
    """Each of these."""

    none: Values | None = None
    """None of these; a token without the claim has none."""

    @model_validator(mode="after")
    def _says_something(self) -> Wanted:
        if self.any is None and self.all is None and self.none is None:
            raise ValueError("expected any, all or none, like {any: [admin, owner]}")
        return self


class Requirement:
    """One `require:` line. Every word of a plain `scope` is needed; of any other plain claim one value.

    `scope` are the words that a challenge names (RFC 6750 §3).
    """

    __slots__ = ("_all", "_any", "_is_scope", "_none", "_path", "scope")

    def __init__(self, path: str, wanted: Scalar | tuple[Scalar, ...] | Wanted) -> None:
        """ValueError when a scope is no words (RFC 6749 §3.3)."""
        self._path = path
        self._is_scope = path == "scope"
        if not isinstance(wanted, Wanted):
            plain = wanted if isinstance(wanted, tuple) else (wanted,)
            wanted = Wanted(all=plain) if self._is_scope else Wanted(any=plain)
        self._any, self._all, self._none = map(self._values, (wanted.any, wanted.all, wanted.none))
        self.scope = " ".join(_words(wanted.all)) if self._is_scope else ""

    def holds(self, claims: Claims) -> bool:
        """Whether the claims meet it."""
        found: set[object] = set()
        if self._is_scope:
            found.update(map(_typed, _scopes(claims)))
        else:
            value = find_claim(claims, self._path)
            several = cast("list[object]", value) if isinstance(value, list) else [value]
            found.update(_typed(each) for each in several if isinstance(each, Scalar))
        if self._any and self._any.isdisjoint(found):
            return False
        return self._all <= found and self._none.isdisjoint(found)

    def _values(self, values: tuple[Scalar, ...] | None) -> frozenset[object]:
        if not self._is_scope:
            return frozenset(map(_typed, values or ()))
        words = _words(values)
        if values is not None and not (words and all(map(_SCOPE_WORD.fullmatch, words))):
            raise ValueError("scope is words, like `read write` (RFC 6749 §3.3)")
        return frozenset(map(_typed, words))


def _words(values: tuple[Scalar, ...] | None) -> list[str]:
    return [word for value in values or () for word in str(value).split(" ")]


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
    if not isinstance(value, str) or not is_plain(value):
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
