"""`origins.<name>` in the YAML: where an origin is, and how long and how often we try.

Everything that can be known to be wrong is refused here, when the configuration is built.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from edgeproxy.record import record
from edgeproxy.units import Duration, Model

_HOST_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_-]{1,63})*\.?")
_AUTHORITY = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
_STATUS_RANGE = re.compile(r"([1-5][0-9]{2})(?:-([1-5][0-9]{2}))?")
_TARGET = re.compile(r"/[!-\"$-~]*")


@record
class ServerUrl:
    """One server: scheme, host (without brackets), port."""

    tls: bool
    host: str
    port: int

    @property
    def authority(self) -> str:
        """What a Host field says about it: the default port is left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"


def parse_server(value: object) -> str:
    """`value` when it is an URL like `http://10.0.1.5:8000`. Raises ValueError with what is wrong."""
    server_url(str(value))
    return str(value)


def server_url(text: str) -> ServerUrl:
    """The parts of a server's URL. Raises ValueError."""
    expected = "write scheme, host and port, like http://10.0.1.5:8000 or https://origin.example.com"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{text!r} is not a server ({error}); {expected}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError(f"{text!r} is not a server; {expected}")
    if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError(f"{text!r}: a server has no path, query or password; {expected}")
    if port == 0:
        raise ValueError(f"{text!r}: port 0 cannot be connected to; {expected}")
    if not is_address(host) and _HOST_NAME.fullmatch(host) is None:
        raise ValueError(f"{text!r}: {host!r} is neither a host name nor an IP address; {expected}")
    tls = parts.scheme == "https"
    return ServerUrl(tls, host.lower(), port or (443 if tls else 80))


def is_address(host: str) -> bool:
    """Is `host` an IP literal?"""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def parse_statuses(value: object) -> str:
    """`value` when it is a status or a range of them: `200`, `200-399`. Raises ValueError."""
    match = _STATUS_RANGE.fullmatch(str(value))
    if match is None or (match[2] and match[2] < match[1]):
        raise ValueError(f"{value!r} is not a status or range of them; write it like 200 or 200-399")
    return str(value)


ServerField = Annotated[
    str,
    BeforeValidator(parse_server),
    WithJsonSchema({"type": "string", "pattern": "^https?://[^/]+/?$", "examples": ["http://10.0.1.5:8000"]}),
]
StatusField = Annotated[
    str,
    BeforeValidator(parse_statuses),
    WithJsonSchema({"type": ["string", "integer"], "examples": ["200-399"]}),
]


class Timeouts(Model):
    """How long each phase of an exchange may take."""

    connect: Duration = Field(default=3.0, gt=0)
    """Name look-up, TCP and TLS handshake together."""
    first_byte: Duration = Field(default=15.0, gt=0)
    """From the last byte of the request to the first byte of the response."""
    between_bytes: Duration = Field(default=30.0, gt=0)
    """Between two reads of a response, and between two writes of a request body."""
    idle: Duration = Field(default=60.0, gt=0)
    """How long an unused connection is kept; keep it below the origin's own idle timeout."""
    total: Duration = 0.0
    """From sending the request to the end of the response; 0 means no limit."""


class Queue(Model):
    """What happens when `max_connections` are in use: requests wait in order."""

    size: int = Field(default=256, ge=0, le=65536)
    """How many requests may wait; the next one is answered with 503."""
    timeout: Duration = Field(default=3.0, gt=0)
    """How long one may wait before it is answered with 503."""


