"""Bodies that are here whole, also where they are not one bytes object."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

Body: TypeAlias = "bytes | memoryview | Pieces"
"""A body that is here whole: what lies elsewhere is written from where it is."""


class Pieces:
    """A body in pieces that lie elsewhere, not put together. It stands where bytes stand: `len` is its size,
    and a door writes what `pieces_of` gives."""

    __slots__ = ("_parts", "_size", "pieces")

    def __init__(self, parts: Sequence[bytes | memoryview | Pieces]) -> None:
        self._parts = parts
        self._size = sum(map(len, parts))
        self.pieces: Sequence[bytes | memoryview] = [piece for part in parts for piece in pieces_of(part)]

    def __len__(self) -> int:
        return self._size

    def copies(self, most: int) -> Iterator[bytes]:
        """Bytes of their own, so many at once."""
        for part in self._parts:
            yield from copies_of(part, most)


def pieces_of(body: bytes | memoryview | Pieces) -> Sequence[bytes | memoryview]:
    """What to write for a body, one after the other, and only to write: see `FileBody`."""
    return body.pieces if isinstance(body, Pieces) else (body,)


def copies_of(body: bytes | memoryview | Pieces, most: int) -> Iterator[bytes]:
    """The same as bytes, at most so many at once. Raises EOFError when some are gone."""
    if isinstance(body, Pieces):
        yield from body.copies(most)
        return
    for at in range(0, len(body), most):
        yield bytes(body[at : at + most])
