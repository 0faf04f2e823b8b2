"""`origins.<name>` in the YAML: where an origin is, and how long and how often we try.

Everything that can be known to be wrong is refused here, when the configuration is built.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import (
    BeforeValidator,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from edgeproxy.origin.servers import ServerEntry, ServerField, ServerUrl, is_host, server_url
from edgeproxy.units import Above0, Duration, Model

_AUTHORITY = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
_STATUS_RANGE = re.compile(r"([1-5][0-9]{2})(?:-([1-5][0-9]{2}))?")
_BALANCE = re.compile(
    r"round_robin|least_requests|sticky:[A-Za-z0-9_.-]{1,64}"
    r"|hash:(client_ip|path|(header|cookie):[A-Za-z0-9_.-]{1,64})"
)
_TARGET = re.compile(r"/[!-\"$-~]*")


def parse_statuses(value: object) -> str:
    """`value` when it is a status or a range of them: `200`, `200-399`. Raises ValueError."""
    match = _STATUS_RANGE.fullmatch(str(value))
    if match is None or (match[2] and match[2] < match[1]):
        raise ValueError(f"{value!r} is not a status or range of them; write it like 200 or 200-399")
    return str(value)


def parse_balance(value: object) -> str:
    """`value` when it names a way to choose among servers. Raises ValueError."""
    if not isinstance(value, str) or _BALANCE.fullmatch(value) is None:
        raise ValueError(
            f"{value!r} is not a balance; write round_robin, least_requests, hash:client_ip, hash:path, "
            "hash:header:X-User, hash:cookie:sid or sticky:edge_server"
        )
    return value


BalanceField = Annotated[
    str,
    BeforeValidator(parse_balance),
    WithJsonSchema({"type": "string", "examples": ["round_robin", "least_requests", "hash:client_ip"]}),
]
StatusField = Annotated[
    str,
    BeforeValidator(parse_statuses),
    WithJsonSchema({"type": ["string", "integer"], "examples": ["200-399"]}),
]


class Timeouts(Model):
    """How long each phase of an exchange may take."""

    connect: Above0 = 3.0
    """Name look-up, TCP and TLS handshake together."""
    first_byte: Above0 = 15.0
    """From the last byte of the request to the first byte of the response."""
    between_bytes: Above0 = 30.0
    """Between two reads of a response, and between two writes of a request body."""
    idle: Above0 = 60.0
    """How long an unused connection is kept; less when the origin's Keep-Alive field says less."""
    max_age: Duration = 0.0
    """How old a connection may become; closed between two requests. 0 means no limit."""
    total: Duration = 0.0
    """From sending the request to the end of the response; 0 means no limit."""


class Queue(Model):
    """What happens when `max_connections` are in use: requests wait in order."""

    size: int = Field(default=256, ge=0, le=65536)
    """How many requests may wait; the next one is answered with 503."""
    timeout: Above0 = 3.0
    """How long one may wait before it is answered with 503."""


class Health(Model):
    """Active probes. One process of the machine probes for all workers."""

    path: str = "/"
    """Target of the probe, sent with GET."""
    interval: Above0 = Field(default=5.0, ge=0.1)
    """Time between two probes of one server, varied by a tenth either way."""
    timeout: Above0 = 2.0
    """How long a probe may take before it counts as failed."""
    status: StatusField = "200-399"
    """The status, or range of them, that counts as healthy."""
    body: str | None = Field(default=None, min_length=1, max_length=1024)
    """Text that must stand in the first 64 KiB of the answer; default: whatever it says."""
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


class Ejection(Model):
    """When a server that answers badly is put aside. Each worker judges for itself."""

    errors: int = Field(default=10, ge=0, le=10000)
    """Answers of 5xx in a row, nothing better between them; 0 for never."""
    failures: int = Field(default=3, ge=0, le=10000)
    """Requests in a row that got no answer: refused, reset, timed out; 0 for never."""
    slower_than: Duration = 0.0
    """An answer that took longer counts as slow; 0 for never."""
    slow: int = Field(default=10, ge=1, le=10000)
    """Slow answers in a row."""
    time: Above0 = 10.0
    """How long it is put aside; twice as long each time it comes back and fails again."""
    longest: Above0 = 300.0
    """The most that this grows to."""
    share: float = Field(default=0.5, ge=0, le=1)
    """The most of all servers that may be put aside at once."""


class BreakerRule(Model):
    """When the origin is not asked at all for a while: nothing that was sent to it got an answer."""

    failures: int = Field(default=20, ge=0, le=100000)
    """Requests in a row without an answer, of any of the servers; 0 for never."""
    time: Above0 = 1.0
    """How long requests are refused until one may try; twice as long each time that one fails."""
    longest: Above0 = 10.0
    """The most that this grows to."""


