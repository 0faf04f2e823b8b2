"""What the edge would do with a request: the same `decide`, with nothing spent and everything noted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from edgeproxy.admin.explain import Explanation, Question, Stored, Told
from edgeproxy.build import Parts
from edgeproxy.cache.account import facts, filled, held
from edgeproxy.cache.entry import Entry
from edgeproxy.cache.key import shown_key
from edgeproxy.cache.lookup import lookup
from edgeproxy.cache.memory import MemoryStore
from edgeproxy.cache.rule import CacheRule
from edgeproxy.clock import steady, wall
from edgeproxy.config import Config
from edgeproxy.context import Context
from edgeproxy.decision import Decision, Fetch, Serve, ServeStale
from edgeproxy.holdings import Holding, ask
from edgeproxy.http.message import SAFE, Headers, Request
from edgeproxy.http.target import split_target
from edgeproxy.origin.choose import OriginChoice
from edgeproxy.pipeline import Visit, decide
from edgeproxy.record import record
from edgeproxy.routes import Route
from edgeproxy.shared import Shared

MACHINE = "machine tier"


@record
class Story:
    """A request that was decided on, before it is told. `asked` is what policies made of `visit`."""

    question: Question
    visit: Visit
    asked: Visit
    ctx: Context
    decision: Decision

    @property
    def answered(self) -> bool:
        """Did a policy answer?"""
        decision = self.decision
        return isinstance(decision, Serve) and bool(decision.policy) and decision.policy != "cache"

    @property
    def rule(self) -> CacheRule | None:
        """What the cache would go by, when it is asked."""
        route = self.visit.route
        return None if self.answered or route.websocket is not None else route.rule

    def key(self, rule: CacheRule) -> bytes:
        """The cache key."""
        return self.asked.key(rule, self.ctx)


def explain(parts: Parts, question: Question) -> Explanation:
    """Explain a request to an edge that has nothing stored. Raises RequestError when its URL cannot be
    requested at all."""
    return _explained(parts, _decided(parts, question), ())


async def explain_running(parts: Parts, question: Question) -> Explanation:
    """The same with what the tiers of the running edge hold: its workers are asked."""
    story = _decided(parts, question)
    holdings: list[Holding] = []
    if story.rule is not None:
        key, fields = story.key(story.rule), story.asked.request.headers
        links = parts.shared.links
        holdings = await ask([] if links is None else links.paths, key, fields)
        if parts.machine is not None:
            entry, varied = parts.store.peek_below(key, fields)
            holdings.append(Holding(MACHINE, entry, "only for other requests (Vary)" if varied else ""))
    return _explained(parts, story, holdings)


def _decided(parts: Parts, question: Question) -> Story:
    url, client, method = question.url, question.client, question.method.upper()
    secure = url.lower().startswith("https://")
    fields = [(name.encode(), value.encode()) for name, value in question.fields]
    host = next((value for name, value in fields if name.lower() == b"host"), b"localhost")
    name, path, query = split_target(url.encode(), host, secure=secure)
    request = Request(method.encode(), name, path, query, Headers(fields), client, secure)
    visit = Visit(parts.edge, request)
    ctx = Context(steady(), wall(), visit.client, visit.route.name, "explain")
    ctx.notes = []
    decision = decide(visit, ctx)
    asked = visit if ctx.rewritten is None else visit.onward(ctx.rewritten)
    return Story(question, visit, asked, ctx, decision)


def _explained(parts: Parts, story: Story, holdings: Sequence[Holding]) -> Explanation:
    question, visit, ctx = story.question, story.visit, story.ctx
    decision, answered, told = story.decision, story.answered, question.told
    route, rule = visit.route, story.rule
    origin = "" if answered else ctx.origin or ""
    return Explanation(
        method=question.method.upper(),
        url=question.url,
        client=visit.client,
        client_why="the socket"
        if visit.client == question.client
        else "the right-most hop that is not a trusted proxy",
        route=route.name,
        notes=tuple(ctx.notes or ()),
        status=decision.response.status if isinstance(decision, Serve) and answered else 0,
        variants=tuple(ctx.variants.items()),
        to_origin=tuple(ctx.to_origin),
        to_client=tuple(ctx.to_client),
        cache="" if answered else _cache_word(story, holdings),
        key="" if rule is None else shown_key(story.key(rule)),
        stored=() if rule is None else tuple([_stored(rule, one, ctx.now) for one in holdings]),
        filled="" if answered or told is None else _filled(story, told),
        origin=origin,
        origin_why=_why_that_origin(route, ctx) if origin else "",
        servers=_servers(parts, origin) if origin else (),
        hedge=_hedge(parts, origin, visit) if origin else "",
        mirror="" if answered else _mirror(route, ctx),
    )


def _cache_word(story: Story, holdings: Sequence[Holding]) -> str:
    """In the words of Cache-Status; by worker, where what they hold leads to different answers."""
    route, rule = story.visit.route, story.rule
    if route.websocket is not None:
        return "bypass: a WebSocket"
    if rule is None:
        return "bypass: the route has no cache"
    below = next((one.entry for one in holdings if one.where == MACHINE), None)
    words: dict[str, list[str]] = {}
    for one in holdings:
        if one.known and one.where != MACHINE:
            words.setdefault(_word(story, rule, _newer(one.entry, below, story.ctx.now)), []).append(
                one.where
            )
    if not words:
        return f"{_word(story, rule, below)} (as if no worker had anything in memory)"
    if len(words) == 1:
        return next(iter(words))
    return "; ".join([f"{word} in {', '.join(where)}" for word, where in words.items()])


def _newer(entry: Entry | None, below: Entry | None, now: float) -> Entry | None:
    """What a worker goes by that has the one in memory, and the other in the machine tier."""
    if entry is None or (below is not None and entry.fresh_until <= now < below.fresh_until):
        return below
    return entry


def _word(story: Story, rule: CacheRule, entry: Entry | None) -> str:
    """What the cache would say that holds this entry and nothing else."""
    store, asked = MemoryStore(0 if entry is None else entry.size), story.asked
    key = story.key(rule)
    if entry is not None:
        store.put(entry)
    decision = lookup(store, rule, key, asked.request, story.ctx, asked.simple, asked.plain)
    if isinstance(decision, ServeStale):
        return "hit, stale while it is revalidated"
    if isinstance(decision, Fetch):
        return f"fwd={decision.cause.value}"
    return decision.reason if isinstance(decision, Serve) and decision.reason else "hit"


def _stored(rule: CacheRule, one: Holding, now: float) -> Stored:
    if one.entry is not None:
        return Stored(one.where, held(rule, one.entry, now), one.known, tuple(facts(one.entry, now).items()))
    said = [part for part in ("nothing" if one.known else "", one.why) if part]
    return Stored(one.where, ": ".join(said), one.known)


def _filled(story: Story, told: Told) -> str:
    rule = story.rule
    if rule is None:
        return "not stored: the route has no cache"
    fields = Headers([(name.encode(), value.encode()) for name, value in told[1]])
    return filled(rule, story.asked.request, told[0], fields, story.ctx.now)


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


def explain_config(config: Config, question: Question) -> Explanation:
    """Explain a request to an edge of this configuration that has just started.

    Keys of issuers are fetched; nothing listens and no origin is asked.
    """
    return asyncio.run(_explain_config(config, question))


async def _explain_config(config: Config, question: Question) -> Explanation:
    parts = Parts(config, Shared(Path(), 1), 0, None, logs=False)
    try:
        await parts.warm_up()
        return explain(parts, question)
    finally:
        await parts.close()
