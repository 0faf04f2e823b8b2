"""Which route takes a request: hosts, paths and methods, in the order of the YAML."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from edgeproxy.cache.key import normalised_query
from edgeproxy.cache.key import without_parameters as without_query
from edgeproxy.context import Context, Policy, Verdict
from edgeproxy.http.coding import CodingRule
from edgeproxy.http.last_hop import LIMITED, LastHop, max_forwards
from edgeproxy.http.message import Field, Headers, Request, Response
from edgeproxy.http.replies import problem
from edgeproxy.http.target import without_parameters
from edgeproxy.purge_log import MAX_VALUE, joined_location, split_location
from edgeproxy.record import record

if TYPE_CHECKING:
    from edgeproxy.cache.entry import Location
    from edgeproxy.cache.rule import CacheRule
    from edgeproxy.observe.compression import CodingMeters
    from edgeproxy.observe.outcome import RouteMeters
    from edgeproxy.origin.request import Forwarding

# Not for origins unless a route lists them: they echo credentials, tunnel, or empty caches (A22, A75)
ON_REQUEST_ONLY = frozenset({b"CONNECT", b"TRACE", b"PURGE"})
USUAL = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"})

MOST_BECOME = 64  # requests that policies may make of one

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
        self.reasons = (kind,)
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
class MirrorRule:
    """A share of a route's requests that another origin gets too; only those that `may_reach` it."""

    origin: str
    percent: float
    may_reach: Callable[[Context], bool]


@record
class Compression:
    """What a route compresses, and where that is counted, by coding."""

    rule: CodingRule
    meters: Mapping[bytes, CodingMeters]


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
    compression: Compression | None = None
    websocket: TunnelRule | None = None  # set: what comes by this route becomes a WebSocket
    mirror: MirrorRule | None = None
    upgraded: Route | None = None  # the same route for requests that want to be one
    confine: Callable[[Context], str] | None = None  # who may overrule an origin that a policy names

    def become(self, request: Request) -> list[Request]:
        """The request, and every other one that the policies may make of it for some client; `MOST_BECOME` at
        most."""
        found = [request]
        for policy in self.policies:
            may: Callable[[Request], Iterable[Request]] | None = getattr(policy, "becomes", None)
            if may is not None:
                made = [each for one in found for each in islice(may(one), MOST_BECOME)]
                found = list(dict.fromkeys([*found, *made]))[:MOST_BECOME]
        return found

    def counted(self, query: bytes) -> bytes:
        """The query as key and origin see it: without what this route leaves out (A48)."""
        if self.rule is not None:
            query = normalised_query(self.rule, query)
        return self.unhidden(query) if self.hidden_query and query else query

    def unhidden(self, query: bytes) -> bytes:
        """The query without the credentials in it."""
        return without_query(query, self.hidden_query)


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

    def stored_as(self, location: Location) -> Location:
        """Host, path and query that the answers to a GET of this URL are stored under."""
        host, path, query = location
        if not query:
            return location
        return host, path, self.find(Request(b"GET", host, path, query, Headers([]), "")).counted(query)

    def purged_as(self, url: bytes) -> list[bytes]:
        """The values of the purges of a URL, `host/path?query`: its own, and those that its policies may
        rewrite it to, which is where the answers to it are stored."""
        host, path, query = split_location(url)
        asked = Request(b"GET", host, path, query, Headers([]), "")
        route = self.find(asked)
        found = [(one.host, one.path, route.counted(one.query)) for one in route.become(asked)]
        values = [joined_location(location) for location in dict.fromkeys(found)]
        return [value for value in values if len(value) <= MAX_VALUE]

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
