"""The root of the configuration: YAML -> a frozen tree of sections.

`load_config` checks everything that can be known without acting: shapes and units in the models, names
and reachability in `config.checks`. Sections of policies, cache and origins stand beside their code.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, cast

from pydantic import BeforeValidator, Field, PrivateAttr, StringConstraints, create_model, model_validator

from edgeproxy.cache.rule import CacheSection
from edgeproxy.config.as_yaml import yaml_of
from edgeproxy.config.checks import cross_checks
from edgeproxy.config.compress import CompressSection
from edgeproxy.config.editor_schema import editor_schema
from edgeproxy.config.errors import validated
from edgeproxy.config.file import load
from edgeproxy.config.hints import ReadAs
from edgeproxy.config.named_files import file_problems, folder_problems
from edgeproxy.config.sections import (
    Admin,
    CacheStore,
    Edge,
    Match,
    MirrorSection,
    Name,
    Names,
    RateLimitTable,
    Server,
    WebSocketSection,
)
from edgeproxy.config.tree import Document
from edgeproxy.config.walk import MOST_ROUTES
from edgeproxy.errors import ConfigError
from edgeproxy.feeds.exposure_settings import ExposureSection
from edgeproxy.origin.choose import OriginRule
from edgeproxy.origin.settings import Origin
from edgeproxy.policies.ab_rule import Experiment
from edgeproxy.policies.api_key import ApiKeyRule
from edgeproxy.policies.basic import BasicRule
from edgeproxy.policies.condition import WhenField
from edgeproxy.policies.cookies import CookieRule
from edgeproxy.policies.cors import CorsRule
from edgeproxy.policies.fault import FaultRule
from edgeproxy.policies.geo_rule import GeoRule, GeoSection
from edgeproxy.policies.guard import NEVER_OPEN
from edgeproxy.policies.headers import HeadersRule
from edgeproxy.policies.ip import IpRule
from edgeproxy.policies.jwt_provider import JwtProvider
from edgeproxy.policies.jwt_rule import JwtRule
from edgeproxy.policies.rate_limit_rule import RateLimit
from edgeproxy.policies.redirect import RedirectRule
from edgeproxy.policies.respond import MaintenanceRule, RespondRule
from edgeproxy.policies.rewrite import RewriteRule
from edgeproxy.units import Model, Size

ClassPath = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]

POLICIES: dict[str, Any] = {
    "geo": GeoRule,
    "jwt": JwtRule,
    "api_key": ApiKeyRule,
    "basic": BasicRule,
    "ab": Annotated[Names, Field(description="Name of an experiment, or a list of them.")],
    "rate_limit": Annotated[Names, Field(description="Name of a rate limit, or a list of them.")],
    "headers": HeadersRule,
    "cookies": CookieRule,
    "cors": CorsRule,
    "fault": FaultRule,
    "ip": IpRule,
    "maintenance": MaintenanceRule,
    "redirect": RedirectRule,
    "respond": RespondRule,
    "rewrite": RewriteRule,
    "use": Annotated[ClassPath, Field(description="A policy of your own: `mypackage.module:MyPolicy`.")],
}
"""Word of the YAML -> what stands under it. A new policy is a line here."""


class UseRule(NamedTuple):
    """`use: package.module:Class` with what the class is built from, by keyword."""

    path: str
    options: dict[str, Any]


class GuardRule(NamedTuple):
    """What may stand beside every policy; empty texts where nothing stands."""

    when: str = ""
    mode: Literal["enforce", "shadow"] = "enforce"
    on_error: Literal["allow", "deny"] | None = None


class PolicyStep(NamedTuple):
    """One item of `policies`: its word, its section, the names it lists, or a UseRule, and its guard."""

    word: str
    rule: Model | tuple[str, ...] | UseRule
    guard: GuardRule = GuardRule()


class _AnyStep(Model):
    with_: dict[str, Any] | None = Field(default=None, alias="with")
    """What the class that `use` names is built from, by keyword."""
    when: WhenField = ""
    """Ask it only about requests for which this condition holds: `country in [DE] and not header:X-Debug`."""
    mode: Literal["enforce", "shadow"] = "enforce"
    """`shadow`: it decides, is counted and logged, and changes nothing."""
    on_error: Literal["allow", "deny"] | None = None
    """When the policy itself fails: let the request pass, or refuse it. Default: as the policy says."""

    @model_validator(mode="after")
    def _is_one(self) -> _AnyStep:
        words = self.model_fields_set - _BESIDE
        if len(words) != 1:
            found = " and ".join(sorted(words)) or "nothing"
            raise ValueError(f"found {found}, expected one of {', '.join(POLICIES)}; begin each with a `- `")
        if self.with_ is not None and "use" not in words:
            raise ValueError("found `with`, which only goes with `use`")
        never = words & NEVER_OPEN
        if self.on_error == "allow" and never:
            raise ValueError(f"found on_error: allow, which cannot go with {min(never)}: it fails closed")
        return self


_BESIDE = frozenset({"with_", "when", "mode", "on_error"})
_STEP_FIELDS: dict[str, Any] = {word: (kind, None) for word, kind in POLICIES.items()}
_Step = create_model("PolicyStep", __base__=_AnyStep, __doc__="One policy.", **_STEP_FIELDS)


def _to_step(step: _AnyStep) -> PolicyStep:
    word = next(iter(step.model_fields_set - _BESIDE))
    rule = getattr(step, word)
    guard = GuardRule(step.when, step.mode, step.on_error)
    return PolicyStep(word, UseRule(rule, step.with_ or {}) if word == "use" else rule, guard)


def _as_section(value: object) -> object:
    if value is False:
        return None
    if isinstance(value, dict):
        return cast("object", value)
    raise ValueError("expected a section like {ttl: 30s}, or false for no cache")


def _as_compress(value: object) -> object:
    if isinstance(value, bool):
        return CompressSection() if value else None
    if value is None or isinstance(value, dict):
        return cast("object", value)
    raise ValueError("expected true, false, or a section like {codings: [br, gzip]}")


def _as_websocket(value: object) -> object:
    if isinstance(value, bool):
        return WebSocketSection() if value else None
    if value is None or isinstance(value, dict):
        return cast("object", value)
    raise ValueError("expected true, false, or a section like {idle: 5m}")


class Route(Model):
    """One kind of request, what is done with it, and where it goes. The first route that matches wins."""

    name: Name
    """Name in metrics, log and `explain`."""
    match: Match = Match()
    """Which requests it takes."""
    policies: tuple[Annotated[PolicyStep, ReadAs(_Step, _to_step)], ...] = Field(default=(), max_length=64)
    """What is asked of a request before cache and origin, in the order of work."""
    cache: Annotated[
        CacheSection | None,
        BeforeValidator(_as_section, json_schema_input_type=CacheSection | Literal[False]),
    ] = CacheSection()
    """How answers are cached; `false` for not at all. Default: as the origin says (RFC 9111)."""
    origin: Name | OriginRule
    """Name of the origin, or a rule that chooses one."""
    compress: Annotated[
        CompressSection | None,
        BeforeValidator(_as_compress, json_schema_input_type=CompressSection | bool | None),
    ] = None
    """Compress what the origin did not? `true`, or a section that says what. Default: no."""
    websocket: Annotated[
        WebSocketSection | None,
        BeforeValidator(_as_websocket, json_schema_input_type=WebSocketSection | bool | None),
    ] = None
    """May a request become a WebSocket (RFC 6455)? `true`, or a section with its limits. Default: no."""
    mirror: MirrorSection | None = None
    """Send copies of requests to a shadow origin? Default: no."""
    body_size: Size | None = None
    """Bytes of a request body, instead of `server.limits.body_size`: 413."""


class Config(Model):
    """edgeproxy's configuration. Units stand in the values: 30s, 64MiB, 100/s. `${VAR}`, `${VAR:-default}`
    and `${file:/path}` are filled in."""

    edge: Edge = Field(default_factory=Edge)
    """Who this edge is."""
    server: Server = Server()
    """Where clients connect, and what they may."""
    admin: Admin = Field(default_factory=Admin)
    """The listener for metrics, health, purge and explain."""
    cache: CacheStore = CacheStore()
    """The memory that all routes share."""
    geo: GeoSection = GeoSection()
    """Where the geo database is."""
    origins: dict[Name, Origin] = Field(min_length=1, max_length=256)
    """Where answers come from: name -> servers."""
    jwt_providers: dict[Name, JwtProvider] = Field(default_factory=dict, max_length=64)
    """Who issues tokens: name -> issuer."""
    experiments: dict[Name, Experiment] = Field(default_factory=dict, max_length=256)
    """A/B tests: name -> variants."""
    exposures: ExposureSection = ExposureSection()
    """Where it is written down who saw which variant."""
    rate_limits: dict[Name, RateLimit] = Field(default_factory=dict, max_length=256)
    """Limits: name -> rate, quota, or requests in flight."""
    rate_limit_table: RateLimitTable = RateLimitTable()
    """Where all limits count. A change of it needs a restart."""
    routes: tuple[Route, ...] = Field(min_length=1, max_length=MOST_ROUTES)
    """What is served, in the order in which it is tried."""

    _document: Document = PrivateAttr(default_factory=lambda: Document("configuration", {}, {}, frozenset()))


def load_config(path: str | Path) -> Config:
    """The configuration in a file. Raises ConfigError that names all that is wrong with it, a line each:
    `file:line: path: found …, expected …`."""
    return read_config(load(path))


def read_config(document: Document) -> Config:
    """The configuration in a parsed file. Raises ConfigError as `load_config` does."""
    if not document.data and not document.problems:
        raise ConfigError(f"{document.name}: found nothing, expected origins: and routes: at least")
    config, problems = validated(Config, document)
    # What could not be filled in or read is said once, not again by the section that misses it.
    broken = {problem.path[:end] for problem in document.problems for end in range(len(problem.path) + 1)}
    problems = [problem for problem in problems if problem.path not in broken]
    problems += [*document.problems, *cross_checks(document)]
    if config is None or problems:
        raise ConfigError(document.report(problems))
    config._document = document
    return config


def dump(config: Config, *, defaults: bool = False) -> str:
    """The configuration as canonical YAML, with `***` for what is secret or was filled in from outside;
    with `defaults` also what was not written."""
    return yaml_of(config, config._document, defaults=defaults)


def check_files(config: Config, *, folders: bool = False) -> None:
    """Raises ConfigError that names all files of this configuration that cannot be opened; with `folders`
    also the folder without which an edge goes on."""
    problems = [*file_problems(config._document), *(folder_problems(config._document) if folders else ())]
    if problems:
        raise ConfigError(config._document.report(problems))


def placed(config: Config, error: ConfigError) -> ConfigError:
    """An error that begins with a path of the configuration, `geo.database: …`, with its file and line."""
    document = config._document
    where = re.findall(r"[^.\[\]]+", str(error).partition(": ")[0])
    path = document.nearest(tuple(int(step) if step.isdigit() else step for step in where))
    line = f"{document.line(path)}: " if path else " "
    return ConfigError(f"{document.name}:{line}{error}")


def schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a configuration file, for editors."""
    return editor_schema(Config)
