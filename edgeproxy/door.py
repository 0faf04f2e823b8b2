"""How an answer that takes time leaves the edge: the same few calls for every door.

The fetch writes into a `Door`; the native protocol and the ASGI app each bring one. Bytes flow by
plain calls in both directions; whoever is too fast is paused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from edgeproxy.decision import Cause, Serve
from edgeproxy.errors import OriginError, RequestError
from edgeproxy.http.answer_head import AnswerHead
from edgeproxy.http.message import Field
from edgeproxy.record import record

if TYPE_CHECKING:
    import asyncio

Piece = bytes | memoryview
"""Some of a request's body; a view where a copy would be large."""
TOO_LARGE = RequestError(413, "body-too-large", "The request's body is larger than this route takes.")
PAUSE_AT = 64 * 1024  # bytes of an unread request body before the client is paused


@record
class Limits:
    """What a client may cost; seconds and bytes. The defaults stand in `config.sections.ServerLimits`."""

    head_timeout: float
    head_size: int
    head_fields: int
    url_size: int
    body_size: int
    body_gap: float
    keep_alive: float
    keep_alive_requests: int
    send_gap: float
    connections: int
    drain: float
    drain_idle: float


class Report:
    """How an answer came about, for metrics and log: written by the fetch, read by the door at the end."""

    __slots__ = ("cause", "detail", "error", "origin", "policy", "reason", "server", "tries", "waited")

    def __init__(self, cause: Cause) -> None:
        self.cause = cause
        self.policy = ""  # which policy answered, when one did
        self.reason = ""
        self.origin = ""
        self.server = ""
        self.error = ""  # type of RFC 9209
        self.detail = ""  # of that error, where there is one; it may be of an earlier try
        self.tries = 0
        self.waited = 0.0  # seconds until the origin's head arrived

    def failed(self, error: OriginError) -> None:
        """The origin failed, for now."""
        self.error, self.detail = error.error, error.detail


class Door(Protocol):
    """One client waiting for one answer.

    `start`, any number of `write`, then `end`; or `serve` alone; or `abort` at any time. Framing
    belongs to the door, which also applies the edits of the context.
    """

    writable: bool  # False: stop writing until `on_drain` is called
    gone: bool  # the client left; every further call is ignored
    started: bool
    on_drain: Callable[[], None] | None
    on_gone: Callable[[], None] | None
    body: RequestBody | None
    report: Report

    @property
    def wire(self) -> Wire | None:
        """The connection, to be handed over whole; None where the door cannot."""
        ...

    def interim(self, status: int, fields: list[Field]) -> None: ...
    def serve(self, serve: Serve) -> None: ...
    def start(self, head: AnswerHead) -> None: ...
    def flush(self) -> None:
        """What was started goes out now: nothing more is at hand for the moment."""
        ...

    def write(self, data: Piece) -> None: ...
    def end(self, trailers: Sequence[Field] = ()) -> None:
        """The body is complete. `trailers` are for a client that wants them, where the framing has room."""
        ...

    def abort(self) -> None: ...


class Wire(Protocol):
    """A client's connection that may switch protocols (RFC 9110 §7.8)."""

    @property
    def early(self) -> bytes:
        """What came behind the request: its sender did not wait for the 101."""
        ...

    def switch(self, fields: list[Field], protocol: asyncio.Protocol) -> asyncio.Transport:
        """Write the 101; from now on the connection's bytes are `protocol`'s."""
        ...

    def over(self, ending: str, received: int, sent: int) -> None:
        """It has ended, and the connection closes. `ending` is empty when a side closed in good order."""
        ...

    def lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        ...


class RequestBody:
    """A request body on its way: buffered until somebody attaches, then passed on as it comes.

    `pause` and `resume` stop and start reading from the client; `wanted` is called once, when
    somebody attaches (the time to say 100 Continue); `overrun` when it grew over its limit.
    """

    __slots__ = (
        "_on_data",
        "_on_end",
        "_pause",
        "_resume",
        "buffered",
        "complete",
        "held",
        "length",
        "paused",
        "trailers",
        "wanted",
    )

    def __init__(self, length: int | None, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        self.length = length  # bytes, None when chunked
        self.buffered: list[Piece] = []
        self.held = 0
        self.complete = False
        self.trailers: list[Field] = []  # fields behind it, known when it is complete
        self.wanted: Callable[[], None] | None = None
        self._pause, self._resume = pause, resume
        self.paused = False  # whoever gets it has enough for now
        self._on_data: Callable[[Piece], None] | None = None
        self._on_end: Callable[[], None] | None = None

    @property
    def untouched(self) -> bool:
        """Nobody attached yet: the request can still be sent elsewhere."""
        return self._on_data is None

    @property
    def ignored(self) -> bool:
        """Does nobody want the rest?"""
        return self._on_data is _ignore

    def feed(self, data: Piece) -> None:
        """Bytes from the client."""
        if self._on_data is not None:
            self._on_data(data)
            return
        self.buffered.append(data)
        self.held += len(data)
        if self.held > PAUSE_AT:
            self.pause()

    def arrived(self, data: Piece) -> None:
        """It is here whole, before anybody asked for it."""
        self.buffered.append(data)
        self.held = len(data)
        self.complete = True

    def finish(self) -> None:
        """The client has sent all of it."""
        self.complete = True
        if self._on_end is not None:
            self._on_end()

    def attach(self, on_data: Callable[[Piece], None], on_end: Callable[[], None]) -> None:
        """Pass on what came and what comes."""
        self._on_data = on_data
        if self.wanted is not None:
            wanted, self.wanted = self.wanted, None
            wanted()
        pending, self.buffered, self.held = self.buffered, [], 0
        for data in pending:
            on_data(data)
        if self.complete:
            on_end()
        else:
            self._on_end = on_end
            self.resume()

    def detach(self) -> None:
        """Nobody wants the rest; the door drains it or closes."""
        self._on_data, self._on_end = _ignore, None
        self.resume()

    def pause(self) -> None:
        if not self.paused:
            self.paused = True
            self._pause()

    def resume(self) -> None:
        if self.paused:
            self.paused = False
            self._resume()


def _ignore(data: Piece) -> None:
    """What is left of a body that nobody wants."""
