"""The composition root: a configuration becomes running parts. Only this file knows every concrete class."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgeproxy.build.issuers import Issuers
from edgeproxy.build.routes import RouteBuilder
from edgeproxy.cache.renewals import Renewals
from edgeproxy.cache.store import Store
from edgeproxy.clock import steady
from edgeproxy.config import Config
from edgeproxy.config.sections import MachineSection
from edgeproxy.door import Limits
from edgeproxy.errors import ConfigError
from edgeproxy.feeds.exposures import ExposureSink, exposure_sinks
from edgeproxy.feeds.geo_database import GeoFeed
from edgeproxy.fetch import Fetcher
from edgeproxy.hallway import Hallway
from edgeproxy.http.forwarding import TrustedProxies
from edgeproxy.http.pages import use_page
from edgeproxy.machine.large_files import LargeFiles
from edgeproxy.machine.tier import MachineTier
from edgeproxy.observe.access_log import AccessLog
from edgeproxy.observe.cells import Slot
from edgeproxy.observe.outcome import DoorMeters, OriginMeters
from edgeproxy.observe.trials import TrialMeters
from edgeproxy.observe.tunnels import TunnelMeters
from edgeproxy.origin.resolve import Resolver
from edgeproxy.origin.sweeper import Sweeper
from edgeproxy.origin.upstream import Upstream
from edgeproxy.origins import publish_upstream
from edgeproxy.policies.api_key import ApiKeyRule
from edgeproxy.policies.geo_data import GeoDatabase
from edgeproxy.policies.jwt import JwtProvider
from edgeproxy.shared import Shared
from edgeproxy.siblings import NAME as OTHER_WORKERS
from edgeproxy.siblings import Siblings, link
from edgeproxy.snapshot import Snapshot
from edgeproxy.tunnel import Tunnels

logger = logging.getLogger("edgeproxy.build")
LAST_FLUSH = 3.0  # seconds that exposures may take to be written when the process ends
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
        self.slot = shared.cells.slot(slot) if previous is None else previous.slot
        self.meters = DoorMeters(self.slot) if previous is None else previous.meters
        self.sweeper = Sweeper() if previous is None else previous.sweeper
        self.resolver = Resolver(steady) if previous is None else previous.resolver
        if previous is None:
            self.machine = _machine_tier(config, shared)
            clocks = None if shared.machine is None else shared.machine.clocks
            renewals = Renewals(shared.renewals, slot) if shared.workers > 1 else None
            self.store = Store(
                config.cache.memory, shared.purge_log, steady, shared.marks, clocks, self.machine, renewals
            )
        else:
            self.machine, self.store = previous.machine, previous.store
        self.log = None if not logs else _access_log(config, self.slot) if previous is None else previous.log
        self.feeds: list[Feed] = []
        self.geo: Snapshot[GeoDatabase | None] = Snapshot(None)
        self._geo_feed: GeoFeed | None = None
        self.upstreams = dict(self._build_upstreams(previous))
        self._origin_meters = {name: OriginMeters(self.slot, name) for name in self.upstreams}
        self._build_geo()
        self._issuers = Issuers(config.jwt_providers, None if previous is None else previous._issuers)
        self.issuers = self._issuers.by_name
        self.feeds += self._issuers.feeds
        self.trusted = TrustedProxies(config.server.trusted_proxies)
        routes = RouteBuilder(
            config, shared, self.slot, slot, self.store, self.trusted, self.geo, self.upstreams, self.issuers
        )
        self.edge = routes.edge()
        self.feeds += routes.policies.feeds
        self._listings = routes.policies.listings
        if previous is not None and slot == 0:
            _warn_of_moves(previous.config, config)
        self.sinks = self._build_sinks(previous) if logs else []
        shares = {name: experiment.shares for name, experiment in config.experiments.items()}
        self.trials = TrialMeters(self.slot, shares, shared.seen, self.sinks)
        limits = Limits(**dict(config.server.limits))
        if previous is None:
            forwarded, siblings = self.trusted.forwarded_fields, self._siblings(slot)
            large = None if self.machine is None else self.machine.files
            tunnels = Tunnels(TunnelMeters(self.slot), self.sweeper)
            fetcher = Fetcher(
                self.upstreams, forwarded, steady, self._origin_meters, tunnels, siblings, large
            )
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
        self.hall.known_heads.clear()
        self.hall.limits = self._limits
        self.hall.trials = self.trials
        self.hall.fetcher.adopt(self.upstreams, self.trusted.forwarded_fields, self._origin_meters)
        use_page(self.config.server.error_page)
        self.store.resize(self.config.cache.memory)

    async def warm_up(self) -> None:
        """Fetch what the first request needs: the keys of issuers. Failures are logged and tried again."""
        await self._issuers.warm_up()

    def publish(self) -> None:
        """Figures that are only looked at once a second."""
        gauge = self.slot.gauge
        gauge("edgeproxy_cache_bytes").set(self.store.bytes)
        gauge("edgeproxy_cache_entries").set(len(self.store))
        self.slot.values[self._evictions] = self.store.evictions
        if self.slot.number == 0:  # the table is everybody's: one tells
            evicted = self.shared.buckets.evictions()
            for kind in ("idle", "early"):
                column = self.slot.column("edgeproxy_rate_limit_table_evictions_total", kind=kind)
                self.slot.values[column] = getattr(evicted, kind)
            column = self.slot.column("edgeproxy_in_flight_overflows_total")
            self.slot.values[column] = self.shared.in_flight.overflows()
        if self.machine is not None:
            self.machine.publish(self.slot)
            self.slot.values[self.slot.column("edgeproxy_cache_machine_hits_total")] = self.store.below_hits
        for upstream in self.upstreams.values():
            upstream.tend()
            publish_upstream(self.slot, upstream)
        values, column = self.slot.values, self.slot.column
        for (path, _), read in self._listings.items():
            values[column("edgeproxy_credential_file_failures_total", file=path.name)] = read.failures
        self._issuers.publish(self.slot)
        self.trials.publish()
        if self._geo_feed is not None:
            values[column("edgeproxy_geo_database_failures_total")] = self._geo_feed.failures
        values[column("edgeproxy_dns_failures_total")] = self.resolver.failures
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

    def _siblings(self, slot: int) -> Siblings | None:
        links = self.shared.links
        if links is None or self.shared.workers == 1:
            return None
        meters = OriginMeters(self.slot, OTHER_WORKERS)
        return link(links.flights, links.paths, links.secret, slot, meters, self.sweeper, self.resolver)

    def _build_geo(self) -> None:
        paths = self.config.geo.paths
        if paths:
            feed = self._geo_feed = GeoFeed(paths, self.config.geo.check, self.geo)
            feed.load()
            self.feeds.append(feed.run)

    def _build_sinks(self, previous: Parts | None) -> list[ExposureSink]:
        """Where exposures go; kept as they are, with what they hold, while their section stays the same."""
        section = self.config.exposures
        if previous is not None and previous.config.exposures == section:
            sinks = previous.sinks
        else:
            sinks = exposure_sinks(section, self.config.edge.id, self.slot)
        self.feeds += [sink.run for sink in sinks]
        return sinks


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


_IN_QUERY = (JwtProvider, ApiKeyRule)  # sections that may have credentials stand in a URL


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
