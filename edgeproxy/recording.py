"""An answer that is being kept: recorded for the cache while everybody who waits for it reads along."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from edgeproxy.cache.admission import Uses
from edgeproxy.cache.body import Body
from edgeproxy.cache.body_file import BodyFile
from edgeproxy.cache.cache_status import cache_status, hit_status, x_cache
from edgeproxy.cache.conditional import not_modified
from edgeproxy.cache.entry import Entry
from edgeproxy.cache.flight import Flight
from edgeproxy.cache.lookup import hit
from edgeproxy.cache.ranges import Part, only_part
from edgeproxy.cache.rule import CacheRule
from edgeproxy.cache.settle import Keep, build_entry, serve_entry, tells_all
from edgeproxy.compress import Brake, PressedBody
from edgeproxy.errors import OriginError
from edgeproxy.http.answer_head import AnswerHead
from edgeproxy.http.message import Field
from edgeproxy.job import Job, asks_anew, client_fields, serve, why
from edgeproxy.machine.large_files import LargeFiles
from edgeproxy.pipeline import IF_CHANGED
from edgeproxy.siblings import said_to_siblings
from edgeproxy.trip import Trip
from edgeproxy.turns import Turns, soon

NEAR = 256 * 1024  # bytes before a part that a client waits for, rather than that the origin is asked for it


class Keeping(Protocol):
    """What a recording asks of the fetcher."""

    uses: Uses
    large: LargeFiles | None
    clock: Callable[[], float]

    def alone(self, job: Job) -> None: ...
    def apart(self, job: Job, sort: bytes = b"") -> None: ...
    def landed(self, flight: Flight[Job], entry: Entry | None = None) -> None: ...


class Recording:
    """The answer of `trip`, read by the jobs of `flight`; None when nobody else knows of it."""

    __slots__ = (
        "_bare",
        "_body",
        "_brake",
        "_fetcher",
        "_flight",
        "_followers",
        "_rule",
        "_settled",
        "_trip",
        "_turns",
    )

    def __init__(
        self, fetcher: Keeping, trip: Trip, rule: CacheRule, settled: Keep, flight: Flight[Job]
    ) -> None:
        connection = trip.connection
        assert connection is not None  # noqa: S101 - its head came this moment
        self._fetcher = fetcher
        self._trip = trip
        self._settled = settled
        self._flight = flight
        self._rule = rule
        self._followers: tuple[tuple[object, ...], AnswerHead] | None = None
        self._bare: Entry | None = None  # without its body: what preconditions are compared with
        self._turns: Turns | None = None  # of the followers
        job = trip.job
        self._brake = Brake(connection.pause, connection.resume)
        self._body = Body(
            settled.object_size,
            partial(self._brake.hold, "readers"),
            partial(self._brake.release, "readers"),
            self._deserted,
            self._outgrown,
            soon,
        )
        if rule.min_uses > 1 and job.fetch.entry is None:
            self._body.kept = fetcher.uses.reaches(settled.key, rule.min_uses)
        size = settled.file_size if settled.file_size == trip.length else 0  # not one that is compressed
        if size:
            self._keep_in_file(size)
        # whose length nobody knows may have no end: it goes on only for those who read it
        self._body.lasting = self._body.kept and (bool(size) or job.door is None)

    def _keep_in_file(self, size: int | None) -> None:
        """Put all of the body into a file, if there is room for one."""
        trip, large = self._trip, self._fetcher.large
        if large is None:
            return
        if trip.flight:  # another worker keeps it
            self._body.kept = False
            if trip.file:
                self._body.keep_in(large.borrow(trip.file))
        elif large.takes(size or 0):
            self._body.keep_in(large.spool(size))

    def _outgrown(self) -> None:
        """It is larger than memory takes, which its head did not say."""
        if self._turns is not None:
            self._turns.rush()  # who comes later cannot have it from its first byte
        if self._trip.length is None and self._rule.file_size > self._settled.object_size:
            self._keep_in_file(None)
        waiting, self._flight.partial = self._flight.partial, []
        Turns(waiting, self._fetcher.alone)

    def begin(self) -> None:
        """Let those who wait read, and those who come later join."""
        trip, flight = self._trip, self._flight
        times = self._settled.assessment
        flight.share(self._body, self.share, 0.0 if times.must_validate else times.fresh_until)
        if trip.job.door is not None:
            trip.job.door.on_gone = None  # the fill goes on without its client: the cache wants it (A69)
        whole: list[Job] = []
        for job in flight.jobs:  # what becomes of a part is settled while the body comes
            if job.ranged:
                self.share(job)
            else:
                whole.append(job)
        self._turns = Turns(whole, self.share)
        if not self._body.recording:
            self._turns.rush()
        trip.on_done = self._done
        if trip.press is None:
            trip.flow_to(self._body)
            return
        pressed = PressedBody(self._body, trip.press, self._brake, self._done)
        trip.on_done = pressed.over
        trip.flow_to(pressed)

    def share(self, job: Job) -> None:
        """Let one client read the body that is being recorded, or send it off alone (A69)."""
        door = job.door
        if door is None or door.gone:
            return
        trip, settled = self._trip, self._settled
        if not settled.suits(job.visit.request):
            self._fetcher.apart(job, settled.variant_of(job.visit.request))
            return
        plain = job.visit.plain
        if not plain and self._is_held(job):
            return
        heads = not plain and job.visit.request.method == b"HEAD"
        ranged = not plain and not heads and job.ranged
        part = self._part_at_hand(job) if ranged else None
        if ranged and part is None:
            if settled.file_size or not self._body.recording:
                self._fetcher.alone(job)  # the whole takes too long to wait for
            else:
                self._flight.partial.append(job)
            return
        lent = ""
        door.report.cause = why(trip, job)
        # the one who asked gets all of it, the others what anybody may have
        if job is trip.job and not trip.flight:
            status = self._status(job, collapsed=False)
            head = AnswerHead(trip.status, client_fields(trip, status), trip.length)
        elif job.sibling is not None:
            lent = "" if self._body.spool is None else self._body.spool.lend()
            fields = settled.shared_fields(self._fetcher.clock()) + self._for_siblings(lent)
            head = AnswerHead(trip.status, fields, trip.length)
        else:
            head = self._followers_head(job)
        if part is not None:
            start, end = part
            said = (b"Content-Range", b"bytes %d-%d/%d" % (start, end - 1, settled.file_size))
            head = AnswerHead(206, [*head.fields, said], end - start)
        door.start(head)
        if heads:
            door.end()
        else:
            self._body.read_by(door, part, filed=bool(lent))

    def _is_held(self, job: Job) -> bool:
        """Tell a client that has this very answer so (RFC 9110 §13.2.2). The body comes all the same: for the
        cache."""
        request = job.visit.request
        if job.sibling is not None or IF_CHANGED.isdisjoint(request.headers.index):
            return False
        if self._bare is None:
            self._bare = build_entry(self._settled, b"", self._trip.position)
        if not_modified(request, self._bare) is None:
            return False
        self._serve_part(self._bare, job)
        return True

    def _part_at_hand(self, job: Job) -> Part | None:
        """The part of a large body that a client wants, if that is in the file or about to come."""
        trip, size = self._trip, self._settled.file_size
        if not self._body.filed or trip.status != 200 or not size:
            return None
        part = only_part(job.visit.request, trip.headers, size)
        return part if part is not None and part[0] <= self._body.size + NEAR else None

    def _status(self, job: Job, *, collapsed: bool) -> bytes:
        settled, body = self._settled, self._body
        if self._trip.stored:
            return hit_status(job.visit.edge.ident, settled.ttl)
        return cache_status(
            job.visit.edge.ident,
            job.fetch.cause,
            self._trip.status,
            stored=body.kept and (not settled.file_size or body.filed),
            collapsed=collapsed,
            ttl=settled.ttl,
            detail="" if body.kept or self._trip.flight else "min-uses",
        )

    def _followers_head(self, job: Job) -> AnswerHead:
        """One for all who come for the same reason at the same age: it is rendered once."""
        edge, cause, age = job.visit.edge, why(self._trip, job), self._settled.age(self._fetcher.clock())
        mark = edge, cause, age, self._body.kept, self._body.filed
        if self._followers is None or self._followers[0] != mark:
            said = [(b"X-Cache", x_cache(cause, self._trip.status))] if self._rule.x_cache else []
            status = (b"Cache-Status", self._status(job, collapsed=True))
            fields = [*self._settled.fields, (b"Age", b"%d" % age), *said, status, *edge.signature]
            self._followers = mark, AnswerHead(self._trip.status, fields, self._trip.length)
        return self._followers[1]

    def _for_siblings(self, lent: str) -> list[Field]:
        """What another worker needs to decide as this one did, and the file that it may read along."""
        hidden = self._rule.hidden
        said = [field for field in self._trip.headers if field[0].lower() in hidden]
        return [*said, said_to_siblings(self._trip.position, lent, stored=self._trip.stored)]

    def _done(self, error: OriginError | None) -> None:
        trip, spool, job = self._trip, self._body.spool, self._trip.job
        if error is not None:
            trip.report.failed(error)
        if spool is not None and error is None and self._body.kept:
            spool.finish(self._keep)
            return
        if spool is not None:
            spool.drop()
        entry = None
        if spool is None and error is None and self._body.recording:
            entry = build_entry(self._settled, self._body.content(), trip.position)
        kept = entry is not None and self._body.kept and job.visit.edge.store.fill(entry, job.ctx.now)
        self._land(entry if kept else None)
        Turns(self._flight.partial, partial(self._serve_part, entry))

    def _land(self, entry: Entry | None) -> None:
        """The fetch is over, and `entry` is what is stored of it."""
        shared = entry is not None and tells_all(self._rule, entry, self._trip.headers)
        self._fetcher.landed(self._flight, entry if shared else None)
        job = self._trip.job
        if entry is not None and not self._trip.flight and asks_anew(job):
            job.visit.edge.store.changed(entry)

    def _deserted(self) -> None:
        """It is too large to be kept, and all who read it have left."""
        self._trip.abandon()
        if self._body.spool is not None:
            self._body.spool.drop()
        self._fetcher.landed(self._flight, None)
        Turns(self._flight.partial, self._fetcher.alone)

    def _keep(self, file: BodyFile | None) -> None:
        """All of a large body is in its file."""
        entry = None
        if file is not None:
            entry = build_entry(self._settled, file.body, self._trip.position, file)
            job = self._trip.job
            if not job.visit.edge.store.fill(entry, job.ctx.now):  # purged meanwhile
                file.remove()
                entry = None
        self._land(entry)

    def _serve_part(self, entry: Entry | None, job: Job) -> None:
        """The whole is here, or will not be: a client that wants a part of it gets that, or asks itself."""
        if entry is None:
            self._fetcher.alone(job)
        elif self._trip.stored:
            serve(job, hit(self._rule, job.visit.request, entry, self._fetcher.clock()))
        else:
            now = self._fetcher.clock()
            request, cause = job.visit.request, job.fetch.cause
            serve(
                job,
                serve_entry(
                    self._rule, request, entry, cause, self._trip.status, now, stored=self._body.kept
                ),
            )
