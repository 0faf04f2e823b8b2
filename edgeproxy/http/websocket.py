"""The little of RFC 6455 that a relay needs: what asks for it, what grants it, and where frames end. Pure."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha1

from edgeproxy.http.message import Headers, Request

GOING_AWAY = 1001
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")
_SHORT, _LONG = 126, 127  # what stands for a length of two or eight bytes


def wants_websocket(request: Request) -> bool:
    """Is this an opening handshake (§4.2.1)? Anything less is a plain request whose Upgrade is ignored."""
    index = request.headers.index
    return (
        request.method == b"GET"
        and not request.has_body
        and b"websocket" in _options(index.get(b"upgrade"))
        and b"upgrade" in _options(index.get(b"connection"))
        and _KEY.fullmatch(index.get(b"sec-websocket-key", b"")) is not None
    )


def grants_websocket(request: Request, headers: Headers) -> bool:
    """Does a 101 with these fields answer that handshake (§4.1)? No other protocol may be switched to."""
    key = request.headers.index.get(b"sec-websocket-key", b"")
    wanted = b64encode(sha1(key + _GUID, usedforsecurity=False).digest())
    return (
        headers.get(b"sec-websocket-accept") == wanted
        and _options(headers.get(b"upgrade")) == [b"websocket"]
        and b"upgrade" in _options(headers.get(b"connection"))
    )


def _options(value: bytes | None) -> list[bytes]:
    return [] if value is None else [part.strip() for part in value.lower().split(b",")]


def close_frame(code: int) -> bytes:
    """A server's Close frame (§5.5.1); clients would have to mask theirs."""
    return b"\x88\x02" + code.to_bytes(2, "big")


class Frames:
    """Where frames begin and end in one direction of a connection, whatever is in them (§5.2)."""

    __slots__ = ("_head", "_left")

    def __init__(self) -> None:
        self._head = b""  # of a frame whose length is not known yet
        self._left = 0  # bytes of the present frame still to come

    @property
    def between(self) -> bool:
        """Did the last frame end, and no other begin?"""
        return not self._left and not self._head

    def feed(self, data: bytes) -> int:
        """Go on by `data`. How much of it belongs to frames that were complete at some point in it: behind
        the last such byte a frame began. Zero when none ended."""
        position, ended, size = 0, 0, len(data)
        if self._left:
            if self._left > size:
                self._left -= size
                return 0
            position = ended = self._left
            self._left = 0
        while position < size:
            known = len(self._head)
            head = self._head + data[position : position + 14 - known]
            length = _frame_length(head)
            if length < 0:
                self._head = head
                return ended
            self._head = b""
            end = position + length - known
            if end > size:
                self._left = end - size
                return ended
            position = ended = end
        return ended


def _frame_length(head: bytes) -> int:
    """Bytes of the frame that begins like this, head included; -1 when more of it must be seen."""
    if len(head) < 2:
        return -1
    length, mask = head[1] & 0x7F, 4 if head[1] & 0x80 else 0
    if length < _SHORT:
        return 2 + mask + length
    size = 2 if length == _SHORT else 8
    if len(head) < 2 + size:
        return -1
    return 2 + size + mask + int.from_bytes(head[2 : 2 + size], "big")
