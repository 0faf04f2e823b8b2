"""What both doors share: one way from a request to a decision, one place where every answer is counted.

A door builds a `Request`, asks `decide`, writes what can be written, and hands the rest to `fetch`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Protocol

from edgeproxy.cache.purge import apply_purges
from edgeproxy.clock import DateLine, steady, wall
from edgeproxy.context import Context
from edgeproxy.decision import Cause, Decision, Delay, Fetch, Serve, ServeStale
from edgeproxy.door import Door, Limits, Report
from edgeproxy.errors import RequestError
from edgeproxy.fetch import Fetcher
from edgeproxy.http.message import Field, Request
from edgeproxy.http.replies import problem
from edgeproxy.http.wire import render_fields
from edgeproxy.job import Job
from edgeproxy.observe.access_log import AccessLog
from edgeproxy.observe.outcome import Outcome
from edgeproxy.pipeline import Edge, Visit, decide
from edgeproxy.purge_log import PurgeLog
from edgeproxy.visits import KnownHeads
from edgeproxy.waiting import WaitingRoom

logger = logging.getLogger("edgeproxy.door")


class DoorMeters(Protocol):
    """What the hallway counts beside answers."""

    def opened(self, now_open: int, *, refused: bool) -> None: ...
    def closed(self, now_open: int) -> None: ...
    def rejected(self, reason: str) -> None: ...
    def failed(self) -> None: ...


class TrialMeters(Protocol):
    """What the hallway counts of requests with variants."""

    def record(self, request: Request, ctx: Context, status: int, seconds: float, policy: str) -> None: ...


class Finished(Protocol):
    """What `observe` needs of an answer that is over; both doors' exchanges have it."""

    visit: Visit
    ctx: Context
    report: Report
    status: int
    sent: int
    started_at: float


