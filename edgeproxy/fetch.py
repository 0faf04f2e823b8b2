"""The miss: coalesce -> origin -> settle -> deliver.

Jobs of one key share a flight: the first leads, later ones follow and are served from the same body, or
are released to go alone when the answer turns out not to be shareable. A leader that leaves hands
over. All of it happens in calls; see `trip` for the way itself, `siblings` for the other workers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

from edgeproxy.cache.admission import Uses
from edgeproxy.cache.entry import Entry
from edgeproxy.cache.flight import Flight, Flights
from edgeproxy.cache.key import CREDENTIALS, location_of, sort_key
from edgeproxy.compress import prepare
from edgeproxy.context import Clock
from edgeproxy.decision import Cause
from edgeproxy.errors import OriginError, Retry, origin_error
from edgeproxy.http.message import SAFE, Field, Request
from edgeproxy.job import Job, Relayed, asks_anew, refuse, relay, relay_head
from edgeproxy.machine.large_files import LargeFiles
from edgeproxy.mirror import Mirror
from edgeproxy.observe.outcome import OriginMeters
from edgeproxy.origin.connection import OriginConnection
from edgeproxy.origin.request import is_loop, response_fields
from edgeproxy.origin.upstream import Upstream
from edgeproxy.pipeline import Visit
from edgeproxy.routes import TunnelRule
from edgeproxy.siblings import Siblings, said_by
from edgeproxy.side_effects import invalidate
from edgeproxy.trip import Trip
from edgeproxy.tunnel import Tunnels
from edgeproxy.turns import Turns
from edgeproxy.verdict import carry_out, make_do

Way = tuple[Upstream, OriginMeters]  # to an origin, and what counts its answers
Forwarded = Callable[[Request, str], list[Field]]
PATIENCE = 5.0  # seconds that followers wait for the head of the answer (A67)
RENEW = 15.0  # seconds after which a fetch has to tell other workers that it goes on
MISSED = (Cause.URI_MISS, Cause.VARY_MISS)
GONE = 64  # origins of earlier configurations that are kept for what began with them
REFRESH_CAP = 1000  # refreshes behind clients' backs at once; beyond it stale answers stay stale


class Fetcher:
    """Runs the fetches of one worker. `upstreams` are its pools by name; swapped by a reload."""

    def __init__(
        self,
        upstreams: Mapping[str, Upstream],
        forwarded: Forwarded,
        clock: Clock,
        meters: Mapping[str, OriginMeters],
        tunnels: Tunnels,
        siblings: Siblings | None = None,
        large: LargeFiles | None = None,
    ) -> None:
        """`forwarded` gives the fields that tell an origin who asked; `meters` count per origin; `siblings`
        are the other workers of this machine, when there are any; `large` is where bodies go that memory is
        too small for."""
        self.ways: dict[str, Way] = {}  # by the origin's name
        self.adopt(upstreams, forwarded, meters)
        self.tunnels = tunnels
        self.flights: Flights[Job] = Flights()
        self.uses = Uses()
        self.mirror = Mirror()
        self.large = large
        self.siblings = siblings
        self.clock = clock
        self._tasks: set[asyncio.Task[None]] = set()  # strong references; each opens one connection
        self._leaders: dict[Trip, Flight[Job]] = {}  # until their head is settled
        self.refreshing = 0

    def adopt(
        self, upstreams: Mapping[str, Upstream], forwarded: Forwarded, meters: Mapping[str, OriginMeters]
    ) -> None:
        """Take over what a reload built; fetches under way keep what they hold.

        What began before may still ask for an origin that is gone: its pool drains, and then refuses.
        """
        gone = [name for name in self.ways if name not in upstreams][-GONE:]
        self.ways = {name: self.ways[name] for name in gone}
        self.ways |= {name: (upstream, meters[name]) for name, upstream in upstreams.items()}
        self.forwarded: Forwarded = forwarded

    # --- who leads, who follows

    def start(self, job: Job) -> None:
        """Answer `job` through its door. Returns at once."""
        key, visit = job.fetch.key, job.visit
        if visit.sent is None:  # else it was asked before: it is no loop, and plain
            if is_loop(visit.request.headers, visit.edge.ident):
                refuse(job, origin_error("proxy_loop_detected", "this edge has seen the request before"))
                return
            if visit.route.websocket is not None:
                self._tunnel(job, visit.route.websocket)
                return
        mirror = visit.route.mirror
        if mirror is not None:
            self.mirror.copy(self, job, mirror, *self.ways[mirror.origin])
        if key is None:
            if not self._joins_as_head(job):
                self._trip(job).begin()
            return
        if self.must_pass(key, visit, job.ctx.now):
            self._trip(job.passing if job.brief else job).begin()
            return
        rule = visit.route.rule
        if rule is not None and rule.min_uses > 1 and job.fetch.entry is None:
            self.uses.count(key)
        if not self.join(key, job):
            self._take_off(key, job)

    def join(self, key: bytes, job: Job) -> bool:
        """Let the job come along with a fetch under way; False when there is none."""
        flight = self.flights.find(key)
        if flight is None or not flight.joinable or job.ctx.now >= flight.until:
            return False
        store = job.visit.edge.store
        if store.purged_since(location_of(key), flight.position, flight.began):
            return False  # what it brings was out of date before this client asked
        if flight.join is None:
            flight.jobs.append(job)
        else:
            flight.join(job)
        return True

    def _joins_as_head(self, job: Job) -> bool:
        """An answer to GET tells HEAD all it wants to know. It comes along, but never leads."""
        rule, visit = job.visit.route.rule, job.visit
        if rule is None or visit.request.method != b"HEAD" or job.fetch.cause not in MISSED:
            return False
        return self.join(visit.key(rule, job.ctx), job)

    def must_pass(self, key: bytes, visit: Visit, now: float) -> bool:
        """Is the answer known to be for nobody else, or for nobody else who shows credentials?"""
        must_pass = self.flights.must_pass
        return must_pass(key, now) or (visit.authorized and must_pass(sort_key(key, CREDENTIALS), now))

    def refresh(self, job: Job) -> None:
        """Validate or fetch anew behind the clients' backs: one per key, capped."""
        key = job.fetch.key
        if key is None or self.flights.find(key) is not None or self.refreshing >= REFRESH_CAP:
            return
        if job.fetch.entry is not None and job.ctx.now < job.fetch.entry.rests_until:
            return
        self.refreshing += 1
        self._take_off(key, job, refreshes=True)

    def _take_off(self, key: bytes, job: Job, *, refreshes: bool = False) -> None:
        flight = self.flights.lead(key, job.ctx.now, job.visit.edge.store.position)
        flight.refreshes = refreshes
        flight.jobs.append(job)
        self._lead(job, flight)

    def sweep(self, now: float) -> None:
        """Release those who wait too long for a leader that stalls: each asks the origin itself (A67)."""
        for flight in self.flights.stalled(now - PATIENCE):
            others, flight.jobs = flight.jobs[1:], flight.jobs[:1]
            Turns(others, self.alone)
        if self.siblings is not None:
            for flight in self.flights.older(now - RENEW):
                self.siblings.renew(flight.key, now)
            self.siblings.sweep(now)

    def alone(self, job: Job) -> None:
        """What others got is not for this client: it asks the origin itself and waits for nobody."""
        if job.sibling is not None:
            job.sibling.alone()
        elif job.waits:
            self._trip(job.passing if job.brief else job).begin()

    def apart(self, job: Job, sort: bytes = b"") -> None:
        """What came is for another sort of request: one of each sort asks, and the others of it wait for that
        one. `sort` is what Vary tells apart; empty for a request that may go with any other."""
        key = job.fetch.key
        if key is None or job.sibling is not None or not job.waits:
            self.alone(job)
            return
        key = sort_key(key, sort) if sort else key
        if self.must_pass(key, job.visit, job.ctx.now):
            self.alone(job)
        elif not self.join(key, job):
            self._take_off(key, job)

    def landed(self, flight: Flight[Job], entry: Entry | None = None) -> None:
        """A fetch is over; others may have `entry` from here."""
        if not self.flights.land(flight):
            return
        if flight.refreshes:
            self.refreshing -= 1
        if self.siblings is not None:
            fresh_until = 0.0 if entry is None or entry.must_validate else entry.fresh_until
            self.siblings.landed(flight.key, self.clock(), fresh_until)

    def _trip(self, job: Job) -> Trip:
        return Trip(self, job, *self.ways[job.ctx.origin or ""])

    def _lead(self, job: Job, flight: Flight[Job], *, instead_of: int = -1) -> None:
        """Fetch for all who wait: from the worker that does so already, else from the origin.

        `instead_of` is a worker that was asked in vain: then nobody else is.
        """
        trip = None
        if self.siblings is not None:
            anew = asks_anew(job)
            leader = self.siblings.leader(flight.key, self.clock(), instead_of=instead_of, anew=anew)
            if leader is not None and instead_of < 0:
                flight.leader = leader.slot
                trip = Trip(self, job, leader.upstream, leader.meters, leader.flight)
        trip = trip or self._trip(job)
        self._leaders[trip] = flight
        trip.begin()

    # --- WebSockets

    def _tunnel(self, job: Job, rule: TunnelRule) -> None:
        if job.door is None or job.door.wire is None:
            refuse(job, OriginError("http_request_error", 501, Retry.NEVER))
        elif not self.tunnels.has_room(job.visit.route.name, rule):
            refuse(job, origin_error("connection_limit_reached"))
        else:
            self._trip(job).begin()

    def switched(self, trip: Trip, connection: OriginConnection, rest: bytes) -> None:
        """The origin said 101: its connection and the client's become one. Raises OriginError."""
        job, rule = trip.job, trip.job.visit.route.websocket
        wire = None if job.door is None else job.door.wire
        name = job.visit.route.name
        if wire is None or rule is None or not self.tunnels.has_room(name, rule):
            raise origin_error("connection_limit_reached", "too many WebSockets are open")
        tunnel = self.tunnels.begin(name, rule, connection, wire, response_fields(trip.headers))
        tunnel.relay(wire.early, rest)

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
        if job.visit.request.method not in SAFE:
            invalidate(trip)
        seen = trip.headers.made
        if isinstance(seen, Relayed) and seen.suits(job.visit, job.fetch) and trip not in self._leaders:
            job.visit.relayed = True
            relay_head(trip, seen.head)
            return
        rule = job.visit.route.rule
        if rule is None:
            if job.visit.route.compression is not None:
                trip.press = prepare(trip)
            relay(trip, "")
            return
        flight = self._leaders.pop(trip, None)
        if trip.flight and flight is not None and not self._unwrapped(trip):
            self._lead(job, flight, instead_of=flight.leader)
            return
        try:
            carry_out(self, trip, flight, rule, now)
        except Exception:
            if flight is not None and not flight.landed:
                self._leaders[trip] = flight  # `failed` has an answer for all who wait
            raise

    def failed(self, trip: Trip, error: OriginError) -> None:
        """No head came: a stale answer where one may be used (RFC 5861 §4), else the failure."""
        flight = self._leaders.pop(trip, None)
        if flight is not None and trip.flight:  # the other worker died, or stalls
            self._lead(trip.job, flight, instead_of=flight.leader)
            return
        if flight is not None:
            self.landed(flight)
        now = self.clock()
        if trip.job.fetch.entry is not None:
            trip.job.fetch.entry.rest(now)
        Turns(flight.jobs if flight is not None else [trip.job], partial(make_do, error, now))

    def abandoned(self, trip: Trip) -> None:
        """The client left before the head came: whoever waits behind it leads on."""
        flight = self._leaders.pop(trip, None)
        if flight is None:
            return
        flight.jobs = [job for job in flight.jobs if job.waits]
        leader = next((job for job in flight.jobs if job.sibling is None and job.fetch.key is not None), None)
        if leader is not None:
            # first of all, as everywhere: the others may be sent off alone
            flight.jobs = [leader, *[job for job in flight.jobs if job is not leader]]
            self._lead(leader, flight)
            return
        self.landed(flight)
        Turns(flight.jobs, self.alone)  # other workers, and HEAD: they ask themselves

    def _unwrapped(self, trip: Trip) -> bool:
        """Take the answer of another worker for the origin's; False when it has none to share."""
        said = said_by(trip.headers)
        trip.file, trip.headers, trip.stored = said.file, said.headers, said.stored
        if said.position is None:
            return False
        trip.position = min(trip.position, said.position)  # a purge since then is about this answer too
        return True

    def again(self, trip: Trip, flight: Flight[Job] | None) -> None:
        """Ask once more, without the condition that was answered for something else."""
        old = trip.job
        job = old.unconditional
        if flight is None:
            self._trip(job).begin()
            return
        flight.jobs = [job if one is old else one for one in flight.jobs]
        self._lead(job, flight)

    async def close(self) -> None:
        """Cancel what still runs; for the end of a worker after its drain."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.siblings is not None:
            await self.siblings.close()
