"""Which fields travel on and which end here (RFC 9110 §7.6.1)."""

from __future__ import annotations

from edgeproxy.http.message import Field, Headers

HOP_BY_HOP = frozenset(
    [
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy",  # httpoxy: CGI origins read it as HTTP_PROXY
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"upgrade",
    ]
)
"""Names, lower case, that belong to one connection, requests and responses alike."""

FRAMING = frozenset([b"content-length", b"transfer-encoding"])
"""Names that say where a message ends: written anew for each connection (RFC 9112 §6)."""

NEVER_FORWARDED = HOP_BY_HOP | FRAMING
_NEVER_STORED = NEVER_FORWARDED | {b"age", b"trailer"}  # the cache says its own age, and keeps no trailers


def nominated(connection: bytes) -> frozenset[bytes]:
    """The names, lower case, that a Connection field says end here."""
    return frozenset([part.strip() for part in connection.lower().split(b",")])


def end_to_end_fields(headers: Headers) -> list[Field]:
    """A response's fields without those of one connection; Age and Content-Length are written anew."""
    gone = _NEVER_STORED
    connection = headers.get(b"connection")
    if connection is not None:
        gone = gone | nominated(connection)
    return [field for field in headers.raw if field[0].lower() not in gone]
