"""Parts of a stored response (RFC 9110 §14): one range, several, or none that can be satisfied.

A Range that cannot be read is ignored, and the whole is answered: so is one that asks for more parts
than anybody needs, or whose answer would be larger than the whole (reliability A71).
"""

from __future__ import annotations

import re
from hashlib import blake2b
from secrets import token_bytes
from typing import cast

from edgeproxy.cache.entry import Entry
from edgeproxy.http.dates import parse_date
from edgeproxy.http.message import Field, Headers, Request, Response
from edgeproxy.http.pieces import Pieces
from edgeproxy.http.wire import JOIN_BELOW, response

MAX_SPECS = 32  # ranges in one field
MAX_PARTS = 5  # of an answer, after those that touch were joined
GAP = 80  # bytes between two ranges that cost less than another part's head
_SPEC = re.compile(rb"[ \t]*(\d{0,18})-(\d{0,18})[ \t]*")
_LONGEST = 1024  # bytes of a field worth reading
_SECRET = token_bytes(16)  # nobody outside can write a boundary into a body in advance
Part = tuple[int, int]
"""First byte and the one after the last."""


def partial(request: Request, entry: Entry) -> Response | None:
    """The 206 or 416 that a GET with Range asks for; None when the whole response is the answer."""
    value = request.headers.get(b"range")
    whole = entry.response
    if value is None or request.method != b"GET" or whole.status != 200:
        return None
    if not _still(request, entry.etag, entry.last_modified):
        return None
    size = len(whole.body)
    parts = parse_range(value, size)
    if parts is None:
        return None
    if not parts:
        return response(416, [(b"Content-Range", b"bytes */%d" % size)])
    parts = joined(parts)
    if len(parts) > MAX_PARTS:
        return None
    fields = [
        field for field in whole.fields if field[0].lower() not in (b"content-length", b"content-range")
    ]
    body = cast(bytes, whole.body)  # what lies in a file is cut as bytes are
    if len(parts) == 1:
        start, end = parts[0]
        fields.append((b"Content-Range", b"bytes %d-%d/%d" % (start, end - 1, size)))
        return response(206, fields, body[start:end])
    return _multipart(fields, parts, body, entry.key)


def only_part(request: Request, headers: Headers, size: int) -> Part | None:
    """The one part that a GET wants of a 200 with this head and a body of `size` bytes; None when it wants
    several, or none that there is, or all."""
    value = request.headers.get(b"range")
    if value is None or request.method != b"GET":
        return None
    if not _still(request, headers.get(b"etag"), headers.get(b"last-modified")):
        return None
    parts = joined(parse_range(value, size) or [])
    return parts[0] if len(parts) == 1 else None


def parse_range(value: bytes, size: int) -> list[Part] | None:
    """The satisfiable ranges of a representation of `size` bytes, in the order asked for.

    None when the field is to be ignored (§14.2); empty when no range can be satisfied.
    """
    unit, equals, specs = value.partition(b"=")
    if not equals or unit.strip().lower() != b"bytes" or len(value) > _LONGEST:
        return None
    parts: list[Part] = []
    asked = specs.split(b",")
    if len(asked) > MAX_SPECS:
        return None
    for spec in asked:
        match = _SPEC.fullmatch(spec)
        if match is None:
            return None
        first, last = match.groups()
        if not first and not last:
            return None
        if not first:  # the last so many bytes
            start, end = max(0, size - int(last)), size
        else:
            start = int(first)
            end = min(int(last) + 1, size) if last else size
            if last and int(last) < start:
                return None
        if start < end:
            parts.append((start, end))
    return parts


def joined(parts: list[Part]) -> list[Part]:
    """Ranges that overlap or nearly touch as one, ascending; others as they are (§15.3.7.2)."""
    result: list[Part] = []
    for start, end in sorted(parts):
        if result and start <= result[-1][1] + GAP:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((start, end))
    return result


def _still(request: Request, etag: bytes | None, last_modified: bytes | None) -> bool:
    """Does If-Range, when there is one, name what has these validators? (§13.1.5, strong comparison)"""
    wanted = request.headers.get(b"if-range")
    if wanted is None:
        return True
    if wanted[:1] == b'"' or wanted[:2] == b"W/":
        return etag is not None and wanted == etag and wanted[:2] != b"W/"
    date, modified = parse_date(wanted), parse_date(last_modified)
    return date is not None and date == modified


def _multipart(fields: list[Field], parts: list[Part], body: bytes, key: bytes) -> Response | None:
    """The parts as one body (§14.6); None when the whole is smaller."""
    kind = next((value for name, value in fields if name.lower() == b"content-type"), None)
    described = b"" if kind is None else b"Content-Type: %b\r\n" % kind
    boundary = blake2b(key + repr(parts).encode(), key=_SECRET, digest_size=15).hexdigest().encode()
    # what is cut from either is not copied, or not from here
    view = cast(bytes, body if isinstance(body, Pieces) else memoryview(body))
    pieces: list[bytes] = []
    for start, end in parts:
        pieces.append(
            b"\r\n--%b\r\n%bContent-Range: bytes %d-%d/%d\r\n\r\n"
            % (boundary, described, start, end - 1, len(body))
        )
        pieces.append(view[start:end])
    pieces.append(b"\r\n--%b--\r\n" % boundary)
    together = Pieces(pieces)
    size = len(together)
    if size > len(body):
        return None
    kept = [field for field in fields if field[0].lower() != b"content-type"]
    kept.append((b"Content-Type", b"multipart/byteranges; boundary=" + boundary))
    content = b"".join(pieces) if size < JOIN_BELOW else together
    return response(206, kept, content)
