"""What is to be stored in the machine tier once somebody has the time: bounded, the last word per variant."""

from __future__ import annotations

from edgeproxy.cache.entry import Entry

MOST = 4096  # entries
MOST_BYTES = 16 * 2**20


class Outbox:
    """Entries in the order in which they came; one that is full lets the oldest go, and counts it."""

    __slots__ = ("_entries", "_most", "_most_bytes", "bytes", "dropped")

    def __init__(self, most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        self.bytes = 0
        self.dropped = 0
        self._most, self._most_bytes = most, most_bytes
        self._entries: dict[tuple[bytes, bytes], Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, entry: Entry) -> None:
        """Add, in place of what the same variant was to become."""
        name = entry.key, entry.variant
        other = self._entries.pop(name, None)
        if other is not None:
            self.bytes -= other.size
        self._entries[name] = entry
        self.bytes += entry.size
        while len(self._entries) > self._most or self.bytes > self._most_bytes:
            self._pop()
            self.dropped += 1

    def take(self, most_bytes: int) -> list[Entry]:
        """Up to so many bytes of the oldest, but one at least; they are gone from here."""
        taken: list[Entry] = []
        size = 0
        while self._entries and (not taken or size < most_bytes):
            taken.append(self._pop())
            size += taken[-1].size
        return taken

    def _pop(self) -> Entry:
        entry = self._entries.pop(next(iter(self._entries)))
        self.bytes -= entry.size
        return entry
