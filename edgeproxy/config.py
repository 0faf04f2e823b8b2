"""The root of the configuration: YAML -> a frozen tree of sections.

`load_config` checks everything that can be known without acting: shapes and units here, names and
reachability in `config_checks`. The sections of policies, cache and origins stand beside their code.
"""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, cast
from urllib.parse import quote

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    SecretStr,
    StringConstraints,
    create_model,
    model_validator,
)

from edgeproxy.cache.rule import CacheSection
from edgeproxy.config_checks import MOST_ROUTES, cross_checks
from edgeproxy.config_dump import yaml_of
from edgeproxy.config_errors import ReadAs, validated
from edgeproxy.config_file import load
from edgeproxy.config_schema import editor_schema
from edgeproxy.config_tree import Document
from edgeproxy.errors import ConfigError, RequestError
from edgeproxy.http.target import normalise_path
from edgeproxy.origin.choose import OriginRule
from edgeproxy.origin.settings import Origin
from edgeproxy.policies.ab import Experiment
from edgeproxy.policies.geo import GeoRule, GeoSection
from edgeproxy.policies.headers import HeadersRule
from edgeproxy.policies.jwt_provider import JwtProvider
from edgeproxy.policies.jwt_rule import JwtRule
from edgeproxy.policies.rate_limit import RateLimit
from edgeproxy.units import AddressField, Duration, Model, NetworkField, Size

_HOST = re.compile(r"\*|(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]")
_METHOD = re.compile(r"[A-Z][A-Z0-9_-]*")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Above0 = Annotated[Duration, Field(gt=0)]


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


_OneOrMore = BeforeValidator(_as_list, json_schema_input_type=str | list[str])
Names = Annotated[tuple[Name, ...], Field(min_length=1, max_length=16), _OneOrMore]


def _host_name() -> str:
    return _NOT_IN_NAMES.sub("-", socket.gethostname()).strip("._-")[:64] or "edge"


class Edge(Model):
    """Who this edge is."""

    id: Name = Field(default_factory=_host_name)
    """Name of this edge in Via, Cache-Status and the log. Default: the host's name."""
    pop: Name = "local"
    """Name of the place it runs in, said to clients as X-Served-By."""
    location: (
        tuple[Annotated[float, Field(ge=-90, le=90)], Annotated[float, Field(ge=-180, le=180)]] | None
    ) = None
    """Latitude and longitude of that place in degrees; the client's when geo does not know it."""


class Listener(Model):
    """One address that clients connect to."""

    address: AddressField
    """IP address and port: `0.0.0.0:8080`, `[::]:8080`, or `:8080`."""
    proxy_protocol: bool = False
    """Every connection begins with a PROXY protocol header (v1 or v2), which names the client."""


def _as_listener(value: object) -> object:
    return {"address": value} if isinstance(value, str) else value


def _as_listeners(value: object) -> object:
    return [cast("object", value)] if isinstance(value, str | dict) else value


ListenerField = Annotated[
    Listener, BeforeValidator(_as_listener, json_schema_input_type=AddressField | Listener)
]


class ServerLimits(Model):
    """What one client may cost. Crossing a limit is answered with the status named here."""

    head_timeout: Above0 = 10.0
    """Time for a whole request head, however slowly it comes: 408."""
    head_size: Annotated[Size, Field(ge=1024, le=2**20)] = 32 * 2**10
    """Bytes of a request head: 431."""
    head_fields: int = Field(default=100, ge=8, le=1000)
    """Field lines of a request head: 431."""
    url_size: Annotated[Size, Field(ge=256, le=2**16)] = 8 * 2**10
    """Bytes of a request target: 414."""
    body_size: Size = 10 * 2**20
    """Bytes of a request body, unless the route says otherwise: 413."""
    body_gap: Above0 = 20.0
    """Time between two pieces of a request body: 408."""
    keep_alive: Above0 = 60.0
    """How long a connection may idle between requests; then it is closed."""
    keep_alive_requests: int = Field(default=1000, ge=1)
    """Requests on one connection; then it is closed."""
    send_gap: Above0 = 30.0
    """How long a client may read nothing of an answer; then the connection is closed."""
    connections: int = Field(default=10_000, ge=1, le=1_000_000)
    """Client connections of one worker: 503."""
    drain: Above0 = 30.0
    """How long requests in flight may take to end after SIGTERM."""
    drain_idle: Above0 = 1.0
    """How long idle connections stay open after SIGTERM, for a request that is on its way."""


class AccessLogSection(Model):
    """One JSON line per request."""

    path: Annotated[str, StringConstraints(min_length=1)] = "-"
    """File to append to, `-` for standard output, or `off`."""
    sample: float = Field(default=1.0, ge=0, le=1)
    """Share of requests that is logged."""


class Server(Model):
    """Where clients connect, and what they may."""

    listen: Annotated[
        tuple[ListenerField, ...],
        Field(min_length=1, max_length=32),
        BeforeValidator(_as_listeners, json_schema_input_type=ListenerField | tuple[ListenerField, ...]),
    ] = (Listener(address="0.0.0.0:8080"),)
    """Addresses, each with `proxy_protocol: true` if a balancer in front speaks it. Default: 0.0.0.0:8080."""
    workers: Literal["auto"] | Annotated[int, Field(ge=1, le=128)] = "auto"
    """Worker processes; `auto` is one per core."""
    trusted_proxies: Annotated[
        tuple[NetworkField, ...], BeforeValidator(_as_list, json_schema_input_type=str | list[str])
    ] = ()
    """Networks whose X-Forwarded-For and Forwarded are believed."""
    limits: ServerLimits = ServerLimits()
    """Deadlines and sizes."""
    access_log: AccessLogSection = AccessLogSection()
    """Where each request is written down."""


