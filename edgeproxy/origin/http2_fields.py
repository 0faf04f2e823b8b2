"""Heads of HTTP/1.1 in the fields of HTTP/2, and back (RFC 9113 §8.3)."""

from __future__ import annotations

from collections.abc import Sequence

from edgeproxy.http.message import Field

_NOT_SENT = frozenset([b"connection", b"host", b"transfer-encoding", b"upgrade"])


def pseudo_fields(head: bytes, scheme: bytes) -> list[Field]:
    """A request's head, its empty line included, as fields (§8.3.1)."""
    line, *lines = head[:-4].split(b"\r\n")
    method, target, _ = line.split(b" ")
    fields: list[Field] = []
    host = b""
    for each in lines:
        name, _, value = each.partition(b":")
        name, value = name.lower(), value.strip(b" \t")
        if name == b"host":
            host = value
        elif name not in _NOT_SENT:
            fields.append((name, value))
    return [(b":method", method), (b":scheme", scheme), (b":authority", host), (b":path", target), *fields]


def split_status(raw: Sequence[tuple[bytes, bytes]]) -> tuple[int, list[Field]]:
    """(status, fields) of a response's head; a status that is no number is 0."""
    status = 0
    fields: list[Field] = []
    for name, value in raw:
        if name == b":status":
            status = int(value) if value.isdigit() and len(value) == 3 else 0
        else:
            fields.append((bytes(name), bytes(value)))
    return status, fields
