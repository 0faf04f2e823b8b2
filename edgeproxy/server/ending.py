"""How a client connection ends: closed, drained, refused, reset, or out of time.

Rule: an answer under way is never mixed with another, and nobody takes one that broke off for whole.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from contextlib import suppress
from dataclasses import replace
from typing import Any

from edgeproxy.clock import steady, wall
from edgeproxy.door import RequestBody
from edgeproxy.errors import RequestError
from edgeproxy.http.pieces import pieces_of
from edgeproxy.http.replies import render_problem
from edgeproxy.server.exchange import Exchange
from edgeproxy.server.reading import RequestReader

DRAIN_CAP = 64 * 1024  # unread body bytes swallowed so that the client reads the answer
DRAIN_SECONDS = 1.0
CLOSE = b"Connection: close\r\n"


class Ending(RequestReader):
    """What becomes of a connection that has answers under way. `EdgeProtocol` makes them."""

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.exchange: Exchange | None = None  # whose answer is under way
        self.waiting: deque[Exchange] = deque()
        self.unsent = 0  # bytes that the client had not taken when its deadline was set

    def _busy(self) -> bool:
        return self.exchange is not None or bool(self.waiting)

    def _close(self) -> None:
        self.closing = True
        self.at_rest = False
        self._hang_up()

    def _hang_up(self) -> None:
        """Close once the client has taken what was written, or takes no more of it."""
        self.transport.close()
        self.unsent = self.transport.get_write_buffer_size()
        self.deadline = steady() + self.limits.send_gap

    def _skip(self, body: RequestBody, keep_alive: bool) -> None:
        """The answer came before the body ended. Of a counted one the rest is read and ignored where that is
        little, so that the connection stays; the next request is what follows it."""
        body.detach()
        if keep_alive and self._little(body) and not (self.closing or self.flow.write_paused):
            self.deadline = steady() + self.limits.body_gap
            self.flow.resume_reading()
        else:
            self._close_or_drain()

    def _little(self, body: RequestBody) -> bool:
        """Is what may still come of it little enough to be read and ignored?"""
        return body.length is not None and self.body_left <= DRAIN_CAP

    def _close_or_drain(self) -> None:
        """The answer came before the body ended: swallow a little of it, so that the client can read
        the answer before it sees the connection close (RFC 9112 §9.6)."""
        self.closing = self.draining = True
        self.body_left = DRAIN_CAP
        self.deadline = steady() + DRAIN_SECONDS
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            with suppress(OSError):  # the client is gone, which the loop has not told yet
                self.transport.write_eof()

    def _drained(self, size: int) -> None:
        self.body_left -= size
        if self.body_left < 0:
            self._hang_up()

    def exchange_aborted(self, exchange: Exchange) -> None:
        """An answer broke off: nobody must take it for whole. A reset says so where the close is the end."""
        self.hall.observe(exchange, "aborted", steady())
        self.exchange = None
        self.closing = True
        if exchange.until_close:
            connected = self.transport.get_extra_info("socket")
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _close_after_answer(self) -> None:
        self.closing = True
        self.at_rest = False
        if not self._busy():
            self._hang_up()

    def _reject(self, error: RequestError) -> None:
        """Refuse what could not be parsed or admitted, and close; nothing of it is kept."""
        if self.closing or self._nobodys():
            return
        self.closing = True
        self.at_rest = False
        self.waiting.clear()
        self.hall.rejected(self.peer, error)
        if self.exchange is not None and self.exchange.received:
            return  # it was a request behind this one, whose answer comes all the same, and is the last
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.lost()
            self.hall.over(exchange, steady())
            if exchange.started:  # what is under way must not be mixed with ours
                self.transport.abort()
                return
        answer = render_problem(error.status, error.reason, error.detail, self.hall.next_request_id())
        date = self.hall.date_line(wall())
        head = (answer.head, self.hall.edge.signature_lines, date, CLOSE, b"\r\n")
        self.transport.write(b"".join((*head, *pieces_of(answer.body))))
        self._hang_up()

    def _nobodys(self) -> bool:
        """Did the fault come behind a whole request that said close? Such bytes are not looked at (RFC 9112
        §9.6)."""
        last = self.waiting[-1] if self.waiting else self.exchange
        return last is not None and not last.keep_alive and last.received

    # --- from outside

    def connection_lost(self, exc: Exception | None) -> None:
        self.hall.connection_lost(self)
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.lost()
            self.hall.observe(exchange, "client-gone", steady())
        self.waiting.clear()
        super().connection_lost(exc)

    def eof_received(self) -> None:
        """The client sent its last byte."""
        self._hang_up()

    def on_deadline(self) -> None:
        """The sweeper found `deadline` in the past."""
        if self.flow.write_paused or self.transport.is_closing():
            left = self.transport.get_write_buffer_size()
            if left < self.unsent:  # slow, but reading
                self.unsent, self.deadline = left, steady() + self.limits.send_gap
            else:
                self.transport.abort()
        elif self.draining or self.closing or not (self.in_head or self._wanted() or self.proxied):
            self._hang_up()
        else:
            self._reject(RequestError(408, "timeout", "The request did not arrive in time."))

    def _wanted(self) -> bool:
        """Is a body coming that somebody waits for?"""
        return self.receiving is not None and not self.receiving.ignored

    def shutdown(self) -> None:
        """Drain: idle connections get a moment for a request already on its way, then close."""
        self.limits = replace(self.limits, keep_alive=self.limits.drain_idle)  # for those idle later
        if not (self._busy() or self.in_head or self.flow.write_paused):
            self.deadline = min(self.deadline, steady() + self.limits.drain_idle)
