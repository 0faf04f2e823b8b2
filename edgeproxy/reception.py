"""One answer of an origin as the fetch sees it: await the head, then let the body flow by calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from edgeproxy.door import Door, RequestBody
from edgeproxy.errors import OriginError
from edgeproxy.http.message import Field, Headers
from edgeproxy.origin.connection import OriginConnection


class Target(Protocol):
    """Where a body goes: a relay to one door, or a recorded body that many doors read."""

    def add(self, data: bytes) -> None: ...
    def end(self, *, broken: bool = False) -> None: ...


class Reception:
    """The `ResponseSink` of one exchange. `head` resolves at the final head or fails with OriginError."""

    __slots__ = (
        "_early",
        "_outcome",
        "_target",
        "body",
        "connection",
        "head",
        "headers",
        "interim",
        "length",
        "on_done",
        "status",
    )

    def __init__(
        self,
        connection: OriginConnection,
        body: RequestBody | None,
        interim: Callable[[int, list[Field]], None],
    ) -> None:
        self.connection = connection
        self.body = body
        self.interim = interim
        self.head: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.status = 0
        self.headers: Headers = Headers([], {})
        self.length: int | None = None
        self.on_done: Callable[[OriginError | None], None] | None = None
        self._early: list[bytes] = []
        self._target: Target | None = None
        self._outcome: tuple[OriginError | None] | None = None  # set once the exchange is over

    def flow_to(self, target: Target, on_done: Callable[[OriginError | None], None]) -> None:
        """Hand `target` what arrived and what arrives; `on_done` once, after its end."""
        self._target, self.on_done = target, on_done
        for data in self._early:
            target.add(data)
        self._early.clear()
        if self._outcome is not None:
            self._finish(*self._outcome)
        else:
            self.connection.resume()

    def abandon(self) -> None:
        """Nobody wants the rest: close the connection."""
        if self._outcome is None:
            self.connection.abandon()
        if not self.head.done():
            self.head.cancel()

    def on_interim(self, status: int, fields: list[Field]) -> None:
        self.interim(status, fields)

    def on_head(self, status: int, headers: Headers, length: int | None) -> None:
        self.status, self.headers, self.length = status, headers, length
        if not self.head.done():
            self.head.set_result(None)

    def on_data(self, data: bytes) -> None:
        if self._target is not None:
            self._target.add(data)
            return
        self._early.append(data)  # came with the head, before the fetch woke up
        if len(self._early) > 1:  # pausing costs two system calls: not for what is one read anyway
            self.connection.pause()

    def on_end(self, trailers: list[Field]) -> None:
        self._over(None)

    def on_error(self, error: OriginError) -> None:
        if not self.head.done():
            self.head.set_exception(error)
        self._over(error)

    def on_write_paused(self) -> None:
        if self.body is not None:
            self.body.pause()

    def on_write_resumed(self) -> None:
        if self.body is not None:
            self.body.resume()

    def _over(self, error: OriginError | None) -> None:
        self._outcome = (error,)
        if self._target is not None:
            self._finish(error)

    def _finish(self, error: OriginError | None) -> None:
        if self._target is not None:
            self._target.end(broken=error is not None)
        if self.on_done is not None:
            on_done, self.on_done = self.on_done, None
            on_done(error)


class Relay:
    """A body on its way to one door, nothing kept: the origin waits while the client is slow."""

    __slots__ = ("_reception", "door")

    def __init__(self, door: Door, reception: Reception) -> None:
        self.door = door
        self._reception = reception
        door.on_drain = reception.connection.resume

    def add(self, data: bytes) -> None:
        self.door.write(data)
        if not self.door.writable:
            self._reception.connection.pause()

    def end(self, *, broken: bool = False) -> None:
        self.door.on_drain = None
        if broken:
            self.door.abort()
        else:
            self.door.end()


class Discard:
    """A body nobody wants, read to its end so that the connection can be used again."""

    __slots__ = ()

    def add(self, data: bytes) -> None: ...
    def end(self, *, broken: bool = False) -> None: ...
