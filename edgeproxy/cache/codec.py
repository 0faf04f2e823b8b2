"""An entry as bytes, for tiers outside this process: versioned, with a checksum.

Rule 1: what cannot be trusted is nothing. `decode` answers None for another version, a torn or a changed
record, never an exception and never a part of an entry.
Rule 2: times are written by a clock that outlives the process, because the steady one begins anew with each
start.
Rule 3: what a plain hit does not need is not worked out: fields are read from the head when somebody asks.

    magic and version | crc32 of all that follows | fixed part | key, Vary names, variant, head, host, ...
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import cast, overload
from zlib import crc32

from edgeproxy.cache.body_file import BodyFile
from edgeproxy.cache.compact import set_of_names, text_of_names
from edgeproxy.cache.entry import Entry
from edgeproxy.http.message import Field, Response

MAGIC = b"EPE2"  # the digit is the version: what older ones wrote is not read
_CRC = struct.Struct("<I")
# magic, checksum, position, times, size, status, flags, then where each part ends
_FIXED = struct.Struct("<4sIQddddQHBIIIIIIIIIIII")
_CRC_AT = len(MAGIC)
_CRC_FROM = _CRC_AT + _CRC.size
_MUST_VALIDATE, _NEVER_STALE, _IN_FILE = 1, 2, 4
Opener = Callable[[str, int], BodyFile | None]
"""(name, size) -> the body that lies in a file, None when it is gone."""
_BETWEEN = b"\n"  # in neither field names nor tags: they come from field lines


class HeadFields(Sequence[Field]):
    """The fields of a rendered head, read when the first of them is wanted."""

    __slots__ = ("_fields", "_head")

    def __init__(self, head: bytes) -> None:
        self._head = head
        self._fields: tuple[Field, ...] | None = None

    def _read(self) -> tuple[Field, ...]:
        if self._fields is None:
            lines = [line.partition(b": ") for line in self._head.split(b"\r\n")[1:-1]]
            self._fields = tuple([(name, value) for name, _, value in lines])
        return self._fields

    @overload
    def __getitem__(self, index: int) -> Field: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Field, ...]: ...
    def __getitem__(self, index: int | slice) -> Field | tuple[Field, ...]:
        return self._read()[index]

    def __iter__(self) -> Iterator[Field]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __eq__(self, other: object) -> bool:
        return self._read() == (other._read() if isinstance(other, HeadFields) else other)

    def __hash__(self) -> int:
        return hash(self._read())


def encode(entry: Entry, ahead: float, *, bare: bool = False) -> bytes:
    """The record of an entry, `bare` without its body. `ahead`: by how many seconds the clock of the
    records is ahead of this process's steady one."""
    response, file = entry.response, None if bare else entry.file
    host, path, query = entry.location
    parts = (
        entry.key,
        _BETWEEN.join(entry.names),
        entry.variant,
        response.head,
        text_of_names(response.names),
        entry.etag or b"",
        entry.last_modified or b"",
        host,
        path,
        query,
        _BETWEEN.join(entry.tags),
        b""
        if bare
        else cast(bytes, response.body)
        if file is None
        else b"%d %b" % (file.size, file.name.encode()),
    )
    fixed = _FIXED.pack(
        MAGIC,
        0,
        entry.position,
        entry.born + ahead,
        entry.fresh_until + ahead,
        entry.stale_until + ahead,
        entry.error_until + ahead,
        entry.size,
        response.status,
        entry.must_validate * _MUST_VALIDATE
        | entry.never_stale * _NEVER_STALE
        | (file is not None) * _IN_FILE,
        *list(accumulate(map(len, parts), initial=_FIXED.size))[1:],
    )
    content = b"".join((fixed[_CRC_FROM:], *parts))
    return MAGIC + _CRC.pack(crc32(content)) + content


def decode(record: bytes | memoryview, ahead: float, opener: Opener | None = None) -> Entry | None:
    """The entry of a record, its times by this process's steady clock; None when it is not sound, or the file
    of its body is gone."""
    length = len(record)
    if length < _FIXED.size:
        return None
    (
        magic,
        crc,
        position,
        born,
        fresh,
        stale,
        error,
        weight,
        status,
        flags,
        key,
        names,
        variant,
        head,
        field_names,
        etag,
        modified,
        host,
        path,
        query,
        tags,
        end,
    ) = _FIXED.unpack_from(record)  # fmt: skip - in the second line: where each part ends
    if magic != MAGIC or end != length or crc != crc32(record[_CRC_FROM:]):
        return None
    text = bytes(record[:tags])
    head_text = text[variant:head]
    body, file = bytes(record[tags:]), None
    if flags & _IN_FILE:
        bytes_there, _, name = body.partition(b" ")
        file = opener(name.decode(), int(bytes_there)) if opener is not None else None
        if file is None:
            return None
        body = file.body
    return Entry(
        text[_FIXED.size : key],
        tuple(text[key:names].split(_BETWEEN)) if names > key else (),
        text[names:variant],
        Response(status, HeadFields(head_text), body, head_text, set_of_names(text[head:field_names])),
        born - ahead,
        fresh - ahead,
        stale - ahead,
        error - ahead,
        must_validate=flags & _MUST_VALIDATE != 0,
        never_stale=flags & _NEVER_STALE != 0,
        location=(text[modified:host], text[host:path], text[path:query]),
        position=position,
        tags=frozenset(text[query:].split(_BETWEEN)) if tags > query else _NONE,
        file=file,
        known=(text[field_names:etag] or None, text[etag:modified] or None, weight),
    )


_NONE: frozenset[bytes] = frozenset()
