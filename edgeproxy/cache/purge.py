"""Purges of the shared log, applied to one worker's store before its next look-up."""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

from edgeproxy.cache.clocks import PurgeClocks
from edgeproxy.cache.entry import Entry
from edgeproxy.cache.memory import MemoryStore
from edgeproxy.purge_log import Purge, PurgeKind, PurgeLog, split_location


def apply_purges(store: MemoryStore, log: PurgeLog, now: float) -> None:
    """Bring the store up to the log. A store that fell too far behind forgets everything: it cannot know."""
    purges, lost = log.since(store.position)
    if lost:
        store.position = log.position
        store.lost(store.position)
        return
    for purge in purges:
        store.position = purge.position
        store.noted(purge)
        if purge.kind is PurgeKind.URL:  # by far the most: unsafe requests are among them
            dropped = store.purge_url(split_location(purge.value), soft=purge.soft, now=now)
        elif purge.kind is PurgeKind.TAG:  # groups that unsafe requests invalidate too
            dropped = store.purge_tag(purge.value, soft=purge.soft, now=now)
        else:
            dropped = store.purge(matcher(purge), soft=purge.soft, now=now)
        log.report(purge, dropped)


def catch_up(clocks: PurgeClocks, log: PurgeLog) -> None:
    """Bring clocks up to the log that no store keeps up."""
    purges, lost = log.since(clocks.position)
    if lost:
        clocks.lose(log.position)
    for purge in purges:
        clocks.record(purge)


def matcher(purge: Purge) -> Callable[[Entry], bool]:
    """Which entries a purge names: all their variants, whatever else is in their key."""
    value = purge.value
    match purge.kind:
        case PurgeKind.ALL:
            return lambda _: True
        case PurgeKind.HOST:
            return lambda entry: entry.location[0] == value
        case PurgeKind.TAG:
            return lambda entry: value in entry.tags
        case PurgeKind.URL:
            location = split_location(value)
            return lambda entry: entry.location == location
        case PurgeKind.PREFIX:
            host, path, _ = split_location(value)
            return lambda entry: entry.location[0] == host and entry.location[1].startswith(path)
        case _:
            assert_never(purge.kind)
