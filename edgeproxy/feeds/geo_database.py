"""Opens geo databases and keeps them fresh: a replaced file is opened beside the old one, then swapped.

Rule 1: what does not open, or breaks at the first look-ups, is refused; the last good one serves on.
Rule 2: what is mapped into memory is a private copy. Whoever overwrites the file in place would
otherwise end this process with a bus error.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import shutil
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from random import Random
from tempfile import NamedTemporaryFile, gettempdir
from typing import IO, cast

import maxminddb
from maxminddb.const import MODE_MMAP, MODE_MMAP_EXT

from edgeproxy.context import NOWHERE
from edgeproxy.errors import ConfigError
from edgeproxy.policies.geo_data import LATEST, GeoCounts, GeoDatabase, Reader, read_place
from edgeproxy.snapshot import Snapshot

Stamp = tuple[tuple[int, int, int], ...]
"""Of each file: which one it is (inode), its size and when it was written."""

_log = logging.getLogger(__name__)
# Spread over both families: enough of the tree to find a damaged one.
_TRIED = [
    ipaddress.ip_address(text)
    for text in ("1.1.1.1", "8.8.8.8", "46.0.0.1", "81.2.69.160", "128.0.0.1", "193.0.0.1", "217.0.0.1")
]
_WALKED, _DRAWN = 20_000, 2_000  # networks and addresses that a replacement is tried at
_TRIED_IPV6 = [ipaddress.ip_address(text) for text in ("2001:218::1", "2a00::1", "2606:4700::1", "2c0f::1")]


def open_database(
    paths: Sequence[str], counts: GeoCounts | None = None, *, replacing: bool = False
) -> GeoDatabase:
    """The databases of these files as one, the first believed first. `replacing`: there is a good one
    already, so that this one must be sound throughout and know something.

    Raises ConfigError naming the file and what to do when one is missing, damaged or of no use.
    """
    readers = [_open(path, replacing=replacing) for path in paths]
    return GeoDatabase(readers, counts)


def _open(path: str, *, replacing: bool) -> Reader:
    try:
        if not Path(path).is_file():
            raise ConfigError(f"geo.database: {path} is not a file; set it to the path of an .mmdb file")
        with NamedTemporaryFile(prefix="edgeproxy-geo-") as copy:
            _copy(path, copy)
            # maxminddb's own types are incomplete.
            reader: Reader = maxminddb.open_database(copy.name, _mode())  # pyright: ignore[reportUnknownMemberType]
        _check(reader)
        if replacing:
            _walk(reader)
    except OSError as error:
        raise ConfigError(
            f"geo.database: {path} cannot be read or copied ({error.strerror});"
            f" check its rights and the room in {gettempdir()}"
        ) from None
    except ConfigError:
        raise
    except Exception as error:  # the reader raises whatever its decoder stumbles over
        raise ConfigError(
            f"geo.database: {path} is not a sound MaxMind DB ({type(error).__name__}); fetch it again"
        ) from None
    return reader


def _copy(path: str, copy: IO[bytes]) -> None:
    """Raises ConfigError when somebody writes to the file meanwhile: it would be half old, half new."""
    with Path(path).open("rb") as file:
        before = _stamp_of(path)
        shutil.copyfileobj(file, copy)
        copy.flush()
    if _stamp_of(path) != before:
        raise ConfigError(f"geo.database: {path} changes while it is read; replace it by rename")


def _mode() -> int:
    if find_spec("maxminddb.extension") is not None:
        return MODE_MMAP_EXT
    _log.warning("maxminddb has no C extension here: looking up a new address takes ten times as long")
    return MODE_MMAP


def _check(reader: Reader) -> None:
    """Raises when the metadata or one of a few look-ups makes no sense."""
    metadata = reader.metadata()
    if metadata.node_count < 1 or metadata.ip_version not in (4, 6):
        raise ValueError("its metadata makes no sense")
    for address in _TRIED + (_TRIED_IPV6 if metadata.ip_version == 6 else []):
        found: object = reader.get_with_prefix_len(address)[0]
        if found is not None and not isinstance(found, dict):
            raise ValueError("its records are no maps")


def _walk(reader: Reader) -> None:
    """Raises when the tree or a record is damaged, as far as it is walked, or when nobody is placed."""
    metadata = reader.metadata()
    if metadata.build_epoch >= LATEST:
        raise ValueError("its build time makes no sense")
    useful = False
    for _, found in islice(cast("Iterable[tuple[object, object]]", reader), _WALKED):
        useful = useful or read_place(found) != NOWHERE
    chosen = Random(metadata.build_epoch)  # noqa: S311 - the same addresses whoever looks
    for _ in range(_DRAWN):
        found = reader.get_with_prefix_len(ipaddress.IPv4Address(chosen.getrandbits(32)))[0]
        useful = useful or read_place(found) != NOWHERE
    if not useful:
        raise ValueError("it places nobody")


class GeoFeed:
    """Publishes the databases of some files and looks now and then whether they were replaced.

    `loads` and `failures` count looks that found another file; `last_error` is a sentence, empty after a
    success.
    """

    def __init__(
        self, paths: Sequence[str], check_seconds: float, snapshot: Snapshot[GeoDatabase | None]
    ) -> None:
        self._paths = list(paths)
        self._check_seconds = check_seconds
        self._snapshot = snapshot
        self._counts = GeoCounts()
        self._tried: Stamp | None = None
        self.loads = 0
        self.failures = 0
        self.last_error = ""

    def load(self) -> None:
        """Open and publish now, before there is traffic. Raises ConfigError as `open_database` does."""
        self._tried = _stamp(self._paths)
        self._snapshot.value = open_database(self._paths, self._counts)
        self.loads += 1

    async def run(self) -> None:
        """Look at the files at every interval, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self._check_seconds)

    async def look(self) -> None:
        """Publish the files' content if they changed since the last look. Never raises."""
        try:
            stamp = await asyncio.to_thread(_stamp, self._paths)
            if stamp == self._tried:
                return
            self._tried = stamp
            old = self._snapshot.value
            opened = await asyncio.to_thread(
                open_database, self._paths, self._counts, replacing=old is not None
            )
            if old is not None and opened.built_at < old.built_at:
                _log.warning("%s: built before the one in use; is that meant?", ", ".join(self._paths))
            self._snapshot.value = opened
        except Exception as error:  # a feed that dies would let its database age unseen
            self.failures += 1
            self.last_error = str(error)
            _log.error("%s; the last good database stays", error, exc_info=not isinstance(error, ConfigError))
            return
        self.loads += 1
        self.last_error = ""
        _log.info("geo database opened: %s", ", ".join(self._paths))


def _stamp(paths: Sequence[str]) -> Stamp:
    return tuple([_stamp_of(path) for path in paths])


def _stamp_of(path: str) -> tuple[int, int, int]:
    try:
        found = Path(path).stat()
    except OSError:
        return 0, 0, 0
    return found.st_ino, found.st_size, found.st_mtime_ns
