"""The composition root: a configuration becomes running parts. Only this file knows every concrete class."""

from __future__ import annotations

import asyncio
import importlib
import logging
import secrets
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import ValidationError

from edgeproxy.cache.rule import CacheRule, compile_rule
from edgeproxy.cache.store import Store
from edgeproxy.clock import steady
from edgeproxy.compress import compressing
from edgeproxy.config import Config, GuardRule, PolicyStep, UseRule
from edgeproxy.config import Route as RouteSection
from edgeproxy.config_sections import MachineSection
from edgeproxy.context import Context, Policy
from edgeproxy.decision import Cause
from edgeproxy.errors import ConfigError
from edgeproxy.feeds.credential_file import CredentialFeed
from edgeproxy.feeds.exposures import ExposureSink, exposure_sinks
from edgeproxy.feeds.geo_database import GeoFeed
from edgeproxy.feeds.jwks import JwksFeed
from edgeproxy.feeds.passwords import check_later
from edgeproxy.feeds.revocations import RevocationFeed
from edgeproxy.fetch import Fetcher
from edgeproxy.hallway import Hallway, Limits
from edgeproxy.http.forwarding import UNTRUSTED_NAMES, TrustedProxies
from edgeproxy.http.pages import use_page
from edgeproxy.http.wire import render_fields
from edgeproxy.large_files import LargeFiles
from edgeproxy.machine_tier import MachineTier
from edgeproxy.observe.access_log import AccessLog
from edgeproxy.observe.cells import Slot
from edgeproxy.observe.outcome import DoorMeters, OriginMeters, RouteMeters
from edgeproxy.observe.trials import TrialMeters
from edgeproxy.observe.tunnels import TunnelMeters
from edgeproxy.origin.choose import OriginChoice, OriginRule
from edgeproxy.origin.keep import KeepOrigin
from edgeproxy.origin.request import forwarding
from edgeproxy.origin.resolve import Resolver
from edgeproxy.origin.sweeper import Sweeper
from edgeproxy.origin.upstream import Upstream
from edgeproxy.origins import publish_upstream
from edgeproxy.peers import NAME as OTHER_WORKERS
from edgeproxy.peers import Peers, link
from edgeproxy.pipeline import Edge
from edgeproxy.policies.ab import AbTest
from edgeproxy.policies.api_key import ApiKeyAuth, ApiKeyRule, parse_keys
from edgeproxy.policies.basic import BasicAuth, BasicRule, parse_users
from edgeproxy.policies.condition import condition
from edgeproxy.policies.cookies import CookieRule, Cookies
from edgeproxy.policies.cors import Cors, CorsRule
from edgeproxy.policies.fault import Fault, FaultRule
from edgeproxy.policies.geo import Geo
from edgeproxy.policies.geo_data import GeoDatabase
from edgeproxy.policies.geo_locate import KeyByGroup, Locate
from edgeproxy.policies.geo_rule import GeoRule
from edgeproxy.policies.guard import Guarded
from edgeproxy.policies.headers import HeaderEdits, HeadersRule
from edgeproxy.policies.ip import IpList, IpRule
from edgeproxy.policies.jwt import Issuer, JwtAuth, JwtProvider, JwtRule, configured_keys
from edgeproxy.policies.keyed import Keyed
from edgeproxy.policies.purge_method import PurgeByMethod
from edgeproxy.policies.rate_limit import RateLimiter
from edgeproxy.policies.redirect import Redirect, RedirectRule
from edgeproxy.policies.respond import Maintenance, MaintenanceRule, Respond, RespondRule
from edgeproxy.policies.rewrite import Rewrite, RewriteRule
from edgeproxy.purge_log import PurgeKind
from edgeproxy.routes import Match, MirrorRule, Route, RouteTable, TunnelRule
from edgeproxy.shared import Shared
from edgeproxy.snapshot import Snapshot
from edgeproxy.tunnel import Tunnels, upgradable

logger = logging.getLogger("edgeproxy.build")
RESULTS = [cause.word for cause in Cause]
LAST_FLUSH = 3.0  # seconds that exposures may take to be written when the process ends
T = TypeVar("T")
Feed = Callable[[], Coroutine[Any, Any, None]]


