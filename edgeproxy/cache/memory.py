"""The memory tier: bounded in bytes, evicting by SIEVE.

Rule: only `put` evicts. A hit is a dict look-up and one attribute set; nothing is moved, so nothing is
locked or reordered. SIEVE keeps what is asked again and lets a scan pass through: a hand walks from
the oldest entry to the newest, spares those visited since it last came by, and drops the first that was not.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import TypeVar

from edgeproxy.cache.admission import Forced
from edgeproxy.cache.entry import STAMPED, Entry, Location
from edgeproxy.cache.key import variant_key
from edgeproxy.http.message import Headers
from edgeproxy.purge_log import Purge

VARIANTS = 64  # per key; then the oldest goes (A64)

_Name = TypeVar("_Name", bound=Hashable)
_Value = TypeVar("_Value", bound=Hashable)


class MemoryStore:
    """Entries by key, several per key where responses vary. `position` is that of the purge log."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self.entries = 0
        self.evictions = 0
        self.position = 0
        self.forced = Forced()
        self._keys: dict[bytes, list[Entry]] = {}
        self._locations: dict[Location, bytes | set[bytes]] = {}  # the only one, or all
        self._tagged: dict[bytes, Entry | set[Entry]] = {}
        # SIEVE's queue, linked through the entries: newest, oldest, and where the hand stands
        self._newest: Entry | None = None
        self._oldest: Entry | None = None
        self._hand: Entry | None = None

    def __len__(self) -> int:
        return self.entries

    def find(self, key: bytes, headers: Headers) -> tuple[Entry | None, bool]:
        """(the entry for these request fields, whether other variants are there)."""
        entries = self._keys.get(key)
        if entries is None:
            return self.find_below(key, headers, varied=False)
        for entry in entries:
            if not entry.names or variant_key(entry.names, headers) == entry.variant:
                if entry.file is not None and not entry.file.is_whole():
                    self._drop(entry)
                    break
                entry.visited = True
                return entry, False
        return self.find_below(key, headers, varied=True)

    def peek(self, key: bytes, headers: Headers) -> tuple[Entry | None, bool]:
        """The same of what is in memory alone, and nobody sees that it was looked at."""
        entries = self._keys.get(key, ())
        for entry in entries:
            if not entry.names or variant_key(entry.names, headers) == entry.variant:
                return entry, False
        return None, bool(entries)

    def find_below(self, key: bytes, headers: Headers, *, varied: bool) -> tuple[Entry | None, bool]:
        """What `find` answers when it is not in memory; a store with more tiers looks there."""
        return None, varied

    def renewed(self, entry: Entry, headers: Headers) -> Entry:
        """The successor of a stale entry, when somebody else stored one; else the entry."""
        return entry

    def put(self, entry: Entry) -> bool:
        """Store, in place of the same variant, and evict until there is room. False when it cannot fit."""
        if entry.size > self.max_bytes:
            return False
        entries = self._keys.setdefault(entry.key, [])
        for other in [one for one in entries if one.names != entry.names or one.variant == entry.variant]:
            self._drop(other)
        entries = self._keys.setdefault(entry.key, [])
        if len(entries) >= VARIANTS:
            self._drop(entries[0])
            entries = self._keys.setdefault(entry.key, [])
        entries.append(entry)
        self._link(entry)
        _add(self._locations, entry.location, entry.key)
        for tag in entry.tags:
            _add(self._tagged, tag, entry)
        self.bytes += entry.size
        while self.bytes > self.max_bytes:
            self._evict(entry)
        return True

    def fill(self, entry: Entry, began: float) -> bool:
        """`put` what a fetch brought that began then. Not what an unsafe request changed since, and nothing
        stale in the place of what is fresh."""
        return self.put(entry)

    def renew(self, entry: Entry, since: int) -> bool:
        """Store what the origin said is still right, when asked after the purge log stood at `since`."""
        entry.position = max(entry.position, since)
        return self.put(entry)

    def changed(self, entry: Entry) -> None:
        """Said when an entry ended, or took another's place, before its time: to stores with company."""

    def resize(self, max_bytes: int) -> None:
        """A new bound, kept at once."""
        self.max_bytes = max_bytes
        while self.bytes > max_bytes and self._newest is not None:
            self._evict(None)

    def _evict(self, newest: Entry | None) -> None:
        """Move the hand to the first entry not visited since it last passed, and drop that."""
        victim = self._hand or self._oldest
        while victim is not None and (victim.visited or victim is newest):
            victim.visited = False
            victim = victim.newer or self._oldest
            if victim is newest and self.entries == 1:
                break
        if victim is not None:
            self._hand = victim.newer
            self._drop(victim)
            self.evictions += 1

    def _link(self, entry: Entry) -> None:
        entry.older, entry.newer, entry.stored = self._newest, None, True
        if self._newest is not None:
            self._newest.newer = entry
        else:
            self._oldest = entry
        self._newest = entry
        self.entries += 1

    def _unlink(self, entry: Entry) -> None:
        if entry is self._hand:
            self._hand = entry.newer
        if entry.older is not None:
            entry.older.newer = entry.newer
        else:
            self._oldest = entry.newer
        if entry.newer is not None:
            entry.newer.older = entry.older
        else:
            self._newest = entry.older
        entry.older = entry.newer = None
        entry.stored = False
        self.entries -= 1

    def _drop(self, entry: Entry) -> None:
        if not entry.stored:
            return
        self._unlink(entry)
        STAMPED.pop(entry, None)
        self.bytes -= entry.size
        entries = self._keys[entry.key]
        entries.remove(entry)
        for tag in entry.tags:
            _remove(self._tagged, tag, entry)
        if not entries:
            del self._keys[entry.key]
            _remove(self._locations, entry.location, entry.key)

    def __iter__(self) -> Iterator[Entry]:
        """Every entry, oldest first; the one just yielded may be dropped."""
        entry = self._oldest
        while entry is not None:
            newer = entry.newer
            yield entry
            entry = newer

    def invalidate(self, location: Location) -> int:
        """Forget every entry of a URL: all dimensions, all variants. How many there were."""
        return self.purge_url(location, soft=False, now=0.0)

    def invalidate_group(self, tag: bytes) -> int:
        """Forget every entry of a group (RFC 9875 §3). How many there were."""
        return self.purge_tag(tag, soft=False, now=0.0)

    def purge_url(self, location: Location, *, soft: bool, now: float) -> int:
        """`purge` of the entries of one URL, without looking at others."""
        keys = _all(self._locations, location)
        return self._purge([entry for key in keys for entry in self._keys.get(key, ())], soft=soft, now=now)

    def purge_tag(self, tag: bytes, *, soft: bool, now: float) -> int:
        """`purge` of the entries with one tag, without looking at others."""
        return self._purge(_all(self._tagged, tag), soft=soft, now=now)

    def purge(self, matches: Callable[[Entry], bool], *, soft: bool, now: float) -> int:
        """Forget, or with `soft` make stale, every entry that matches. How many there were."""
        return self._purge([entry for entry in self if matches(entry)], soft=soft, now=now)

    def purged_since(self, location: Location, position: int, began: float) -> bool:
        """Was something purged after `position` that names this URL, or might? Or was it changed since it was
        asked for?"""
        return position != self.position

    def noted(self, purge: Purge) -> None:
        """Said of every purge before it is applied, to stores that must know it later too."""

    def lost(self, position: int) -> None:
        """Purges up to `position` were missed, nobody knows which."""
        self.clear()

    def _purge(self, entries: list[Entry], *, soft: bool, now: float) -> int:
        for entry in entries:
            if soft:
                entry.expire(now)
            else:
                self._drop(entry)
        return len(entries)

    def clear(self) -> int:
        """Forget everything."""
        count = self.entries
        for entry in self:
            self._drop(entry)
        return count


def _add(index: dict[_Name, _Value | set[_Value]], name: _Name, value: _Value) -> None:
    found = index.get(name)
    if found is None:
        index[name] = value
    elif isinstance(found, set):
        found.add(value)
    elif found != value:
        index[name] = {found, value}


def _remove(index: dict[_Name, _Value | set[_Value]], name: _Name, value: _Value) -> None:
    found = index.get(name)
    if isinstance(found, set):
        found.discard(value)
        if found:
            return
    elif found != value:
        return
    del index[name]


def _all(index: dict[_Name, _Value | set[_Value]], name: _Name) -> list[_Value]:
    found = index.get(name)
    if found is None:
        return []
    return list(found) if isinstance(found, set) else [found]
