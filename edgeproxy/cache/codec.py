"""An entry as bytes, for tiers outside this process: versioned, with a checksum.

Rule 1: what cannot be trusted is nothing. `decode` answers None for another version, a torn or a changed
record, never an exception and never a part of an entry.
Rule 2: times are written by the wall clock, because the steady one begins anew with each start.

    magic and version | crc32 of all that follows | fixed part | key, Vary names, variant, head, host, ...
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from zlib import crc32

from edgeproxy.cache.body_file import BodyFile
from edgeproxy.cache.entry import Entry
from edgeproxy.http.message import Field, Response

MAGIC = b"EPE1"  # the digit is the version: what older ones wrote is not read
_CRC = struct.Struct("<I")
_FIXED = struct.Struct("<QddddHBIIIIIIIII")  # position, times, status, flags, then the lengths of the parts
_CRC_AT = len(MAGIC)
_FIXED_AT = _CRC_AT + _CRC.size
_PARTS_AT = _FIXED_AT + _FIXED.size
_MUST_VALIDATE, _NEVER_STALE, _IN_FILE = 1, 2, 4
Opener = Callable[[str, int], BodyFile | None]
"""(name, size) -> the body that lies in a file, None when it is gone."""
_BETWEEN = b"\n"  # in neither field names nor tags: they come from field lines


def encode(entry: Entry, ahead: float) -> bytes:
    """The record of an entry. `ahead`: by how many seconds the wall clock is ahead of the steady one."""
    response, file = entry.response, entry.file
    host, path, query = entry.location
    parts = (
        entry.key,
        _BETWEEN.join(entry.names),
        entry.variant,
        response.head,
        host,
        path,
        query,
        _BETWEEN.join(entry.tags),
        response.body if file is None else b"%d %b" % (file.size, file.name.encode()),
    )
    fixed = _FIXED.pack(
        entry.position,
        entry.born + ahead,
        entry.fresh_until + ahead,
        entry.stale_until + ahead,
        entry.error_until + ahead,
        response.status,
        entry.must_validate * _MUST_VALIDATE
        | entry.never_stale * _NEVER_STALE
        | (file is not None) * _IN_FILE,
        *map(len, parts),
    )
    content = fixed + b"".join(parts)
    return MAGIC + _CRC.pack(crc32(content)) + content


def decode(record: bytes | memoryview, ahead: float, opener: Opener | None = None) -> Entry | None:
    """The entry of a record, its times by this process's steady clock; None when it is not sound, or the file
    of its body is gone."""
    if len(record) < _PARTS_AT or record[:_CRC_AT] != MAGIC:
        return None
    if _CRC.unpack_from(record, _CRC_AT)[0] != crc32(record[_FIXED_AT:]):
        return None
    position, born, fresh, stale, error, status, flags, *lengths = _FIXED.unpack_from(record, _FIXED_AT)
    if _PARTS_AT + sum(lengths) != len(record):
        return None
    parts: list[bytes] = []
    at = _PARTS_AT
    for length in lengths:
        parts.append(bytes(record[at : at + length]))
        at += length
    key, names, variant, head, host, path, query, tags, body = parts
    file = None
    if flags & _IN_FILE:
        size, _, name = body.partition(b" ")
        file = opener(name.decode(), int(size)) if opener is not None else None
        if file is None:
            return None
        body = file.body
    return Entry(
        key,
        tuple(names.split(_BETWEEN)) if names else (),
        variant,
        _response(status, head, body),
        born - ahead,
        fresh - ahead,
        stale - ahead,
        error - ahead,
        must_validate=bool(flags & _MUST_VALIDATE),
        never_stale=bool(flags & _NEVER_STALE),
        location=(host, path, query),
        position=position,
        tags=frozenset(tags.split(_BETWEEN)) if tags else frozenset(),
        file=file,
    )


def _response(status: int, head: bytes, body: bytes) -> Response:
    """The response whose rendered head this is: status line, then field lines."""
    fields: list[Field] = []
    for line in head.split(b"\r\n")[1:-1]:
        name, _, value = line.partition(b": ")
        fields.append((name, value))
    return Response(status, tuple(fields), body, head, frozenset([name.lower() for name, _ in fields]))
