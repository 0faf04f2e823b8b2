"""Clients that stay with the origin they once got: a cookie that names it, signed so that nobody chooses.

Rule: the cookie says where a client was, not where it may go. The choice honours it while that origin is
healthy and residency allows it.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Annotated

from pydantic import Field, SecretStr, StringConstraints

from edgeproxy.context import Context, Edit, Op, Verdict
from edgeproxy.http.message import Request, Response
from edgeproxy.units import Duration, Model


class AffinityRule(Model):
    """How clients stay with an origin."""

    cookie: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = "edge_origin"
    """Name of the cookie."""
    secret: Annotated[SecretStr, Field(min_length=16)]
    """What it is signed with: the same at every edge."""
    max_age: Duration = 0.0
    """How long browsers keep it. `0`: until they are closed."""


class KeepOrigin:
    """The last step of a route with affinity: reads the cookie, and prepares those that may be set."""

    name = "origin"
    repeatable = True
    fails_open = True

    def __init__(self, rule: AffinityRule, origins: Iterable[str]) -> None:
        """`origins` are those that the route may choose."""
        secret = rule.secret.get_secret_value().encode()
        self._prefix = rule.cookie.encode() + b"="
        age = b"; Max-Age=%d" % int(rule.max_age) if rule.max_age else b""
        flags = b"; Path=/" + age + b"; HttpOnly; SameSite=Lax"
        self._macs = {name: _mac(secret, rule.cookie, name) for name in origins}
        values = {name: self._prefix + name.encode() + b"." + mac for name, mac in self._macs.items()}
        self._plain = {name: Edit(Op.ADD, b"Set-Cookie", value + flags) for name, value in values.items()}
        self._secured = {
            name: Edit(Op.ADD, b"Set-Cookie", value + flags + b"; Secure") for name, value in values.items()
        }

    def __call__(self, request: Request, ctx: Context, /) -> Response | None:
        """Always None; sets `ctx.keeper`."""
        edits: Mapping[str, Edit] = self._secured if request.secure else self._plain
        kept = self._read(request)
        ctx.keeper = (kept, edits)
        if ctx.notes is not None:
            said = f"the client was at {kept} before" if kept else "the client brings no cookie of an origin"
            ctx.note(self.name, Verdict.ALLOW, said)
        return None

    def _read(self, request: Request) -> str:
        """The origin that the cookie names; empty when there is none, or its signature is wrong."""
        header = request.headers.get(b"cookie")
        if header is None or self._prefix not in header:
            return ""
        for part in header.split(b";"):
            value = part.strip()
            if value.startswith(self._prefix):
                name, _, mac = value[len(self._prefix) :].rpartition(b".")
                known = self._macs.get(name.decode("latin-1"))
                right = known is not None and hmac.compare_digest(mac, known)
                return name.decode("latin-1") if right else ""
        return ""


def _mac(secret: bytes, cookie: str, origin: str) -> bytes:
    return hmac.new(secret, f"{cookie}={origin}".encode(), sha256).hexdigest()[:32].encode()
