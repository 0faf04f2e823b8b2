"""The heart: which route, what its policies say in the order of the YAML, then what the cache knows.

`decide` runs once per request, for both doors, and never awaits. Whoever calls it acts on the
`Decision`; nothing here touches a socket.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgeproxy.cache.key import primary_key
from edgeproxy.cache.key import without_parameters as without_query
from edgeproxy.cache.lookup import lookup
from edgeproxy.context import Context, Policy
from edgeproxy.decision import Cause, Decision, Delay, Fetch, Serve
from edgeproxy.http.codings import with_known_codings
from edgeproxy.http.elsewhere import without_credentials
from edgeproxy.http.message import SAFE, Field, Headers, Request, Response
from edgeproxy.http.replies import problem
from edgeproxy.http.websocket import wants_websocket
from edgeproxy.recall import Recollection, Recorder
from edgeproxy.record import record
from edgeproxy.routes import Route, RouteTable

if TYPE_CHECKING:
    from edgeproxy.cache.memory import MemoryStore
    from edgeproxy.cache.rule import CacheRule

# Fields that ask a cache for something else than the stored response, whole and as it is, or its 304
NOT_SIMPLE = frozenset(
    {b"cache-control", b"pragma", b"range", b"if-range", b"if-match", b"if-unmodified-since"}
)
IF_CHANGED = frozenset({b"if-none-match", b"if-modified-since"})
RECORD_EVERY = 64  # runs; what could not be relied on is tried again so much later
PASS = Fetch(Cause.BYPASS)


@record
class Edge:
    """One configuration at work, immutable: a reload builds another and swaps the reference."""

    ident: bytes  # the cache's name in Cache-Status and Via
    signature: tuple[Field, ...]  # Via and X-Served-By, on every answer
    signature_lines: bytes
    routes: RouteTable
    store: MemoryStore
    client_address: Callable[[str, Headers], str]
    says_https: Callable[[str, Headers], bool]
    on_policy_error: Callable[[Route, Policy, Exception], None]


class Visit:
    """A request and what follows from it alone: route, client, cache key.

    A client that repeats a request on one connection gets the same Visit again, so that none of it is
    worked out twice. `simple`, `plain`: nothing in it asks for more than the stored response, `simple` but
    for conditions. `repeats`: what an origin is sent, and what the client is told of the answer, are the same
    every time: it is plain, or unsafe, so that no cache is asked.
    """

    __slots__ = (
        "_key",
        "_parts",
        "_runs",
        "client",
        "edge",
        "further",
        "plain",
        "received",
        "recollection",
        "relayed",
        "repeats",
        "request",
        "route",
        "sent",
        "simple",
    )

    def __init__(self, edge: Edge, request: Request, of: Visit | None = None) -> None:
        """`of` is the visit whose request a policy rewrote: the same client on the same route."""
        self.edge = edge
        self.received = request
        self.route: Route = edge.routes.find(request) if of is None else of.route
        rule = self.route.rule
        if rule is not None and rule.known_codings:
            request = request.with_headers(with_known_codings(request.headers))
        if self.route.compression is not None:
            request = self.route.compression.rule.narrowed(request)
        self.request = request  # as it goes on from here
        self.client: str = edge.client_address(request.peer, request.headers) if of is None else of.client
        index = request.headers.index
        self.simple = request.method == b"GET" and not request.has_body and NOT_SIMPLE.isdisjoint(index)
        self.plain = self.simple and IF_CHANGED.isdisjoint(index)
        self.repeats = self.plain or request.method not in SAFE
        if self.route.upgraded is not None and wants_websocket(request):
            self.route = self.route.upgraded
            self.simple = self.plain = self.repeats = False
        self._parts: tuple[bytes, ...] = ()
        self._key: bytes | None = None
        self.sent: tuple[bytes | None, bytes] | None = None  # server's name, and the head it was sent
        self.relayed = True  # may the head of the next answer be one that was relayed before?
        self.recollection: Recollection | None = None
        self.further: Visit | None = None  # the visit of the rewritten request
        self._runs = 0

    @property
    def authorized(self) -> bool:
        """Does it show credentials? What it gets may be for nobody else (RFC 9111 §3.5)."""
        return b"authorization" in self.request.headers.index

    def onward(self, rewritten: Request) -> Visit:
        """The visit of the request that was made of this one: same route, same client."""
        further = self.further
        if further is None or further.request != rewritten:
            further = self.further = Visit(self.edge, rewritten, of=self)
        return further

    def recorder(self) -> Recorder | None:
        """Who watches this run of the policies: nobody at first, since most requests come once."""
        self._runs += 1
        return Recorder() if self._runs % RECORD_EVERY == 2 else None

    def key(self, rule: CacheRule, ctx: Context) -> bytes:
        """The cache key, once the policies have said what else is part of it."""
        parts = ctx.key_parts
        if self._key is None or parts != self._parts or rule.country:
            query = self.request.query
            if self.route.hidden_query and query:
                query = without_query(query, self.route.hidden_query)
            self._parts, self._key = parts, primary_key(rule, self.request, query, ctx)
        return self._key


def decide(visit: Visit, ctx: Context, resumed: Delay | None = None) -> Decision:
    """What to do with this request. A policy that raises fails open or closed, as it declares.

    `resumed`: that delay is over. Nothing that was asked before is asked or spent again.
    """
    route = visit.route
    if route.steps and (resumed is None or resumed.until is not None):
        recollection = visit.recollection
        refused: Serve | Delay | None
        if resumed is not None:
            refused = _asked_again(visit, ctx, resumed.step)
        elif recollection is not None and ctx.notes is None and recollection.holds(ctx.wall):
            refused = _recalled(visit, recollection, ctx)
        else:
            refused = _asked(visit, ctx)
        if refused is not None:
            return refused
        if ctx.late is not None:
            return Delay(ctx.late.seconds, policy=ctx.late.policy)
    if ctx.rewritten is not None:
        visit = visit.onward(ctx.rewritten)
    named = ctx.origin_named
    if named:
        ctx.origin = named if route.confine is None else route.confine(ctx)
        ctx.key_parts += (b"origin:" + ctx.origin.encode(),)
    else:
        ctx.origin = route.origin or route.choose_origin(ctx)
        if route.origin_varies:
            ctx.key_parts += (b"origin:" + route.intended_origin(ctx).encode(),)
    rule = route.rule
    if rule is None:
        return PASS
    key = visit.key(rule, ctx)
    return lookup(visit.edge.store, rule, key, visit.request, ctx, visit.simple, visit.plain)


def _asked(visit: Visit, ctx: Context) -> Serve | Delay | None:
    """Ask every policy. The second time a request comes, what they do is recorded."""
    route, request = visit.route, visit.request
    recorder = visit.recorder() if ctx.notes is None else None
    ctx.recorder = recorder
    for position, step in enumerate(route.steps):
        if recorder is not None:
            recorder.before(route.policies[position], step, position, ctx)
        try:
            answer = step(request, ctx)
        except Exception as error:
            if recorder is not None:
                recorder.spoil()
            answer = _failed(visit, position, ctx, error)
        if answer is not None:
            return _refused(visit, position, ctx, answer)
    if recorder is not None:
        visit.recollection = recorder.finish(ctx)
    return None


def _asked_again(visit: Visit, ctx: Context, position: int) -> Serve | None:
    """Ask the policy that waited, and those behind it. It does not wait a second time."""
    ctx.recorder = None
    for later, step in enumerate(visit.route.steps[position:], position):
        try:
            answer = step(visit.request, ctx)
        except Exception as error:
            answer = _failed(visit, later, ctx, error)
        if answer is not None:
            return _answered(visit, later, ctx, answer)
    return None


def _refused(visit: Visit, position: int, ctx: Context, answer: Response) -> Serve | Delay:
    serve, pause = _answered(visit, position, ctx, answer), ctx.pause
    return serve if pause is None else Delay(pause.seconds, serve, pause.until, position)


def _answered(visit: Visit, position: int, ctx: Context, answer: Response) -> Serve:
    route = visit.route
    if route.hidden_query and b"location" in answer.names:
        answer = without_credentials(answer, visit.request, route.unhidden)
    return Serve(answer, Cause.REFUSED, policy=route.policies[position].name, reason=ctx.reason)


def _recalled(visit: Visit, recollection: Recollection, ctx: Context) -> Serve | Delay | None:
    """Do again what the policies did; ask only those that must be asked every time."""
    request = visit.request
    for step, position in recollection.steps:
        try:
            answer = step(request, ctx)
        except Exception as error:
            answer = _failed(visit, position, ctx, error)
        if answer is not None:
            return _refused(visit, position, ctx, answer)
    return None


def _failed(visit: Visit, position: int, ctx: Context, error: Exception) -> Response | None:
    policy = visit.route.policies[position]
    visit.edge.on_policy_error(visit.route, policy, error)
    if policy.fails_open:
        return None
    return problem(visit.request, ctx, 500, "policy-failed", "A rule of this edge failed; it fails closed.")
