"""`respond` and `maintenance`: answers from the configuration, without cache or origin.

- respond: {body: "User-agent: *\\nDisallow: /admin/\\n"}
  when: path == /robots.txt
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from edgeproxy.context import Context, Verdict
from edgeproxy.http.message import Field as FieldLine
from edgeproxy.http.message import Request, Response
from edgeproxy.http.replies import problem
from edgeproxy.http.wire import NO_CONTENT_LENGTH, response
from edgeproxy.policies.field_names import FieldName, is_plain
from edgeproxy.units import Duration, Model

_READ = (b"GET", b"HEAD")
_TAG = re.compile(rb'(?:W/)?("[^"]*")')


def _value(text: str) -> str:
    if not (is_plain(text) and text.isascii()):
        raise ValueError(f"the value {text!r} has control characters, spaces around it, or is not ASCII")
    return text


Value = Annotated[str, AfterValidator(_value)]


class RespondRule(Model):
    """One answer, always the same."""

    status: int = Field(default=200, ge=200, le=599)
    """Its status."""
    body: str = Field(default="", max_length=1_048_576)
    """Its body; `${file:/path}` for that of a file."""
    content_type: Value = "text/plain; charset=utf-8"
    """What the body is."""
    headers: dict[FieldName, Value] = Field(default_factory=dict)
    """More fields: field -> value."""
    max_age: Duration = 0.0
    """How long clients may keep it; 0 for not at all."""

    @model_validator(mode="after")
    def _fits_its_status(self) -> RespondRule:
        if self.body and self.status in (*NO_CONTENT_LENGTH, 205):
            raise ValueError(f"found a body with status {self.status}, expected none: it cannot have one")
        if self.status == 304:
            raise ValueError("found status 304, expected another: that one is said when it is right")
        return self


class Respond:
    """The policy: answers every request it is asked about; limit it with `when`."""

    name = "respond"
    reasons = ("configured", "method-not-allowed")
    fails_open = False

    def __init__(self, rule: RespondRule) -> None:
        self._rule = rule
        body = rule.body.encode()
        self._tag = b'"%b"' % blake2b(body, digest_size=12).hexdigest().encode()
        age = b"max-age=%d" % int(rule.max_age) if rule.max_age else b"no-store"
        named = {name.lower() for name in rule.headers}
        fields: list[FieldLine] = [(b"Content-Type", rule.content_type.encode())] if body else []
        fields += [] if "cache-control" in named else [(b"Cache-Control", age)]
        fields += [(b"ETag", self._tag)] if rule.status == 200 and rule.max_age else []
        fields += [(name.encode(), value.encode()) for name, value in rule.headers.items()]
        self._answer = response(rule.status, fields, body)
        self._short = response(304, [field for field in fields if field[0] != b"Content-Type"])

    def __call__(self, request: Request, ctx: Context, /) -> Response | None:
        """The answer; 405 where a 2xx is asked for with a method that would change something."""
        ctx.note(self.name, Verdict.ANSWER, f"answers {self._rule.status} from the configuration", "respond")
        if 200 <= self._rule.status < 300 and request.method not in _READ:
            allow = ((b"Allow", b"GET, HEAD"),)
            return problem(request, ctx, 405, "method-not-allowed", "This can only be read.", allow)
        ctx.reason = "configured"
        wanted = request.headers.get(b"if-none-match")
        if wanted is not None and b"etag" in self._answer.names and self._tag in _TAG.findall(wanted):
            return self._short
        return self._answer


class MaintenanceRule(Model):
    """Everything is closed for a while. Let some in with `when`, close it with a reload."""

    active: bool = True
    """Is it closed now."""
    retry_after: Duration = 300.0
    """When clients should come back."""
    message: Value = "This site is being worked on. Please come back in a few minutes."
    """What people read."""


class Maintenance:
    """The policy."""

    name = "maintenance"
    reasons = ("maintenance",)
    fails_open = False

    def __init__(self, rule: MaintenanceRule) -> None:
        self._rule = rule
        self._later = ((b"Retry-After", b"%d" % max(1, int(rule.retry_after))),)
        self.repeatable = not rule.active

    def __call__(self, request: Request, ctx: Context, /) -> Response | None:
        """503 while it is active."""
        if not self._rule.active:
            ctx.note(self.name, Verdict.ALLOW, "not active", "maintenance")
            return None
        ctx.note(self.name, Verdict.ANSWER, "closed: answers 503", "maintenance")
        return problem(request, ctx, 503, "maintenance", self._rule.message, self._later)