class RetryRule(Model):
    """How many requests may be tried again, so that retries do not bury an origin."""

    share: float = Field(default=0.2, ge=0, le=1)
    """Of the requests that are answered; what a second earned can be saved for the next one."""
    least: int = Field(default=3, ge=0, le=10000)
    """So many in every second, however few answers there are."""


class HedgeRule(Model):
    """When another server is asked as well: safe methods without a body only, the sooner answer counts."""

    after: Above0
    """How long the first server has said nothing."""
    share: float = Field(default=0.05, gt=0, le=1)
    """The most of the requests that are answered; each takes its place in the retry budget too."""


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

    @field_validator("server_name")
    @classmethod
    def _is_host(cls, value: str | None) -> str | None:
        if value is not None and not is_host(value):
            raise ValueError(f"{value!r} is neither a host name nor an IP address")
        return value

    @model_validator(mode="after")
    def _key_needs_certificate(self) -> Tls:
        if self.client_key is not None and self.client_cert is None:
            raise ValueError("client_key needs client_cert: a key without its certificate is not shown")
        return self


class Origin(Model):
    """One named origin: servers that answer alike."""

    servers: list[ServerField | ServerEntry] = Field(min_length=1, max_length=256)
    """Their URLs: scheme, host and port, without a path. A section says more about one."""
    location: tuple[float, float] | None = None
    """Latitude and longitude in degrees, for the origin choice `nearest`."""
    protocol: Literal["http/1.1", "h2"] = "http/1.1"
    """What the servers speak. `h2` without TLS is sent with prior knowledge (RFC 9113 §3.3)."""
    host: str = "preserve"
    """The Host field sent: `preserve` the client's, `server` for the server's own, or a host name."""
    timeouts: Timeouts = Timeouts()
    """Deadlines per phase."""
    max_connections: int = Field(default=1024, ge=1, le=65536)
    """Open connections to all servers together, per worker; with `h2`, requests at once."""
    max_connections_per_server: int | None = Field(default=None, ge=1, le=65536)
    """The same for one server; default: no limit of its own."""
    max_idle: int = Field(default=64, ge=0, le=65536)
    """Unused connections kept per server and worker."""
    queue: Queue = Queue()
    """What happens beyond `max_connections`."""
    balance: BalanceField = "round_robin"
    """In turn by weight; the less busy of two picked at random; always the same server for the same key;
    or the one that a cookie of ours names."""
    prefer_zone: str | None = Field(default=None, min_length=1, max_length=64)
    """The zone whose servers are asked while at least half of them are well."""
    slow_start: Duration = 0.0
    """How long a server that came back takes to get its full share; 0 for none."""
    panic: float = Field(default=0.25, ge=0, le=1)
    """When fewer servers than this share are believed to be well, all are asked: the belief may be wrong."""
    ejection: Ejection | None = Ejection()
    """When servers that answer badly are put aside; null for never."""
    health: Health | None = None
    """Active probes; without them a server is judged by the requests it gets."""
    tls: Tls = Tls()
    """Verification of https:// servers."""
    breaker: BreakerRule = BreakerRule()
    """When the origin is not asked at all."""
    retry_budget: RetryRule = RetryRule()
    """How many requests may be tried again."""
    hedge: HedgeRule | None = None
    """When a second server is asked because the first one says nothing; default: never."""
    retries: int = Field(default=1, ge=0, le=16)
    """How many other servers are tried when one cannot be connected to."""
    allow_private: bool = False
    """Let host names resolve to loopback, link-local and metadata addresses. Literal ones always may."""

    @field_validator("servers")
    @classmethod
    def _are_different(cls, value: list[str | ServerEntry]) -> list[str | ServerEntry]:
        seen: dict[str, str] = {}
        for each in value:
            text = each if isinstance(each, str) else each.url
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

    @field_validator("hedge")
    @classmethod
    def _can_hedge(cls, value: HedgeRule | None, info: ValidationInfo) -> HedgeRule | None:
        said = info.data  # a section that is wrong itself is not in it
        if value is None:
            return None
        if len(said.get("servers", (1, 2))) < 2:
            raise ValueError("hedge asks another server, and there is only one")
        if said.get("balance", "").startswith("sticky:"):
            raise ValueError("hedge asks another server, and a sticky balance keeps clients with theirs")
        if value.after >= said.get("timeouts", Timeouts()).first_byte:
            raise ValueError("hedge.after must be shorter than timeouts.first_byte, or it never comes to it")
        return value

    def host_for(self, url: ServerUrl) -> bytes | None:
        """The Host field for one of the servers; None: the client's."""
        if self.host == "preserve":
            return None
        return (url.authority if self.host == "server" else self.host).encode("ascii")

    @property
    def entries(self) -> list[ServerEntry]:
        """The servers, each with everything about it."""
        return [ServerEntry(url=each) if isinstance(each, str) else each for each in self.servers]

    @property
    def urls(self) -> list[ServerUrl]:
        """The servers, parsed."""
        return [server_url(each if isinstance(each, str) else each.url) for each in self.servers]
