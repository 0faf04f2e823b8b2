"""What an origin is sent for a job: the head, and the body as it comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edgeproxy.cache.key import only_keyed
from edgeproxy.door import Piece, RequestBody
from edgeproxy.http.message import Field
from edgeproxy.http.wire import render_fields
from edgeproxy.origin.connection import OriginConnection
from edgeproxy.origin.request import FILLING, request_head, request_trailers
from edgeproxy.siblings import FLIGHT

if TYPE_CHECKING:
    from edgeproxy.job import Job

NOTHING: frozenset[bytes] = frozenset()


def head_of(
    job: Job,
    host: bytes | None,
    forwarded: Callable[[Any, str], list[Field]],
    flight: bytes = b"",
    *,
    expects: bool = False,
) -> bytes:
    """The head for a server that is called `host`, None for the client's name of it. `flight` names a fetch
    of another worker; `expects`: its body waits for 100 Continue. Raises OriginError.

    One that follows from the request alone is remembered with its visit.
    """
    visit, ctx, fetch = job.visit, job.ctx, job.fetch
    rule = visit.route.rule
    # what the cache's rule keeps back depends on whether the answer is for the cache
    told = rule is not None and rule.told is not None
    again = visit.repeats and not (told or ctx.to_origin or fetch.entry is not None or flight or expects)
    if again and visit.sent is not None and visit.sent[0] == host:
        return visit.sent[1]
    body = None if job.door is None else job.door.body
    request = visit.request
    extra = forwarded(request, visit.client)
    if rule is not None and rule.told is not None and fetch.key is not None and not flight:
        request = only_keyed(rule, request)
    if flight:  # it shall have the whole, whatever we hold
        extra.append((FLIGHT, flight))
    elif fetch.entry is not None and fetch.key is not None:
        extra += fetch.entry.validators
    head = request_head(
        request,
        _target(job),
        visit.route.forwarding,
        host=host,
        length=0 if body is None else body.length,
        edits=ctx.to_origin,
        drop=FILLING if fetch.key is not None else NOTHING,
        extra=extra,
        expect_continue=expects,
        websocket=visit.route.websocket is not None,
    )
    if again:
        visit.sent = (host, head)
    return head


def _target(job: Job) -> bytes:
    """Path and query as the origin sees them: what the key leaves out is not sent either (A48)."""
    request = job.visit.request
    query = job.visit.route.counted(request.query) if request.query else b""
    return request.path + b"?" + query if query else request.path


def stream(job: Job, body: RequestBody, connection: OriginConnection) -> None:
    """Pass the request's body on as it comes, framed as its head says, and the fields behind it."""

    def trailers() -> list[Field]:
        if not body.trailers:
            return []
        visit = job.visit
        return request_trailers(visit.request, body.trailers, visit.route.forwarding, job.ctx.to_origin)

    if body.length is not None:
        body.attach(connection.write, connection.finish)
        return
    if not connection.chunks:
        body.attach(connection.write, lambda: connection.finish(trailers()))
        return

    def write(data: Piece) -> None:
        connection.write(b"".join((b"%x\r\n" % len(data), data, b"\r\n")))

    def finish() -> None:
        connection.write(b"0\r\n%b\r\n" % render_fields(trailers()))
        connection.finish()

    body.attach(write, finish)
