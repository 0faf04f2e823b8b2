"""Bytes of one client connection as they come: a request that is known is answered at once, a counted body is
passed on as it was read, and the rest goes to the parser.

Rules of the place:
1. Requests that came together are parsed a few at a time, and no more while answers wait for the client
   to read: what one read can hold must not become a hundred thousand times as many bytes of answers.
2. A head that repeats byte for byte is not parsed again: see `repeated`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from edgeproxy.clock import steady
from edgeproxy.door import RequestBody
from edgeproxy.errors import RequestError
from edgeproxy.http.proxy_protocol import Complete, parse
from edgeproxy.pipeline import Visit
from edgeproxy.server.repeated import revisit, sent_before
from edgeproxy.visits import Visits

if TYPE_CHECKING:
    from edgeproxy.hallway import Hallway

PIECE = 2048  # bytes that are parsed at a time, when more came than one usual head


class Intake(HttpToolsProtocol):
    """What comes in, before it is parsed. `RequestReader` parses, `EdgeProtocol` says what goes out."""

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.parser = httptools.HttpRequestParser(self)  # without the base's leniency after close
        self.hall: Hallway = config.loaded_app.hall
        self.limits = self.hall.limits
        self.peer = ""
        self.deadline = 0.0  # steady seconds; the sweeper calls `on_deadline` when it is past
        self.closing = False  # nothing more is read: an answer or the drain ends the connection
        self.draining = False
        self.at_rest = True  # between two messages, and nothing is under way
        self.proxied: bytes | None = None  # PROXY protocol header not yet complete
        self.known: bytes | None = None  # the field lines of the last plain request, and what it led to
        self.visits = Visits()
        self.sends_bodies = False  # did a request with a body come whose head may be repeated?
        self.in_head = False
        self.unread = b""  # came together with what is answered now
        self.receiving: RequestBody | None = None  # the body that is coming
        self.counting = False  # its bytes are counted here: the parser need not see them
        self.body_left: int = 0  # bytes of it that may still come

    # --- what the other halves do

    def _parse(self, data: bytes) -> None:
        raise NotImplementedError

    def _answer(self, visit: Visit, keep_alive: bool, http10: bool) -> None:
        """It has no body, and it is its turn."""
        raise NotImplementedError

    def _receive(self, visit: Visit, length: int, data: bytes, begin: int) -> None:
        """Its body has `length` bytes, of which `data` has the first from `begin` on, and it is its turn."""
        raise NotImplementedError

    def _body_complete(self) -> None:
        raise NotImplementedError

    def _busy(self) -> bool:
        """Is an answer under way, or a request waiting for its turn?"""
        raise NotImplementedError

    def _reject(self, error: RequestError) -> None:
        raise NotImplementedError

    def _drained(self, size: int) -> None:
        raise NotImplementedError

    # --- bytes

    def data_received(self, data: bytes) -> None:
        if self.at_rest:
            if self.sends_bodies and sent_before(self, data):
                return
            line, _, rest = data.partition(b" HTTP/1.1\r\n")
            if rest == self.known:
                visit = self.visits.get(line)
                if visit is None or visit.edge is not self.hall.edge:
                    visit = revisit(self, line)
                if visit is not None:
                    self._answer(visit, True, False)  # by place: keywords would cost more
                    return
        if self.closing:
            if self.draining:
                self._drained(len(data))
            return
        if self.proxied is not None:
            data = self._read_proxy_header(data)
            if not data:
                return
        if self.unread or self.counting or len(data) > PIECE * 2:
            self.unread += data
        else:
            self._parse(data)
        if self.unread:
            self._take_unread()

    def _read_on(self) -> None:
        """Take in what comes, and before it what came already."""
        self.flow.resume_reading()
        if self.unread:
            self.loop.call_soon(self._take_unread)  # not from within the parser

    def _take_unread(self) -> None:
        """Take in what came, as far as it may be answered."""
        while self.unread and not (self.closing or self.flow.read_paused):
            if self.counting:
                self._pass_on()
                continue
            end = len(self.unread) if self.receiving is not None else PIECE
            piece, self.unread = self.unread[:end], self.unread[end:]
            self._parse(piece)

    def _pass_on(self) -> None:
        """What is unread belongs to the body, as far as that goes."""
        data, self.unread = self.unread, b""
        left = self.body_left - len(data)
        if left < 0:
            data, self.unread = data[:left], data[left:]
        self.body_left = max(0, left)
        if self.receiving is not None:
            self.receiving.feed(data)
        if left <= 0:
            self.counting = False
            self._received()
            self._rest()
        elif not self.flow.read_paused:
            self.deadline = steady() + self.limits.body_gap

    def _received(self) -> None:
        """The request is here whole."""
        receiving, self.receiving = self.receiving, None
        if receiving is None or self.closing:
            return
        receiving.finish()
        self._body_complete()

    def _rest(self) -> None:
        """Nothing is under way any more, unless something is."""
        self.at_rest = not (
            self.closing or self.in_head or self.receiving is not None or self.unread or self._busy()
        )

    def _read_proxy_header(self, data: bytes) -> bytes:
        buffer = (self.proxied or b"") + data
        try:
            parsed = parse(buffer)
        except RequestError as error:
            self._reject(error)
            return b""
        if not isinstance(parsed, Complete):
            self.proxied = buffer
            return b""
        self.proxied = None
        if parsed.source:
            self.peer = parsed.source
        return buffer[parsed.consumed :]

    def connection_lost(self, exc: Exception | None) -> None:
        self.unread = b""
        super().connection_lost(exc)
