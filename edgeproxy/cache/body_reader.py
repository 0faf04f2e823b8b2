"""Where one door stands in a body that arrives, and what it is given of it next."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgeproxy.cache.ranges import Part
from edgeproxy.door import Door

if TYPE_CHECKING:
    from edgeproxy.cache.body import Body

PIECE = 256 * 1024  # bytes from the file for one reader; the others have their turn before the next


class Reader:
    """Where one door stands in the body. `filed`: it gets nothing but what is in the file."""

    __slots__ = ("_body", "_due", "_first", "_until", "at", "door", "filed", "over", "position")

    def __init__(self, body: Body, door: Door, part: Part | None, *, filed: bool) -> None:
        self._body = body
        self.door = door
        self.filed = filed
        self._first, self._until = part or (0, sys.maxsize)
        self.position = 0  # chunks it had
        self.at = 0  # bytes it had, or wants nothing of
        if self._first > body.start:
            self.position, self.at = body.dropped, body.start
        else:
            self.at = self._first
        self._due = False  # its next turn is arranged
        self.over = False
        door.on_drain = self._drained
        door.on_gone = body.trim_soon

    def pump(self) -> None:
        """Write what the door has not had yet, as long as it takes it."""
        if self.over:
            return
        body, door = self._body, self.door
        while door.writable and not door.gone and self.at < self._until:
            if self.position < body.dropped:
                if self.at < body.start:
                    self._read_file()
                    break
                self.position = body.dropped
            if self.filed or self.position == body.dropped + len(body.chunks):
                break
            data = body.chunks[self.position - body.dropped]
            self.position += 1
            self._give(data)
        if not self._due and (body.ended or self.at >= self._until or (self.filed and not body.filed)):
            self._finish()

    def _drained(self) -> None:
        self.pump()
        if not self._body.filed:  # then the origin may wait for this one
            self._body.trim_soon()

    def _read_file(self) -> None:
        body, spool = self._body, self._body.spool
        if spool is None or self._due or body.broken:
            return
        at = min(max(self.at, self._first), body.start)
        end = min(body.start, at + PIECE)
        try:
            data = spool.read(at, min(end, self._until))
        except EOFError:
            self._leave(self.door.abort)
            return
        if end == body.start:
            self.position = body.dropped
        self.at = end
        self._due = True
        spool.soon(self._next)
        if data:
            self.door.write(data)

    def _give(self, data: bytes) -> None:
        """Write what the door wants of these bytes, the next ones."""
        before, end = self._first - self.at, self._until - self.at
        self.at += len(data)
        if before > 0 or end < len(data):
            data = data[max(before, 0) : max(end, 0)]
        if data:
            self.door.write(data)

    def _next(self) -> None:
        self._due = False
        self._drained()

    def _finish(self) -> None:
        body, door = self._body, self.door
        whole = self.at >= self._until or (body.ended and not body.broken and self.at == body.size)
        lost = body.broken or (self.filed and not body.filed)
        if not whole:
            near = not self.filed and body.dropped <= self.position < body.dropped + len(body.chunks)
            if not lost or near:
                return  # what came before a break is given, unless it is far behind
        self._leave(door.end if whole else door.abort)

    def _leave(self, last: Callable[[], None]) -> None:
        self.over = True
        self.door.on_drain = self.door.on_gone = None
        last()
