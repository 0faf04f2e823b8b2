"""What has been purged, by position of the purge log: whether an entry is older than a purge that names it.

Whoever keeps entries that it does not search when a purge comes (a tier on disk), or gets one late (a
fetch that began before the purge), asks here. A purge is remembered until more came than the bound allows;
then a floor rises, and everything older than that counts as purged: too much, never too little.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum

from edgeproxy.cache.entry import Entry, Location
from edgeproxy.purge_log import Purge, PurgeKind, split_location

MOST = 65_536  # purges remembered
MOST_BYTES = 8 * 2**20  # of what they name

_Name = tuple[PurgeKind, bytes | tuple[bytes, ...] | None]
_EVERYTHING: _Name = (PurgeKind.ALL, None)


class Purged(Enum):
    """How an entry is touched by purges that came after its fetch began."""

    HARD = "hard"  # it must not be used at all
    SOFT = "soft"  # it is stale, whatever its freshness says


class _Clock:
    """The last hard and soft purge of one name."""

    __slots__ = ("hard", "soft", "value")

    def __init__(self, value: bytes) -> None:
        self.value = value
        self.hard = self.soft = 0

    @property
    def last(self) -> int:
        return max(self.hard, self.soft)


class PurgeClocks:
    """Purges by what they name. `position` is how far in the log they go; `floor` is where memory begins."""

    __slots__ = (
        "_clocks",
        "_lengths",
        "_most",
        "_most_bytes",
        "_size",
        "floor",
        "latest",
        "latest_tag",
        "position",
    )

    def __init__(
        self, position: int = 0, floor: int = 0, *, most: int = MOST, most_bytes: int = MOST_BYTES
    ) -> None:
        self.position = position
        self.floor = floor
        self.latest = floor  # the last purge there was: entries as new as that need not be looked at
        self.latest_tag = floor  # the last purge by tag
        self._clocks: dict[_Name, _Clock] = {}  # the one purged longest ago is first
        self._lengths: dict[bytes, dict[int, int]] = {}  # host -> length of a purged prefix -> how many
        self._size = 0
        self._most, self._most_bytes = most, most_bytes

    def __len__(self) -> int:
        return len(self._clocks)

    def record(self, purge: Purge) -> None:
        """Remember a purge. They come in the order of the log."""
        name = _name(purge.kind, purge.value)
        clock = self._clocks.pop(name, None)
        if clock is None:
            clock = _Clock(purge.value)
            self._size += len(purge.value)
            self._count_prefix(name, 1)
        self._clocks[name] = clock
        if purge.soft:
            clock.soft = purge.position
        else:
            clock.hard = purge.position
        self.position = self.latest = purge.position
        if purge.kind is PurgeKind.TAG:
            self.latest_tag = purge.position
        while len(self._clocks) > self._most or self._size > self._most_bytes:
            self._forget_one()

    def lose(self, position: int) -> None:
        """What was purged up to `position` is not known: everything may have been."""
        self._clocks.clear()
        self._lengths.clear()
        self._size = 0
        self.position = self.latest = self.latest_tag = self.floor = position

    def covers(self, entry: Entry) -> Purged | None:
        """What purges after its fetch began say about an entry; None when none names it."""
        position = entry.position
        if position >= self.latest:
            return None
        if position < self.floor:
            return Purged.HARD
        found: Purged | None = None
        for name in self._names_of(entry.location, entry.tags):
            clock = self._clocks.get(name)
            if clock is not None:
                if clock.hard > position:
                    return Purged.HARD
                if clock.soft > position:
                    found = Purged.SOFT
        return found

    def named(self, location: Location, position: int) -> bool:
        """Whether a purge after `position` names what is being fetched from there, or might: its tags are
        not known yet."""
        if position >= self.latest:
            return False
        if position < max(self.floor, self.latest_tag):
            return True
        clocks = [self._clocks.get(name) for name in self._names_of(location)]
        return any(clock is not None and clock.last > position for clock in clocks)

    def purges(self) -> Iterator[Purge]:
        """What is remembered, each name's last hard and soft purge, in the order of the log."""
        every = [
            Purge(kind, clock.value, soft, position)
            for (kind, _), clock in self._clocks.items()
            for soft, position in ((False, clock.hard), (True, clock.soft))
            if position
        ]
        return iter(sorted(every, key=lambda purge: purge.position))

    def _names_of(self, location: Location, tags: Iterable[bytes] = ()) -> Iterator[_Name]:
        """Everything a purge could call an entry of this location."""
        yield _EVERYTHING
        yield PurgeKind.URL, location
        host, path, _ = location
        yield PurgeKind.HOST, host
        for tag in tags:
            yield PurgeKind.TAG, tag
        for length in self._lengths.get(host, ()):
            if length <= len(path):
                yield PurgeKind.PREFIX, (host, path[:length])

    def _forget_one(self) -> None:
        name = next(iter(self._clocks))
        clock = self._clocks.pop(name)
        self._size -= len(clock.value)
        self._count_prefix(name, -1)
        self.floor = max(self.floor, clock.last)

    def _count_prefix(self, name: _Name, change: int) -> None:
        """Which lengths of prefixes are worth trying, per host."""
        kind, value = name
        if kind is not PurgeKind.PREFIX or not isinstance(value, tuple):
            return
        host, path = value
        lengths = self._lengths.setdefault(host, {})
        count = lengths.get(len(path), 0) + change
        if count:
            lengths[len(path)] = count
            return
        del lengths[len(path)]
        if not lengths:
            del self._lengths[host]


def _name(kind: PurgeKind, value: bytes) -> _Name:
    """What a purge names, in the form in which entries are asked for it."""
    if kind is PurgeKind.URL:
        return kind, split_location(value)
    if kind is PurgeKind.PREFIX:
        return kind, split_location(value)[:2]
    return _EVERYTHING if kind is PurgeKind.ALL else (kind, value)
