"""Sections that belong to no policy, cache rule or origin: edge, server, admin, cache, match."""

from __future__ import annotations

import re
import socket
from typing import Annotated, Literal, cast
from urllib.parse import quote

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    StringConstraints,
    model_validator,
)

from edgeproxy.cache.rule import TAG_FIELDS
from edgeproxy.config.as_yaml import size_text
from edgeproxy.errors import RequestError
from edgeproxy.http.pages import LONGEST, check_page
from edgeproxy.http.target import normalise_path
from edgeproxy.policies.purge_method import PurgeMethod
from edgeproxy.units import Above0, AddressField, Model, NetworkField, Size, as_absent, as_list

_HOST = re.compile(r"\*|(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]")
_METHOD = re.compile(r"[A-Z][A-Z0-9_-]*")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
FieldName = Annotated[str, StringConstraints(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}$")]


_OneOrMore = BeforeValidator(as_list, json_schema_input_type=str | list[str])
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


def as_listener(value: object) -> object:
    return {"address": value} if isinstance(value, str | int) else value


def as_listeners(value: object) -> object:
    return [cast("object", value)] if isinstance(value, str | int | dict) else value


ListenerField = Annotated[
    Listener, BeforeValidator(as_listener, json_schema_input_type=AddressField | Listener)
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
        BeforeValidator(as_listeners, json_schema_input_type=ListenerField | tuple[ListenerField, ...]),
    ] = (Listener(address="0.0.0.0:8080"),)
    """Addresses, each with `proxy_protocol: true` if a balancer in front speaks it. Default: 0.0.0.0:8080."""
    workers: Literal["auto"] | Annotated[int, Field(ge=1, le=128)] = "auto"
    """Worker processes; `auto` is one per core, or as many as a container's quota is worth."""
    trusted_proxies: Annotated[
        tuple[NetworkField, ...], BeforeValidator(as_list, json_schema_input_type=str | list[str])
    ] = ()
    """Networks whose X-Forwarded-For and Forwarded are believed."""
    limits: ServerLimits = ServerLimits()
    """Deadlines and sizes."""
    access_log: AccessLogSection = AccessLogSection()
    """Where each request is written down."""
    error_page: Annotated[str, StringConstraints(max_length=LONGEST), AfterValidator(check_page)] | None = (
        None
    )
    """HTML for browsers that are refused: {status}, {title}, {detail} and, exactly once, {request_id} are
    filled in. Default: a page of ours."""


class Admin(Model):
    """The listener for metrics, health, purge and explain. Keep it away from clients."""

    listen: AddressField | None = Field(default="127.0.0.1:9900", validate_default=True)
    """IP address and port; `null` for none."""
    token: Annotated[SecretStr | None, BeforeValidator(as_absent)] = None
    """Bearer token of purge and explain; without one both answer 403. 16 characters or more when the
    listener is not on loopback."""


def _above(larger: int, bound: str, size: int) -> ValueError:
    """What is wrong with an object_size that never fits."""
    said = f"found object_size {_bytes(larger)}, expected at most {bound}, which is {_bytes(size)}"
    return ValueError(f"{said}; raise the one or lower the other")


def _bytes(size: int) -> str:
    text = size_text(size)
    return text if isinstance(text, str) else f"{text} bytes"


class FilesSection(Model):
    """Bodies too large for memory, in files of their own in the folder of the machine tier."""

    max_bytes: Annotated[Size, Field(ge=2**20)] = 10 * 2**30
    """Bytes of all of them; what nobody asked for longest goes first."""
    object_size: Annotated[Size, Field(gt=0)] = 2**30
    """The largest body that is kept, whether the origin says how long it is or not."""

    @model_validator(mode="after")
    def _fits(self) -> FilesSection:
        if self.object_size > self.max_bytes:
            raise _above(self.object_size, "max_bytes", self.max_bytes)
        return self


LARGEST_RECORD = 128 * 2**20  # bytes; a record is cut into pages, and 65,535 of them can be counted


class MachineSection(Model):
    """A tier below memory that all workers share and that outlives them: one file, never synced."""

    path: Annotated[str, StringConstraints(min_length=1)]
    """Folder on a local disk; made when it is not there. One edge at a time uses it."""
    max_bytes: Annotated[Size, Field(ge=16 * 2**20)] = 1024 * 2**20
    """Bytes of the file; what nobody asks for goes first."""
    object_size: Annotated[Size, Field(gt=0, le=LARGEST_RECORD)] = 256 * 2**10
    """The largest answer that is kept there, head and bookkeeping included; `files` is for larger ones."""
    files: FilesSection | None = None
    """Keep bodies above `cache.object_size` too; default: they are passed on and not kept."""

    @model_validator(mode="after")
    def _fits(self) -> MachineSection:
        if self.object_size * 32 > self.max_bytes:
            raise _above(self.object_size, "a 32nd of max_bytes", self.max_bytes // 32)
        return self


class CacheStore(Model):
    """What all routes share."""

    memory: Size = 64 * 2**20
    """Bytes of stored answers per worker."""
    object_size: Annotated[Size, Field(gt=0)] = 8 * 2**20
    """The largest body that is stored, whatever a route says."""
    machine: MachineSection | None = None
    """The tier below memory; without it, a restart begins with an empty cache."""
    tag_fields: Annotated[tuple[FieldName, ...], Field(max_length=8), _OneOrMore] = TAG_FIELDS
    """Response fields with the tags that a purge may name: words of Surrogate-Key, members of Cache-Tag."""
    strip_tags: bool = False
    """Keep those fields from clients."""
    purge_method: PurgeMethod | None = None
    """Who may send PURGE to the public listener; `null` for nobody."""

    @model_validator(mode="after")
    def _fits(self) -> CacheStore:
        if self.object_size > self.memory > 0:
            raise _above(self.object_size, "memory", self.memory)
        return self


class WebSocketSection(Model):
    """WebSockets of a route. They go through its policies, past its cache, and to its origin."""

    idle: Above0 = 300.0
    """How long nothing may pass in either direction; then both sides are told to go (1001)."""
    tunnels: int = Field(default=1000, ge=1, le=1_000_000)
    """Open at once, per worker: 503."""


class MirrorSection(Model):
    """A shadow origin gets copies of requests that the cache did not answer; its answers are thrown away.
    Requests with a body are not copied."""

    origin: Name
    """Name of the shadow origin."""
    percent: float = Field(default=100.0, ge=0, le=100)
    """How many of them."""


class RateLimitTable(Model):
    """The memory in which all limits count, shared by all workers: 28 bytes a key."""

    keys: int = Field(default=65_536, ge=1024, le=16_777_216)
    """Buckets it has room for; those that are full again, or next to it, make room for others."""
    file: str | None = None
    """File that keeps it over a restart. Default: memory only."""


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
