"""Which server belongs to which client: the key of a request, and the cookie that remembers a server.

The words are those of `origins.<name>.balance`; they are turned into functions once.
"""

from __future__ import annotations

from collections.abc import Callable

from edgeproxy.http.message import Field, Request

Key = Callable[[Request, str], bytes]
"""What a request is balanced by, of the request and its client's address; empty when it has none."""


def key_of(balance: str) -> Key | None:
    """The key of a balance; None when it needs none."""
    way, _, what = balance.partition(":")
    if way == "sticky":
        return _cookie(what.encode())
    if way != "hash":
        return None
    if what == "client_ip":
        return lambda _, client: client.encode()
    if what == "path":
        return lambda request, _: request.path
    kind, _, name = what.partition(":")
    return _cookie(name.encode()) if kind == "cookie" else _header(name.lower().encode())


def sticky_field(balance: str, ident: bytes, *, secure: bool) -> Field:
    """The Set-Cookie of a server's identifier: for this session, not for scripts."""
    name = balance.partition(":")[2].encode()
    flags = b"; Path=/; HttpOnly; SameSite=Lax" + (b"; Secure" if secure else b"")
    return b"Set-Cookie", name + b"=" + ident + flags


def _header(name: bytes) -> Key:
    def key(request: Request, _: str) -> bytes:
        return request.headers.get(name) or b""

    return key


def _cookie(name: bytes) -> Key:
    start = name + b"="

    def key(request: Request, _: str) -> bytes:
        for part in (request.headers.get(b"cookie") or b"").split(b";"):
            part = part.strip()
            if part.startswith(start):
                return part[len(start) :]
        return b""

    return key