class Parts:
    """One configuration at work in one process.

    A reload builds another from it and keeps what is still right: the cache, connections to origins
    that did not change, the hallway with its client connections.
    """

    def __init__(
        self, config: Config, shared: Shared, slot: int, previous: Parts | None, *, logs: bool = True
    ) -> None:
        self.config = config
        self.shared = shared
        self._number = slot
        self.slot = shared.cells.slot(slot) if previous is None else previous.slot
        self.meters = DoorMeters(self.slot) if previous is None else previous.meters
        self.sweeper = Sweeper() if previous is None else previous.sweeper
        self.resolver = Resolver(steady) if previous is None else previous.resolver
        if previous is None:
            self.machine = _machine_tier(config, shared)
            clocks = None if shared.machine is None else shared.machine.clocks
            self.store = Store(
                config.cache.memory, shared.purge_log, steady, shared.held, clocks, self.machine
            )
        else:
            self.machine, self.store = previous.machine, previous.store
        self.log = None if not logs else _access_log(config, self.slot) if previous is None else previous.log
        self.feeds: list[Feed] = []
        self.geo: Snapshot[GeoDatabase | None] = Snapshot(None)
        self.issuers: dict[str, Issuer] = {}
        self._listings: dict[tuple[Path, object], CredentialFeed[Any]] = {}
        self._revocations: dict[str, RevocationFeed] = {}
        self._jwks: dict[str, JwksFeed] = {}
        self.upstreams = dict(self._build_upstreams(previous))
        self._origin_meters = {name: OriginMeters(self.slot, name) for name in self.upstreams}
        self._build_geo()
        self._build_issuers(previous)
        self.trusted = TrustedProxies(config.server.trusted_proxies)
        self.edge = self._build_edge()
        if previous is not None and slot == 0:
            _warn_of_moves(previous.config, config)
        self.sinks = self._build_sinks(previous) if logs else []
        shares = {name: experiment.shares for name, experiment in config.experiments.items()}
        self.trials = TrialMeters(self.slot, shares, shared.seen, self.sinks)
        limits = Limits(**dict(config.server.limits))
        if previous is None:
            forwarded, peers = self.trusted.forwarded_fields, self._peers(slot)
            large = None if self.machine is None else self.machine.files
            tunnels = Tunnels(TunnelMeters(self.slot), self.sweeper)
            fetcher = Fetcher(self.upstreams, forwarded, steady, self._origin_meters, tunnels, peers, large)
            use_page(config.server.error_page)
            prefix = f"{config.edge.pop}-{slot:x}{int(shared.started_at):x}-"
            self.hall = Hallway(
                self.edge, limits, fetcher, self.meters, self.log, prefix, shared.purge_log, self.trials
            )
            self.hall.proxy_protocol_ports = frozenset(
                one.address.port for one in config.server.listen if one.proxy_protocol
            )
        else:
            self.hall = previous.hall
        self._limits = limits

    def install(self) -> None:
        """Put this configuration in force; requests in flight keep the one they began with."""
        self.hall.edge = self.edge
        self.hall.limits = self._limits
        self.hall.trials = self.trials
        self.hall.fetcher.adopt(self.upstreams, self.trusted.forwarded_fields, self._origin_meters)
        use_page(self.config.server.error_page)
        self.store.resize(self.config.cache.memory)

    async def warm_up(self) -> None:
        """Fetch what the first request needs: the keys of issuers. Failures are logged and tried again."""
        await asyncio.gather(*[feed.refresh_if_due() for feed in self._jwks.values()])

    def publish(self) -> None:
        """Figures that are only looked at once a second."""
        gauge = self.slot.gauge
        gauge("edgeproxy_cache_bytes").set(self.store.bytes)
        gauge("edgeproxy_cache_entries").set(len(self.store))
        self.slot.values[self._evictions] = self.store.evictions
        if self._number == 0:  # the table is everybody's: one tells
            evicted = self.shared.buckets.evictions()
            for kind in ("idle", "early"):
                column = self.slot.column("edgeproxy_rate_limit_table_evictions_total", kind=kind)
                self.slot.values[column] = getattr(evicted, kind)
        if self.machine is not None:
            self.machine.publish(self.slot)
            self.slot.values[self.slot.column("edgeproxy_cache_machine_hits_total")] = self.store.below_hits
        for upstream in self.upstreams.values():
            upstream.tend()
            publish_upstream(self.slot, upstream)
        values, column = self.slot.values, self.slot.column
        for name, feed in self._jwks.items():
            if feed.keys_loaded_at:
                gauge("edgeproxy_jwks_age_seconds", provider=name).set(feed.keys_loaded_at)
            values[column("edgeproxy_jwks_failures_total", provider=name)] = feed.failures
        for (path, _), read in self._listings.items():
            values[column("edgeproxy_credential_file_failures_total", file=path.name)] = read.failures
        for name, listed in self._revocations.items():
            gauge("edgeproxy_jwt_revocations", provider=name).set(len(listed.revoked.value))
            values[column("edgeproxy_jwt_revocation_failures_total", provider=name)] = listed.failures
        self.trials.publish()
        database = self.geo.value
        if database is not None:
            gauge("edgeproxy_geo_database_age_seconds").set(database.built_at)
            counts = database.counts
            for result in ("known", "unknown", "errors"):
                values[column("edgeproxy_geo_lookups_total", result=result)] = getattr(counts, result)

    async def retire(self, successor: Parts) -> None:
        """Close the origin connections that the successor did not take over."""
        kept = set(map(id, successor.upstreams.values()))
        await asyncio.gather(
            *[upstream.close() for upstream in self.upstreams.values() if id(upstream) not in kept],
            *[sink.flush() for sink in self.sinks if sink not in successor.sinks],
        )

    async def close(self) -> None:
        """The end of the process: nothing is in flight any more."""
        await self.hall.fetcher.close()
        await asyncio.gather(*[upstream.close(patience=0.0) for upstream in self.upstreams.values()])
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_FLUSH):
                await asyncio.gather(*[sink.flush() for sink in self.sinks])
        if self.log is not None:
            self.log.close()
        if self.machine is not None:
            self.machine.close()

    def feed_of(self, name: str) -> JwksFeed | None:
        """Who fetches the keys of that provider."""
        return self._jwks.get(name)

    def reopen_log(self) -> None:
        if self.log is not None:
            self.log.reopen()

    @property
    def _evictions(self) -> int:
        return self.slot.column("edgeproxy_cache_evictions_total")

    # --- sources

    def _build_upstreams(self, previous: Parts | None) -> Iterator[tuple[str, Upstream]]:
        health = dict(self.shared.health_of(self.config))
        for name, origin in self.config.origins.items():
            if previous is not None and previous.config.origins.get(name) == origin:
                yield name, previous.upstreams[name]
                continue
            cells = health[name] if origin.health is not None else None
            if not origin.tls.verify:
                logger.warning("origins.%s.tls.verify is false: anybody on the way can answer for it", name)
            try:
                made = Upstream(name, origin, sweeper=self.sweeper, resolver=self.resolver, health=cells)
            except ConfigError as error:
                raise ConfigError(f"origins.{name}.{error}") from None
            yield name, made

    def _peers(self, slot: int) -> Peers | None:
        links = self.shared.links
        if links is None:
            return None
        meters = OriginMeters(self.slot, OTHER_WORKERS)
        return link(links.flights, links.paths, links.secret, slot, meters, self.sweeper, self.resolver)

    def _build_geo(self) -> None:
        paths = self.config.geo.paths
        if paths:
            feed = GeoFeed(paths, self.config.geo.check, self.geo)
            feed.load()
            self.feeds.append(feed.run)

    def _build_issuers(self, previous: Parts | None) -> None:
        for name, provider in self.config.jwt_providers.items():
            try:
                keys = Snapshot(configured_keys(provider))
            except (ConfigError, ValueError) as error:
                raise ConfigError(f"jwt_providers.{name}: {error}") from None
            poke = None
            if provider.jwks is not None:
                feed = self._jwks[name] = _feed_of(previous, name, provider) or JwksFeed(
                    name, provider, keys, steady
                )
                self.feeds.append(feed.run)
                keys, poke = feed.keys, feed.poke
            revoked = None
            if provider.revoked is not None:
                listed = self._revocations[name] = RevocationFeed(name, provider.revoked)
                self.feeds.append(listed.run)
                revoked = listed.revoked
            self.issuers[name] = Issuer(name, provider, keys, poke, revoked)

    def _build_sinks(self, previous: Parts | None) -> list[ExposureSink]:
        """Where exposures go; kept as they are, with what they hold, while their section stays the same."""
        section = self.config.exposures
        if previous is not None and previous.config.exposures == section:
            sinks = previous.sinks
        else:
            sinks = exposure_sinks(section, self.config.edge.id, self.slot)
        self.feeds += [sink.run for sink in sinks]
        return sinks

    # --- routes

    def _build_edge(self) -> Edge:
        config = self.config
        ident = config.edge.id.encode()
        signature = ((b"Via", b"1.1 " + ident), (b"X-Served-By", config.edge.pop.encode()))
        routes = [(_match(section), self._route(section, ident)) for section in config.routes]
        return Edge(
            ident=ident,
            signature=signature,
            signature_lines=render_fields(signature),
            routes=RouteTable(routes, self._refused, self._purge_route()),
            store=self.store,
            client_address=self.trusted.client_address,
            says_https=self.trusted.says_https,
            on_policy_error=self._policy_failed,
        )

    def _route(self, section: RouteSection, ident: bytes) -> Route:
        rule: CacheRule | None = None
        if section.cache:
            store = self.config.cache
            rule = compile_rule(
                section.cache,
                ident,
                store.object_size,
                tag_fields=store.tag_fields,
                strip_tags=store.strip_tags,
                file_size=store.machine.files.object_size if store.machine and store.machine.files else 0,
            )
        meters = RouteMeters(self.slot, section.name, RESULTS)
        try:
            policies = [self._guarded(step, meters) for step in section.policies]
            choice = self._choice(section)
        except (ConfigError, ValueError) as error:  # what only shows when the rules of several places meet
            raise ConfigError(f"routes[{self.config.routes.index(section)}]: {error}") from None
        by_group = section.cache is not None and "group" in section.cache.vary_on
        if by_group:
            policies.append(KeyByGroup(self.config.geo.groups))
        by_place = choice.needs_place or (rule is not None and rule.country) or by_group
        if _must_locate(policies, elsewhere=by_place):
            policies.insert(0, Locate(self.geo, self.config.geo.override))
        if rule is not None and (rule.device or rule.claims):
            policies.append(Keyed(device=rule.device, claims=rule.claims))
        if isinstance(section.origin, OriginRule) and section.origin.affinity is not None:
            policies.append(KeepOrigin(section.origin.affinity, choice.possible))
        asserted = {name for policy in policies for name in getattr(policy, "asserted", ())}
        if self.config.geo.override is not None:  # also where nobody asks for a place
            asserted.add(self.config.geo.override.header.lower().encode())
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
            confine=choice if self.config.geo.residency else None,
            body_size=section.body_size
            if section.body_size is not None
            else self.config.server.limits.body_size,
            forwarding=forwarding(self.config.edge.id, asserted | UNTRUSTED_NAMES),
            hidden_query=hidden,
            meters=meters,
            mirror=None if mirrored is None else MirrorRule(mirrored.origin, mirrored.percent),
        )
        if section.compress is not None:
            route = compressing(route, section.compress.rule, self.slot)
        ws = section.websocket
        return route if ws is None else upgradable(route, TunnelRule(ws.idle, ws.tunnels))

    def _choice(self, section: RouteSection) -> OriginChoice:
        return OriginChoice(
            section.origin,
            {name: origin.location for name, origin in self.config.origins.items()},
            self.config.edge.location,
            self.config.geo.groups,
            lambda name: self.upstreams[name].healthy(),
            [(rule.places, rule.origins) for rule in self.config.geo.residency],
        )

    def _guarded(self, step: PolicyStep, meters: RouteMeters) -> Policy:
        """The policy alone where nothing stands beside it: what is not used costs nothing."""
        policy, guard = self._policy(step), step.guard
        if guard == GuardRule():
            return policy
        when = condition(guard.when, self.config.geo.groups) if guard.when else None
        return Guarded(policy, when, meters.decided, mode=guard.mode, on_error=guard.on_error)

    def _policy(self, step: PolicyStep) -> Policy:
        rule = step.rule
        if isinstance(rule, GeoRule):
            return Geo(rule, self.config.geo.groups, self.geo, self.config.geo.override)
        if isinstance(rule, JwtRule):
            return JwtAuth(rule, self.issuers)
        if isinstance(rule, ApiKeyRule):
            return ApiKeyAuth(rule, self._listed(rule.file, parse_keys))
        if isinstance(rule, BasicRule):
            return BasicAuth(rule, self._listed(rule.file, parse_users), secrets.token_bytes(32), check_later)
        simple = _SIMPLE.get(type(rule))
        if simple is not None:
            return simple(rule)
        if isinstance(rule, UseRule):
            return _imported(rule)
        names = cast(tuple[str, ...], rule)
        if step.word == "rate_limit":
            limits = {name: self.config.rate_limits[name] for name in names}
            shared = self.shared
            return RateLimiter(limits, shared.buckets, shared.in_flight, self._number, self.config.geo.groups)
        return AbTest({name: self.config.experiments[name] for name in names}, groups=self.config.geo.groups)

    def _listed(self, path: Path, parse: Callable[[bytes], T]) -> Snapshot[T]:
        """What a file of credentials says. Routes that name one file read it once."""
        feed = self._listings.get((path, parse))
        if feed is None:
            feed = self._listings[path, parse] = CredentialFeed(path, parse)
            self.feeds.append(feed.run)
        return cast("Snapshot[T]", feed.snapshot)

    def _purge_route(self) -> Route | None:
        section = self.config.cache.purge_method
        if section is None or section.token is None:
            return None

        def append(location: bytes, soft: bool) -> int:
            self.slot.counter("edgeproxy_purges_total", kind=PurgeKind.URL.word).inc()
            return self.shared.purge_log.append(PurgeKind.URL, location, soft)

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
            body_size=self.config.server.limits.body_size,
            forwarding=forwarding(self.config.edge.id),
            hidden_query=(),
            meters=self._refused_meters,
        )

    def _policy_failed(self, route: Route, policy: Policy, error: Exception) -> None:
        route.meters.failed(policy.name, passed=policy.fails_open)
        logger.error("policy %s of route %s failed", policy.name, route.name, exc_info=error)

    @property
    def _refused_meters(self) -> RouteMeters:
        return RouteMeters(self.slot, "-", RESULTS)


