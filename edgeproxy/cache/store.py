"""The store that everybody else sees: memory, and the purges that every worker of the machine must know.

Rule 1: a hit costs what it costs in memory: `find` is that of `MemoryStore`.
Rule 2: nothing enters without asking the purge clocks: a fetch that began before a purge must not put the
old answer back.
"""

from __future__ import annotations

from zlib import crc32

from edgeproxy.cache.clocks import PurgeClocks, Purged
from edgeproxy.cache.entry import Entry, Location
from edgeproxy.cache.memory import MemoryStore
from edgeproxy.cache.purge import apply_purges, joined_location
from edgeproxy.cache.tags import is_group
from edgeproxy.context import Clock
from edgeproxy.purge_log import MAX_VALUE, Purge, PurgeKind, PurgeLog

HELD = 2**20  # places that say whether a URL was ever stored by anybody; URLs may share one


class Store(MemoryStore):
    """What one worker holds. `held` is memory that all workers share, HELD bytes."""

    def __init__(
        self,
        max_bytes: int,
        log: PurgeLog,
        clock: Clock,
        held: memoryview,
    ) -> None:
        super().__init__(max_bytes)
        self.clocks = PurgeClocks(log.position)
        self.position = log.position
        self._log, self._clock, self._held = log, clock, held

    def put(self, entry: Entry) -> bool:
        """Store. False when it cannot fit, or a purge came after its fetch began."""
        self.keep_up()
        if not self._may_use(entry):
            return False
        self._held[_place(entry.location)] = 1
        for tag in entry.tags:
            if is_group(tag):
                self._held[crc32(tag) % HELD] = 1
        return super().put(entry)

    def renew(self, entry: Entry, since: int) -> bool:
        self.keep_up()
        if self.clocks.covers(entry) is Purged.HARD:
            return False  # what was validated had been purged before it was asked for
        return super().renew(entry, since)

    def keep_up(self) -> None:
        """Apply what was purged since. Costs one comparison when nothing was."""
        if self._log.head[0] != self.position:
            apply_purges(self, self._log, self._clock())

    def invalidate(self, location: Location) -> int:
        """Forget a URL in all workers (RFC 9111 §4.4). How many entries this worker held."""
        value = joined_location(location)
        if not self._held[_place(location)] or len(value) > MAX_VALUE:
            return 0  # no worker ever stored it: unsafe requests to such URLs are many and cost nothing
        self.keep_up()
        held = super().invalidate(location)
        self._log.append(PurgeKind.URL, value)
        self.keep_up()
        return held

    def invalidate_group(self, tag: bytes) -> int:
        """Forget a group in all workers. How many entries this worker held."""
        if not self._held[crc32(tag) % HELD] or len(tag) > MAX_VALUE:
            return 0
        self.keep_up()
        held = super().invalidate_group(tag)
        self._log.append(PurgeKind.TAG, tag)
        self.keep_up()
        return held

    def noted(self, purge: Purge) -> None:
        self.clocks.record(purge)

    def lost(self, position: int) -> None:
        self.clocks.lose(position)
        super().lost(position)

    def _may_use(self, entry: Entry) -> bool:
        """Whether no purge came in between; one that a soft purge named is stale from now on."""
        purged = self.clocks.covers(entry)
        if purged is Purged.HARD:
            return False
        if purged is Purged.SOFT:
            entry.expire(self._clock())
        return True


def _place(location: Location) -> int:
    host, path, query = location
    return crc32(query, crc32(path, crc32(host))) % HELD
