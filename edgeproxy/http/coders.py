"""Compressors that never hold anything back: what is fed in one call comes out of it, when that is wanted.

Levels are those where a core does 60 to 200 MB of text a second: compressed once, an answer is stored. A body
under way costs up to one MiB then. What is compressed for one client, who may stall, is packed less tightly
by `slim` coders: they take a quarter of a MiB at most.
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
_ZSTD_SLIM = zstandard.ZstdCompressionParameters(
    compression_level=1, window_log=15, hash_log=13, chain_log=6, search_log=1, min_match=5,
    target_length=0, strategy=zstandard.STRATEGY_FAST, write_content_size=False,
)  # fmt: skip
_GZIP_WINDOW = 31  # 32 KiB, with the header of gzip instead of zlib's
_GZIP_MEMORY = 7  # 64 KiB less than usual, and as small


class Coder(Protocol):
    """One body on its way."""

    def feed(self, data: bytes, *, more: bool) -> bytes:
        """Some of it: what was returned so far holds all of it, unless `more`, or the end, comes at once."""
        ...

    def end(self) -> bytes:
        """What is left to say."""
        ...


class Gzip:
    """RFC 1952. It is slim in any case."""

    def __init__(self, *, slim: bool = False) -> None:
        self._stream = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW, _GZIP_MEMORY)

    def feed(self, data: bytes, *, more: bool) -> bytes:
        out = self._stream.compress(data)
        return out if more else out + self._stream.flush(zlib.Z_SYNC_FLUSH)

    def end(self) -> bytes:
        return self._stream.flush()


class _BrotliStream(Protocol):
    def process(self, data: bytes) -> bytes: ...
    def flush(self) -> bytes: ...
    def finish(self) -> bytes: ...


class Brotli:
    """RFC 7932."""

    def __init__(self, *, slim: bool = False) -> None:
        make = cast(Callable[..., _BrotliStream], brotli.Compressor)  # pyright: ignore[reportUnknownMemberType]
        # its tables of matches alone are a quarter of a MiB from quality 2 on
        self._stream = make(quality=0, lgwin=16) if slim else make(quality=BR_QUALITY, lgwin=18)

    def feed(self, data: bytes, *, more: bool) -> bytes:
        out = self._stream.process(data)
        return out if more else out + self._stream.flush()

    def end(self) -> bytes:
        return self._stream.finish()


class Zstd:
    """RFC 8878; its window is below the 8 MiB that clients must take (RFC 9659)."""

    def __init__(self, *, slim: bool = False) -> None:
        parameters = _ZSTD_SLIM if slim else _ZSTD
        self._stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()

    def feed(self, data: bytes, *, more: bool) -> bytes:
        out = self._stream.compress(data)
        return out if more else out + self._stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)

    def end(self) -> bytes:
        return self._stream.flush()


class MakeCoder(Protocol):
    def __call__(self, *, slim: bool = False) -> Coder: ...


CODERS: dict[bytes, MakeCoder] = {b"zstd": Zstd, b"br": Brotli, b"gzip": Gzip}
