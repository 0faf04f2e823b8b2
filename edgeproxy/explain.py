"""What the edge would do with a request: the same `decide`, with nothing spent and everything noted."""

from __future__ import annotations

import asyncio
from pathlib import Path

from edgeproxy.admin.explain import Explanation, Told
from edgeproxy.build import Parts
from edgeproxy.cache.account import filled, held
from edgeproxy.cache.key import shown_key
from edgeproxy.clock import steady, wall
from edgeproxy.config import Config
from edgeproxy.context import Context
from edgeproxy.decision import Decision, Fetch, Serve, ServeStale
from edgeproxy.http.message import SAFE, Headers, Request
from edgeproxy.http.target import split_target
from edgeproxy.origin.choose import OriginChoice
from edgeproxy.pipeline import Visit, decide
from edgeproxy.routes import Route
from edgeproxy.shared import Shared


def explain(
    parts: Parts,
    method: str,
    url: str,
    client: str,
    headers: list[tuple[str, str]],
    told: Told | None = None,
) -> Explanation:
    """Explain a request for `url` that comes from the address `client`; with `told`, whether that answer of
    the origin would be stored.

    Raises RequestError when the URL cannot be requested at all.
    """
    secure = url.lower().startswith("https://")
    fields = [(name.encode(), value.encode()) for name, value in headers]
    host = next((value for name, value in fields if name.lower() == b"host"), b"localhost")
    name, path, query = split_target(url.encode(), host, secure=secure)
    request = Request(method.upper().encode(), name, path, query, Headers(fields), client, secure)
    visit = Visit(parts.edge, request)
    route, address = visit.route, visit.client
    ctx = Context(steady(), wall(), address, route.name, "explain")
    ctx.notes = []
    parts.store.keep_up()
    decision = decide(visit, ctx)
    fetching = decision.refresh if isinstance(decision, ServeStale) else decision
    answered = isinstance(decision, Serve) and bool(decision.policy)
    return Explanation(
        method=method.upper(),
        url=url,
        client=address,
        client_why="the socket" if address == client else "the right-most hop that is not a trusted proxy",
        route=route.name,
        notes=tuple(ctx.notes),
        status=decision.response.status if isinstance(decision, Serve) and answered else 0,
        variants=tuple(ctx.variants.items()),
        to_origin=tuple(ctx.to_origin),
        to_client=tuple(ctx.to_client),
        cache="" if answered else _cache_word(route, fetching, machine=parts.machine is not None),
        key="" if answered else _key(visit, ctx),
        stored="" if answered else _held(parts, visit, ctx),
        filled="" if answered or told is None else _filled(visit, ctx, told),
        origin="" if answered else ctx.origin or "",
        origin_why="" if answered else _why_that_origin(route, ctx),
        servers=() if answered or not ctx.origin else _servers(parts, ctx.origin),
        hedge="" if answered or not ctx.origin else _hedge(parts, ctx.origin, visit),
        mirror="" if answered else _mirror(route, ctx),
    )


def _cache_word(route: Route, decision: Decision, *, machine: bool) -> str:
    """In the words of Cache-Status. The control process sees the machine tier, not what is in memory."""
    if route.websocket is not None:
        return "bypass: a WebSocket"
    if route.rule is None:
        return "bypass: the route has no cache"
    if isinstance(decision, Fetch):
        known = "as the machine tier has it" if machine else "as if nothing were stored"
        word = f"fwd={decision.cause.value}"
        if not decision.key:
            return word
        return f"{word} ({known}; what a worker has in memory its answers say, in Cache-Status)"
    return "hit (machine tier)" if machine else "answered by the cache"


def _asked(visit: Visit, ctx: Context) -> Visit:
    """The visit of the request that policies made of this one, when they did."""
    return visit if ctx.rewritten is None else visit.onward(ctx.rewritten)


def _key(visit: Visit, ctx: Context) -> str:
    if visit.route.rule is None:
        return ""
    return shown_key(_asked(visit, ctx).key(visit.route.rule, ctx))


def _held(parts: Parts, visit: Visit, ctx: Context) -> str:
    """The freshness of what this process can see in the store for the request."""
    rule, asked = visit.route.rule, _asked(visit, ctx)
    if rule is None:
        return ""
    entry, varied = parts.store.find(asked.key(rule, ctx), asked.request.headers)
    if entry is not None:
        return held(entry, ctx.now)
    return "only for other requests (Vary)" if varied else ""


def _filled(visit: Visit, ctx: Context, told: Told) -> str:
    rule = visit.route.rule
    if rule is None:
        return "not stored: the route has no cache"
    fields = Headers([(name.encode(), value.encode()) for name, value in told[1]])
    return filled(rule, _asked(visit, ctx).request, told[0], fields, ctx.now)


def _why_that_origin(route: Route, ctx: Context) -> str:
    if ctx.origin_named and route.confine is None:
        return "a policy asks for it"
    if isinstance(route.choose_origin, OriginChoice):
        return route.choose_origin.explain(ctx).removeprefix(f"{ctx.origin}: ")
    return ""


def _servers(parts: Parts, origin: str) -> tuple[str, ...]:
    upstream = parts.upstreams[origin]
    states = [(server.label, upstream.usable(server.index)) for server in upstream.servers]
    ordered = sorted(states, key=lambda one: not one[1])
    return tuple(label if usable else f"{label} (unhealthy)" for label, usable in ordered)


def _hedge(parts: Parts, origin: str, visit: Visit) -> str:
    rule = parts.upstreams[origin].hedge
    if rule is None:
        return ""
    if visit.request.method not in SAFE or visit.route.websocket is not None:
        return "no: only for safe methods without a body"
    return f"another server after {1000 * rule.after:g}ms without an answer, at most {100 * rule.share:g} %"


def _mirror(route: Route, ctx: Context) -> str:
    rule = route.mirror
    if rule is None or route.websocket is not None:
        return ""
    if not rule.may_reach(ctx):
        return f"no: residency keeps this client from {rule.origin}"
    return f"{rule.origin} gets a copy of {rule.percent:g} % of such requests, those with a body left out"


def explain_config(
    config: Config,
    method: str,
    url: str,
    client: str,
    headers: list[tuple[str, str]],
    told: Told | None = None,
) -> Explanation:
    """Explain a request as an edge of this configuration would answer that has just started.

    Keys of issuers are fetched; nothing listens and no origin is asked.
    """
    return asyncio.run(_explain_config(config, method, url, client, headers, told))


async def _explain_config(
    config: Config,
    method: str,
    url: str,
    client: str,
    headers: list[tuple[str, str]],
    told: Told | None,
) -> Explanation:
    parts = Parts(config, Shared(Path(), 1), 0, None, logs=False)
    try:
        await parts.warm_up()
        return explain(parts, method, url, client, headers, told)
    finally:
        await parts.close()
