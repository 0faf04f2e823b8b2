"""One client's wish of an answer from the origin, and the ways it can be answered at once."""

from __future__ import annotations

from typing import Protocol

from edgeproxy.cache.cache_status import cache_status, hit_status, x_cache
from edgeproxy.cache.entry import Entry, status_stamp
from edgeproxy.cache.lookup import asked_anew
from edgeproxy.cache.rfc9111 import BY_ANSWER
from edgeproxy.compress import PressedDoor
from edgeproxy.context import Context
from edgeproxy.decision import Cause, Fetch, Serve
from edgeproxy.door import Door
from edgeproxy.errors import OriginError
from edgeproxy.http.answer_head import AnswerHead
from edgeproxy.http.message import Field
from edgeproxy.http.replies import problem
from edgeproxy.origin.request import response_fields
from edgeproxy.pipeline import IF_CHANGED, Visit
from edgeproxy.record import record
from edgeproxy.routes import Route
from edgeproxy.trip import Trip

SAID_BY_ANSWER = BY_ANSWER | {""}
NOTHING: frozenset[bytes] = frozenset()
CONSUMED = frozenset({b"surrogate-control"})  # said to caches like us, not to clients
SENTENCES = {
    500: "The edge failed on this request.",
    501: "This way into the edge does not speak WebSocket.",
    502: "The origin could not be reached, or its answer was not usable.",
    503: "The origin has no capacity to spare at the moment.",
    504: "The origin did not answer in time.",
    508: "The request came back to this edge: somewhere it is forwarded in a loop.",
}


class SiblingDoor(Protocol):
    """The door of a job that came from another worker: it gets entries as they are, or hears that it
    has to ask the origin itself."""

    def hand(self, entry: Entry, now: float, *, asked: bool = False) -> None: ...
    def alone(self) -> None: ...


@record
class Job:
    """Everything a fetch needs to know. `door` is None for a refresh; `sibling` is the same door when
    another worker asks."""

    visit: Visit
    ctx: Context
    fetch: Fetch
    door: Door | None
    sibling: SiblingDoor | None = None

    @property
    def ranged(self) -> bool:
        """Does it want a part only? Range is for GET (RFC 9110 §14.2)."""
        request = self.visit.request
        return b"range" in request.headers.index and request.method == b"GET"

    @property
    def brief(self) -> bool:
        """Could less than the whole do?"""
        return self.ranged or not IF_CHANGED.isdisjoint(self.visit.request.headers.index)

    @property
    def passing(self) -> Job:
        """The same wish as something between this client and the origin: nothing is kept of it."""
        return Job(self.visit, self.ctx, Fetch(self.fetch.cause), self.door)

    @property
    def unconditional(self) -> Job:
        """The same wish without what is stored already."""
        return Job(self.visit, self.ctx, Fetch(self.fetch.cause, self.fetch.key), self.door)

    @property
    def waits(self) -> bool:
        """Is there a client that still wants the answer?"""
        return self.door is not None and not self.door.gone


@record
class Relayed:
    """How an answer to a plain request is relayed whenever it has this head: it says itself that it is for
    nobody else."""

    route: Route
    method: bytes
    cause: Cause
    head: AnswerHead

    def suits(self, visit: Visit, fetch: Fetch) -> bool:
        """Does the same hold for this one?"""
        return (
            visit.repeats
            and visit.route is self.route
            and visit.request.method == self.method
            and fetch.cause is self.cause
            and fetch.entry is None
        )


def asks_anew(job: Job) -> bool:
    """Does the client want the origin's word, rather than what somebody got a moment ago?"""
    rule = job.visit.route.rule
    return rule is not None and asked_anew(rule, job.visit.request)


def serve(job: Job, answer: Serve) -> None:
    """Give the client a complete answer."""
    door = job.door
    if door is not None and not door.gone:
        door.report.cause = answer.cause
        door.serve(answer)


def refuse(job: Job, error: OriginError) -> None:
    """Tell the client why there is no answer (RFC 9457, RFC 9209), or break off the one under way."""
    door = job.door
    if door is None or door.gone:
        return
    door.report.failed(error)
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
    status = cache_status(job.visit.edge.ident, job.fetch.cause, 0, detail=error.error)
    door.serve(Serve(answer, job.fetch.cause, status_stamp(status), reason=error.error))


def why(trip: Trip, job: Job) -> Cause:
    """The cause of an answer that `trip` brings: what another worker had stored is a hit (RFC 9211 §2.1)."""
    return Cause.HIT if trip.stored else job.fetch.cause


def relay(trip: Trip, reason: str) -> None:
    """Pass the answer on to the one client that asked, nothing kept; `reason` is told in Cache-Status."""
    job = trip.job
    cause, ident = why(trip, job), job.visit.edge.ident
    said = hit_status(ident) if trip.stored else cache_status(ident, cause, trip.status, detail=reason)
    fields = client_fields(trip, said)
    cookie = trip.affinity()
    if cookie is not None:  # only here: what is stored or shared belongs to no client
        fields.append(cookie)
    head = AnswerHead(trip.status, fields, trip.length)
    visit = job.visit
    if (
        visit.repeats
        and reason in SAID_BY_ANSWER
        and visit.route.compression is None
        and not trip.upstream.sticks
    ):
        trip.headers.made = Relayed(visit.route, visit.request.method, cause, head)
    relay_head(trip, head)


def relay_head(trip: Trip, head: AnswerHead) -> None:
    """Begin to pass the answer on to the one client that asked."""
    door = trip.job.door
    if door is None or door.gone:
        trip.abandon()
        return
    door.report.cause = why(trip, trip.job)
    door.start(head)
    if trip.press is None:
        trip.relay_to(door)
    else:
        trip.relay_to(door, PressedDoor(trip, door, trip.press))


def client_fields(trip: Trip, status: bytes) -> list[Field]:
    """The fields of an answer for the client who asked for it; `status` is its Cache-Status."""
    job, headers = trip.job, trip.headers
    rule, edge = job.visit.route.rule, job.visit.edge
    hidden = CONSUMED if rule is None else rule.hidden
    fields = response_fields(headers, NOTHING if hidden.isdisjoint(headers.index) else hidden)
    if rule is not None and rule.x_cache:
        fields.append((b"X-Cache", x_cache(why(trip, job), trip.status)))
    fields.append((b"Cache-Status", status))
    fields += edge.signature
    return fields
