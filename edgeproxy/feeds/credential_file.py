"""Keeps what a file of API keys or passwords says: read when the file changes, swapped when it is right.

Rule: a file with a mistake in it is not taken, not even in part; the last good one stays in force.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from edgeproxy.errors import ConfigError
from edgeproxy.snapshot import Snapshot

INTERVAL = 0.5  # seconds between two looks at the file
MAX_FILE = 16 * 1024 * 1024
T = TypeVar("T")
_log = logging.getLogger(__name__)


class CredentialFeed(Generic[T]):
    """One file. `failures` counts looks at it that brought an error."""

    def __init__(self, path: Path, parse: Callable[[bytes], T]) -> None:
        """Reads the file. `parse` raises ValueError with what is wrong and where. Raises ConfigError."""
        self._path = path
        self._parse = parse
        self._told = ""
        self.failures = 0
        try:
            self._stamp = self._look_at()
            self.snapshot: Snapshot[T] = Snapshot(self._read())
        except OSError as error:
            raise ConfigError(f"file {path}: {error.strerror}") from None
        except ValueError as error:
            raise ConfigError(f"file {path}: {error}") from None

    async def run(self) -> None:
        """Look at the file again and again, until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            await self.look()

    async def look(self) -> None:
        """Publish what the file says, if it changed since the last look."""
        stamp = self._stamp
        try:
            stamp = self._look_at()
            if stamp == self._stamp:
                return
            value = await asyncio.to_thread(self._read)
        except OSError as error:  # not looked at yet: the next look tries again
            self._fail(error.strerror or "error")
            return
        except ValueError as error:
            self._fail(str(error))
        else:
            self.snapshot.value = value
            self._told = ""
        self._stamp = stamp

    def _look_at(self) -> tuple[int, int, int]:
        found = self._path.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _read(self) -> T:
        with self._path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
        if len(data) > MAX_FILE:
            raise ValueError(f"more than {MAX_FILE // 1024 // 1024} MiB")
        return self._parse(data)

    def _fail(self, why: str) -> None:
        self.failures += 1
        if why != self._told:
            self._told = why
            _log.error("%s: %s; what it said before stays in force", self._path, why)
