"""Which fields travel on and which end here (RFC 9110 §7.6.1)."""

from __future__ import annotations

from edgeproxy.http.message import Field, Headers

HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization "
    b"proxy-authentication-info te trailer transfer-encoding upgrade http2-settings proxy".split()
)
_FRAMING = frozenset({b"content-length", b"age"})  # written anew: framing by the door, Age by the cache


def nominated(connection: bytes | None) -> frozenset[bytes]:
    """The names that a Connection field says end here."""
    if connection is None:
        return frozenset()
    return frozenset([part.strip() for part in connection.lower().split(b",")])


def end_to_end_fields(headers: Headers) -> list[Field]:
    """A response's fields without those of one connection; Age and Content-Length are written anew."""
    gone = HOP_BY_HOP | _FRAMING | nominated(headers.get(b"connection"))
    return [field for field in headers.raw if field[0].lower() not in gone]