class Hallway:
    """One worker's way through the house. `edge` is swapped by a reload; requests in flight keep theirs."""

    def __init__(
        self,
        edge: Edge,
        limits: Limits,
        fetcher: Fetcher,
        meters: DoorMeters,
        log: AccessLog | None,
        prefix: str,
        purge_log: PurgeLog,
        trials: TrialMeters,
    ) -> None:
        self.edge = edge
        self.limits = limits
        self.fetcher = fetcher
        self.log = log
        self.trials = trials  # swapped by a reload
        self.draining = False
        self.known_heads = KnownHeads()
        self.connections: set[_Connection] = set()
        self.proxy_protocol_ports: frozenset[int] = frozenset()
        self.date = DateLine()
        self.date_line: Callable[[float], bytes] = self.date.at
        self._meters = meters
        self._prefix = prefix
        self._ids = count(1)
        self._new_id = self.next_request_id  # bound once
        self._stamps: dict[str, bytes] = {}
        self._waiting = WaitingRoom(self._resume)
        self._purge_log = purge_log
        self._purged = purge_log.head  # [0] is the log's position: one read tells whether to look

    def next_request_id(self) -> str:
        """An identifier that no other request of this PoP gets, whichever worker or restart."""
        return f"{self._prefix}{next(self._ids):x}"

    def decide(self, visit: Visit, now: float, wall: float) -> tuple[Context, Decision]:
        """Context and decision of one request. Never raises: what fails becomes a 500."""
        if self._purged[0] != visit.edge.store.position:
            self.catch_up(now)
        ctx = Context(now, wall, visit.client, visit.route.name, self._new_id)
        try:
            return ctx, decide(visit, ctx)
        except Exception:
            return ctx, self._failed(visit, ctx)

    def catch_up(self, now: float) -> None:
        """Carry out the purges that this worker has not seen yet. Call it before anything is looked up."""
        apply_purges(self.edge.store, self._purge_log, now)

    def problem(self, request: Request, ctx: Context, error: RequestError) -> Serve:
        """The answer to a request that was refused after it had been parsed."""
        answer = problem(request, ctx, error.status, error.reason, error.detail)
        return Serve(answer, Cause.REFUSED, policy="door", reason=error.reason)

    def act(self, visit: Visit, ctx: Context, decision: Decision, door: Door) -> None:
        """Do what was decided, through `door`."""
        if isinstance(decision, Serve):
            door.serve(decision)
        elif isinstance(decision, ServeStale):
            self.refresh(visit, ctx, decision.refresh)
            door.serve(decision.serve)
        else:
            self.fetch(visit, ctx, decision, door)

    def fetch(self, visit: Visit, ctx: Context, fetch: Fetch | Delay, door: Door) -> None:
        """Answer through `door` from the origin, or when it is the request's turn."""
        if isinstance(fetch, Delay):
            self._waiting.wait(visit, ctx, fetch, door)
            return
        onward = visit if ctx.rewritten is None else visit.onward(ctx.rewritten)
        self.fetcher.start(Job(onward, ctx, fetch, door))

    def refresh(self, visit: Visit, ctx: Context, fetch: Fetch) -> None:
        """Refresh an entry behind the client's back, by GET whatever was asked."""
        onward = visit if ctx.rewritten is None else visit.onward(ctx.rewritten)
        if onward.request.method != b"GET":
            onward = onward.onward(replace(onward.request, method=b"GET"))
        self.fetcher.refresh(Job(onward, ctx, fetch, None))

    def _resume(self, visit: Visit, ctx: Context, delay: Delay, door: Door) -> None:
        """A delay is over. The cache is asked now: what it holds may have changed meanwhile."""
        if door.gone:
            return
        ctx.now, ctx.wall = steady(), wall()
        try:
            decision = decide(visit, ctx, resumed=delay)
        except Exception:
            decision = self._failed(visit, ctx)
        self.act(visit, ctx, decision, door)

    def _failed(self, visit: Visit, ctx: Context) -> Serve:
        logger.exception("deciding on a request failed; request_id=%s", ctx.request_id)
        self._meters.failed()
        error = RequestError(500, "internal", "The edge failed on this request.")
        return self.problem(visit.request, ctx, error)

    def refused_stamp(self, serve: Serve) -> bytes:
        """The Cache-Status line of an answer that no cache was asked for."""
        line = self._stamps.get(serve.policy)
        if line is None:
            line = self._stamps[serve.policy] = render_fields(self.refused_fields(serve))
        return line

    def refused_fields(self, serve: Serve) -> list[Field]:
        """The same as fields, for the ASGI door."""
        detail = b"; detail=" + serve.policy.encode() if serve.policy else b""
        return [(b"Cache-Status", self.edge.ident + detail)]

    # --- connections

    def connection_made(self, connection: _Connection) -> bool:
        """Take a connection in; True when there are too many and it must be refused."""
        self.connections.add(connection)
        refused = len(self.connections) > self.limits.connections
        self._meters.opened(len(self.connections), refused=refused)
        return refused

    def connection_lost(self, connection: _Connection) -> None:
        self.connections.discard(connection)
        self._meters.closed(len(self.connections))

    def sweep(self) -> None:
        """Tell every connection whose deadline is past. Called twice a second by the worker."""
        now = steady()
        for connection in [one for one in self.connections if one.deadline < now]:
            try:
                connection.on_deadline()
            except Exception:  # a fault with one is none of the others'
                logger.exception("a client's deadline could not be kept")

    # --- every answer ends here, once

    def observe_serve(self, visit: Visit, ctx: Context, serve: Serve, seconds: float, sent: int) -> None:
        """Count an answer that was written at once."""
        if ctx.endings:
            _end(ctx, ctx.now + seconds, sent, 0.0)
        status = serve.response.status
        visit.route.meters.record(status, serve.cause.word, seconds, sent)
        if serve.policy:
            visit.route.meters.refused(serve.policy, serve.reason or str(status))
        if ctx.variants:
            self.trials.record(visit.request, ctx, status, seconds, serve.policy)
        if self.log is not None:
            report = Report(serve.cause)
            report.policy, report.reason = serve.policy, serve.reason
            self.log.append(_outcome(visit.request, ctx, report, status, seconds, sent))

    def observe(self, done: Finished, ending: str, now: float) -> None:
        """Count an answer that took time. `ending` is empty, `aborted` or `client-gone`."""
        duration = now - done.started_at
        report, ctx, visit = done.report, done.ctx, done.visit
        if ctx.endings:
            self.over(done, now)
        status = done.status or 499  # the client left before there was one
        meters = visit.route.meters
        meters.record(status, report.cause.word, duration, done.sent)
        if report.policy:
            meters.refused(report.policy, report.reason or str(status))
        if ctx.variants:
            self.trials.record(visit.request, ctx, status, duration, report.policy)
        if ending and not report.error:
            report.error, report.detail = ending, ""
        if self.log is not None:
            self.log.append(_outcome(visit.request, ctx, report, status, duration, done.sent))

    def log_tunnel(self, done: Finished, ending: str, received: int, now: float) -> None:
        """Log a WebSocket that has ended; it was counted when it began. `received` bytes of the client."""
        self.over(done, now)
        if self.log is not None:
            done.report.error, done.report.detail = ending, ""
            outcome = _outcome(
                done.visit.request, done.ctx, done.report, done.status, now - done.started_at, done.sent
            )
            outcome.received = received
            self.log.append(outcome)

    def drain(self) -> None:
        """The worker stops: answers say `Connection: close`, and WebSockets are ended."""
        self.draining = True
        self.fetcher.tunnels.drain()

    def over(self, done: Finished, now: float) -> None:
        """A request ended; what its policies wait for happens once."""
        if done.ctx.endings:
            _end(done.ctx, now, done.sent, done.report.waited)

    def rejected(self, peer: str, error: RequestError) -> None:
        """Count a request that never became one."""
        self._meters.rejected(error.reason)
        if self.log is not None:
            self.log.append_rejected(peer, error.status, error.reason, wall())


def _end(ctx: Context, now: float, sent: int, waited: float) -> None:
    endings, ctx.endings = ctx.endings, ()
    for ending in endings:
        try:
            ending(now, sent, waited)
        except Exception:
            logger.exception("the end of a request failed; request_id=%s", ctx.request_id)


def _outcome(
    request: Request, ctx: Context, report: Report, status: int, seconds: float, sent: int
) -> Outcome:
    return Outcome(
        time=ctx.wall,
        client=ctx.client,
        method=request.method,
        host=request.host,
        path=request.path,
        query=request.query,
        status=status,
        result=report.cause.word,
        route=ctx.route,
        request_id=ctx.request_id,
        seconds=seconds,
        sent=sent,
        agent=request.headers.get(b"user-agent") or b"",
        country=ctx.place.country if ctx.place is not None else "",
        variants=" ".join([f"{name}={variant}" for name, variant in ctx.variants.items()]),
        policy=report.policy,
        reason=report.reason,
        shadow=" ".join(ctx.shadow),
        origin=report.origin,
        server=report.server,
        retries=max(0, report.tries - 1),
        origin_seconds=report.waited,
        error=report.error,
        error_detail=report.detail,
    )


class _Connection(Protocol):
    deadline: float

    def on_deadline(self) -> None: ...
