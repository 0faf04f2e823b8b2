"""The machine tier inside one transaction: look up, store, and drop what nobody asked for again.

Eviction is SIEVE, as in memory, with the order of numbers as the queue and a byte per number in shared
memory as the bit that says "asked again". The bound is LMDB's own count of pages in use.
"""

from __future__ import annotations

from typing import Any

from edgeproxy.cache.codec import Opener, decode, encode
from edgeproxy.cache.entry import Entry
from edgeproxy.cache.key import variant_key
from edgeproxy.cache.machine_rows import (
    AHEAD,
    FIRST,
    KEY_SIZE,
    NUMBER,
    PIECE_KEY,
    Row,
    count_pieces,
    find_number,
    key_digest,
    make_pieces,
    make_row,
    parse_row,
    plain_number,
    row_names,
    variant_digest,
)
from edgeproxy.cache.memory import VARIANTS
from edgeproxy.http.message import Headers

ASKED = 2**20  # bytes that say "asked again"; numbers share one when there are more objects
HAND = 8  # bytes before them: where the hand stands
FILL = 0.85  # of the map, in pages: the rest is for pages that a reader or a transaction still holds
EXAMINED = 256  # numbers the hand may pass for one entry
DROPPED = 64  # objects that may be dropped for one entry


class Objects:
    """Both trees of the file. Transactions are the caller's; `ahead` is by how many seconds
    the file's clock is ahead of ours."""

    def __init__(
        self, objects: Any, index: Any, size: int, page: int, asked: memoryview, opener: Opener | None
    ) -> None:
        """`objects` and `index` are LMDB's handles; `asked` is shared, HAND + ASKED bytes; `opener` finds
        bodies that lie in files of their own."""
        self._opener = opener
        self.evictions = 0
        self._objects, self._index = objects, index
        self.page = page
        self._pages = int(size * FILL) // page
        self._asked = asked[HAND:]
        self._hand = asked[:HAND].cast("Q")

    def find(self, txn: Any, key: bytes, headers: Headers, ahead: float) -> tuple[Entry | None, bool]:
        """(the entry for these request fields, whether other variants are there)."""
        row = txn.get(key_digest(key), db=self._index)
        if row is None:
            return None, False
        row = bytes(row)
        packed = plain_number(row)
        if packed is None:
            packed = find_number(row, variant_digest(variant_key(row_names(row), headers)))
        if packed is None:
            return None, True
        record = self._record(txn, packed)
        entry = None if record is None else decode(record, ahead, self._opener)
        if entry is None or entry.key != key:
            return None, len(parse_row(row)[1]) > 1
        self._asked[int.from_bytes(packed, "big") % ASKED] = 1
        return entry, False

    def _record(self, txn: Any, packed: bytes) -> bytes | memoryview | None:
        """The record of a packed number, in place when it is one piece."""
        value = txn.get(packed + FIRST, db=self._objects)
        if value is None or len(value) < AHEAD:
            return None
        count = count_pieces(value)
        if count == 1:
            return value[AHEAD:]
        (number,) = NUMBER.unpack(packed)
        keys = [PIECE_KEY.pack(number, piece) for piece in range(1, count)]
        return b"".join([value[AHEAD:], *[txn.get(key, b"", db=self._objects) for key in keys]])

    def put(self, txn: Any, entry: Entry, ahead: float) -> bool:
        """Store in place of the same variant. False when not enough could be dropped for it."""
        record = encode(entry, ahead)
        if not self.evict(txn, len(record)):
            return False  # what was dropped stays dropped: the next one finds more room
        digest = key_digest(entry.key)
        rows = self._others(txn, digest, entry)
        with txn.cursor(self._objects) as cursor:
            number = PIECE_KEY.unpack(cursor.key())[0] + 1 if cursor.last() else 1
        self._asked[number % ASKED] = 0
        for piece, value in enumerate(make_pieces(digest, record)):
            txn.put(PIECE_KEY.pack(number, piece), value, db=self._objects, append=True)
        row = variant_digest(entry.variant), NUMBER.pack(number)
        txn.put(digest, make_row(entry.names, [*rows, row]), db=self._index)
        return True

    def _delete(self, txn: Any, packed: bytes) -> None:
        """Drop the pieces of a number."""
        (number,) = NUMBER.unpack(packed)
        value = txn.get(PIECE_KEY.pack(number, 0), db=self._objects)
        if value is not None:
            for piece in range(count_pieces(value)):
                txn.delete(PIECE_KEY.pack(number, piece), db=self._objects)

    def _others(self, txn: Any, digest: bytes, entry: Entry) -> list[Row]:
        """The rows of the key that stay beside the new one; the objects of others are deleted."""
        row = txn.get(digest, db=self._index)
        if row is None:
            return []
        names, rows = parse_row(bytes(row))
        variant = variant_digest(entry.variant)
        stay = [one for one in rows if one[0] != variant] if names == entry.names else []
        stay = stay[-(VARIANTS - 1) :]
        for one in rows:
            if one not in stay:
                self._delete(txn, one[1])
        return stay

    def keys(self, txn: Any) -> int:
        """Keys under which something is stored."""
        return int(txn.stat(self._index)["entries"])

    def used(self, txn: Any) -> int:
        """Pages of both trees."""
        found = 0
        for database in (self._objects, self._index):
            stat = txn.stat(database)
            found += stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        return found

    def evict(self, txn: Any, size: int, at_least: int = 0) -> bool:
        """Let the hand drop what nobody asked for again, until `size` bytes fit. False when they do not."""
        room = self._pages - size // self.page - 2
        if self.used(txn) <= room and not at_least:
            return True
        dropped = 0
        with txn.cursor(self._objects) as cursor:
            at = cursor.set_range(PIECE_KEY.pack(self._hand[0], 0)) or cursor.first()
            for _ in range(EXAMINED):
                if not at and not cursor.first():
                    break
                number, _piece = PIECE_KEY.unpack(cursor.key())
                if self._asked[number % ASKED]:
                    self._asked[number % ASKED] = 0
                    at = cursor.set_range(PIECE_KEY.pack(number + 1, 0))
                    continue
                self._unlist(txn, bytes(cursor.value()[:KEY_SIZE]), NUMBER.pack(number))
                at = _delete_here(cursor)
                self.evictions += 1
                dropped += 1
                if dropped >= DROPPED or (dropped >= at_least and self.used(txn) <= room):
                    break
            self._hand[0] = PIECE_KEY.unpack(cursor.key())[0] if at else 0
        return self.used(txn) <= room

    def _unlist(self, txn: Any, digest: bytes, number: bytes) -> None:
        """Take a number out of its key's row."""
        row = txn.get(digest, db=self._index)
        if row is None:
            return
        names, rows = parse_row(bytes(row))
        stay = [one for one in rows if one[1] != number]
        if stay:
            txn.put(digest, make_row(names, stay), db=self._index)
        else:
            txn.delete(digest, db=self._index)


def _delete_here(cursor: Any) -> bool:
    """Delete the object whose first piece the cursor stands on; whether it stands on another one then."""
    for _ in range(count_pieces(cursor.value())):
        cursor.delete()
    return bool(cursor.key())
