"""One process's way to the machine tier: look-ups at once, stores by a thread, many in one transaction.

Rule: whatever happens to the file happens to the tier alone. It is opened again when the supervisor made it
anew, and tried again when the disk did not want.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from edgeproxy.cache.entry import Entry
from edgeproxy.cache.machine import KINDS, PAUSES, DamagedError, MachineStore
from edgeproxy.cache.outbox import Outbox
from edgeproxy.clock import steady
from edgeproxy.http.message import Headers
from edgeproxy.machine.home import MachineHome
from edgeproxy.machine.large_files import LargeFiles
from edgeproxy.observe.cells import Slot

logger = logging.getLogger("edgeproxy.machine")

GATHER = 0.005  # seconds between the first entry and the transaction: more may come
CHECK = 0.5  # seconds between two looks at what the supervisor did
BATCH = 2 * 2**20  # bytes of one transaction, or a part of the file when that is small
_PART = 64


class MachineTier:
    """The `Tier` below a worker's memory. Open it after the fork; `run` writes what was put."""

    def __init__(self, home: MachineHome, object_size: int, files: LargeFiles | None = None) -> None:
        self.files = files
        self.outbox = Outbox()
        self._home, self._object_size = home, object_size
        self._batch = min(BATCH, home.size // _PART)
        self._before: dict[str, int] = dict.fromkeys(
            (*KINDS, "evictions"), 0
        )  # figures of stores that were closed
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "machine-tier")
        self._number = 0
        self._store: MachineStore | None = None
        self._failed_opens = 0
        self._open_at = 0.0
        self._store = self._open()

    def find(self, key: bytes, headers: Headers) -> tuple[Entry | None, bool]:
        """What some process stored. It waits for nobody."""
        store = self._store
        return (None, False) if store is None else store.find(key, headers)

    def put(self, entry: Entry) -> bool:
        """Have it stored soon. False when it is too large for this tier."""
        if entry.size > self._object_size:
            return False
        self.outbox.put(entry)
        self._wake.set()
        return True

    async def run(self) -> None:
        """Write what comes, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(CHECK):
                    await self._wake.wait()
            self._wake.clear()
            await asyncio.sleep(GATHER)
            await self.tend()

    async def tend(self) -> None:
        """Open what must be opened, and write what waits."""
        loop = asyncio.get_running_loop()
        store = self._store
        if store is not None and store.damaged:
            self._home.condemn("damaged", self._number)
        if self._number != self._home.number or (store is None and steady() >= self._open_at):
            self._store = None  # nobody may look while it is closed
            self._store = await loop.run_in_executor(self._thread, self._reopen, store)
        store = self._store
        while store is not None and self.outbox and not store.paused:
            await loop.run_in_executor(self._thread, store.put, self.outbox.take(self._batch))

    def close(self) -> None:
        """Write what waits, and let go. The event loop has nothing more to do."""
        if self.files is not None:
            self.files.close()
        self._thread.shutdown(wait=True)
        store, self._store = self._store, None
        if store is not None:
            while self.outbox and not store.paused:
                store.put(self.outbox.take(self._batch))
            store.close()

    def publish(self, slot: Slot) -> None:
        """Figures for the metrics."""
        if self.files is not None:
            self.files.publish(slot)
        store = self._store
        values, column, gauge = slot.values, slot.column, slot.gauge
        for kind in KINDS:
            count = self._before[kind] + (0 if store is None else store.failures[kind])
            values[column("edgeproxy_cache_machine_errors_total", kind=kind)] = count
        evictions = self._before["evictions"] + (0 if store is None else store.evictions)
        values[column("edgeproxy_cache_machine_evictions_total")] = evictions
        values[column("edgeproxy_cache_machine_dropped_total")] = self.outbox.dropped
        gauge("edgeproxy_cache_machine_paused").set(float(store is None or store.paused))
        if store is not None and not store.paused:
            gauge("edgeproxy_cache_machine_entries").set(store.keys)
            gauge("edgeproxy_cache_machine_bytes").set(store.bytes)

    def _reopen(self, store: MachineStore | None) -> MachineStore | None:
        if store is not None:
            for kind in KINDS:
                self._before[kind] += store.failures[kind]
            self._before["evictions"] += store.evictions
            store.close()
        return self._open()

    def _open(self) -> MachineStore | None:
        home = self._home
        number = self._number = home.number
        try:
            store = MachineStore(
                str(home.objects),
                home.era,
                home.size,
                self._object_size,
                home.asked,
                steady,
                home.ahead,
                _failed,
                None if self.files is None else self.files.open,
            )
        except DamagedError as error:
            self._could_not("damaged", error)
            home.condemn("damaged", number)
            return None
        except OSError as error:
            self._could_not("disk", error)
            return None
        finally:
            home.opened(number)
        self._failed_opens = 0
        return store

    def _could_not(self, kind: str, error: Exception) -> None:
        self._before[kind] += 1
        self._open_at = steady() + PAUSES[min(self._failed_opens, len(PAUSES) - 1)]
        self._failed_opens += 1
        _failed(kind, f"it cannot be opened: {error}")


def _failed(kind: str, why: str) -> None:
    logger.warning("the machine tier is left alone for a while (%s): %s", kind, why)
