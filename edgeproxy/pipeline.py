"""The heart: which route, what its policies say in the order of the YAML, then what the cache knows.

`decide` runs once per request, for both doors, and never awaits. Whoever calls it acts on the
`Decision`; nothing here touches a socket.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from edgeproxy.cache.key import primary_key
from edgeproxy.cache.key import without_parameters as without_query
from edgeproxy.cache.lookup import lookup
from edgeproxy.context import Context, Policy, Verdict
from edgeproxy.decision import Cause, Decision, Delay, Fetch, Serve
from edgeproxy.http.codings import with_known_codings
from edgeproxy.http.last_hop import LIMITED, LastHop, max_forwards
from edgeproxy.http.message import Field, Headers, Request, Response
from edgeproxy.http.replies import problem
from edgeproxy.http.target import without_parameters
from edgeproxy.http.websocket import wants_websocket
from edgeproxy.recall import Recollection, Recorder
from edgeproxy.record import record

if TYPE_CHECKING:
    from edgeproxy.cache.memory import MemoryStore
    from edgeproxy.cache.rule import CacheRule
    from edgeproxy.observe.outcome import RouteMeters
    from edgeproxy.origin.request import Forwarding

# Not for origins unless a route lists them: they echo credentials, tunnel, or empty caches (A22, A75)
ON_REQUEST_ONLY = frozenset({b"CONNECT", b"TRACE", b"PURGE"})
# Fields that ask a cache for something else than the stored response, whole and as it is
NOT_PLAIN = frozenset(
    {
        b"cache-control", b"pragma", b"range", b"if-range", b"if-match", b"if-none-match",
        b"if-modified-since", b"if-unmodified-since",
    }
)  # fmt: skip
RECORD_EVERY = 64  # runs; what could not be relied on is tried again so much later
PASS = Fetch(Cause.BYPASS)
USUAL = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"})

PathMatch = Callable[[bytes], object]


def compile_path(pattern: str) -> PathMatch:
    """A test for `/exact`, `/prefix/**` (which also matches `/prefix`) or `/a/*/b`."""
    raw = pattern.encode()
    if pattern in ("/**", "**"):
        return lambda _: True
    if b"*" not in raw:
        return lambda path: path == raw
    stem = raw.removesuffix(b"/**")
    if raw.endswith(b"/**") and b"*" not in stem:
        slash = stem + b"/"
        return lambda path: path.startswith(slash) or path == stem
    parts = [b"(?:/.*)?" if raw.endswith(b"/**") else b""]
    body = b"[^/]*".join(re.escape(part) for part in stem.split(b"*"))
    return re.compile(body + parts[0], re.DOTALL).fullmatch


class Refuse:
    """The policy of requests that no route takes: one answer, always the same."""

    fails_open = False

    def __init__(
        self, name: str, status: int, kind: str, detail: str, fields: tuple[Field, ...] = ()
    ) -> None:
        self.name = name
        self._answer = (status, kind, detail, fields)

    def __call__(self, request: Request, ctx: Context, /) -> Response | None:
        status, kind, detail, fields = self._answer
        ctx.note(self.name, Verdict.REFUSE, detail)
        return problem(request, ctx, status, kind, detail, fields)


@record
class TunnelRule:
    """WebSockets of a route: seconds one may be silent, and how many may be open at once in a worker."""

    idle: float
    tunnels: int


@record
class Route:
    """One route, ready to run. `hidden_query` are parameters that go neither on nor into the key."""

    name: str
    policies: tuple[Policy, ...]
    steps: tuple[Callable[[Request, Context], Response | None], ...]  # their calls, bound once
    rule: CacheRule | None
    choose_origin: Callable[[Context], str]
    origin: str  # the only one it can choose, or empty
    intended_origin: Callable[[Context], str]  # by the client alone, whatever the health: for the key
    origin_varies: bool
    body_size: int
    forwarding: Forwarding
    hidden_query: tuple[bytes, ...]
    meters: RouteMeters
    websocket: TunnelRule | None = None  # set: what comes by this route becomes a WebSocket
    upgraded: Route | None = None  # the same route for requests that want to be one


@record
class Match:
    """When a route applies: any of the hosts (`*.example.com`, `*`), any of the paths, one of the methods."""

    hosts: tuple[str, ...]
    paths: tuple[str, ...]
    methods: frozenset[bytes] | None


class RouteTable:
    """Routes in YAML order; the first whose host, path and method match wins."""

    def __init__(
        self,
        routes: Iterable[tuple[Match, Route]],
        refused: Callable[[Refuse], Route],
        purge: Route | None = None,
    ) -> None:
        """`refused` wraps a Refuse into the route that metrics and logs call `-`; `purge` takes PURGE."""
        self._rows = [
            (match.hosts, tuple(compile_path(path) for path in match.paths), match.methods, route)
            for match, route in routes
        ]
        self._refused = refused
        self._purge = purge
        self._unknown_host = refused(
            Refuse("route", 404, "no-route", "No route of this edge serves that host and path.")
        )
        self._by_host: dict[bytes, list[tuple[tuple[PathMatch, ...], frozenset[bytes] | None, Route]]] = {}

    def find(self, request: Request) -> Route:
        """The route of a request; a route that refuses (404, 405 with Allow) when there is none."""
        if self._purge is not None and request.method == b"PURGE":
            return self._purge
        rows = self._by_host.get(request.host)
        if rows is None:
            rows = self._rows_of(request.host)
        path = without_parameters(request.path)
        allowed: set[bytes] = set()
        for paths, methods, route in rows:
            for matches in paths:
                if matches(path):
                    if (
                        request.method not in ON_REQUEST_ONLY
                        if methods is None
                        else request.method in methods
                    ):
                        if request.method in LIMITED and max_forwards(request.method, request.headers) == 0:
                            return _ending_here(route, methods)
                        return route
                    allowed |= USUAL if methods is None else methods
                    break
        if not allowed:
            return self._unknown_host
        return self._not_allowed(allowed)

    def _not_allowed(self, allowed: set[bytes]) -> Route:
        allow = (b"Allow", b", ".join(sorted(allowed)))
        return self._refused(
            Refuse("route", 405, "method-not-allowed", "This route does not take that method.", (allow,))
        )

    def _rows_of(self, host: bytes) -> list[tuple[tuple[PathMatch, ...], frozenset[bytes] | None, Route]]:
        name = host.rpartition(b":")[0] if re.search(rb":\d+$", host) else host
        text = name.decode("ascii", "replace")
        rows = [row[1:] for row in self._rows if any(_host_matches(pattern, text) for pattern in row[0])]
        if len(self._by_host) < 4096:  # a stranger's random hosts must not grow it
            self._by_host[host] = rows
        return rows


def _ending_here(route: Route, methods: frozenset[bytes] | None) -> Route:
    """The route of a request that must not be forwarded: its policies, then an answer of our own."""
    last = LastHop(USUAL if methods is None else methods)
    return replace(route, policies=(*route.policies, last), steps=(*route.steps, last.__call__))


def _host_matches(pattern: str, host: str) -> bool:
    pattern = pattern.lower()
    if pattern.startswith("*."):
        return host.endswith(pattern[1:]) and len(host) > len(pattern) - 1
    return pattern in ("*", host)


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
    on_policy_error: Callable[[str, Exception], None]


class Visit:
    """A request and what follows from it alone: route, client, cache key.

    A client that repeats a request on one connection gets the same Visit again, so that none of it is
    worked out twice. `plain`: nothing in it asks for more than the stored response.
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
        "request",
        "route",
        "sent",
    )

    def __init__(self, edge: Edge, request: Request, of: Visit | None = None) -> None:
        """`of` is the visit whose request a policy rewrote: the same client on the same route."""
        self.edge = edge
        self.received = request
        self.route = edge.routes.find(request) if of is None else of.route
        rule = self.route.rule
        if rule is not None and rule.known_codings:
            request = _with_known_codings(request)
        self.request = request  # as it goes on from here
        self.client = edge.client_address(request.peer, request.headers) if of is None else of.client
        self.plain = (
            request.method == b"GET" and not request.has_body and NOT_PLAIN.isdisjoint(request.headers.index)
        )
        if self.route.upgraded is not None and wants_websocket(request):
            self.route = self.route.upgraded
            self.plain = False
        self._parts: tuple[bytes, ...] = ()
        self._key: bytes | None = None
        self.sent: tuple[bytes | None, bytes] | None = None  # server's name, and the head it was sent
        self.recollection: Recollection | None = None
        self.further: Visit | None = None  # the visit of the rewritten request
        self._runs = 0

    def onward(self, rewritten: Request) -> Visit:
        """The visit of the request that a policy made of this one: same route, same client."""
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


