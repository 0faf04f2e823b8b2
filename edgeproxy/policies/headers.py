"""`headers`: fields set, added and removed by rule, towards the origin and towards the client.

Edits are built once; a request only extends two lists. Framing and connection fields are refused
when the configuration is loaded: the edge writes them itself.
"""

from __future__ import annotations

from hashlib import blake2b

from pydantic import Field, model_validator

from edgeproxy.context import Context, Edit, Op, Verdict
from edgeproxy.http.message import Request, Response
from edgeproxy.policies.field_names import check_field, editable
from edgeproxy.units import Model

_HSTS = Edit(Op.SET, b"Strict-Transport-Security", b"max-age=31536000")
_PRESET = (
    Edit(Op.SET, b"X-Content-Type-Options", b"nosniff"),
    Edit(Op.SET, b"X-Frame-Options", b"DENY"),
    Edit(Op.SET, b"Referrer-Policy", b"strict-origin-when-cross-origin"),
    Edit(Op.SET, b"Permissions-Policy", b"camera=(), geolocation=(), microphone=()"),
    # Added, not set: browsers enforce all policies they get, so the origin's own is never weakened.
    Edit(Op.ADD, b"Content-Security-Policy", b"frame-ancestors 'none'"),
)


def _refuse_repeats(what: str, names: tuple[str, ...]) -> None:
    seen: set[str] = set()
    for name in names:
        if name.lower() in seen:
            raise ValueError(f"{name} is named twice in {what} (field names have no case)")
        seen.add(name.lower())


class FieldRules(Model):
    """Edits of the fields of a message: first `remove`, then `set`, then `add`."""

    set: dict[str, str] = Field(default_factory=dict)
    """Field -> value; replaces what is there."""
    add: dict[str, str] = Field(default_factory=dict)
    """Field -> value; another line beside what is there."""
    remove: tuple[str, ...] = ()
    """Fields to drop."""

    @model_validator(mode="after")
    def _can_be_written(self) -> FieldRules:
        for name, value in (*self.set.items(), *self.add.items()):
            check_field(name, value)
        for name in self.remove:
            editable(name)
        _refuse_repeats("set", (*self.set, *self.remove))
        _refuse_repeats("add", tuple(self.add))
        return self

    def edits(self) -> list[Edit]:
        """The rules as edits, in the order in which they work."""
        return [
            *[Edit(Op.REMOVE, name.encode()) for name in self.remove],
            *[Edit(Op.SET, name.encode(), value.encode()) for name, value in self.set.items()],
            *[Edit(Op.ADD, name.encode(), value.encode()) for name, value in self.add.items()],
        ]


class HeadersRule(Model):
    """What `headers:` in a route's policies may say."""

    to_origin: FieldRules = FieldRules()
    """Edits of requests towards the origin. Clients cannot send a field that is `set` here."""
    to_client: FieldRules = FieldRules()
    """Edits of responses, after the cache: never stored."""
    request_id: bool | str = False
    """Tell origin and client the request's id, in `X-Request-Id` or the field named here."""
    security: bool = False
    """The usual security fields on responses: nosniff, no framing, Referrer-Policy, Permissions-Policy, and
    Strict-Transport-Security over TLS. A field that `to_client` sets or removes is left to it."""

    @model_validator(mode="after")
    def _request_id_is_a_field(self) -> HeadersRule:
        if isinstance(self.request_id, str):
            editable(self.request_id)
        return self


class HeaderEdits:
    """The policy: never answers, only edits."""

    name = "headers"
    fails_open = False  # a security field that is silently missing is worse than a 500

    def __init__(self, rule: HeadersRule) -> None:
        origin = rule.to_origin.edits()
        client = [*_preset(rule), *rule.to_client.edits()]
        self._to_origin = tuple(origin)
        self._to_client = tuple(client)
        hsts = rule.security and _HSTS.name.lower() not in _decided(rule)
        self._to_secure_client = (_HSTS, *client) if hsts else self._to_client
        self._id_name = _id_name(rule)
        self.repeatable = not self._id_name  # an id is never the same
        self._key_parts = (_key_part(origin),) if origin else ()
        # Removed names too: so the origin gets no alias of them either (`X_Debug` for `X-Debug`).
        named = [edit.name.lower() for edit in origin if edit.op is not Op.ADD]
        self.asserted: tuple[bytes, ...] = (*named, self._id_name.lower()) if self._id_name else tuple(named)

    def __call__(self, request: Request, ctx: Context, /) -> Response | None:
        """Always None: appends the edits."""
        ctx.to_origin += self._to_origin
        ctx.to_client += self._to_secure_client if request.secure else self._to_client
        ctx.key_parts += self._key_parts
        if self._id_name:
            edit = Edit(Op.SET, self._id_name, ctx.request_id.encode())
            ctx.to_origin.append(edit)
            ctx.to_client.append(edit)
        if ctx.notes is not None:
            ctx.note(self.name, Verdict.ALLOW, self._why(request))
        return None

    def _why(self, request: Request) -> str:
        client = self._to_secure_client if request.secure else self._to_client
        shown = [f"request id in {self._id_name.decode()}"] if self._id_name else []
        shown += [f"to origin: {_shown(edit)}" for edit in self._to_origin]
        shown += [f"to client: {_shown(edit)}" for edit in client]
        return "; ".join(shown) or "nothing to edit"


def _preset(rule: HeadersRule) -> list[Edit]:
    if not rule.security:
        return []
    decided = _decided(rule)
    return [edit for edit in _PRESET if edit.name.lower() not in decided]


def _decided(rule: HeadersRule) -> set[bytes]:
    """What the rule itself says about responses: the preset keeps out of it."""
    return {edit.name.lower() for edit in rule.to_client.edits() if edit.op is not Op.ADD}


def _id_name(rule: HeadersRule) -> bytes:
    if isinstance(rule.request_id, str):
        return rule.request_id.encode()
    return b"X-Request-Id" if rule.request_id else b""


def _key_part(edits: list[Edit]) -> bytes:
    """Routes of one URL with different edits may get different answers: they never share one."""
    digest = blake2b(digest_size=8)
    for edit in edits:
        digest.update(b"%b\0%b\0%b\0" % (edit.op.value.encode(), edit.name.lower(), edit.value))
    return b"headers:" + digest.hexdigest().encode()


def _shown(edit: Edit) -> str:
    return f"{edit.op.value} {edit.name.decode()}"
