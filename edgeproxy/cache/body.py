"""A response body while it arrives: recorded for the cache, and read by any number of doors.

Rule 1: all of it is held while it may be stored in memory, or it lies in a file. A door may come late then,
and a slow one holds up nobody.
Rule 2: where neither is so, what all readers had is dropped, and the origin waits for the slowest.
Rule 3: what is dropped from memory for the file's sake was written there before.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Protocol

from edgeproxy.cache.body_file import BodyFile
from edgeproxy.cache.ranges import Part
from edgeproxy.door import Door

AHEAD = 256 * 1024  # bytes held for the slowest reader of what is neither recorded nor in a file
PIECE = 256 * 1024  # bytes from the file for one reader; the others have their turn before the next


class Spool(Protocol):
    """A file that holds a body from its first byte on. Nothing here waits.

    `written` bytes can be read; EOFError says that somebody cut them off. Once it is `given_up` no more
    come to that. While it is `full` the origin has to wait.
    """

    written: int
    given_up: bool
    on_progress: Callable[[], None] | None

    @property
    def full(self) -> bool: ...
    def lend(self) -> str: ...
    def add(self, data: bytes) -> None: ...
    def read(self, start: int, end: int) -> bytes: ...
    def soon(self, call: Callable[[], None]) -> None: ...
    def finish(self, done: Callable[[BodyFile | None], None]) -> None: ...
    def drop(self) -> None: ...


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
        door.on_gone = body.trim

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
            self._body.trim()

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


class Body:
    """One body. Over `cap` bytes it is not recorded in memory any more; see `keep_in`."""

    __slots__ = (
        "_outgrown",
        "_pause",
        "_resume",
        "_stop",
        "_throttled",
        "_waiting",
        "broken",
        "cap",
        "chunks",
        "dropped",
        "ended",
        "kept",
        "lasting",
        "readers",
        "recording",
        "size",
        "spool",
        "start",
    )

    def __init__(
        self,
        cap: int,
        pause: Callable[[], None],
        resume: Callable[[], None],
        stop: Callable[[], None] | None = None,
        outgrown: Callable[[], None] | None = None,
    ) -> None:
        """`outgrown` is called when it is larger than `cap`: the moment for a file. `stop` is called when it
        is too large to be kept and nobody reads it any more."""
        self.cap = cap
        self.chunks: list[bytes] = []
        self.dropped = 0  # chunks no longer held
        self.start = 0  # bytes of those
        self.size = 0  # bytes received
        self.recording = True
        self.kept = True  # to be stored when it is whole, not only shared
        self.lasting = False  # it goes on to the file without readers too
        self.ended = False
        self.broken = False
        self.readers: list[Reader] = []
        self._pause, self._resume, self._throttled = pause, resume, False
        self._stop, self._outgrown = stop, outgrown
        self.spool: Spool | None = None  # where all of it goes when it is too large for memory
        self._waiting = False  # nothing of it came with the head

    @property
    def filed(self) -> bool:
        """Does all that comes go to a file?"""
        return self.spool is not None and not self.spool.given_up

    @property
    def shareable(self) -> bool:
        """Can a late door have it from the start?"""
        return not self.broken and (self.recording or self.filed)

    def keep_in(self, spool: Spool) -> None:
        """Put all of it into a file instead; while it is recorded."""
        self.recording = False
        self.spool = spool
        spool.on_progress = self._progressed
        for data in self.chunks:
            spool.add(data)

    def read_by(self, door: Door, part: Part | None = None, *, filed: bool = False) -> None:
        """Let `door` have the body from the start, or part of it; only while it is shareable."""
        whole = self.ended and self.shareable and self.recording
        if whole and len(self.chunks) == 1 and part is None and door.writable:
            door.write(self.chunks[0])
            door.end()
            return
        reader = Reader(self, door, part, filed=filed)
        self.readers.append(reader)
        if self.size or self.ended:
            reader.pump()
        elif self._waiting:
            door.flush()

    def flush(self) -> None:
        """There is no more for now."""
        self._waiting = True
        for reader in self.readers:
            reader.door.flush()

    def add(self, data: bytes) -> None:
        """Bytes from the origin."""
        self.size += len(data)
        self.chunks.append(data)
        if self.spool is not None:
            self.spool.add(data)
        elif self.recording and self.size > self.cap:
            if self._outgrown is not None:
                self._outgrown()
            self.recording = False
        for reader in tuple(self.readers):
            reader.pump()
        self.trim()

    def end(self, *, broken: bool = False) -> None:
        """The body is complete, or broke off: then readers are aborted, never ended (RFC 9112 §8)."""
        self.ended, self.broken = True, broken
        self._throttled = False  # the connection may be somebody else's
        for reader in tuple(self.readers):
            reader.pump()

    def content(self) -> bytes:
        """All of the body; only while recording."""
        return self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)

    def trim(self) -> None:
        """Drop what nobody needs, and hold back the origin for the slowest reader."""
        if self.recording:
            return
        self.readers = [reader for reader in self.readers if not (reader.over or reader.door.gone)]
        spool, filed = self.spool, self.filed
        if not self.readers and not self.ended and self._stop is not None and not (filed and self.lasting):
            self.ended = self.broken = True
            self.chunks.clear()
            self._stop()
            return
        if spool is not None:
            self._drop(self._written(spool.written))
            if filed:
                self._throttle(wait=spool.full, go=not spool.full)
                return
        if self.readers:
            self._drop(min([reader.position for reader in self.readers]) - self.dropped)
        else:
            self._drop(len(self.chunks))
        held = sum(map(len, self.chunks))
        self._throttle(wait=held > AHEAD, go=held <= AHEAD // 2)

    def _written(self, written: int) -> int:
        """How many of the chunks held are in the file."""
        end = self.start
        for number, data in enumerate(self.chunks):
            end += len(data)
            if end > written:
                return number
        return len(self.chunks)

    def _drop(self, count: int) -> None:
        if count > 0:
            self.start += sum(map(len, self.chunks[:count]))
            del self.chunks[:count]
            self.dropped += count

    def _throttle(self, *, wait: bool, go: bool) -> None:
        if wait and not self._throttled and not self.ended:
            self._throttled = True
            self._pause()
        elif go and self._throttled:
            self._throttled = False
            self._resume()

    def _progressed(self) -> None:
        """More of it is in the file, or no more will be."""
        self.trim()
        for reader in self.readers:
            if reader.filed:
                reader.pump()
