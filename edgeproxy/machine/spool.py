"""One large body on its way into a file: written by a thread, read by whoever is behind.

Rule 1: what was written is read through a mapping: it costs no memory, and holds when the file is removed.
Rule 2: a file that was lent to another worker is not given up because the disk is slow: the origin waits.
That worker is sent nothing but what is in the file, and so never serves a gap.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from edgeproxy.cache.body_file import BodyFile, Mapped

if TYPE_CHECKING:
    from edgeproxy.machine.large_files import LargeFiles

BEHIND = 32 * 2**20  # bytes that the disk may be behind the origin, all files of a worker together
LENT_BEHIND = 2**20  # bytes that the disk may be behind with a file that was lent
FIRST = 16 * 2**20  # bytes that a file of unknown size begins with; then it doubles
PART = ".part"
Done = Callable[[BodyFile | None], None]


class Spool:
    """A file that this worker writes. `add` never waits."""

    def __init__(self, files: LargeFiles, size: int | None) -> None:
        """`size` is None for a body of unknown length."""
        self.name = secrets.token_hex(16)
        self.written = 0
        self.given_up = False
        self.lent = False
        self.on_progress: Callable[[], None] | None = None
        self._files, self._size = files, size
        self._most = files.object_size if size is None else size
        self._loop = asyncio.get_running_loop()
        self._received = 0
        self._left = False  # nothing more is written
        self._file = -1  # the thread's, and the three below
        self._room = 0
        self._at = 0
        self._mapped: Mapped | None = None
        files.spools += 1
        files.thread.submit(self._create)

    @property
    def full(self) -> bool:
        """Shall the origin wait for the disk?"""
        return self.lent and self._received - self.written > LENT_BEHIND

    def lend(self) -> str:
        """Its name, for another worker to read along; empty when it may yet turn out to be too long."""
        if self._size is None or self.given_up:
            return ""
        self.lent = True
        return self.name

    def add(self, data: bytes) -> None:
        """The next bytes of the body."""
        files = self._files
        self._received += len(data)
        if self.given_up:
            return
        if self._received > self._most or (files.behind > BEHIND and not self.lent):
            files.given_up += 1
            self.given_up = True
            self.drop()
            return
        files.behind += len(data)
        files.thread.submit(self._write, data)

    def read(self, start: int, end: int) -> bytes:
        """Bytes that are written, a view when they are many. Raises EOFError when they are gone."""
        return _taken(self._mapped, start, end)

    def soon(self, call: Callable[[], None]) -> None:
        """In the next turn of the loop."""
        self._loop.call_soon(call)

    def finish(self, done: Done) -> None:
        """The body is whole: `done` is told the file once it can be read, or None when there is none."""
        if self.given_up or self._size not in (None, self._received):
            self.drop()
            done(None)
        else:
            self._leave(done)

    def drop(self) -> None:
        """Nobody is to find it. What was written can be read by those who do already."""
        self._leave(None)

    def _leave(self, done: Done | None) -> None:
        if not self._left:
            self._left = True
            self._files.thread.submit(self._end, done)

    # --- in the thread

    def _create(self) -> None:
        try:
            room = min(FIRST, self._most) if self._size is None else self._size
            self._file = self._files.create(self.name, room)
            self._map(room)
        except (OSError, ValueError) as error:
            self._fail(error)

    def _map(self, room: int) -> None:
        self._mapped = Mapped(os.dup(self._file), room)
        self._room = room

    def _write(self, data: bytes) -> None:
        try:
            if self._file >= 0:
                self._at += len(data)
                if self._at > self._room:
                    room = min(max(2 * self._room, self._at), self._most)
                    self._files.extend(self._file, self._room, room)
                    self._map(room)
                self._check()
                view = memoryview(data)
                while view:
                    view = view[os.write(self._file, view) :]
        except (OSError, ValueError) as error:
            self._fail(error)
        finally:
            self._call(self._wrote, len(data), self._at if self._file >= 0 else 0)

    def _check(self) -> None:
        """What somebody cut off would be a hole in the body."""
        if os.fstat(self._file).st_size != self._room:
            raise ValueError("somebody changed the length of a file that is being written")

    def _end(self, done: Done | None) -> None:
        body = None
        try:
            if self._file >= 0 and done is not None:
                self._check()
                os.ftruncate(self._file, self._at)
                self._files.publish_file(self.name)
                body = self._files.open(self.name, self._at)
        except (OSError, ValueError) as error:
            self._fail(error)
        self._close()
        self._call(self._over, done, body)

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            self._files.remove(self.name + PART)

    def _fail(self, error: Exception) -> None:
        self._close()
        self._call(self._failed, error)

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop has ended: nobody waits any more
            self._loop.call_soon_threadsafe(function, *arguments)

    # --- in the loop again

    def _wrote(self, size: int, written: int) -> None:
        self._files.behind -= size
        self.written = max(self.written, written)
        self._progress()

    def _failed(self, error: Exception) -> None:
        self._files.refused(error)
        self.given_up = True
        self._progress()

    def _over(self, done: Done | None, body: BodyFile | None) -> None:
        self._files.spools -= 1
        if body is not None:
            self._files.stored += 1
            self._files.refusals = 0
        if done is not None:
            done(body)
        self.on_progress = None

    def _progress(self) -> None:
        if self.on_progress is not None:
            self.on_progress()


class Borrowed:
    """A file that another worker writes and we read. What comes from that worker is in the file already."""

    full = False
    on_progress: Callable[[], None] | None = None  # never called: what is added is written

    def __init__(self, folder: str, name: str) -> None:
        self.written = 0
        self.given_up = False
        self._path = os.path.join(folder, name)
        self._loop = asyncio.get_running_loop()
        self._mapped: Mapped | None = None

    def lend(self) -> str:
        """It is not ours."""
        return ""

    def add(self, data: bytes) -> None:
        """The next bytes of the body, from the worker that writes it. With the first the file is there."""
        if not self.written and not self.given_up:
            self._mapped = _map(self._path + PART) or _map(self._path)  # it was published meanwhile
            self.given_up = self._mapped is None
        if not self.given_up:
            self.written += len(data)

    def read(self, start: int, end: int) -> bytes:
        """Bytes that are written, a view when they are many. Raises EOFError when they are gone."""
        return _taken(self._mapped, start, end)

    def soon(self, call: Callable[[], None]) -> None:
        """In the next turn of the loop."""
        self._loop.call_soon(call)

    def finish(self, done: Done) -> None:
        """It is the other worker's to keep."""
        done(None)

    def drop(self) -> None:
        """The other worker knows what becomes of it."""


def _map(path: str) -> Mapped | None:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return Mapped(file, os.fstat(file).st_size)
    except (OSError, ValueError):
        return None


def _taken(mapped: Mapped | None, start: int, end: int) -> bytes:
    if mapped is None:
        raise EOFError("there is no file")
    return mapped.take(start, end)