class Health(Model):
    """Active probes. One process of the machine probes for all workers."""

    path: str = "/"
    """Target of the probe, sent with GET."""
    interval: Duration = Field(default=5.0, ge=0.1)
    """Time between two probes of one server, varied by a tenth either way."""
    timeout: Duration = Field(default=2.0, gt=0)
    """How long a probe may take before it counts as failed."""
    status: StatusField = "200-399"
    """The status, or range of them, that counts as healthy."""
    rise: int = Field(default=2, ge=1, le=100)
    """Good probes in a row that bring an unhealthy server back."""
    fall: int = Field(default=3, ge=1, le=100)
    """Failed probes in a row that take a server out."""

    @field_validator("path")
    @classmethod
    def _is_target(cls, value: str) -> str:
        if _TARGET.fullmatch(value) is None:
            raise ValueError(f"{value!r} is not a path; write it like /healthz")
        return value

    @property
    def statuses(self) -> tuple[int, int]:
        """Lowest and highest healthy status."""
        low, _, high = self.status.partition("-")
        return int(low), int(high or low)


class Tls(Model):
    """How servers with https:// are verified, and who we say we are."""

    verify: bool = True
    """Check chain and name. Without it anyone on the way can answer for the origin."""
    ca: str | None = None
    """File with the certificates to trust, instead of the system's."""
    server_name: str | None = None
    """Name sent as SNI and checked in the certificate, instead of the server's host."""
    client_cert: str | None = None
    """File with the certificate shown to the origin."""
    client_key: str | None = None
    """File with its private key, when it is not in the same file."""

    @model_validator(mode="after")
    def _key_needs_certificate(self) -> Tls:
        if self.client_key is not None and self.client_cert is None:
            raise ValueError("client_key needs client_cert: a key without its certificate is not shown")
        return self


class Origin(Model):
    """One named origin: servers that answer alike."""

    servers: list[ServerField] = Field(min_length=1, max_length=256)
    """Their URLs: scheme, host and port, without a path."""
    location: tuple[float, float] | None = None
    """Latitude and longitude in degrees, for the origin choice `nearest`."""
    host: str = "preserve"
    """The Host field sent: `preserve` the client's, `server` for the server's own, or a host name."""
    timeouts: Timeouts = Timeouts()
    """Deadlines per phase."""
    max_connections: int = Field(default=1024, ge=1, le=65536)
    """Open connections to all servers together, per worker."""
    max_idle: int = Field(default=64, ge=0, le=65536)
    """Unused connections kept per server and worker."""
    queue: Queue = Queue()
    """What happens beyond `max_connections`."""
    balance: Literal["round_robin", "least_requests"] = "round_robin"
    """In turn, or the less busy of two picked at random."""
    health: Health | None = None
    """Active probes; without them only refused connections are noticed."""
    tls: Tls = Tls()
    """Verification of https:// servers."""
    retries: int = Field(default=1, ge=0, le=16)
    """How many other servers are tried when one cannot be connected to."""
    allow_private: bool = False
    """Let host names resolve to loopback, link-local and metadata addresses. Literal ones always may."""

    @field_validator("servers")
    @classmethod
    def _are_different(cls, value: list[str]) -> list[str]:
        seen: dict[str, str] = {}
        for text in value:
            label = str(server_url(text))
            if label in seen:
                raise ValueError(f"{text!r} is listed twice")
            seen[label] = text
        return value

    @field_validator("location")
    @classmethod
    def _is_on_earth(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not (-90 <= value[0] <= 90 and -180 <= value[1] <= 180):
            raise ValueError("location is [latitude -90..90, longitude -180..180], like [50.11, 8.68]")
        return value

    @field_validator("host")
    @classmethod
    def _is_host(cls, value: str) -> str:
        match = _AUTHORITY.fullmatch(value)
        if match is None or int((match[2] or ":0")[1:]) > 65535:
            raise ValueError(
                f"{value!r} is not a host; write preserve, server, or a name like www.example.com"
            )
        return value

    def host_for(self, url: ServerUrl) -> bytes | None:
        """The Host field for one of the servers; None: the client's."""
        if self.host == "preserve":
            return None
        return (url.authority if self.host == "server" else self.host).encode("ascii")

    @property
    def urls(self) -> list[ServerUrl]:
        """The servers, parsed."""
        return [server_url(text) for text in self.servers]
