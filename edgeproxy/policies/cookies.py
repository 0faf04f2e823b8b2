"""`cookies`: which cookies go on to the origin, and what cookies that it sets must look like.

What is taken from a request is gone for the origin only; conditions and cache keys still see it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from edgeproxy.context import Context, Edit, Op, Verdict
from edgeproxy.http.message import Request, Response
from edgeproxy.policies.field_names import TOKEN
from edgeproxy.policies.patterns import Matcher, text_pattern
from edgeproxy.units import Model


def _name(text: str) -> str:
    if not TOKEN.fullmatch(text):
        raise ValueError(f"{text!r} is no name of a cookie; write it like session or _ga*")
    return text


Names = Annotated[tuple[Annotated[str, AfterValidator(_name)], ...], Field(max_length=256)]


class CookieRule(Model):
    """Cookies of requests and answers. A `*` in a name is any text."""

    keep: Names | None = None
    """Only these go on to the origin. Default: all."""
    remove: Names = ()
    """These do not."""
    keep_out: Names = ()
    """Cookies that the origin may not set."""
    secure: bool = False
    """Cookies that the origin sets are `Secure`, where the request came over TLS."""
    http_only: Names = ()
    """Cookies that scripts may not read: they get `HttpOnly`."""
    same_site: Literal["strict", "lax", "none"] | None = None
    """`SameSite` of cookies whose origin does not say it."""

    @model_validator(mode="after")
    def _does_something(self) -> CookieRule:
        if not self.model_fields_set:
            raise ValueError(
                "found nothing to do, expected keep, remove, keep_out, secure, http_only or same_site"
            )
        return self


class Cookies:
    """The policy: never answers, only edits."""

    name = "cookies"
    fails_open = False
    repeatable = True

    def __init__(self, rule: CookieRule) -> None:
        self._keep = None if rule.keep is None else _tests(rule.keep)
        self._remove = _tests(rule.remove)
        self._filters = rule.keep is not None or bool(rule.remove)
        self._keep_out = _tests(rule.keep_out)
        self._http_only = _tests(rule.http_only)
        self._same_site = b"" if rule.same_site is None else rule.same_site.title().encode()
        changes = rule.keep_out or rule.http_only or rule.same_site
        self._plain = (Edit(Op.CHANGE, b"Set-Cookie", change=self._changed),) if changes else ()
        secured = Edit(Op.CHANGE, b"Set-Cookie", change=self._secured)
        self._over_tls = (*self._plain, secured) if rule.secure else self._plain

    def __call__(self, request: Request, ctx: Context, /) -> Response | None:
        """Always None."""
        ctx.to_client += self._over_tls if request.secure else self._plain
        header = request.headers.get(b"cookie") if self._filters else None
        if header is not None:
            self._filter(header, ctx)
        elif ctx.notes is not None:
            ctx.note(self.name, Verdict.ALLOW, "no cookie to take away", "cookies")
        return None

    def _filter(self, header: bytes, ctx: Context) -> None:
        pairs = [pair for part in header.split(b";") if (pair := part.strip())]
        kept = [pair for pair in pairs if self._goes_on(pair.partition(b"=")[0].strip().decode("latin-1"))]
        if len(kept) != len(pairs):
            value = b"; ".join(kept)
            ctx.to_origin.append(Edit(Op.SET, b"Cookie", value) if value else Edit(Op.REMOVE, b"Cookie"))
        if ctx.notes is not None:
            gone = len(pairs) - len(kept)
            ctx.note(self.name, Verdict.ALLOW, f"{gone} of {len(pairs)} cookies do not go on", "cookies")

    def _goes_on(self, name: str) -> bool:
        if self._keep is not None and not any(test(name) for test in self._keep):
            return False
        return not any(test(name) for test in self._remove)

    def _changed(self, value: bytes) -> bytes | None:
        """A Set-Cookie value as clients get it; None when they do not."""
        name = value.partition(b"=")[0].strip().decode("latin-1")
        if any(test(name) for test in self._keep_out):
            return None
        said = _attributes(value)
        if b"httponly" not in said and any(test(name) for test in self._http_only):
            value += b"; HttpOnly"
        if self._same_site and b"samesite" not in said:
            value += b"; SameSite=" + self._same_site
        return value

    def _secured(self, value: bytes) -> bytes:
        return value if b"secure" in _attributes(value) else value + b"; Secure"


def _attributes(value: bytes) -> frozenset[bytes]:
    return frozenset([part.partition(b"=")[0].strip().lower() for part in value.split(b";")[1:]])


def _tests(names: tuple[str, ...]) -> list[Matcher]:
    return [text_pattern(name) for name in names]
