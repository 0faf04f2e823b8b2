"""Keeps a list of revoked tokens as its file is: what is appended is in force within a second.

Rule 1: whatever happens to the file, what was revoked stays revoked, until a whole file says otherwise: one
that is not the old one with more lines counts beside it, until nobody wrote to it between two looks.
Rule 2: the file is only looked at (`stat`) until it changed. It is read in a thread, and where it only
grew, only the new lines are taken apart.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile

from edgeproxy.errors import ConfigError
from edgeproxy.policies.jwt_revoked import NOTHING_REVOKED, Revocations, parse_revocation
from edgeproxy.record import record
from edgeproxy.snapshot import Snapshot

INTERVAL = 0.25  # seconds between two looks at the file
MAX_FILE = 8 * 1024 * 1024
_log = logging.getLogger(__name__)
Stamp = tuple[int, int, int]


@record
class _Read:
    """What was read: the list, that of the whole lines among it, where those end, and their digest; and
    whether it only grew."""

    revoked: Revocations
    known: Revocations
    size: int
    digest: bytes
    grown: bool


NOTHING_READ = _Read(NOTHING_REVOKED, NOTHING_REVOKED, 0, sha256(b"").digest(), grown=True)


class RevocationFeed:
    """One provider's list. `failures` counts looks at the file that brought an error."""

    def __init__(self, name: str, path: Path) -> None:
        """Reads the file. ConfigError when it cannot be read, or has a line that cannot."""
        self._name = name
        self._path = path
        self.failures = 0
        self._told = ""
        self._settling = False  # it may be half written
        try:
            self._stamp = _stamp(path)
            _check(path, _bytes(path))
            self._read = _read(path, NOTHING_READ)
        except OSError as error:
            said = f"revoked {path}: {error.strerror}; an empty file revokes nothing"
            raise ConfigError(said) from None
        self.revoked: Snapshot[Revocations] = Snapshot(self._read.revoked)

    async def run(self) -> None:
        """Look at the file again and again, until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            await self.look()

    async def look(self) -> None:
        """Publish what changed since the last look."""
        try:
            stamp = _stamp(self._path)
            if stamp == self._stamp and not self._settling:
                return
            settled = stamp == self._stamp
            if not settled:
                self._read = await asyncio.to_thread(_read, self._path, self._read)
        except OSError as error:
            self._fail(error.strerror or "error")
            return
        self._stamp = stamp
        self._settling = not settled and (self._settling or not self._read.grown)
        revoked = self._read.revoked
        self.revoked.value = revoked.beside(self.revoked.value) if self._settling else revoked
        if revoked.broken:
            self._fail(f"line {revoked.broken[-1]} cannot be read")
        else:
            self._told = ""

    def _fail(self, why: str) -> None:
        self.failures += 1
        if why != self._told:
            self._told = why
            _log.error("revoked tokens of %s: %s: %s; the others stay revoked", self._name, self._path, why)


def revoke(path: Path, line: Mapping[str, object]) -> None:
    """Append a line to a list, for good. OSError; ValueError when it is no line, or there is no room."""
    data = json.dumps(line, ensure_ascii=False).encode() + b"\n"
    parse_revocation(data.strip())
    if path.stat().st_size + len(data) > MAX_FILE:
        _forget_expired(path)
        if path.stat().st_size + len(data) > MAX_FILE:
            raise ValueError(f"the list has {MAX_FILE // 1024 // 1024} MiB; give lines an `until`")
    with path.open("r+b") as file:
        if file.seek(0, os.SEEK_END) and not _ends_a_line(file.fileno(), file.tell()):
            data = b"\n" + data
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _forget_expired(path: Path) -> None:
    """Leave out the lines whose `until` is past; the file is replaced at once."""
    now = time.time()
    with NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as copy:
        for line in path.read_bytes().split(b"\n"):
            try:
                keep = parse_revocation(line).until > now
            except ValueError:
                keep = bool(line.strip())
            if keep:
                copy.write(line + b"\n")
        copy.flush()
        os.fsync(copy.fileno())
    Path(copy.name).chmod(path.stat().st_mode)
    Path(copy.name).replace(path)


def _ends_a_line(descriptor: int, size: int) -> bool:
    return os.pread(descriptor, 1, size - 1) == b"\n"


def _stamp(path: Path) -> Stamp:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise OSError(0, f"more than {MAX_FILE // 1024 // 1024} MiB")
    return data


def _read(path: Path, before: _Read) -> _Read:
    """The list in the file, whose beginning may have been read before."""
    data = _bytes(path)
    grown = sha256(data[: before.size]).digest() == before.digest
    known, start = (before.known, before.size) if grown else (NOTHING_REVOKED, 0)
    size = data.rfind(b"\n") + 1
    known = known.with_lines(data[start:size])
    revoked, rest = known, data[size:]
    if rest.strip():  # half written, or the last line of a file that ends without one
        ending = known.with_lines(rest)
        revoked = ending if ending.broken == known.broken else known
    return _Read(revoked, known, size, sha256(data[:size]).digest(), grown)


def _check(path: Path, data: bytes) -> None:
    """ConfigError for the first line that says nothing."""
    for number, line in enumerate(data.split(b"\n"), 1):
        try:
            if line.strip():
                parse_revocation(line)
        except ValueError as error:
            raise ConfigError(f"revoked {path}: line {number}: {error}") from None
