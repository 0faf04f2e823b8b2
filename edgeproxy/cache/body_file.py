"""A stored body that lies in a file of its own, because it is too large for memory.

It is mapped, so that slicing and writing it costs no memory: the kernel reads the pages while it writes
them to the socket. The file may be removed meanwhile; who serves from it keeps it until then.
"""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from typing import cast

WEIGHT = 64 * 1024  # bytes that a mapped file counts in memory: a descriptor, and the tables of its pages
TOUCH = 60.0  # seconds between two marks that it is still asked for


class BodyFile:
    """`body` is a read-only view that slices and is written like bytes. Raises OSError or ValueError when
    the file is not there or not as long as it should be."""

    __slots__ = ("_path", "_touched", "body", "name", "size")

    def __init__(self, folder: str, name: str, size: int) -> None:
        self.name, self.size = name, size
        self._path = os.path.join(folder, name)
        self._touched = 0.0
        with open(self._path, "rb") as file:
            if os.fstat(file.fileno()).st_size != size:
                raise ValueError(f"{name} does not have {size} bytes")
            view = memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ))
        self.body = cast(bytes, view)

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
