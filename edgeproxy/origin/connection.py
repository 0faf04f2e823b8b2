"""One connection to an origin: a request goes out, its response comes in by calls on a sink.

Rule: clean or closed. The connection goes back to its pool only when the request was written whole,
the response was read whole, nothing is left over and both sides keep it open (RFC 9112 §9.3,
reliability A16-A19). Everything else closes it. No task and no timer per request.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

from edgeproxy.errors import OriginError, Retry, origin_error
from edgeproxy.http.message import Field
from edgeproxy.origin.reader import ResponseReader
from edgeproxy.origin.settings import Timeouts
from edgeproxy.origin.sink import NOBODY, ResponseSink
from edgeproxy.origin.sweeper import NEVER, Sweeper

if TYPE_CHECKING:
    from edgeproxy.origin.pool import Server

_NO_TRAILERS: list[Field] = []
T = TypeVar("T")


class Owner(Protocol):
    """The pool a connection belongs to."""

    def release(self, connection: OriginConnection) -> None:
        """It is clean: keep it, hand it on or close it."""
        ...

    def forget(self, connection: OriginConnection) -> None:
        """It is closed. Called exactly once."""
        ...


class OriginConnection(ResponseReader):
    """An open connection. `send` once, `write` and `finish` when there is a body, then wait for the sink.

    `reused`: it served a request before, so that dying without a byte may mean it was stale.
    """

    __slots__ = (
        "_head",
        "_limit",
        "_loop",
        "_owner",
        "_poll",
        "_read_paused",
        "_sweeper",
        "_timeouts",
        "_transport",
        "_with_body",
        "_write_paused",
        "_written",
        "closed",
        "deadline",
        "refusal",
        "reused",
        "server",
    )

    chunks = True  # bodies of unknown length are handed over in chunks

    def __init__(self, owner: Owner, server: Server, timeouts: Timeouts, sweeper: Sweeper) -> None:
        super().__init__(server.heads)
        self.server = server
        self.reused = False
        self.closed = True  # until it is open
        self.refusal: OriginError | None = None  # why it closed as soon as it was
        self.deadline = self._limit = NEVER
        self._owner = owner
        self._timeouts = timeouts
        self._sweeper = sweeper
        self._written = True
        self._head = b""  # of the request, until the first bytes of its body
        self._with_body = self._read_paused = self._write_paused = False

    def __repr__(self) -> str:
        state = "closed" if self.closed else "idle" if self._sink is None else "busy"
        return f"<OriginConnection {self.server.label} {state}{' reused' if self.reused else ''}>"

    # The request.

    def send(self, method: bytes, head: bytes, sink: ResponseSink, *, has_body: bool) -> None:
        """Write a request's head, its empty line included. `sink` is called after this has returned.

        Before a body it is held back, to go out with the first bytes of that: call `flush`.
        """
        if self.closed:
            self._sink = sink
            self._loop.call_soon(self._tell_closed)
            return
        self.expect(for_head=method == b"HEAD")
        self._sink = sink
        self._with_body = has_body
        self._written = not has_body
        timeouts, now = self._timeouts, self._sweeper.clock()
        if timeouts.total:
            self._limit = now + timeouts.total
        deadline = NEVER if has_body else now + timeouts.first_byte
        self.deadline = deadline if deadline < self._limit else self._limit
        if has_body:
            self._head = head
        else:
            self._transport.write(head)

    def flush(self) -> None:
        """The origin need not wait for the head if the body takes its time, which shows in this turn of the
        loop."""
        if self._head:
            self._loop.call_soon(self._send_head)

    def _send_head(self) -> None:
        if self._head and not self.closed:
            head, self._head = self._head, b""
            self._transport.write(head)

    def write(self, data: bytes | memoryview) -> None:
        """Write a part of the request body, framed by the caller."""
        if self.closed:
            return
        if self._head:
            head, self._head = self._head, b""
            self._transport.writelines((head, data))
        else:
            self._transport.write(data)

    def finish(self, trailers: Sequence[Field] = ()) -> None:
        """The request is written whole: from now on the origin is waited for. `trailers` are for a connection
        that frames bodies itself."""
        if not self._written:
            self._written = True
            self._wait()

    def tell(self, sink: ResponseSink) -> None:
        """From now on the response is for `sink`."""
        self._sink = sink

    def abandon(self) -> None:
        """Close now; the sink hears nothing more."""
        self._sink = NOBODY
        if not self.closed:
            self._close()

    def hand_over(self, protocol: asyncio.Protocol, sink: ResponseSink) -> asyncio.Transport:
        """The origin switched protocols: its bytes are `protocol`'s. This only keeps its place in the pool
        until `close_idle`, and tells `sink` by `on_error` when that must come."""
        self._sink = sink
        self.deadline = self._limit = NEVER
        self._transport.set_protocol(protocol)
        return self._transport

    # Back-pressure of the response: what was read already still comes, at most one read (256 KiB).

    def pause(self) -> None:
        """Read no more until `resume`; no deadline runs meanwhile but `total`."""
        if not self._read_paused and not self.closed:
            self._read_paused = True
            self._transport.pause_reading()
            self._wait()

    def resume(self) -> None:
        """Read on."""
        if self._read_paused and not self.closed:
            self._read_paused = False
            self._transport.resume_reading()
            self._wait()

    # Called by the pool.

    def is_quiet(self) -> bool:
        """Is it open with nothing to read? Unasked bytes must not become the next response (A19)."""
        return not self.closed and not self._transport.is_closing() and not self._poll.poll(0)

    def close_idle(self) -> None:
        """Close it in good order; nobody is using it."""
        if not self.closed:
            self._let_go()
            self._transport.close()

    # Called by the event loop and the sweeper.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._loop = asyncio.get_running_loop()
        self._poll = select.poll()
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        self.closed = False

    def data_received(self, data: bytes) -> None:
        if self._sink is None:
            self._close()  # unasked for
            return
        try:
            self.feed(data)
        except OriginError as error:
            self._fail(error)
        except Exception as error:  # a sink of ours is broken: this request fails, the worker goes on
            self._report(error)
            self._fail(origin_error("proxy_internal_error", "the response could not be handled"))
        else:
            if self.complete:
                self._settle()
            elif not self.in_head:  # a head has one deadline, however slowly it drips
                self._wait()

    def eof_received(self) -> bool:
        if self._sink is not None and self.until_eof:
            self.complete = True
            self._settle()
        else:
            self._lost("the origin closed the connection")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost(str(exc) if exc is not None else "the connection was closed")
        del self._parser  # it refers to us: do not wait for the garbage collector

    def pause_writing(self) -> None:
        self._write_paused = True
        if self._sink is not None:
            self._wait()
            self._sink.on_write_paused()

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._sink is not None:
            self._wait()
            self._sink.on_write_resumed()

    def expire(self, now: float) -> None:
        """The deadline of the present phase has passed."""
        if self._sink is None:
            self.close_idle()
        elif now >= self._limit:
            self._fail(origin_error("http_response_timeout", "the exchange took too long"))
        elif self._write_paused:
            self._fail(origin_error("connection_write_timeout", "the origin stopped reading the request"))
        elif self.in_head:
            self._fail(origin_error("http_response_timeout", "no response in time"))
        else:
            self._fail(origin_error("http_response_timeout", "the response stalled"))

    def _wait(self) -> None:
        """Set the deadline of what is waited for now; nobody but the origin is held to one."""
        if self._write_paused:
            deadline = self._sweeper.clock() + self._timeouts.between_bytes
        elif self._read_paused or (self.in_head and not self._written):
            deadline = NEVER
        elif self.in_head:
            deadline = self._sweeper.clock() + self._timeouts.first_byte
        else:
            deadline = self._sweeper.clock() + self._timeouts.between_bytes
        self.deadline = deadline if deadline < self._limit else self._limit

    # How an exchange ends.

    def _settle(self) -> None:
        """The response is complete."""
        sink = self._sink or NOBODY
        if self.closed:  # abandoned in the middle of a read
            return
        trailers = self.take_trailers() if self._chunked else _NO_TRAILERS
        self._sink = None
        self._limit = NEVER
        if self._read_paused:
            self._read_paused = False
            self._transport.resume_reading()
        if self.keep and self._written and not self.unclean and not (self._with_body and self._unsent()):
            self.reused = True
            self._owner.release(self)
        else:
            self._close()
        self._tell(sink.on_end, trailers)

    def _unsent(self) -> bool:
        """Did the response overtake the request (A18)?"""
        return self._transport.get_write_buffer_size() > 0

    def _lost(self, detail: str) -> None:
        if self.closed:
            return
        if self._sink is None:
            self._close()
        elif self.began:
            self._fail(origin_error("http_response_incomplete", detail))
        else:
            self._fail(origin_error("connection_terminated", detail))

    def _fail(self, error: OriginError) -> None:
        if self.closed:
            return
        sink, self._sink = self._sink or NOBODY, NOBODY
        self._close()
        self._tell(sink.on_error, error)

    def _tell_closed(self) -> None:
        error = OriginError("connection_terminated", 502, Retry.ANY, "closed before the request was sent")
        self._tell((self._sink or NOBODY).on_error, error)

    def _tell(self, last: Callable[[T], None], what: T) -> None:
        """The last that a sink hears: what goes wrong there is none of the connection's business."""
        try:
            last(what)
        except Exception as bug:
            self._report(bug)

    def _close(self) -> None:
        self._let_go()
        self._transport.abort()

    def _let_go(self) -> None:
        if not self.closed:
            self.closed = True
            self.deadline = NEVER
            self._sweeper.discard(self)
            self._owner.forget(self)

    def _report(self, error: Exception) -> None:
        self._loop.call_exception_handler(
            {"message": f"origin {self.server.label}: a response sink failed", "exception": error}
        )
