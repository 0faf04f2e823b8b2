"""`origins.<name>.servers` in the YAML: where each server is, and how much of the traffic it gets.

A server is written as its URL, or as a section when more is to be said about it.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, WithJsonSchema

from edgeproxy.record import record
from edgeproxy.units import Model

_HOST_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_-]{1,63})*\.?")
_SOCKET_PATH = re.compile(r"/[!-~]{1,106}")  # sun_path has 108 bytes, one of them the final NUL


@record
class ServerUrl:
    """One server: scheme, host (without brackets), port; or the path of a Unix socket."""

    tls: bool
    host: str
    port: int
    socket: str = ""

    @property
    def authority(self) -> str:
        """What a Host field says about it: the default port is left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    def __str__(self) -> str:
        if self.socket:
            return f"unix:{self.socket}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"


def parse_server(value: object) -> object:
    """`value` when it is an URL like `http://10.0.1.5:8000`. Raises ValueError with what is wrong."""
    if isinstance(value, str):  # else it may be a section
        server_url(value)
    return value


def server_url(text: str) -> ServerUrl:
    """The parts of a server's URL. Raises ValueError."""
    if text.startswith("unix:"):
        return _socket_url(text)
    expected = "write scheme, host and port, like http://10.0.1.5:8000 or https://origin.example.com"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{text!r} is not a server ({error}); {expected}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError(f"{text!r} is not a server; {expected}")
    if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError(f"{text!r}: a server has no path, query or password; {expected}")
    if port == 0:
        raise ValueError(f"{text!r}: port 0 cannot be connected to; {expected}")
    if not is_host(host):
        raise ValueError(f"{text!r}: {host!r} is neither a host name nor an IP address; {expected}")
    tls = parts.scheme == "https"
    return ServerUrl(tls, host.lower(), port or (443 if tls else 80))


def _socket_url(text: str) -> ServerUrl:
    path = text.removeprefix("unix:")
    if _SOCKET_PATH.fullmatch(path) is None:
        raise ValueError(f"{text!r} is not a socket; write its absolute path, like unix:/run/app.sock")
    return ServerUrl(tls=False, host="localhost", port=80, socket=path)


def is_host(host: str) -> bool:
    """Is `host` a host name or an IP literal?"""
    return is_address(host) or _HOST_NAME.fullmatch(host) is not None


def is_address(host: str) -> bool:
    """Is `host` an IP literal?"""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


ServerField = Annotated[
    str,
    BeforeValidator(parse_server),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": "^(https?://[^/]+/?|unix:/.+)$",
            "examples": ["http://10.0.1.5:8000", "unix:/run/app.sock"],
        }
    ),
]


class ServerEntry(Model):
    """One server with more than its URL."""

    url: ServerField
    """Scheme, host and port, without a path; or unix: and the path of a socket."""
    weight: int = Field(default=1, ge=1, le=1000)
    """Its share of the traffic, beside the weights of the others."""
    priority: int = Field(default=0, ge=0, le=9)
    """Servers of the lowest number are asked; the next ones when too few of those are left."""
    zone: str | None = Field(default=None, min_length=1, max_length=64)
    """Where it stands, for `prefer_zone`."""
