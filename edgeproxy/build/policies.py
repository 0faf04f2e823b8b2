"""Policies at work: a step of a route's `policies` becomes a callable."""

from __future__ import annotations

import importlib
import secrets
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import ValidationError

from edgeproxy.config import Config, GuardRule, PolicyStep, UseRule
from edgeproxy.context import Policy
from edgeproxy.errors import ConfigError
from edgeproxy.feeds.credential_file import CredentialFeed
from edgeproxy.feeds.passwords import check_later
from edgeproxy.observe.outcome import RouteMeters
from edgeproxy.policies.ab import AbTest
from edgeproxy.policies.api_key import ApiKeyAuth, ApiKeyRule, parse_keys
from edgeproxy.policies.basic import BasicAuth, BasicRule, parse_users
from edgeproxy.policies.condition import condition
from edgeproxy.policies.cookies import CookieRule, Cookies
from edgeproxy.policies.cors import Cors, CorsRule
from edgeproxy.policies.fault import Fault, FaultRule
from edgeproxy.policies.geo import Geo
from edgeproxy.policies.geo_data import GeoDatabase
from edgeproxy.policies.geo_rule import GeoRule
from edgeproxy.policies.guard import Guarded
from edgeproxy.policies.headers import HeaderEdits, HeadersRule
from edgeproxy.policies.ip import IpList, IpRule
from edgeproxy.policies.jwt import Issuer, JwtAuth, JwtRule
from edgeproxy.policies.rate_limit import RateLimiter
from edgeproxy.policies.redirect import Redirect, RedirectRule
from edgeproxy.policies.respond import Maintenance, MaintenanceRule, Respond, RespondRule
from edgeproxy.policies.rewrite import Rewrite, RewriteRule
from edgeproxy.shared import Shared
from edgeproxy.snapshot import Snapshot

T = TypeVar("T")

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


class PolicyBuilder:
    """Builds the policies of one configuration. `feeds` are what runs behind them, `listings` the files of
    credentials that they read."""

    def __init__(
        self,
        config: Config,
        shared: Shared,
        number: int,
        geo: Snapshot[GeoDatabase | None],
        issuers: Mapping[str, Issuer],
    ) -> None:
        """`number` is that of the worker's slot."""
        self.feeds: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self.listings: dict[tuple[Path, object], CredentialFeed[Any]] = {}
        self._config, self._shared, self._number = config, shared, number
        self._geo, self._issuers = geo, issuers

    def build(self, step: PolicyStep, meters: RouteMeters) -> Policy:
        """The policy of a step, alone where nothing stands beside it: what is not used costs nothing."""
        policy, guard = self._policy(step), step.guard
        if guard == GuardRule():
            return policy
        when = condition(guard.when, self._config.geo.groups) if guard.when else None
        return Guarded(policy, when, meters.decided, mode=guard.mode, on_error=guard.on_error)

    def _policy(self, step: PolicyStep) -> Policy:
        rule = step.rule
        if isinstance(rule, GeoRule):
            return Geo(rule, self._config.geo.groups, self._geo, self._config.geo.override)
        if isinstance(rule, JwtRule):
            return JwtAuth(rule, self._issuers)
        if isinstance(rule, ApiKeyRule):
            return ApiKeyAuth(rule, self._listed(rule.file, parse_keys))
        if isinstance(rule, BasicRule):
            return BasicAuth(rule, self._listed(rule.file, parse_users), secrets.token_bytes(32), check_later)
        simple = _SIMPLE.get(type(rule))
        if simple is not None:
            return simple(rule)
        if isinstance(rule, UseRule):
            return _imported(rule)
        names, groups = cast(tuple[str, ...], rule), self._config.geo.groups
        if step.word == "rate_limit":
            limits = {name: self._config.rate_limits[name] for name in names}
            shared = self._shared
            return RateLimiter(limits, shared.buckets, shared.in_flight, self._number, groups)
        return AbTest({name: self._config.experiments[name] for name in names}, groups=groups)

    def _listed(self, path: Path, parse: Callable[[bytes], T]) -> Snapshot[T]:
        """What a file of credentials says. Routes that name one file read it once."""
        feed = self.listings.get((path, parse))
        if feed is None:
            feed = self.listings[path, parse] = CredentialFeed(path, parse)
            self.feeds.append(feed.run)
        return cast("Snapshot[T]", feed.snapshot)


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
