"""The store that everybody else sees: memory first, and below it, where there is one, the machine tier.

Rule 1: a hit in memory costs what it costs without a tier below: `find` is that of `MemoryStore`.
Rule 2: nothing enters memory, from the origin or from below, without asking the purge clocks: a fetch that
began before a purge must not put the old answer back. What lies below may be old; it is never searched.
"""

from __future__ import annotations

from math import inf
from typing import Protocol

from edgeproxy.cache.clocks import PurgeClocks, Purged
from edgeproxy.cache.entry import Entry, Location
from edgeproxy.cache.machine_rows import variant_digest
from edgeproxy.cache.marks import Marks, place_of, place_of_group
from edgeproxy.cache.memory import MemoryStore
from edgeproxy.cache.purge import apply_purges
from edgeproxy.cache.renewals import Renewals
from edgeproxy.cache.tags import is_group
from edgeproxy.context import Clock
from edgeproxy.http.message import Headers
from edgeproxy.purge_log import MAX_VALUE, Purge, PurgeKind, PurgeLog, joined_location

LOOK_AGAIN = 0.5  # seconds until a stale entry is looked for below once more
SAME_BIRTH = 0.1  # seconds by which the clocks may have drifted since it was written down


class Tier(Protocol):
    """What a tier below memory does. It never raises, and never waits."""

    def find(self, key: bytes, headers: Headers) -> tuple[Entry | None, bool]: ...
    def put(self, entry: Entry) -> bool: ...


class Store(MemoryStore):
    """The tiers of one worker. `marks` are what all workers share."""

    def __init__(
        self,
        max_bytes: int,
        log: PurgeLog,
        clock: Clock,
        marks: Marks,
        clocks: PurgeClocks | None = None,
        below: Tier | None = None,
        renewals: Renewals | None = None,
    ) -> None:
        """`clocks` are those of an earlier start, when `below` holds something from then; `renewals` are what
        other workers say."""
        super().__init__(max_bytes)
        self.clocks = PurgeClocks(log.position) if clocks is None else clocks
        self.position = self.clocks.position
        self.below_hits = 0
        self._log, self._clock, self._marks, self._below = log, clock, marks, below
        self._renewals = renewals

    def find_below(self, key: bytes, headers: Headers, *, varied: bool) -> tuple[Entry | None, bool]:
        """Look in the machine tier, and take what is there into memory."""
        if self._below is None:
            return None, varied
        self.keep_up()
        entry, others = self._below.find(key, headers)
        if entry is None or not self._may_use(entry):
            return None, varied or others
        self.below_hits += 1
        super().put(entry)
        entry.visited = True
        return entry, False

    def peek_below(self, key: bytes, headers: Headers) -> tuple[Entry | None, bool]:
        """What the machine tier has, left there; none where there is no such tier."""
        if self._below is None:
            return None, False
        self.keep_up()
        entry, others = self._below.find(key, headers)
        return (entry, others) if entry is None or self._may_use(entry) else (None, others)

    def renewed(self, entry: Entry, headers: Headers) -> Entry:
        """What another worker stored in place of a stale entry; else the entry."""
        now = self._clock()
        if self._below is None or now < entry.looked_until:
            return entry
        entry.looked_until = now + LOOK_AGAIN
        self.keep_up()
        other, _ = self._below.find(entry.key, headers)
        if other is None or other.born <= entry.born + SAME_BIRTH:
            return entry  # what was made stale in memory may look fresh below: it is the same
        if not self._may_use(other) or other.fresh_until <= now:
            return entry
        self.below_hits += 1
        super().put(other)
        return other

    def fill(self, entry: Entry, began: float) -> bool:
        if entry.fresh_until <= self._clock() and self._is_fresh(entry):
            return False
        return self._mark(entry, began) and self._put(entry)

    def _is_fresh(self, entry: Entry) -> bool:
        """Is there another one in its place that is? It came while this one took its time."""
        now = self._clock()
        others = [one for one in self._keys.get(entry.key, ()) if one.variant == entry.variant]
        return any(one.fresh_until > now and not one.must_validate for one in others)

    def put(self, entry: Entry) -> bool:
        """Store in every tier that takes it. False when none does, or a purge came after its fetch began."""
        self._mark(entry, inf)
        return self._put(entry)

    def _mark(self, entry: Entry, began: float) -> bool:
        """Say that it is stored. False when it was changed since `began`."""
        changed = self._marks.store(place_of(entry.location), began)
        for tag in entry.tags:
            if is_group(tag):
                changed |= self._marks.store(place_of_group(tag), began)
        return not changed

    def _put(self, entry: Entry) -> bool:
        self.keep_up()
        if not self._may_use(entry):
            return False
        kept = super().put(entry)
        if self._below is not None:
            kept = self._below.put(entry) or kept
        return kept

    def renew(self, entry: Entry, since: int) -> bool:
        self.keep_up()
        if self.clocks.covers(entry) is Purged.HARD:
            return False  # what was validated had been purged before it was asked for
        return super().renew(entry, since)

    def purged_since(self, location: Location, position: int, began: float) -> bool:
        return (
            position != self.position and self.clocks.named(location, position)
        ) or self._marks.is_changed(place_of(location), began)

    def hear(self) -> None:
        """Make stale what another worker has something newer of, or knows to be out of date."""
        if self._renewals is None:
            return
        for renewal in self._renewals.heard():
            for entry in self._keys.get(renewal.key, ()):
                if entry.born < renewal.before and variant_digest(entry.variant) == renewal.variant:
                    entry.expire(self._clock())
                    entry.stale_until = entry.fresh_until  # what is newer is near: nobody need be served this
                    entry.looked_until = 0.0

    def changed(self, entry: Entry) -> None:
        if self._renewals is not None:
            self._renewals.tell(entry, self._clock())
        if self._below is not None and (entry.stored or entry.size > self.max_bytes):
            self._below.put(entry)

    def keep_up(self) -> None:
        """Apply what was purged since. Costs one comparison when nothing was."""
        if self._log.head[0] != self.position:
            apply_purges(self, self._log, self._clock())

    def invalidate(self, location: Location) -> int:
        """Forget a URL in all tiers of all workers (RFC 9111 §4.4). How many entries this worker held."""
        if not self._marks.change(place_of(location), self._clock()):
            return 0  # no worker ever stored it: unsafe requests to such URLs are many and cost nothing
        value = joined_location(location)
        if len(value) > MAX_VALUE:
            return 0
        self.keep_up()
        held = super().invalidate(location)
        self._log.append(PurgeKind.URL, value)
        self.keep_up()
        return held

    def invalidate_group(self, tag: bytes) -> int:
        """Forget a group in all workers. How many entries this worker held."""
        if not self._marks.change(place_of_group(tag), self._clock()) or len(tag) > MAX_VALUE:
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
