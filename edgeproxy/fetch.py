"""The miss: coalesce -> origin -> settle -> deliver.

A job is one client's wish. Jobs of one key share a flight: the first leads, later ones follow and
are served from the same body, or are released to go alone when the answer turns out not to be
shareable. A leader that leaves hands over. All of it happens in calls; see `trip` for the way itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

from edgeproxy.cache.admission import Uses
from edgeproxy.cache.entry import Entry
from edgeproxy.cache.flight import Body, Flight, Flights
from edgeproxy.cache.rule import CacheRule
from edgeproxy.cache.settle import (
    Again,
    Pass,
    Store,
    UseStale,
    build_entry,
    cache_status,
    head_update,
    invalidation_targets,
    on_failure,
    serve_entry,
    settle,
    x_cache,
)
from edgeproxy.context import Clock, Context
from edgeproxy.decision import Cause, Fetch, Serve
from edgeproxy.door import Door
from edgeproxy.errors import OriginError, origin_error
from edgeproxy.http.message import Field, Request
from edgeproxy.http.replies import problem
from edgeproxy.observe.outcome import OriginMeters
from edgeproxy.origin.request import is_loop, response_fields
from edgeproxy.origin.upstream import Upstream
from edgeproxy.pipeline import Visit
from edgeproxy.record import record
from edgeproxy.trip import Trip

Forwarded = Callable[[Request, str], list[Field]]
NOTHING: frozenset[bytes] = frozenset()
CONSUMED = frozenset({b"surrogate-control"})  # said to caches like us, not to clients
REFRESH_CAP = 1000  # refreshes behind clients' backs at once; beyond it stale answers stay stale


@record
class Job:
    """One client's wish: everything a fetch needs to know. `door` is None for a refresh."""

    visit: Visit
    ctx: Context
    fetch: Fetch
    door: Door | None

    @property
    def ranged(self) -> bool:
        """Does it want a part only?"""
        return b"range" in self.visit.request.headers.index

    @property
    def passing(self) -> Job:
        """The same wish as something between this client and the origin: nothing is kept of it."""
        return Job(self.visit, self.ctx, Fetch(self.fetch.cause), self.door)

    @property
    def waits(self) -> bool:
        """Is there a client that still wants the answer?"""
        return self.door is not None and not self.door.gone


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
        self.uses = Uses()
        self.clock = clock
        self._tasks: set[asyncio.Task[None]] = set()  # strong references; each opens one connection
        self._leaders: dict[Trip, Flight[Job]] = {}  # until their head is settled
        self.refreshing = 0

    def adopt(
        self, upstreams: Mapping[str, Upstream], forwarded: Forwarded, meters: Mapping[str, OriginMeters]
    ) -> None:
        """Take over what a reload built; fetches under way keep what they hold."""
        self._upstreams, self.forwarded, self._meters = upstreams, forwarded, meters

    def start(self, job: Job) -> None:
        """Answer `job` through its door. Returns at once."""
        key = job.fetch.key
        if is_loop(job.visit.request.headers, job.visit.edge.ident):
            self._refuse(job, origin_error("proxy_loop_detected", "this edge has seen the request before"))
            return
        if key is None or self.flights.must_pass(key, job.ctx.now):
            self._trip(job.passing if job.ranged else job).begin()
            return
        rule = job.visit.route.rule
        if rule is not None and rule.min_uses > 1 and job.fetch.entry is None:
            self.uses.count(key)
        flight = self.flights.find(key)
        if flight is None or not flight.joinable:
            flight = self.flights.lead(key)
            flight.jobs.append(job)
            self._lead(job, flight)
        elif flight.join is None:
            flight.jobs.append(job)
        else:
            flight.join(job)

    def refresh(self, job: Job) -> None:
        """Validate or fetch anew behind the clients' backs: one per key, capped."""
        key = job.fetch.key
        if key is None or self.flights.find(key) is not None or self.refreshing >= REFRESH_CAP:
            return
        flight = self.flights.lead(key)
        flight.on_landing = self._refreshed
        flight.jobs.append(job)
        self.refreshing += 1
        self._lead(job, flight)

    def _refreshed(self) -> None:
        self.refreshing -= 1

    def _trip(self, job: Job) -> Trip:
        name = job.ctx.origin or ""
        return Trip(self, job, self._upstreams[name], self._meters[name])

    def _lead(self, job: Job, flight: Flight[Job]) -> None:
        trip = self._trip(job)
        self._leaders[trip] = flight
        trip.begin()

    # --- what trips need and report

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that is not forgotten while it runs."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def answered(self, trip: Trip, now: float) -> None:
        """The final head is here: only now is it known whose answer this is."""
        job = trip.job
        visit = job.visit
        rule = visit.route.rule
        if rule is None:
            self._relay(trip, "")
            return
        flight = self._leaders.pop(trip, None)
        waiting = flight.jobs if flight is not None else [job]
        if visit.request.method != b"GET":
            self._side_effects(trip, rule, now)
        settled = settle(rule, visit.request, job.fetch, trip.status, trip.headers, job.ctx.now, now)
        if isinstance(settled, Pass):
            if flight is not None:
                self.flights.land(flight)
                if settled.remember:
                    self.flights.remember_pass(flight.key, now)
            if job.ranged and job.fetch.key is not None:  # the whole was asked for, only to be kept
                trip.abandon()
                self._alone(job)
            else:
                self._relay(trip, settled.reason)
            if flight is not None:
                for other in waiting:
                    if other is not job:
                        self._alone(other)
        elif isinstance(settled, Store):
            self._record(trip, flight, waiting, settled)
        elif isinstance(settled, Again):
            self._again(trip, flight)
        else:
            if flight is not None:
                self.flights.land(flight)
            cause = job.fetch.cause
            if isinstance(settled, UseStale):
                cause = Cause.STALE_ERROR
                trip.abandon()
            else:  # what follows a 304 is nobody's; it is read to its end
                visit.edge.store.renew(settled.entry, trip.position)
            for other in waiting:
                if other.waits:
                    self._serve(
                        other,
                        serve_entry(rule, other.visit.request, settled.entry, cause, trip.status, now),
                    )

    def failed(self, trip: Trip, error: OriginError) -> None:
        """No head came: a stale answer where one may be used (RFC 5861 §4), else the failure."""
        flight = self._leaders.pop(trip, None)
        if flight is not None:
            self.flights.land(flight)
        now = self.clock()
        for job in flight.jobs if flight is not None else [trip.job]:
            rule, entry = job.visit.route.rule, job.fetch.entry
            if rule is not None and entry is not None and on_failure(entry, now):
                self._serve(
                    job, serve_entry(rule, job.visit.request, entry, Cause.STALE_ERROR, error.status, now)
                )
            else:
                self._refuse(job, error)

    def abandoned(self, trip: Trip) -> None:
        """The client left before the head came: whoever waits behind it leads on."""
        flight = self._leaders.pop(trip, None)
        if flight is None:
            return
        flight.jobs = [job for job in flight.jobs if job.waits]
        if flight.jobs:
            self._lead(flight.jobs[0], flight)
        else:
            self.flights.land(flight)

    # --- what to do with the answer

    def _relay(self, trip: Trip, reason: str) -> None:
        """Pass the answer on to one client, nothing kept."""
        job = trip.job
        door = job.door
        if door is None or door.gone:
            trip.abandon()
            return
        cause = job.fetch.cause
        door.report.cause = cause
        status = cache_status(job.visit.edge.ident, cause, trip.status, detail=reason)
        fields = _for_clients(trip, job.visit.route.rule, cause)
        cookie = trip.affinity()
        if cookie is not None:  # only here: what is stored or shared belongs to no client
            fields = [*fields, cookie]
        door.start(trip.status, fields, status, trip.length)
        trip.relay_to(door)

    def _side_effects(self, trip: Trip, rule: CacheRule, now: float) -> None:
        """What an answer to another method than GET means for what is stored (RFC 9111 §4.3.5, §4.4)."""
        job = trip.job
        visit = job.visit
        store, request = visit.edge.store, visit.request
        if request.method == b"HEAD":
            entry, _ = store.find(visit.key(rule, job.ctx), request.headers)
            if entry is not None and trip.status in (200, 410):
                update = head_update(rule, request, entry, trip.status, trip.headers, job.ctx.now, now)
                if update is None:
                    entry.fresh_until = min(entry.fresh_until, now)
                else:
                    store.renew(update, trip.position)
            return
        for target in invalidation_targets(request, trip.status, trip.headers):
            store.invalidate(target)

    def _again(self, trip: Trip, flight: Flight[Job] | None) -> None:
        """Ask once more, without the condition that was answered for something else."""
        old = trip.job
        job = Job(old.visit, old.ctx, Fetch(old.fetch.cause, old.fetch.key), old.door)
        if flight is None:
            self._trip(job).begin()
            return
        flight.jobs = [job if one is old else one for one in flight.jobs]
        self._lead(job, flight)

    def _record(self, trip: Trip, flight: Flight[Job] | None, waiting: list[Job], settled: Store) -> None:
        """Record the answer for the cache while everybody who waits reads along."""
        connection = trip.connection
        assert connection is not None  # noqa: S101 - its head came this moment
        body = Body(settled.object_size, connection.pause, connection.resume)
        job = trip.job
        rule = job.visit.route.rule
        if rule is not None and rule.min_uses > 1 and job.fetch.entry is None:
            body.kept = self.uses.reaches(settled.key, rule.min_uses)
        if flight is None:
            flight = Flight(job.fetch.key or b"")
        flight.share(body, partial(self._share, trip, settled, body, flight))

        def on_done(error: OriginError | None) -> None:
            self.flights.land(flight)
            entry = None
            if error is None and body.recording:
                entry = build_entry(settled, body.content(), trip.position)
                if body.kept:
                    job.visit.edge.store.put(entry)
            if error is not None:
                trip.report.error = error.error
            for other in flight.partial:
                self._serve_part(other, entry, trip)

        if job.door is not None:
            job.door.on_gone = None  # the fill goes on without its client: the cache wants it (A69)
        for other in waiting:
            self._share(trip, settled, body, flight, other)
        trip.on_done = on_done
        trip.flow_to(body)

    def _share(self, trip: Trip, settled: Store, body: Body, flight: Flight[Job], job: Job) -> None:
        """Let one client read the body that is being recorded, or send it off alone (A69)."""
        door = job.door
        if door is None or door.gone:
            return
        if not settled.suits(job.visit.request):
            self._alone(job)
            return
        if job.ranged:
            flight.partial.append(job)
            return
        leads = job is trip.job
        status = cache_status(
            job.visit.edge.ident,
            job.fetch.cause,
            trip.status,
            stored=body.kept,
            collapsed=not leads,
            ttl=settled.ttl,
        )
        door.report.cause = job.fetch.cause
        # the one who asked gets all of it, the others what anybody may have
        rule, cause = job.visit.route.rule, job.fetch.cause
        fields = _for_clients(trip, rule, cause) if leads else settled.shared_fields(self.clock())
        if rule is not None and rule.x_cache and not leads:
            fields.append((b"X-Cache", b"MISS"))
        door.start(trip.status, fields, status, trip.length)
        body.read_by(door)

    def _serve_part(self, job: Job, entry: Entry | None, trip: Trip) -> None:
        """The whole is here, or will not be: a client that wants a part of it gets that, or asks itself."""
        rule = job.visit.route.rule
        if entry is None or rule is None:
            self._alone(job)
        else:
            request, cause = job.visit.request, job.fetch.cause
            self._serve(job, serve_entry(rule, request, entry, cause, trip.status, self.clock(), stored=True))

    def _serve(self, job: Job, serve: Serve) -> None:
        door = job.door
        if door is not None and not door.gone:
            door.report.cause = serve.cause
            door.serve(serve)

    def _alone(self, job: Job) -> None:
        """What others got is not for this client: it asks the origin itself and waits for nobody."""
        if job.waits:
            self._trip(job.passing if job.ranged else job).begin()

    def _refuse(self, job: Job, error: OriginError) -> None:
        door = job.door
        if door is None or door.gone:
            return
        door.report.error = error.error
        if door.started:
            door.abort()
            return
        proxy_status = b"%b; error=%b" % (job.visit.edge.ident, error.error.encode())
        answer = problem(
            job.visit.request,
            job.ctx,
            error.status,
            error.error,
            SENTENCES[error.status],
            [(b"Proxy-Status", proxy_status)],
        )
        door.serve(Serve(answer, job.fetch.cause, reason=error.error))

    async def close(self) -> None:
        """Cancel what still runs; for the end of a worker after its drain."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _for_clients(trip: Trip, rule: CacheRule | None, cause: Cause) -> list[Field]:
    """The fields of an answer that goes to the client who asked for it."""
    hidden = CONSUMED if rule is None else rule.hidden
    fields = response_fields(trip.headers, NOTHING if hidden.isdisjoint(trip.headers.index) else hidden)
    if rule is not None and rule.x_cache:
        fields.append((b"X-Cache", x_cache(cause, trip.status)))
    return fields


SENTENCES = {
    500: "The edge failed on this request.",
    502: "The origin could not be reached, or its answer was not usable.",
    503: "The origin has no capacity to spare at the moment.",
    504: "The origin did not answer in time.",
    508: "The request came back to this edge: somewhere it is forwarded in a loop.",
}