def _as_absent(value: object) -> object:
    return None if value == "" else value


class Admin(Model):
    """The listener for metrics, health, purge and explain. Keep it away from clients."""

    listen: AddressField | None = Field(default="127.0.0.1:9900", validate_default=True)
    """IP address and port; `null` for none."""
    token: Annotated[SecretStr | None, BeforeValidator(_as_absent)] = None
    """Bearer token of purge and explain; without one both answer 403. 16 characters or more when the
    listener is not on loopback."""


class CacheStore(Model):
    """The memory that all routes share."""

    memory: Size = 64 * 2**20
    """Bytes of stored answers per worker."""
    object_size: Annotated[Size, Field(gt=0)] = 8 * 2**20
    """The largest body that is stored, whatever a route says."""

    @model_validator(mode="after")
    def _fits(self) -> CacheStore:
        if self.object_size > self.memory > 0:
            raise ValueError("object_size is above memory, so the largest objects could never be stored")
        return self


def _host(text: str) -> str:
    name = text.lower().removesuffix(".")
    if _HOST.fullmatch(name):
        return name
    if not name.isascii():
        raise ValueError(f"{text!r} is not a host as clients send it; write its xn-- form")
    raise ValueError(
        f"{text!r} is not a host; write www.example.com, *.example.com or *, without scheme and port"
    )


def _path(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError(f"{text!r} is not a path; write /exact, /prefix/** or /a/*/b")
    if "**" in text.removesuffix("/**"):
        raise ValueError(f"{text!r} has ** in the middle; it can only be the last segment: /prefix/**")
    if ";" in text:
        raise ValueError(f"{text!r} can never match: routes see paths without ;parameters")
    if not text.isascii():
        raise ValueError(f"{text!r} can never match: clients send it as {quote(text, safe='/*%')!r}")
    try:
        normal = normalise_path(text.encode()).decode()
    except RequestError as error:
        raise ValueError(f"{text!r} can never match: {error.detail}") from None
    if normal != text or re.search(r"[\x00- ?#\\\x7f]", text):
        other = f"; write {normal!r}" if normal != text else ": it holds a character that paths do not have"
        raise ValueError(f"{text!r} can never match{other}")
    return text


def _method(text: str) -> str:
    if not _METHOD.fullmatch(text):
        raise ValueError(f"{text!r} is not a method; write it in upper case, like GET")
    return text


class Match(Model):
    """Which requests a route takes: any of the hosts, any of the paths, any of the methods."""

    host: Annotated[tuple[Annotated[str, AfterValidator(_host)], ...], Field(min_length=1), _OneOrMore] = (
        "*",
    )
    """Hosts: `www.example.com`, `*.example.com` (any depth below it), `*`. Default: all."""
    path: Annotated[tuple[Annotated[str, AfterValidator(_path)], ...], Field(min_length=1), _OneOrMore] = (
        "/**",
    )
    """Paths: `/exact`, `/prefix/**` (it and all below), `/a/*/b` (any one segment). Default: all."""
    methods: (
        Annotated[tuple[Annotated[str, AfterValidator(_method)], ...], Field(min_length=1), _OneOrMore] | None
    ) = None
    """Methods, like [GET, HEAD]. Default: all."""


ClassPath = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]

POLICIES: dict[str, Any] = {
    "geo": GeoRule,
    "jwt": JwtRule,
    "ab": Annotated[Names, Field(description="Name of an experiment, or a list of them.")],
    "rate_limit": Annotated[Names, Field(description="Name of a rate limit, or a list of them.")],
    "headers": HeadersRule,
    "use": Annotated[ClassPath, Field(description="A policy of your own: `mypackage.module:MyPolicy`.")],
}
"""Word of the YAML -> what stands under it. A new policy is a line here."""


class UseRule(NamedTuple):
    """`use: package.module:Class` with what the class is built from, by keyword."""

    path: str
    options: dict[str, Any]


class PolicyStep(NamedTuple):
    """One item of `policies`: its word, and its section, the names it lists, or a UseRule."""

    word: str
    rule: Model | tuple[str, ...] | UseRule


class _AnyStep(Model):
    with_: dict[str, Any] | None = Field(default=None, alias="with")
    """What the class that `use` names is built from, by keyword."""

    @model_validator(mode="after")
    def _is_one(self) -> _AnyStep:
        words = self.model_fields_set - {"with_"}
        if len(words) != 1:
            found = " and ".join(sorted(words)) or "nothing"
            raise ValueError(f"found {found}, expected one of {', '.join(POLICIES)}; begin each with a `- `")
        if self.with_ is not None and "use" not in words:
            raise ValueError("found `with`, which only goes with `use`")
        return self


_STEP_FIELDS: dict[str, Any] = {word: (kind, None) for word, kind in POLICIES.items()}
_Step = create_model("PolicyStep", __base__=_AnyStep, __doc__="One policy.", **_STEP_FIELDS)


def _to_step(step: _AnyStep) -> PolicyStep:
    word = next(iter(step.model_fields_set - {"with_"}))
    rule = getattr(step, word)
    return PolicyStep(word, UseRule(rule, step.with_ or {}) if word == "use" else rule)


def _as_section(value: object) -> object:
    if value is False:
        return None
    if isinstance(value, dict):
        return cast("object", value)
    raise ValueError("expected a section like {ttl: 30s}, or false for no cache")


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
    rate_limits: dict[Name, RateLimit] = Field(default_factory=dict, max_length=256)
    """Token buckets: name -> rate."""
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
    broken = {problem.path for problem in document.problems}
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


def schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a configuration file, for editors."""
    return editor_schema(Config)