def _warn_of_moves(before: Config, after: Config) -> None:
    """Changing who gets what in the middle of an experiment spoils what it has measured."""
    for name, experiment in after.experiments.items():
        old = before.experiments.get(name)
        moved = "" if old is None else experiment.moves_units_of(old)
        if moved:
            logger.warning(
                "experiments.%s: other %s give units another variant in the middle of it;"
                " what was counted so far no longer compares", name, moved,
            )  # fmt: skip


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


def _feed_of(previous: Parts | None, name: str, provider: JwtProvider) -> JwksFeed | None:
    """The running feed, if it would fetch the same: its keys outlive a reload while the issuer is down."""
    before = previous.config.jwt_providers.get(name) if previous is not None else None
    if previous is None or before is None:
        return None
    is_same = (before.jwks, before.algorithms, before.fetch) == (
        provider.jwks,
        provider.algorithms,
        provider.fetch,
    )
    return previous.feed_of(name) if is_same else None


_IN_QUERY = (JwtProvider, ApiKeyRule)  # sections that may have credentials stand in a URL

_SIMPLE: dict[type, Callable[[Any], Policy]] = {
    CookieRule: Cookies,
    CorsRule: Cors,
    FaultRule: Fault,
    HeadersRule: HeaderEdits,
    IpRule: IpList,
    MaintenanceRule: Maintenance,
    RedirectRule: Redirect,
    RespondRule: Respond,
    RewriteRule: Rewrite,
}
"""Policies that need nothing but their own section."""


