"""What becomes of an answer, once its head is here: kept, handed on, or proof that what is stored is good.

`cache.settle` decides; here it is carried out, for the client that asked and for all who wait with it.
"""

from __future__ import annotations

from typing import Protocol

from edgeproxy.cache.flight import Flight, Flights
from edgeproxy.cache.key import CREDENTIALS, sort_key, variant_key
from edgeproxy.cache.rule import CacheRule
from edgeproxy.cache.settle import (
    Again,
    Keep,
    Pass,
    Revalidated,
    UseStale,
    on_failure,
    serve_entry,
    settle,
    tells_all,
)
from edgeproxy.compress import prepare
from edgeproxy.decision import Cause
from edgeproxy.errors import OriginError
from edgeproxy.job import Job, refuse, relay, serve
from edgeproxy.recording import Keeping, Recording
from edgeproxy.side_effects import update_by_head
from edgeproxy.trip import Trip
from edgeproxy.turns import Turns

BY_CREDENTIALS = "authorization"  # the word for what answers those of the request
GONE = (404, 410)  # such an answer says that what is stored is out of date, other errors do not


class Leading(Keeping, Protocol):
    """What carrying out asks of the fetcher."""

    flights: Flights[Job]

    def again(self, trip: Trip, flight: Flight[Job] | None) -> None: ...


def carry_out(fetcher: Leading, trip: Trip, flight: Flight[Job] | None, rule: CacheRule, now: float) -> None:
    """Do with the answer of `trip` what `cache.settle` decides; `flight` are those who wait for it."""
    job, request = trip.job, trip.job.visit.request
    if job.visit.route.compression is not None:
        trip.press = prepare(trip)
    if request.method == b"HEAD":
        update_by_head(trip, rule, now)
    settled = settle(rule, request, job.fetch, trip.status, trip.headers, job.ctx.now, now, job.ctx.ahead)
    if isinstance(settled, Keep):
        Recording(fetcher, trip, rule, settled, flight or Flight[Job].of(job.fetch.key or b"", job)).begin()
    elif isinstance(settled, Pass):
        _pass(fetcher, trip, flight, settled, now)
    elif isinstance(settled, Again):
        fetcher.again(trip, flight)
    else:
        _reuse(fetcher, trip, flight, rule, settled, now)


def _pass(fetcher: Leading, trip: Trip, flight: Flight[Job] | None, settled: Pass, now: float) -> None:
    """Nobody else may have it."""
    job = trip.job
    if job.fetch.entry is not None and job.fetch.key is not None:
        if trip.status < 400 or trip.status in GONE:
            _end(job, settled.reason, now)
        else:
            job.fetch.entry.rest(now)
    if job.ranged and job.fetch.key is not None:  # the whole was asked for, only to be kept
        trip.abandon()
        fetcher.alone(job)
    else:
        relay(trip, settled.reason)
    _release(fetcher, flight, job, settled.reason if settled.remember else "", now)


def _end(job: Job, reason: str, now: float) -> None:
    """What is stored is not used unasked any more, unless only credentials made it another answer."""
    entry = job.fetch.entry
    if entry is not None and reason != BY_CREDENTIALS:
        entry.end(now)
        job.visit.edge.store.changed(entry)


def _release(fetcher: Leading, flight: Flight[Job] | None, job: Job, reason: str, now: float) -> None:
    """What `job` got is for nobody else: the others ask themselves. With a `reason`, those who come later do
    not wait for one another either."""
    if flight is None:
        return
    by_credentials = reason == BY_CREDENTIALS
    fetcher.landed(flight)
    if reason:
        key = sort_key(flight.key, CREDENTIALS) if by_credentials else flight.key
        fetcher.flights.remember_pass(key, now, reason)

    def release(other: Job) -> None:
        if by_credentials and not other.visit.authorized:
            fetcher.apart(other)
        else:
            fetcher.alone(other)

    Turns([other for other in flight.jobs if other is not job], release)


def _reuse(
    fetcher: Leading,
    trip: Trip,
    flight: Flight[Job] | None,
    rule: CacheRule,
    settled: Revalidated | UseStale,
    now: float,
) -> None:
    """What is stored is the answer: validated, or stale because the origin fails."""
    job = trip.job
    stale = isinstance(settled, UseStale)
    entry = settled.entry
    if isinstance(settled, Revalidated) and settled.reason:
        _end(job, settled.reason, now)
        serve(job, serve_entry(rule, job.visit.request, entry, job.fetch.cause, trip.status, now))
        _release(fetcher, flight, job, settled.reason, now)
        return
    if stale:
        trip.abandon()
        entry.rest(now)
    else:  # what follows a 304 is nobody's; it is read to its end
        job.visit.edge.store.renew(entry, trip.position)
    shared = not stale and tells_all(rule, entry, trip.headers)
    if flight is not None:
        fetcher.landed(flight, entry if shared else None)
    cause = Cause.STALE_ERROR if stale else job.fetch.cause

    def answer(one: Job) -> None:
        if not one.waits:
            return
        sort = variant_key(entry.names, one.visit.request.headers)
        if sort != entry.variant and one is not job:
            fetcher.apart(one, sort)
        elif one.sibling is None:
            serve(one, serve_entry(rule, one.visit.request, entry, cause, trip.status, now))
        elif shared:
            one.sibling.hand(entry, now, asked=True)
        else:
            one.sibling.alone()

    Turns(flight.jobs if flight is not None else [job], answer)


def make_do(error: OriginError, now: float, job: Job) -> None:
    """No answer came for this job: a stale one where that may be used (RFC 5861 §4), else the failure."""
    rule, entry, request = job.visit.route.rule, job.fetch.entry, job.visit.request
    if job.sibling is not None:
        job.sibling.alone()
    elif rule is not None and entry is not None and on_failure(entry, now):
        serve(job, serve_entry(rule, request, entry, Cause.STALE_ERROR, 0, now, detail=error.error))
    else:
        refuse(job, error)
