"""The body of an answer, from the origin's connection to whoever takes it: whoever is too fast is paused."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from edgeproxy.door import Door, Report
from edgeproxy.errors import OriginError
from edgeproxy.http.message import Field
from edgeproxy.observe.outcome import OriginMeters
from edgeproxy.origin.connection import OriginConnection
from edgeproxy.origin.request import trailer_fields, wants_trailers
from edgeproxy.origin.upstream import Upstream

if TYPE_CHECKING:
    from edgeproxy.job import Job

_NO_FIELDS: list[Field] = []


class Target(Protocol):
    """Where a body goes that is not for one door only."""

    def add(self, data: bytes) -> None: ...
    def flush(self) -> None: ...
    def end(self, *, broken: bool = False) -> None: ...


class Delivery:
    """The half of a `ResponseSink` that is behind the head. `Trip` is the other one."""

    __slots__ = ("_door", "_target", "connection", "job", "meters", "on_done", "over", "report", "upstream")

    def __init__(self, job: Job, upstream: Upstream, meters: OriginMeters) -> None:
        self.job = job
        self.upstream = upstream
        self.meters = meters
        self.report = Report(job.fetch.cause) if job.door is None else job.door.report
        self.connection: OriginConnection | None = None
        self.over = False  # nothing more is expected
        self.on_done: Callable[[OriginError | None], None] | None = None
        self._door: Door | None = None
        self._target: Target | None = None

    def relay_to(self, door: Door, through: Target | None = None) -> None:
        """The body is for this door alone: the origin waits while the client is slow. `through` changes it on
        the way, and sees to that itself."""
        if through is None:
            self._door = door
            door.on_drain = self._resume
        else:
            self._target = through

    def flow_to(self, target: Target) -> None:
        """The body is recorded, or read by several doors."""
        self._target = target

    def _resume(self) -> None:
        if self.connection is not None:
            self.connection.resume()

    # --- the ResponseSink

    def on_wait(self) -> None:
        if self._door is not None:
            self._door.flush()
        elif self._target is not None:
            self._target.flush()

    def on_data(self, data: bytes) -> None:
        door = self._door
        if door is not None:
            door.write(data)
            if not door.writable and self.connection is not None:
                self.connection.pause()
        elif self._target is not None:
            self._target.add(data)

    def on_end(self, trailers: list[Field]) -> None:
        self.over = True
        connection, self.connection = self.connection, None  # it is the pool's again
        if connection is not None and connection.server.standing.truncated:
            self.upstream.ended(connection.server, None)
        door = self._door
        if door is None:
            if self._target is not None:
                self._target.end()
        else:
            door.on_drain = door.on_gone = None
            wanted = trailers and wants_trailers(self.job.visit.request)
            door.end(trailer_fields(trailers, self.job.ctx.to_client) if wanted else _NO_FIELDS)
        if self.on_done is not None:
            self.on_done(None)

    def _broke_off(self, error: OriginError) -> None:
        """The head came, but not all of the body."""
        self.over = True
        connection, self.connection = self.connection, None
        self.meters.broke_off(error.error)
        if connection is not None:
            self.upstream.ended(connection.server, error)
        if self._door is not None:
            self._door.on_drain = self._door.on_gone = None
            self.report.failed(error)
            self._door.abort()
        elif self._target is not None:
            self.report.failed(error)
            self._target.end(broken=True)
        if self.on_done is not None:
            self.on_done(error)

    # --- and of the request's body

    def on_write_paused(self) -> None:
        door = self.job.door
        if door is not None and door.body is not None:
            door.body.pause()

    def on_write_resumed(self) -> None:
        door = self.job.door
        if door is not None and door.body is not None:
            door.body.resume()
