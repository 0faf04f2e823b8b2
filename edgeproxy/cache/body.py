"""A response body while it arrives: recorded for the cache, and read by any number of doors.

Rule 1: all of it is held while it may be stored in memory, or it lies in a file. A door may come late then,
and a slow one holds up nobody.
Rule 2: where neither is so, what all readers had is dropped, and the origin waits for the slowest.
Rule 3: what is dropped from memory for the file's sake was written there before.
Rule 4: a crowd is served a few at a time: what else the loop has to do goes in between.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from edgeproxy.cache.body_file import BodyFile
from edgeproxy.cache.body_reader import Reader
from edgeproxy.cache.ranges import Part
from edgeproxy.door import Door

AHEAD = 256 * 1024  # bytes held for the slowest reader of what is neither recorded nor in a file
FEW = 64  # readers in one turn of the loop
Soon = Callable[[Callable[[], None]], object]
"""Has something called in the next turn of the loop."""


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


class Body:
    """One body. Over `cap` bytes it is not recorded in memory any more; see `keep_in`."""

    __slots__ = (
        "_left",
        "_news",
        "_outgrown",
        "_pause",
        "_resume",
        "_soon",
        "_stop",
        "_throttled",
        "_trims",
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
        soon: Soon = lambda call: call(),
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
        self._stop, self._outgrown, self._soon = stop, outgrown, soon
        self.spool: Spool | None = None  # where all of it goes when it is too large for memory
        self._waiting = False  # nothing of it came with the head
        self._left: list[Reader] = []  # have what came yet to come, the next one last
        self._news = False  # more came before all of them had their turn
        self._trims = False  # it will be trimmed

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
        if self._waiting:
            door.flush()

    def flush(self) -> None:
        """There is no more for now."""
        if not self._waiting:  # else they have their heads
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
        self._serve()

    def end(self, *, broken: bool = False) -> None:
        """The body is complete, or broke off: then readers are aborted, never ended (RFC 9112 §8)."""
        self.ended, self.broken = True, broken
        self._throttled = False  # the connection may be somebody else's
        self._serve()

    def _serve(self) -> None:
        """Let all who read have what is new."""
        if not self._left:
            self._left = self.readers[::-1]
            self._serve_few()
        else:
            self._news = True
            if not (self.recording or self.filed):
                self._throttle(wait=True, go=False)

    def _serve_few(self) -> None:
        left = self._left
        try:
            for _ in range(min(FEW, len(left))):
                left.pop().pump()
        finally:  # a fault with one is none of the others'
            self._go_on()

    def _go_on(self) -> None:
        left = self._left
        if not left:
            self.trim()
            if self._news:
                self._news = False
                left += self.readers[::-1]
        if left:
            self._soon(self._serve_few)

    def content(self) -> bytes:
        """All of the body; only while recording."""
        return self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)

    def trim_soon(self) -> None:
        """Once in a turn of the loop, however many go on or leave in it."""
        if not (self._trims or self.recording):
            self._trims = True
            self._soon(self._trim_now)

    def _trim_now(self) -> None:
        self._trims = False
        self.trim()

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
