"""Routes at work: a section of the YAML becomes a rule, a chain of policies and a choice of the origin."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from functools import partial

from edgeproxy.build.policies import PolicyBuilder
from edgeproxy.cache.rule import CacheRule, compile_rule
from edgeproxy.cache.store import Store
from edgeproxy.compress import compressing
from edgeproxy.config import Config
from edgeproxy.config import Route as RouteSection
from edgeproxy.context import Context, Policy
from edgeproxy.decision import Cause
from edgeproxy.errors import REQUEST_FAILURES, ConfigError
from edgeproxy.http.forwarding import UNTRUSTED_NAMES, TrustedProxies
from edgeproxy.http.last_hop import LastHop
from edgeproxy.http.wire import render_fields
from edgeproxy.observe.cells import Slot
from edgeproxy.observe.outcome import RouteMeters
from edgeproxy.origin.choose import OriginChoice, OriginRule
from edgeproxy.origin.keep import KeepOrigin
from edgeproxy.origin.request import forwarding
from edgeproxy.origin.upstream import Upstream
from edgeproxy.pipeline import Edge
from edgeproxy.policies.geo import Geo
from edgeproxy.policies.geo_data import GeoDatabase
from edgeproxy.policies.geo_locate import KeyByGroup, Locate
from edgeproxy.policies.guard import Guarded
from edgeproxy.policies.jwt import Issuer
from edgeproxy.policies.keyed import Keyed
from edgeproxy.policies.purge_method import PurgeByMethod
from edgeproxy.purge_log import PurgeKind
from edgeproxy.routes import Match, MirrorRule, Route, RouteTable, TunnelRule
from edgeproxy.shared import Shared
from edgeproxy.snapshot import Snapshot
from edgeproxy.tunnel import upgradable

logger = logging.getLogger("edgeproxy.build")
RESULTS = [cause.word for cause in Cause]


class RouteBuilder:
    """Builds the routes of one configuration. `policies` built theirs, and knows what has to run for them."""

    def __init__(
        self,
        config: Config,
        shared: Shared,
        slot: Slot,
        number: int,
        store: Store,
        trusted: TrustedProxies,
        geo: Snapshot[GeoDatabase | None],
        upstreams: Mapping[str, Upstream],
        issuers: Mapping[str, Issuer],
    ) -> None:
        """`number` is that of the worker's slot."""
        self.policies = PolicyBuilder(config, shared, number, geo, issuers)
        self._config, self._shared, self._slot = config, shared, slot
        self._store, self._trusted, self._geo, self._upstreams = store, trusted, geo, upstreams

    def edge(self) -> Edge:
        """The configuration at work."""
        config = self._config
        ident = config.edge.id.encode()
        signature = ((b"Via", b"1.1 " + ident), (b"X-Served-By", config.edge.pop.encode()))
        routes = [(_match(section), self._route(section, ident)) for section in config.routes]

        def purged_as(url: bytes) -> list[bytes]:
            return table.purged_as(url)

        table = RouteTable(routes, self._refused, self._purge_route(purged_as))
        return Edge(
            ident=ident,
            signature=signature,
            signature_lines=render_fields(signature),
            routes=table,
            store=self._store,
            client_address=self._trusted.client_address,
            says_https=self._trusted.says_https,
            on_policy_error=self._policy_failed,
        )

    def _route(self, section: RouteSection, ident: bytes) -> Route:
        rule: CacheRule | None = None
        if section.cache:
            store = self._config.cache
            rule = compile_rule(
                section.cache,
                ident,
                store.object_size,
                tag_fields=store.tag_fields,
                strip_tags=store.strip_tags,
                file_size=store.machine.files.object_size if store.machine and store.machine.files else 0,
            )
        meters = RouteMeters(self._slot, section.name, RESULTS)
        place = f"routes[{self._config.routes.index(section)}]"
        policies: list[Policy] = []
        for number, step in enumerate(section.policies):
            with _placed(f"{place}.policies[{number}]"):
                policies.append(self.policies.build(step, meters))
        with _placed(place):
            choice = self._choice(section)
        by_group = section.cache is not None and "group" in section.cache.vary_on
        if by_group:
            policies.append(KeyByGroup(self._config.geo.groups))
        by_place = choice.needs_place or (rule is not None and rule.country) or by_group
        if _must_locate(policies, elsewhere=by_place):
            policies.insert(0, Locate(self._geo, self._config.geo.override))
        if rule is not None and (rule.device or rule.claims):
            policies.append(Keyed(device=rule.device, claims=rule.claims))
        if isinstance(section.origin, OriginRule) and section.origin.affinity is not None:
            policies.append(KeepOrigin(section.origin.affinity, choice.possible))
        self._expect(meters, *policies)
        asserted = {name for policy in policies for name in getattr(policy, "asserted", ())}
        if self._config.geo.override is not None:  # also where nobody asks for a place
            asserted.add(self._config.geo.override.header.lower().encode())
        hidden = tuple(name for policy in policies for name in getattr(policy, "hidden_query", ()))
        mirrored = section.mirror
        route = Route(
            name=section.name,
            policies=tuple(policies),
            steps=tuple([policy.__call__ for policy in policies]),
            rule=rule,
            choose_origin=choice,
            origin=choice.only,
            intended_origin=choice.intended,
            origin_varies=choice.varies,
            confine=choice if self._config.geo.residency else None,
            body_size=section.body_size
            if section.body_size is not None
            else self._config.server.limits.body_size,
            forwarding=forwarding(self._config.edge.id, asserted | UNTRUSTED_NAMES),
            hidden_query=hidden,
            meters=meters,
            mirror=None
            if mirrored is None
            else MirrorRule(mirrored.origin, mirrored.percent, partial(choice.allows, mirrored.origin)),
        )
        if section.compress is not None:
            route = compressing(route, section.compress.rule, self._slot)
        ws = section.websocket
        return route if ws is None else upgradable(route, TunnelRule(ws.idle, ws.tunnels))

    def _choice(self, section: RouteSection) -> OriginChoice:
        return OriginChoice(
            section.origin,
            {name: origin.location for name, origin in self._config.origins.items()},
            self._config.edge.location,
            self._config.geo.groups,
            lambda name: self._upstreams[name].healthy(),
            [(rule.places, rule.origins) for rule in self._config.geo.residency],
        )

    def _purge_route(self, purged_as: Callable[[bytes], list[bytes]]) -> Route | None:
        section = self._config.cache.purge_method
        if section is None or section.token is None:
            return None

        def append(location: bytes, soft: bool) -> tuple[int, list[bytes]]:
            self._slot.counter("edgeproxy_purges_total", kind=PurgeKind.URL.word).inc()
            values = purged_as(location)
            positions = [self._shared.purge_log.append(PurgeKind.URL, value, soft) for value in values]
            return positions[-1], values

        return self._refused(PurgeByMethod(section.clients, section.token.get_secret_value(), append))

    def _refused(self, refuse: Policy) -> Route:
        return Route(
            name="-",
            policies=(refuse,),
            steps=(refuse.__call__,),
            rule=None,
            choose_origin=_nowhere,
            origin="",
            intended_origin=_nowhere,
            origin_varies=False,
            body_size=self._config.server.limits.body_size,
            forwarding=forwarding(self._config.edge.id),
            hidden_query=(),
            meters=self._expect(RouteMeters(self._slot, "-", RESULTS), refuse),
        )

    def _policy_failed(self, route: Route, policy: Policy, error: Exception) -> None:
        route.meters.failed(policy.name, passed=policy.fails_open)
        logger.error("policy %s of route %s failed", policy.name, route.name, exc_info=error)

    def _expect(self, meters: RouteMeters, *policies: Policy) -> RouteMeters:
        """Tell the meters who may answer on their route, and for which reasons."""
        meters.expect("door", REQUEST_FAILURES)
        meters.expect(LastHop.name, LastHop.reasons)
        for policy in policies:
            meters.expect(policy.name, getattr(policy, "reasons", ()))
        return meters


@contextmanager
def _placed(path: str) -> Generator[None]:
    """What only shows when the rules of several places meet is said of the place where it did."""
    try:
        yield
    except (ConfigError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from None


def _must_locate(policies: list[Policy], *, elsewhere: bool) -> bool:
    """Does somebody need the client's place before, or without, a geo policy that is always asked?"""
    for policy in policies:
        when = policy.condition if isinstance(policy, Guarded) else None
        inner = policy.inner if isinstance(policy, Guarded) else policy
        if getattr(inner, "needs_place", False) or (when is not None and "country" in when.kinds):
            return True
        if isinstance(inner, Geo) and when is None:
            return False
    return elsewhere


def _nowhere(ctx: Context) -> str:
    raise LookupError(f"the route {ctx.route!r} refuses everything and has no origin")


def _match(section: RouteSection) -> Match:
    match = section.match
    methods = None if match.methods is None else frozenset([method.encode() for method in match.methods])
    return Match(match.host, match.path, methods)
