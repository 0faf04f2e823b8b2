"""The HTTP/2 connections to one server: which one the next request goes on, and when another is opened."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from edgeproxy.errors import origin_error
from edgeproxy.origin.connection import OriginConnection, Owner
from edgeproxy.origin.http2 import Http2Stream
from edgeproxy.origin.http2_link import Http2Link
from edgeproxy.origin.settings import Timeouts
from edgeproxy.origin.sweeper import Sweeper

if TYPE_CHECKING:
    from edgeproxy.origin.pool import Server


class Links:
    """Of one server and worker. How many there can be is bounded by the streams that the pool lets in."""

    __slots__ = ("_asking", "_dial", "_links", "_owner", "_server", "_sweeper", "_timeouts")

    def __init__(self, owner: Owner, server: Server, timeouts: Timeouts, sweeper: Sweeper) -> None:
        self._owner = owner
        self._server = server
        self._timeouts = timeouts
        self._sweeper = sweeper
        self._links: list[tuple[Http2Link, float]] = []  # with the time when each is too old for another
        self._dial: asyncio.Task[None] | None = None  # one at a time: who comes meanwhile shares it
        self._asking = 0

    async def open(self) -> OriginConnection:
        """A place on a connection that has room, opened when none has. Raises OriginError."""
        self._asking += 1
        try:
            while (link := self._with_room()) is None:
                if self._dial is None:
                    self._dial = asyncio.get_running_loop().create_task(self._open_another())
                await asyncio.shield(self._dial)  # who leaves does not take it from the others
            stream = Http2Stream(link, self._owner, self._server, self._timeouts, self._sweeper)
            link.join(stream)
            return stream
        finally:
            self._asking -= 1
            if not self._asking:
                self._nobody_waits()

    def _with_room(self) -> Http2Link | None:
        self._links = [each for each in self._links if each[0].is_open]
        now = self._sweeper.clock()
        dialer = self._server.dialer
        for link, too_old in self._links:
            if link.has_room and now < too_old and not (dialer.named and dialer.outdated(link.transport)):
                return link
        return None

    async def _open_another(self) -> None:
        try:
            until = asyncio.get_running_loop().time() + self._timeouts.connect
            link = await self._server.dialer.open(partial(Http2Link, self._sweeper, tls=self._server.url.tls))
            try:
                async with asyncio.timeout_at(until):  # how many requests it takes is in its settings
                    await link.ready.wait()
            except TimeoutError:
                raise origin_error("connection_timeout", "the origin says nothing in HTTP/2") from None
            finally:
                age = self._timeouts.max_age
                self._links.append((link, self._sweeper.clock() + age if age else float("inf")))
            if link.error is not None:
                raise link.error
            if not link.has_room:
                raise origin_error("destination_unavailable", "the origin takes no requests at all")
        except BaseException:
            self._close_unused()
            raise
        finally:
            if self._dial is asyncio.current_task():
                self._dial = None

    def _nobody_waits(self) -> None:
        dial, self._dial = self._dial, None
        if dial is not None:
            dial.cancel()
        self._close_unused()

    def _close_unused(self) -> None:
        for link, _ in self._links:
            link.close_unused()
