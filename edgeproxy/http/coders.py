"""Compressors that never hold anything back: what is fed in one call comes out of it.

Levels are those where a core does 60 to 200 MB of text a second: compressed once, an answer is stored,
but what cannot be stored is compressed for each client. A body under way costs a quarter (gzip) to one MiB.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Protocol, cast

import brotli
import zstandard

GZIP_LEVEL, BR_QUALITY, ZSTD_LEVEL = 5, 4, 3
# tables and window for texts: half the memory of the level's own, and faster
_ZSTD = zstandard.ZstdCompressionParameters(
    compression_level=ZSTD_LEVEL, window_log=18, hash_log=15, chain_log=15, search_log=1, min_match=5,
    target_length=0, strategy=zstandard.STRATEGY_DFAST, write_content_size=False,
)  # fmt: skip
_GZIP_WINDOW = 31  # 32 KiB, with the header of gzip instead of zlib's


class Coder(Protocol):
    """One body on its way."""

    def feed(self, data: bytes, *, last: bool) -> bytes:
        """Some of it: what was returned so far holds all of it, unless it is the `last` before `end`."""
        ...

    def end(self) -> bytes:
        """What is left to say."""
        ...


class Gzip:
    """RFC 1952."""

    def __init__(self) -> None:
        self._stream = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)

    def feed(self, data: bytes, *, last: bool) -> bytes:
        out = self._stream.compress(data)
        return out if last else out + self._stream.flush(zlib.Z_SYNC_FLUSH)

    def end(self) -> bytes:
        return self._stream.flush()


class _BrotliStream(Protocol):
    def process(self, data: bytes) -> bytes: ...
    def flush(self) -> bytes: ...
    def finish(self) -> bytes: ...


class Brotli:
    """RFC 7932."""

    def __init__(self) -> None:
        make = cast(Callable[..., _BrotliStream], brotli.Compressor)  # pyright: ignore[reportUnknownMemberType]
        self._stream = make(quality=BR_QUALITY, lgwin=18)

    def feed(self, data: bytes, *, last: bool) -> bytes:
        out = self._stream.process(data)
        return out if last else out + self._stream.flush()

    def end(self) -> bytes:
        return self._stream.finish()


class Zstd:
    """RFC 8878; its window is below the 8 MiB that clients must take (RFC 9659)."""

    def __init__(self) -> None:
        self._stream = zstandard.ZstdCompressor(compression_params=_ZSTD).compressobj()

    def feed(self, data: bytes, *, last: bool) -> bytes:
        out = self._stream.compress(data)
        return out if last else out + self._stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)

    def end(self) -> bytes:
        return self._stream.flush()


CODERS: dict[bytes, Callable[[], Coder]] = {b"zstd": Zstd, b"br": Brotli, b"gzip": Gzip}