def _with_known_codings(request: Request) -> Request:
    headers = with_known_codings(request.headers)
    if headers is request.headers:
        return request
    return Request(
        request.method,
        request.host,
        request.path,
        request.query,
        headers,
        request.peer,
        request.secure,
        request.has_body,
    )


def decide(visit: Visit, ctx: Context, *, resumed: bool = False) -> Decision:
    """What to do with this request. A policy that raises fails open or closed, as it declares.

    `resumed`: a Delay is over; the policies have been asked.
    """
    route = visit.route
    if route.steps and not resumed:
        recollection = visit.recollection
        if recollection is not None and ctx.notes is None and recollection.holds(ctx.wall):
            refused = _recalled(visit, recollection, ctx)
        else:
            refused = _asked(visit, ctx)
        if refused is not None:
            return refused
        if ctx.delay:
            return Delay(ctx.delay)
    if ctx.rewritten is not None:
        visit = visit.onward(ctx.rewritten)
    named = ctx.origin_named
    ctx.origin = named or route.origin or route.choose_origin(ctx)
    if named or route.origin_varies:
        ctx.key_parts += (b"origin:" + (named or route.intended_origin(ctx)).encode(),)
    rule = route.rule
    if rule is None:
        return PASS
    return lookup(visit.edge.store, rule, visit.key(rule, ctx), visit.request, ctx, plain=visit.plain)


def _asked(visit: Visit, ctx: Context) -> Serve | None:
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
            return Serve(answer, Cause.REFUSED, policy=route.policies[position].name, reason=ctx.reason)
    if recorder is not None:
        visit.recollection = recorder.finish(ctx)
    return None


def _recalled(visit: Visit, recollection: Recollection, ctx: Context) -> Serve | None:
    """Do again what the policies did; ask only those that must be asked every time."""
    for effects, step, position in recollection.acts:
        if step is None:
            if effects is not None:
                effects.apply(ctx)
            continue
        try:
            answer = step(visit.request, ctx)
        except Exception as error:
            answer = _failed(visit, position, ctx, error)
        if answer is not None:
            name = visit.route.policies[position].name
            return Serve(answer, Cause.REFUSED, policy=name, reason=ctx.reason)
    return None


def _failed(visit: Visit, position: int, ctx: Context, error: Exception) -> Response | None:
    policy = visit.route.policies[position]
    visit.edge.on_policy_error(policy.name, error)
    if policy.fails_open:
        return None
    return problem(visit.request, ctx, 500, "policy-failed", "A rule of this edge failed; it fails closed.")
