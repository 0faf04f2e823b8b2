"""Writes exposures down: JSON lines in a file, batches to a collector. Losing some never delays a request.

Rule: each sink has its own bounded buffer, and takes what fits; what does not is counted as dropped. A batch
that could not be delivered is tried again, one that was refused (4xx) is not.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path

from edgeproxy.context import Context, Exposure
from edgeproxy.feeds.exposure_settings import ExposureSection
from edgeproxy.observe.cells import Slot

_log = logging.getLogger(__name__)
_LONGEST_BACK_OFF = 60.0


class ExposureSink:
    """A bounded buffer and where it is emptied to. `write` raises when a batch should be tried again."""

    def __init__(self, name: str, config: ExposureSection, edge: str, slot: Slot) -> None:
        self.name = name
        self._config, self._edge = config, edge
        self._salt = blake2b(config.salt.get_secret_value().encode()).digest()
        self._lines: deque[bytes] = deque()
        self._dropped = slot.counter("edgeproxy_exposures_dropped_total", sink=name)
        self._failures = slot.counter("edgeproxy_exposure_sink_failures_total", sink=name)
        self._wait = config.interval

    def __len__(self) -> int:
        return len(self._lines)

    def put(self, exposure: Exposure, ctx: Context) -> None:
        """Take one exposure in, if there is room."""
        if len(self._lines) >= self._config.buffer:
            self._dropped.inc()
            return
        document: dict[str, object] = {
            "time": datetime.fromtimestamp(ctx.wall, UTC).isoformat(timespec="milliseconds"),
            "experiment": exposure.experiment,
            "variant": exposure.variant,
            "unit": self._unit(exposure.unit),
            "route": ctx.route,
            "edge": self._edge,
        }
        if ctx.place is not None and ctx.place.country:
            document["country"] = ctx.place.country
        line = json.dumps(document, separators=(",", ":")) + "\n"
        self._lines.append(line.encode())

    def _unit(self, unit: str) -> str:
        if self._config.unit == "plain":
            return unit
        return blake2b(unit.encode("utf-8", "surrogatepass"), key=self._salt, digest_size=16).hexdigest()

    async def run(self) -> None:
        """Empty the buffer at every interval, until cancelled."""
        while True:
            await asyncio.sleep(self._wait)
            await self.flush()

    async def flush(self) -> None:
        """Write all that is there, a batch at a time. Never raises; what failed stays for the next time."""
        while self._lines:
            count = min(self._config.batch, len(self._lines))
            batch = [self._lines.popleft() for _ in range(count)]
            try:
                kept = await self.write(b"".join(batch))
            except asyncio.CancelledError:
                self._lines.extendleft(reversed(batch))
                raise
            except Exception as error:  # a sink that dies would lose everything from then on
                self._lines.extendleft(reversed(batch))
                self._failures.inc()
                self._wait = min(self._wait * 2, _LONGEST_BACK_OFF)
                _log.warning("exposures could not be written to the %s: %s", self.name, error)
                return
            if not kept:
                self._dropped.inc(len(batch))
            self._wait = self._config.interval

    async def write(self, batch: bytes) -> bool:
        """Deliver a batch; False when it was refused for good."""
        raise NotImplementedError


class FileSink(ExposureSink):
    """Appends to a file, which is opened anew for each batch: it may be rotated away at any time."""

    def __init__(self, path: str, config: ExposureSection, edge: str, slot: Slot) -> None:
        super().__init__("file", config, edge, slot)
        self._path = Path(path)

    async def write(self, batch: bytes) -> bool:
        """Append in a thread: a slow disk delays nobody."""
        await asyncio.to_thread(self._append, batch)
        return True

    def _append(self, batch: bytes) -> None:
        with self._path.open("ab") as file:
            file.write(batch)


def exposure_sinks(config: ExposureSection, edge: str, slot: Slot) -> list[ExposureSink]:
    """The sinks that a configuration asks for."""
    sinks: list[ExposureSink] = []
    if config.file is not None:
        sinks.append(FileSink(config.file, config, edge, slot))
    if config.url is not None:
        # With it comes httpx, which most workers need for nothing else.
        from edgeproxy.feeds.exposure_collector import HttpSink

        sinks.append(HttpSink(config.url, config, edge, slot))
    return sinks
