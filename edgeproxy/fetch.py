"""The miss: coalesce -> origin -> settle -> deliver. The only coroutine with a story.

A job is one client's wish. Jobs of one key share a flight: the first leads, later ones follow and
are served from the same body, or are released to go alone when the answer turns out not to be
shareable. The task lives until the origin's head is settled; the body then flows by calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from edgeproxy.cache.flight import Body, Flight, Flights
from edgeproxy.cache.key import normalised_query, without_parameters
from edgeproxy.cache.settle import (
    Pass,
    Revalidated,
    Store,
    UseStale,
    build_entry,
    cache_status,
    invalidation_targets,
    on_failure,
    serve_entry,
    settle,
)
from edgeproxy.context import Clock, Context
from edgeproxy.decision import Cause, Fetch, Serve
from edgeproxy.door import Door, Report, RequestBody
from edgeproxy.errors import OriginError, Retry, origin_error
from edgeproxy.http.message import Field, Request
from edgeproxy.http.replies import problem
from edgeproxy.http.wire import apply_edits
from edgeproxy.observe.outcome import OriginMeters
from edgeproxy.origin.connection import OriginConnection
from edgeproxy.origin.request import CONDITIONAL, is_loop, request_head, response_fields
from edgeproxy.origin.upstream import Upstream
from edgeproxy.pipeline import Edge, Route
from edgeproxy.reception import Discard, Reception, Relay
from edgeproxy.record import record

Forwarded = Callable[[Request, str], list[Field]]
NOTHING: frozenset[bytes] = frozenset()
IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE", b"QUERY"})
REFRESH_CAP = 1000  # refreshes behind clients' backs at once; beyond it stale answers stay stale


@record
class Job:
    """One client's wish: everything a fetch needs to know. `door` is None for a refresh."""

    edge: Edge
    route: Route
    request: Request
    ctx: Context
    fetch: Fetch
    door: Door | None


