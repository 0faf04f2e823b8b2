"""A stored body that lies in a file of its own, because it is too large for memory.

It is mapped, so that slicing and writing it costs no memory. The file may be removed meanwhile; who serves
from it keeps it until then.

Rule: nobody but the kernel reads the mapping. What somebody cut off the file is an error of one write then,
where reading it here would end the process with a signal. Bytes are read from the file instead.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import cast

from edgeproxy.http.pieces import Pieces
from edgeproxy.http.wire import JOIN_BELOW

DESCRIPTORS = 2  # of a mapped file: ours, and the mapping's
WEIGHT = 64 * 1024  # bytes that a mapped file counts in memory: its descriptors, and the tables of its pages
TOUCH = 60.0  # seconds between two marks that it is still asked for


class Mapped:
    """The first `size` bytes of an open file, which is closed with it."""

    __slots__ = ("_file", "_map", "_view", "size")

    def __init__(self, file: int, size: int) -> None:
        """The descriptor is ours from now on. Raises OSError or ValueError when the file is shorter."""
        self._file, self.size = file, size
        self._map = mmap.mmap(file, size, access=mmap.ACCESS_READ)
        self._view = memoryview(self._map)

    def __del__(self) -> None:
        os.close(self._file)

    @property
    def length(self) -> int:
        """What the file has at this moment: less than `size` when somebody made it shorter."""
        return self._map.size()

    def view(self, start: int, end: int) -> memoryview:
        """To be written to a socket, all of it at once or in parts, but not to be looked into."""
        return self._view[start:end]

    def read(self, start: int, end: int) -> bytes:
        """A copy. Raises EOFError when the file ends before."""
        found = os.pread(self._file, end - start, start)
        if len(found) < end - start:
            raise EOFError("the file of a large answer was cut short")
        return found

    def take(self, start: int, end: int) -> bytes:
        """A copy of what a door would join with other bytes, a view of more. Raises EOFError."""
        few = end - start <= JOIN_BELOW
        return self.read(start, end) if few else cast(bytes, self.view(start, end))


class FileBody(Pieces):
    """Part of a mapped file, in the place of bytes. A slice that is worth copying is bytes."""

    __slots__ = ("_end", "_file", "_start")

    def __init__(self, file: Mapped, start: int, end: int) -> None:
        self._file, self._start, self._end = file, start, end
        self._size = end - start
        self.pieces = (file.view(start, end),)

    def __getitem__(self, part: slice) -> FileBody | bytes:
        """Raises EOFError when the file ends before."""
        start, end, _ = part.indices(self._size)
        start, end = self._start + start, self._start + end
        if end - start <= JOIN_BELOW:
            return self._file.read(start, max(start, end))
        return FileBody(self._file, start, end)

    def copies(self, most: int) -> Iterator[bytes]:
        for start in range(self._start, self._end, most):
            yield self._file.read(start, min(start + most, self._end))


class BodyFile:
    """`body` stands where bytes stand: a `FileBody`, or bytes when there are few. Raises OSError when the
    file is not there, ValueError or EOFError when it is not as long as it should be."""

    __slots__ = ("_lost", "_mapped", "_path", "_touched", "body", "name", "size")

    def __init__(self, folder: str, name: str, size: int, lost: Callable[[str], None]) -> None:
        """`lost` is told the name when somebody made the file shorter."""
        self.name, self.size = name, size
        self._path, self._lost = os.path.join(folder, name), lost
        self._touched = 0.0
        mapped = Mapped(os.open(self._path, os.O_RDONLY | os.O_CLOEXEC), size)
        if mapped.length != size:
            raise ValueError(f"{name} does not have {size} bytes")
        few = size <= JOIN_BELOW
        self.body = mapped.read(0, size) if few else cast(bytes, FileBody(mapped, 0, size))
        self._mapped = None if few else mapped

    def is_whole(self) -> bool:
        """Can it be served? What is False once stays so, and was said."""
        mapped = self._mapped
        if mapped is None or mapped.length >= self.size:
            return True
        self._lost(self.name)
        return False

    def used(self, now: float) -> None:
        """Say that it was asked for: what was not for longest goes first."""
        if now - self._touched >= TOUCH:
            self._touched = now
            with suppress(OSError):  # it was removed; those who hold it go on
                os.utime(self._path)

    def remove(self) -> None:
        """Nobody is to find it any more."""
        with suppress(OSError):
            os.unlink(self._path)
