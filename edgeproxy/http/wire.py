"""Bytes of an HTTP/1.1 response head. Pure joining; the doors add framing and connection fields."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from http import HTTPStatus

from edgeproxy.context import Edit, Op
from edgeproxy.http.message import Field, Response
from edgeproxy.http.pieces import Body


def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


JOIN_BELOW = 64 * 1024  # bytes up to which one write of a joined message is cheaper than two
STATUS_LINE = {status: _status_line(status) for status in range(100, 600)}

NO_CONTENT_LENGTH = frozenset({204, 304})  # RFC 9110 §8.6: a 204 has none; our 304 neither


def render_fields(fields: Iterable[Field]) -> bytes:
    """Field lines, each ended by CRLF."""
    return b"\r\n".join([*map(b": ".join, fields), b""])  # half of what formatting each costs


def response(status: int, fields: Iterable[Field], body: Body = b"") -> Response:
    """A complete response whose head is rendered once, Content-Length included where it belongs."""
    kept = tuple(fields)
    if status not in NO_CONTENT_LENGTH:
        kept += ((b"Content-Length", b"%d" % len(body)),)
    names = frozenset([name.lower() for name, _ in kept])
    return Response(status, kept, body, STATUS_LINE[status] + render_fields(kept), names)


def apply_edits(fields: Iterable[Field], edits: Iterable[Edit]) -> list[Field]:
    """Fields after the edits, in order. SET replaces in place of the first line of that name."""
    result = list(fields)
    for edit in edits:
        lower = edit.lower
        if edit.op is Op.ADD:
            result.append((edit.name, edit.value))
            continue
        if edit.op is Op.CHANGE:
            result = list(_changed(result, edit))
            continue
        kept = [field for field in result if field[0].lower() != lower]
        if edit.op is Op.SET:
            kept.append((edit.name, edit.value))
        result = kept
    return result


def _changed(fields: Iterable[Field], edit: Edit) -> Iterator[Field]:
    for name, value in fields:
        if name.lower() != edit.lower or edit.change is None:
            yield name, value
        elif (changed := edit.change(value)) is not None:
            yield name, changed


def edits_as_lines(edits: Iterable[Edit], names: frozenset[bytes]) -> bytes | None:
    """The edits as appended field lines, or None when one of them touches a line that is there.

    The usual case on a hit: rate-limit fields, a cookie, security headers that the origin did
    not send. Rendering the whole head again would cost more than everything else.
    """
    lines = b""
    for edit in edits:
        if edit.touches in names:
            return None
        lines += edit.line
    return lines
