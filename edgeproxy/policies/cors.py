"""`cors`: which sites' scripts may read answers (Fetch standard, CORS protocol). Preflights are answered
here; the origin never sees them, and what it says about CORS itself is replaced.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from edgeproxy.context import Context, Edit, Op, Verdict
from edgeproxy.http.message import Field as FieldLine
from edgeproxy.http.message import Request, Response
from edgeproxy.http.replies import problem
from edgeproxy.http.wire import response
from edgeproxy.policies.field_names import TOKEN
from edgeproxy.units import Duration, Model

_ORIGIN = re.compile(r"https?://(?:\*\.)?(?:[a-z0-9_-]+\.)*[a-z0-9_-]+(?::\d{1,5})?|\*")
_LABELS = re.compile(rb"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
_PREFLIGHT_VARY = b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers"


def _origin(text: str) -> str:
    if not _ORIGIN.fullmatch(text):
        raise ValueError(f"{text!r} is no origin; write https://shop.example.com, https://*.example.com or *")
    return text


def _token(text: str) -> str:
    if not TOKEN.fullmatch(text):
        raise ValueError(f"{text!r} is not a method or field name")
    return text


Token = Annotated[str, AfterValidator(_token)]


class CorsRule(Model):
    """What scripts of other sites may do here."""

    origins: tuple[Annotated[str, AfterValidator(_origin)], ...] = Field(min_length=1, max_length=1000)
    """Sites: `https://shop.example.com`, `https://*.example.com` (any depth below it), `*` for all."""
    methods: tuple[Token, ...] = ("GET", "HEAD", "POST")
    """Methods their scripts may use."""
    headers: tuple[Token, ...] = ()
    """Request fields their scripts may set, beside the harmless ones; `*` for any."""
    expose: tuple[Token, ...] = ()
    """Response fields their scripts may read, beside the harmless ones."""
    credentials: bool = False
    """May their requests carry cookies and tokens."""
    max_age: Duration = 300.0
    """How long a browser may remember the answer to a preflight."""

    @model_validator(mode="after")
    def _is_safe(self) -> CorsRule:
        if self.credentials and "*" in self.origins:
            raise ValueError(
                "found credentials with the origin *, expected the sites by name: any could read"
            )
        return self


class Cors:
    """The policy."""

    name = "cors"
    reasons = ("preflight", "cors-refused")
    fails_open = False
    repeatable = True

    def __init__(self, rule: CorsRule) -> None:
        self._rule = rule
        self._all = "*" in rule.origins
        self._exact = frozenset([each.encode() for each in rule.origins])
        wild = [each.partition("*") for each in rule.origins if "://*." in each]
        self._wild = tuple([(before.encode(), after.encode()) for before, _, after in wild])
        self._methods = frozenset([each.encode() for each in rule.methods])
        self._headers = frozenset([each.lower().encode() for each in rule.headers])
        self._granted = {b"*": self._edits(b"*")}
        names = (
            b"Access-Control-Allow-Origin",
            b"Access-Control-Allow-Credentials",
            b"Access-Control-Expose-Headers",
        )
        self._vary = () if self._all else (Edit(Op.ADD, b"Vary", b"Origin"),)
        self._denied = (*[Edit(Op.REMOVE, name) for name in names], *self._vary)

    def __call__(self, request: Request, ctx: Context, /) -> Response | None:
        """The answer to a preflight; else None, and the client's browser is told who may read."""
        index = request.headers.index
        origin = index.get(b"origin")
        allowed = origin is not None and self._allows(origin)
        if request.method == b"OPTIONS" and origin is not None and b"access-control-request-method" in index:
            return self._preflight(request, ctx, origin, allowed=allowed)
        ctx.to_client += self._granting(b"*" if self._all else origin or b"") if allowed else self._denied
        if ctx.notes is not None:
            why = "no request of another site" if origin is None else "may" if allowed else "may not"
            self._tell(
                ctx, Verdict.ALLOW, why if origin is None else f"scripts of that site {why} read", origin
            )
        return None

    def _allows(self, origin: bytes) -> bool:
        if self._all or origin in self._exact:
            return True
        for before, after in self._wild:
            inside = origin[len(before) : -len(after)]
            if origin.startswith(before) and origin.endswith(after) and _LABELS.fullmatch(inside):
                return True
        return False

    def _edits(self, origin: bytes) -> tuple[Edit, ...]:
        rule = self._rule
        edits = [Edit(Op.SET, b"Access-Control-Allow-Origin", origin)]
        credentials = Op.SET if rule.credentials else Op.REMOVE
        edits.append(
            Edit(credentials, b"Access-Control-Allow-Credentials", b"true" if rule.credentials else b"")
        )
        expose = ", ".join(rule.expose).encode()
        edits.append(Edit(Op.SET if expose else Op.REMOVE, b"Access-Control-Expose-Headers", expose))
        return tuple(edits)

    def _granting(self, origin: bytes) -> tuple[Edit, ...]:
        known = self._granted.get(origin)
        if known is None:
            known = (*self._edits(origin), *self._vary)
            if len(self._granted) < 1000:  # sites below a `*.` are the client's to choose
                self._granted[origin] = known
        return known

    def _preflight(self, request: Request, ctx: Context, origin: bytes, *, allowed: bool) -> Response:
        index = request.headers.index
        method = index[b"access-control-request-method"].strip()
        wanted = [
            name.strip().lower() for name in index.get(b"access-control-request-headers", b"").split(b",")
        ]
        refused = "" if allowed else "that site may not"
        if allowed and method not in self._methods:
            refused = "not with that method"
        if (
            allowed
            and b"*" not in self._headers
            and not self._headers.issuperset([name for name in wanted if name])
        ):
            refused = "not with those fields"
        self._tell(
            ctx, Verdict.REFUSE if refused else Verdict.ANSWER, f"a preflight: {refused or 'granted'}", origin
        )
        vary: FieldLine = (b"Vary", _PREFLIGHT_VARY)
        if refused:
            return problem(request, ctx, 403, "cors-refused", f"CORS: {refused}.", (vary,))
        ctx.reason = "preflight"
        fields: list[FieldLine] = [
            (b"Access-Control-Allow-Origin", b"*" if self._all else origin),
            (b"Access-Control-Allow-Methods", ", ".join(self._rule.methods).encode()),
            (b"Access-Control-Max-Age", b"%d" % int(self._rule.max_age)),
            vary,
        ]
        granted = b", ".join(name for name in wanted if TOKEN.fullmatch(name.decode("latin-1")))
        if granted:
            fields.append((b"Access-Control-Allow-Headers", granted))
        if self._rule.credentials:
            fields.append((b"Access-Control-Allow-Credentials", b"true"))
        return response(204, fields)

    def _tell(self, ctx: Context, verdict: Verdict, why: str, origin: bytes | None) -> None:
        values = (("header:Origin", "-" if origin is None else origin.decode("latin-1")),)
        ctx.note(self.name, verdict, why, "cors", values)
