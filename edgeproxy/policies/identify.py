"""Who is asking: `client_ip`, `route`, `header:NAME`, `claim:PATH`, `cookie:NAME`.

Rate limits count by it and experiments draw by it. A source reads one fact of a request as text,
or says None: absent, empty, or so strange (a cookie sent twice) that it proves nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

from edgeproxy.context import Context
from edgeproxy.http.message import Request
from edgeproxy.policies.claims import Claims, find_claim
from edgeproxy.policies.field_names import TOKEN

Source = Callable[[Request, Context], str | None]
"""One fact about a request."""


def source(text: str) -> Source:
    """The source that `text` names. Raises ValueError with the forms that are known."""
    kind, _, name = text.partition(":")
    if text in _PLAIN:
        return _PLAIN[text]
    if kind == "claim" and name:
        return _claim(name)
    if kind in _NAMED and TOKEN.fullmatch(name):
        return _NAMED[kind](name)
    raise ValueError(
        f"{text!r} does not say who is asking; write client_ip, route, header:NAME, claim:PATH or cookie:NAME"
    )


def cookie_reader(name: str) -> Callable[[Request], str | None]:
    """Reads the cookie `name`. Sent twice is as absent: one of the two was planted (RFC 6265 §8.6)."""
    plain = name.encode()
    pattern = re.compile(rb"(?:^|;)[ \t]*" + re.escape(plain) + rb"[ \t]*=[ \t]*([^;]*)")

    def read(request: Request) -> str | None:
        header = request.headers.get(b"cookie")
        if header is None or plain not in header:
            return None
        found: list[bytes] = pattern.findall(header)
        return _text(found[0].rstrip(b" \t")) if len(found) == 1 else None

    return read


def claim_text(claims: Claims | None, path: str) -> str | None:
    """The claim at `path` as text; None when it is absent, empty, or no scalar."""
    value = find_claim(claims, path)
    if isinstance(value, str):
        return value or None
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, (int, float)) else None


def _client(_request: Request, ctx: Context) -> str | None:
    return ctx.client or None


def _route(_request: Request, ctx: Context) -> str | None:
    return ctx.route or None


def _header(name: str) -> Source:
    lower = name.lower().encode()

    def read(request: Request, _ctx: Context) -> str | None:
        value = request.headers.get(lower)
        return _text(value) if value else None

    return read


def _claim(path: str) -> Source:
    return lambda _request, ctx: claim_text(ctx.claims, path)


def _cookie(name: str) -> Source:
    read = cookie_reader(name)
    return lambda request, _ctx: read(request)


def _text(value: bytes) -> str | None:
    # surrogateescape keeps different bytes different, whatever they are
    return value.decode("utf-8", "surrogateescape") or None


_PLAIN: dict[str, Source] = {"client_ip": _client, "route": _route}
_NAMED: dict[str, Callable[[str], Source]] = {"header": _header, "cookie": _cookie}


def _known(text: str) -> str:
    source(text)
    return text


SourceField = Annotated[
    str,
    AfterValidator(_known),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": "^(client_ip|route|(header|claim|cookie):.+)$",
            "examples": ["client_ip", "header:X-Api-Key", "claim:sub", "cookie:session"],
        }
    ),
]