class Fetcher:
    """Runs the fetches of one worker. `upstreams` are its pools by name; swapped by a reload."""

    def __init__(
        self,
        upstreams: Mapping[str, Upstream],
        forwarded: Forwarded,
        clock: Clock,
        meters: Mapping[str, OriginMeters],
    ) -> None:
        """`forwarded` gives the fields that tell an origin who asked; `meters` count per origin."""
        self.adopt(upstreams, forwarded, meters)
        self.flights: Flights[Job] = Flights()
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()  # strong references; each ends with its fetch
        self.refreshing = 0

    def adopt(
        self, upstreams: Mapping[str, Upstream], forwarded: Forwarded, meters: Mapping[str, OriginMeters]
    ) -> None:
        """Take over what a reload built; fetches under way keep what they hold."""
        self._upstreams, self._forwarded, self._meters = upstreams, forwarded, meters

    def start(self, job: Job) -> None:
        """Answer `job` through its door. Returns at once."""
        key = job.fetch.key
        now = job.ctx.now
        if is_loop(job.request.headers, job.edge.ident):
            self._refuse(job, origin_error("proxy_loop_detected", "this edge has seen the request before"))
            return
        if key is None or self.flights.must_pass(key, now):
            self._spawn(job, None)
            return
        flight = self.flights.find(key)
        if flight is not None and flight.joinable:
            self._follow(flight, job)
            return
        flight = self.flights.lead(key)
        flight.jobs.append(job)
        self._spawn(job, flight)

    def refresh(self, job: Job) -> None:
        """Validate or fetch anew behind the clients' backs: one per key, capped."""
        key = job.fetch.key
        if key is None or self.flights.find(key) is not None or self.refreshing >= REFRESH_CAP:
            return
        flight = self.flights.lead(key)
        self.refreshing += 1
        self._spawn(job, flight).add_done_callback(self._refreshed)

    def _refreshed(self, _: object) -> None:
        self.refreshing -= 1

    def _spawn(self, job: Job, flight: Flight[Job] | None) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._run(job, flight))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _follow(self, flight: Flight[Job], job: Job) -> None:
        if flight.join is None:
            flight.jobs.append(job)
        else:
            flight.join(job)

    async def _run(self, job: Job, flight: Flight[Job] | None) -> None:
        """Fetch, settle, deliver; whatever happens, nobody is left waiting."""
        waiting = flight.jobs if flight is not None else [job]
        try:
            reception = await self._exchange(job)
        except OriginError as error:
            if flight is not None:
                self.flights.land(flight)
            self._failed(job, waiting, error)
            return
        except asyncio.CancelledError:  # the only client left before the head came
            if flight is not None:
                self.flights.land(flight)
                for other in flight.jobs:
                    self._alone(other)
            return
        self._settle(job, flight, waiting, reception)

    # --- towards the origin

    async def _exchange(self, job: Job) -> Reception:
        """Send the request until a head arrives; again only where RFC 9110 §9.2.2 and the body allow."""
        name = job.ctx.origin or ""
        upstream, meters = self._upstreams[name], self._meters[name]
        report = job.door.report if job.door is not None else Report(job.fetch.cause)
        report.origin = name
        started = self._clock()
        while True:
            report.tries += 1
            server = "-"
            reused = False
            try:
                connection = upstream.idle() or await upstream.connect()
                report.server = server = connection.server.label
                reused = connection.reused
                reception = self._send(job, connection)
                await self._head(reception)
            except OriginError as error:
                meters.failed(server, error.error)
                report.error, report.waited = error.error, self._clock() - started
                if report.tries < 3 and server != "-" and self._may_retry(job, error, reused=reused):
                    meters.retries.inc()
                    continue
                raise
            report.error, report.waited = "", self._clock() - started
            meters.answered(server, reception.status, report.waited)
            return reception

    async def _head(self, reception: Reception) -> None:
        """Wait for the final head; whoever cancels closes the connection."""
        try:
            await reception.head
        except asyncio.CancelledError:
            reception.abandon()
            raise

    def _may_retry(self, job: Job, error: OriginError, *, reused: bool) -> bool:
        body = job.door.body if job.door is not None else None
        if body is not None or error.retry is Retry.NEVER:  # what was passed on of a body is gone
            return False
        if error.retry is Retry.ANY:
            return True
        # a pooled connection that died at once was closed by the origin while it was idle
        return reused and job.request.method in IDEMPOTENT

    def _send(self, job: Job, connection: OriginConnection) -> Reception:
        door = job.door
        body = door.body if door is not None else None
        reception = Reception(connection, body, _no_interim if door is None else door.interim)
        head = request_head(
            job.request,
            _target(job),
            job.route.forwarding,
            host=connection.server.host,
            length=0 if body is None else body.length,
            edits=job.ctx.to_origin,
            drop=CONDITIONAL if job.fetch.key is not None else NOTHING,
            extra=[*self._forwarded(job.request, job.ctx.client), *validators(job.fetch)],
        )
        connection.send(job.request.method, head, reception, has_body=body is not None)
        if body is None:
            connection.finish()
        else:
            _stream(body, connection)
        if door is not None:
            door.on_gone = reception.abandon
        return reception

    # --- what to do with the answer

    def _settle(self, job: Job, flight: Flight[Job] | None, waiting: list[Job], reception: Reception) -> None:
        now = self._clock()
        rule = job.route.rule
        if rule is None:
            self._relay(job, reception, "")
            return
        if job.request.method not in (b"GET", b"HEAD"):
            for target in invalidation_targets(job.request, reception.status, reception.headers):
                job.edge.store.invalidate(target)
        settled = settle(rule, job.request, job.fetch, reception.status, reception.headers, job.ctx.now, now)
        if isinstance(settled, Pass):
            if flight is not None:
                self.flights.land(flight)
                if settled.remember:
                    self.flights.remember_pass(flight.key, now)
            self._relay(job, reception, settled.reason)
            for other in waiting:
                if other is not job:
                    self._alone(other)
        elif isinstance(settled, Store):
            self._record(job, flight, waiting, reception, settled)
        else:
            if flight is not None:
                self.flights.land(flight)
            if isinstance(settled, Revalidated):
                job.edge.store.put(settled.entry)
                reception.flow_to(Discard(), _ignore_done)
            else:
                reception.abandon()
            cause = Cause.STALE_ERROR if isinstance(settled, UseStale) else job.fetch.cause
            for other in waiting:
                self._serve(
                    other, serve_entry(rule, other.request, settled.entry, cause, reception.status, now)
                )

    def _relay(self, job: Job, reception: Reception, reason: str) -> None:
        """Pass the answer on to one client, nothing kept."""
        door = job.door
        if door is None or door.gone:
            reception.abandon()
            return
        status = cache_status(job.edge.ident, job.fetch.cause, reception.status, detail=reason)
        door.report.cause = job.fetch.cause
        door.start(
            reception.status, self._fields(job, response_fields(reception.headers), status), reception.length
        )
        reception.flow_to(Relay(door, reception), partial(self._exchange_done, job))

    def _record(
        self, job: Job, flight: Flight[Job] | None, waiting: list[Job], reception: Reception, settled: Store
    ) -> None:
        """Record the answer for the cache while everybody who waits reads along."""
        connection = reception.connection
        body = Body(settled.object_size, connection.pause, connection.resume)
        if flight is None:
            flight = Flight(job.fetch.key or b"")
        flight.share(body, partial(self._share, reception, settled, body, job))
        position = job.edge.store.position

        def on_done(error: OriginError | None) -> None:
            self.flights.land(flight)
            if error is None and body.recording:
                job.edge.store.put(build_entry(settled, body.content(), position))
            self._exchange_done(job, error)

        if job.door is not None:
            job.door.on_gone = None  # the fill goes on without its client: the cache wants it (A69)
        for other in waiting:
            self._share(reception, settled, body, job, other)
        reception.flow_to(body, on_done)

    def _share(self, reception: Reception, settled: Store, body: Body, leader: Job, job: Job) -> None:
        """Let one client read the body that is being recorded, or send it off alone (A69)."""
        door = job.door
        if door is None or door.gone:
            return
        if not settled.suits(job.request):
            self._alone(job)
            return
        status = cache_status(
            job.edge.ident,
            job.fetch.cause,
            reception.status,
            stored=True,
            collapsed=job is not leader,
            ttl=settled.ttl,
        )
        door.report.cause = job.fetch.cause
        door.start(reception.status, self._fields(job, settled.fields, status), reception.length)
        body.read_by(door)

    def _serve(self, job: Job, serve: Serve) -> None:
        door = job.door
        if door is not None and not door.gone:
            door.report.cause = serve.cause
            door.serve(serve)

    def _fields(self, job: Job, fields: Iterable[Field], status: bytes) -> list[Field]:
        edited = [*fields, (b"Cache-Status", status), *job.edge.signature]
        return apply_edits(edited, job.ctx.to_client) if job.ctx.to_client else edited

    def _alone(self, job: Job) -> None:
        """What others got is not for this client: it asks the origin itself and waits for nobody."""
        if job.door is not None and not job.door.gone:
            self._spawn(job, None)

    # --- when the origin failed

    def _failed(self, job: Job, waiting: list[Job], error: OriginError) -> None:
        """A stale answer where one may be used (RFC 5861 §4), else the failure, to all who wait."""
        now = self._clock()
        for other in waiting:
            rule, entry = other.route.rule, other.fetch.entry
            if rule is not None and entry is not None and on_failure(entry, now):
                self._serve(
                    other, serve_entry(rule, other.request, entry, Cause.STALE_ERROR, error.status, now)
                )
            else:
                self._refuse(other, error)

    def _refuse(self, job: Job, error: OriginError) -> None:
        door = job.door
        if door is None or door.gone:
            return
        door.report.error = error.error
        if door.started:
            door.abort()
            return
        proxy_status = b"%b; error=%b" % (job.edge.ident, error.error.encode())
        answer = problem(
            job.request,
            job.ctx,
            error.status,
            error.error,
            SENTENCES[error.status],
            [(b"Proxy-Status", proxy_status)],
        )
        door.serve(Serve(answer, job.fetch.cause, reason=error.error))

    def _exchange_done(self, job: Job, error: OriginError | None) -> None:
        """The body ended or broke: only now is the answer's fate known."""
        if error is not None and job.door is not None:
            job.door.report.error = error.error

    async def close(self) -> None:
        """Cancel what still runs; for the end of a worker after its drain."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


SENTENCES = {
    500: "The edge failed on this request.",
    502: "The origin could not be reached, or its answer was not usable.",
    503: "The origin has no capacity to spare at the moment.",
    504: "The origin did not answer in time.",
    508: "The request came back to this edge: somewhere it is forwarded in a loop.",
}


def _target(job: Job) -> bytes:
    """Path and query as the origin sees them: what the key leaves out is not sent either (A48)."""
    request, rule = job.request, job.route.rule
    query = request.query if rule is None else normalised_query(rule, request.query)
    if job.route.hidden_query and query:
        query = without_parameters(query, job.route.hidden_query)
    return request.path + b"?" + query if query else request.path


def validators(fetch: Fetch) -> tuple[Field, ...]:
    """Our own conditional fields, when there is a stored response to validate (RFC 9111 §4.3.1)."""
    return fetch.entry.validators if fetch.entry is not None else ()


def _no_interim(status: int, fields: list[Field]) -> None:
    """Nobody waits at a refresh."""


def _ignore_done(error: OriginError | None) -> None:
    """The answer was given already."""


def _stream(body: RequestBody, connection: OriginConnection) -> None:
    """Pass the request's body on as it comes, framed as its head says."""
    if body.length is not None:
        body.attach(connection.write, connection.finish)
        return

    def write(data: bytes) -> None:
        connection.write(b"%x\r\n%b\r\n" % (len(data), data))

    def finish() -> None:
        connection.write(b"0\r\n\r\n")
        connection.finish()

    body.attach(write, finish)
