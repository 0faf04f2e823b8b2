"""How much an HTTP/2 origin may send that brings nothing: pings, settings, empty frames, frames for nobody.

Each costs us an answer or a look, and none is bounded by flow control (RFC 9113 §10.5). A bucket of them that
fills with time is; what our own data gives rise to, WINDOW_UPDATE, is earned by sending it.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeproxy.context import Clock
from edgeproxy.errors import origin_error

FRAME_HEAD = 9
DATA, HEADERS, GOAWAY = 0, 1, 7
_END_STREAM, _PADDED = 0x1, 0x8
BURST = 1000  # frames that bring nothing, at once
PER_SECOND = 50
_EARNED = 3  # by each frame of data that we send: the origin opens two windows for it
_WORTHWHILE = 1024  # bytes of it: an origin that lets them out one by one earns nothing


class Bounds:
    """Of one connection."""

    __slots__ = ("_at", "_clock", "_left", "_partial")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._at = clock()
        self._left = float(BURST)
        self._partial = b""  # a frame that is not whole yet

    def frames(self, data: bytes, largest: int) -> Iterator[bytes]:
        """Whole frames, one by one: what is wrong with one says nothing about those before it. Raises
        OriginError for one whose content is larger than `largest` bytes."""
        buffer = self._partial + data if self._partial else data
        start = 0
        while len(buffer) - start >= FRAME_HEAD:
            size = int.from_bytes(buffer[start : start + 3], "big")
            if size > largest:
                raise origin_error("http_protocol_error", "a frame is larger than it may be")
            end = start + FRAME_HEAD + size
            if len(buffer) < end:
                break
            yield buffer[start:end]
            start = end
        self._partial = buffer[start:]

    def judge(self, frame: bytes, *, wanted: bool) -> None:
        """Count a frame that brings nothing; `wanted`: it is of a stream that we still listen to. Raises
        OriginError when there are too many."""
        if wanted and (frame[3] == HEADERS or (frame[3] == DATA and _brings(frame))):
            return
        if self._left < 1:
            now = self._clock()
            self._left = min(BURST, (now - self._at) * PER_SECOND)
            self._at = now
            if self._left < 1:
                raise origin_error("http_protocol_error", "too many frames that bring nothing")
        self._left -= 1

    def sent(self, size: int) -> None:
        """A frame of data went out."""
        if size >= _WORTHWHILE:
            self._left = min(BURST, self._left + _EARNED)


def _brings(frame: bytes) -> bool:
    """Has a DATA frame content besides its padding, or an end?"""
    if frame[4] & _END_STREAM:
        return True
    size = len(frame) - FRAME_HEAD
    if frame[4] & _PADDED and size:
        size -= 1 + frame[FRAME_HEAD]
    return size > 0
