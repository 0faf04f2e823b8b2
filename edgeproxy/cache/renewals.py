"""What workers tell one another of answers that were replaced, or ended, before their time was over.

A client's `no-cache` or an answer to HEAD does that in one worker. The others, which hold the same answer
fresh, make theirs stale, and then find its successor as they find any: below, or in that worker. It is no
purge: whoever does not hear of it serves what was fresh when it came. A ring as for the purges carries it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from edgeproxy.cache.entry import Entry
from edgeproxy.cache.machine_rows import variant_digest
from edgeproxy.purge_log import MAX_VALUE, PurgeKind, PurgeLog
from edgeproxy.record import record

SIZE = 256 * 1024  # bytes of the ring
_NOTICE = struct.Struct("<Hd8s")


@record
class Renewal:
    """One variant of a key: what was born before, in steady seconds, is out of date."""

    key: bytes
    variant: bytes  # digest
    before: float


class Renewals:
    """The ring `log` as the worker in `slot` sees it."""

    def __init__(self, log: PurgeLog, slot: int) -> None:
        self._log, self._slot = log, slot
        self._position = log.position

    def tell(self, entry: Entry, now: float) -> None:
        """Whoever has an older one than this, or this as it was, has it no more."""
        value = _NOTICE.pack(self._slot, now, variant_digest(entry.variant)) + entry.key
        if len(value) <= MAX_VALUE:
            self._log.append(PurgeKind.URL, value)  # the kind says nothing here

    def heard(self) -> Iterator[Renewal]:
        """What others told since the last time; nothing when that was too much."""
        told, lost = self._log.since(self._position)
        if lost or told:
            self._position = self._log.position if lost else told[-1].position
        for one in told:
            slot, now, variant = _NOTICE.unpack_from(one.value)
            if slot != self._slot:
                yield Renewal(one.value[_NOTICE.size :], variant, now)
