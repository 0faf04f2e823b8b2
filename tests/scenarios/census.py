"""An edge whose worker counts what it holds when it gets SIGUSR2: objects by type, blocks, malloc's figures.

    python -m tests.scenarios.census EDGE_YAML FOLDER [--trace]

Each count is a file `census.N.json` in FOLDER; with --trace the places that allocated most are in it too.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import signal
import sys
import threading
import tracemalloc
from collections import Counter
from itertools import count
from pathlib import Path

FRAMES = 12  # of a place that allocates
PLACES = 25


class _Mallinfo2(ctypes.Structure):
    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in _names.split()]


def malloc_figures() -> tuple[int, int]:
    """(bytes that malloc has given out, bytes that it keeps free). Zeros where libc does not say."""
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return 0, 0
    mallinfo2.restype = _Mallinfo2
    info = mallinfo2()
    return info.uordblks + info.hblkhd, info.fordblks


def anonymous(pid: int | str = "self") -> int:
    """Bytes of a process that are no file's."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def count_types() -> Counter[str]:
    """How many objects of each type the collector knows of, rubbish taken out first."""
    gc.collect()
    return Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.get_objects())


def take_census() -> dict[str, object]:
    """What this process holds."""
    types = count_types()
    used, free = malloc_figures()
    places: list[str] = []
    if tracemalloc.is_tracing():
        snapshot = tracemalloc.take_snapshot()
        for stat in snapshot.statistics("traceback")[:PLACES]:
            lines = [f"{frame.filename}:{frame.lineno}" for frame in stat.traceback]
            places.append(f"{stat.size} bytes in {stat.count} blocks\n  " + "\n  ".join(lines))
    return {
        "anonymous": anonymous(), "blocks": sys.getallocatedblocks(), "objects": types.total(),
        "malloc_used": used, "malloc_free": free, "threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")), "types": types, "places": places,
    }  # fmt: skip


def main() -> None:
    """`edgeproxy run` with a counting worker."""
    from edgeproxy.cli import main as edgeproxy
    from edgeproxy.server.worker import Worker

    folder, trace = Path(sys.argv[2]), "--trace" in sys.argv[3:]
    start, numbers = Worker.start, count()

    async def counting(self: Worker) -> None:
        await start(self)
        if trace:
            tracemalloc.start(FRAMES)

        def write() -> None:
            store, hall = self.parts.store, self.hall
            found = {
                **take_census(), "stored": store.bytes, "entries": len(store),
                "clients": len(hall.connections), "tasks": len(asyncio.all_tasks()),
            }  # fmt: skip
            draft = folder / "census.draft"
            draft.write_text(json.dumps(found))
            draft.rename(folder / f"census.{next(numbers)}.json")

        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, write)

    Worker.start = counting
    edgeproxy(["run", "--config", sys.argv[1]])


if __name__ == "__main__":
    main()
