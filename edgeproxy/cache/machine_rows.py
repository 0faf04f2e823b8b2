"""What the machine tier's file holds, in bytes: keys, rows and pieces. No LMDB in here.

    objects: number, ever growing, and piece -> digest of the key, count of pieces, record; the rest of it
    index:   digest of the key -> Vary names, then (digest of the variant, number) of each variant
    about:   what this file is: its format, and the era of the purges that its entries know of

A record is cut into pieces of one page each: LMDB wants the pages of one value side by side, and after
some eviction there are no such runs.
"""

from __future__ import annotations

import mmap
import struct
from hashlib import blake2b

FORMAT = b"edgeproxy objects 1"
PAGE = mmap.PAGESIZE
PIECE = PAGE - 16  # bytes of a value that fills one page
KEY_SIZE = 16  # bytes of the digest of a key
AHEAD = KEY_SIZE + 2  # bytes before the record in its first piece
NUMBER = struct.Struct(">Q")
PIECE_KEY = struct.Struct(">QH")  # number of the object, of the piece

_VARIANT = 8  # bytes of the digest of a variant
_ROW = _VARIANT + NUMBER.size
_COUNT = struct.Struct("<H")
_NAMES = struct.Struct("<H")
_META = struct.Struct("<II8xQ96xQQ")  # magic, version, map size, last page, number of the transaction
_META_AT = 16

Row = tuple[bytes, bytes]
"""One variant of a key: digest of its selecting fields, and its packed number."""


def key_digest(key: bytes) -> bytes:
    """What a key is called in the file."""
    return blake2b(key, digest_size=KEY_SIZE).digest()


def variant_digest(variant: bytes) -> bytes:
    """What a choice of selecting fields is called in the file."""
    return blake2b(variant, digest_size=_VARIANT).digest()


_PLAIN = _NAMES.pack(0) + variant_digest(b"")  # how the row begins of what does not vary: it is the only one
FIRST = b"\0\0"  # after a packed number: its first piece


def make_row(names: tuple[bytes, ...], rows: list[Row]) -> bytes:
    """The value of a key in the index."""
    text = b"\n".join(names)
    return _NAMES.pack(len(text)) + text + b"".join([digest + number for digest, number in rows])


def parse_row(row: bytes) -> tuple[tuple[bytes, ...], list[Row]]:
    """The inverse of `make_row`. Raises struct.error for what is none."""
    (length,) = _NAMES.unpack_from(row)
    at = _NAMES.size + length
    text = row[_NAMES.size : at]
    names = tuple(text.split(b"\n")) if text else ()
    return names, [
        (row[place : place + _VARIANT], row[place + _VARIANT : place + _ROW])
        for place in range(at, len(row), _ROW)
    ]


def plain_number(row: bytes) -> bytes | None:
    """The packed number of what does not vary; None for other rows."""
    return row[len(_PLAIN) : len(_PLAIN) + NUMBER.size] if row.startswith(_PLAIN) else None


def row_names(row: bytes) -> tuple[bytes, ...]:
    """The Vary names of a key. Raises struct.error for what is no row."""
    (length,) = _NAMES.unpack_from(row)
    return tuple(row[_NAMES.size : _NAMES.size + length].split(b"\n")) if length else ()


def find_number(row: bytes, variant: bytes) -> bytes | None:
    """The packed number of a variant by its digest. Raises struct.error for what is no row."""
    (length,) = _NAMES.unpack_from(row)
    for place in range(_NAMES.size + length, len(row), _ROW):
        if row.startswith(variant, place):
            return row[place + _VARIANT : place + _ROW]
    return None


def make_pieces(digest: bytes, record: bytes) -> list[bytes]:
    """A record as values of at most PIECE bytes; the first says whose it is and how many there are."""
    first = PIECE - AHEAD
    if len(record) <= first:
        return [digest + _COUNT.pack(1) + record]
    rest = [record[at : at + PIECE] for at in range(first, len(record), PIECE)]
    return [digest + _COUNT.pack(len(rest) + 1) + record[:first], *rest]


def count_pieces(first: bytes | memoryview) -> int:
    """How many pieces the object has whose first this is. Raises struct.error for what is none."""
    return int(_COUNT.unpack_from(first, KEY_SIZE)[0])


def bytes_of_file(header: bytes) -> tuple[int, int] | None:
    """(bytes of the map, bytes of the file that hold something) as the first two pages of an LMDB file say;
    None when it is none."""
    found: list[tuple[int, int, int]] = []  # number of the transaction first: the last one counts
    for page in (0, PAGE):
        if len(header) < page + _META_AT + _META.size:
            return None
        magic, version, map_size, last, transaction = _META.unpack_from(header, page + _META_AT)
        if (magic, version) != (0xBEEFC0DE, 1):
            return None
        found.append((transaction, map_size, (last + 1) * PAGE))
    return max(found)[1:]