def _nowhere(ctx: Context) -> str:
    raise LookupError(f"the route {ctx.route!r} refuses everything and has no origin")


def _match(section: RouteSection) -> Match:
    match = section.match
    methods = None if match.methods is None else frozenset([method.encode() for method in match.methods])
    return Match(match.host, match.path, methods)


def _access_log(config: Config, slot: Slot) -> AccessLog | None:
    section = config.server.access_log
    if section.path == "off":
        return None
    rules = [step.rule for route in config.routes for step in route.policies]
    named = [each.query for each in (*config.jwt_providers.values(), *rules) if isinstance(each, _IN_QUERY)]
    hidden = [name for name in named if name]
    return AccessLog(slot, section.path, section.sample, hidden)


def _machine_tier(config: Config, shared: Shared) -> MachineTier | None:
    section = config.cache.machine
    if shared.machine is None or section is None:
        return None
    return MachineTier(shared.machine, section.object_size, _large_files(section))


def _large_files(section: MachineSection) -> LargeFiles | None:
    files = section.files
    if files is None:
        return None
    try:
        return LargeFiles(Path(section.path, "files"), files.max_bytes, files.object_size, steady)
    except OSError as error:
        logger.warning("answers above cache.object_size are not kept: %s", error)
        return None


def _imported(rule: UseRule) -> Policy:
    """A policy from somebody's package. Raises ConfigError when it cannot be used."""
    module, _, name = rule.path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
        config = getattr(found, "Config", None)
        made = found(**rule.options) if config is None else found(config.model_validate(rule.options))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(["with", *map(str, first["loc"])])
        raise ConfigError(f"use: {rule.path}: {where}: {first['msg']}") from None
    except Exception as error:
        raise ConfigError(f"use: {rule.path} cannot be used: {type(error).__name__}: {error}") from error
    for attribute in ("name", "fails_open"):
        if not hasattr(made, attribute):
            raise ConfigError(f"use: {rule.path} has no attribute {attribute!r}, which a policy needs")
    if not callable(made):
        raise ConfigError(f"use: {rule.path} cannot be called, which a policy needs")
    return cast(Policy, made)
