"""`ab`: experiments. A unit (visitor, client, user) is hashed to a variant, before the cache key.

Rule 1: assignment depends on seed and unit only. The cookie holds a random unit, never a variant,
so it needs no signature: whoever forges one gets a variant that exists, and a cached answer for it.
Rule 2: every request that an experiment sees gets a key part, also those outside of it. Only
names of the configuration come into key, header or label; never what a client sent.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, field_validator, model_validator

from edgeproxy.context import Context, Edit, Op, Verdict
from edgeproxy.http.message import Request, Response
from edgeproxy.policies.ab_hash import (
    as_index,
    bucket_ranges,
    choose_variation,
    fnv1a32,
    fraction_from,
    in_namespace,
    query_value,
)
from edgeproxy.policies.field_names import TOKEN, TOKEN_SAID, FieldName
from edgeproxy.policies.identify import cookie_reader, source
from edgeproxy.record import record
from edgeproxy.units import Duration, Model, Network, NetworkField

_REMEMBERED = 8_192  # units per experiment whose variant is kept
_LONGEST_UNIT = 256  # longer ones are as absent: hashing is paid per character
_UNIT = re.compile(r"[A-Za-z0-9_-]{22}")  # 128 random bits in URL-safe base64
_WORD = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"

Word = Annotated[str, StringConstraints(pattern=_WORD)]


def _token(name: str) -> str:
    if not TOKEN.fullmatch(name):
        raise ValueError(f"{name!r} is not a token: {TOKEN_SAID}")
    return name


Token = Annotated[str, AfterValidator(_token)]


def _unit_source(by: str) -> str:
    if by != "cookie":
        source(by)
    if by == "route":
        raise ValueError(
            "'route' is the same for everybody; draw by cookie, client_ip, claim:PATH or header:NAME"
        )
    return by


class VariantCookie(Model):
    """The cookie that makes a visitor recognisable. It holds 128 random bits and nothing else."""

    name: Token = "edge_ab"
    """Name of the cookie. Experiments with the same name share the visitor."""
    max_age: Duration = 30 * 86_400.0
    """How long browsers keep it. `0`: until they are closed."""
    secure: bool | Literal["auto"] = "auto"
    """Sent back over TLS only. `auto`: when the request that gets it came over TLS."""
    same_site: Literal["strict", "lax", "none"] = "lax"
    """When browsers send it with requests from other sites. `none` needs `secure: true`."""

    @model_validator(mode="after")
    def _none_is_secure(self) -> VariantCookie:
        if self.same_site == "none" and self.secure is not True:
            raise ValueError("browsers drop a cookie with same_site: none unless secure: true is set too")
        return self


class Namespace(Model):
    """A part of a namespace: experiments with disjoint parts of one never share a unit."""

    name: str = Field(min_length=1)
    """Name of the namespace."""
    range: tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]]
    """From (included) and to (excluded), between 0 and 1."""

    @field_validator("range")
    @classmethod
    def _ascending(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] >= value[1]:
            raise ValueError(f"the range {list(value)} is empty; write it like [0, 0.5]")
        return value


class Experiment(Model):
    """Variants and who gets which. Assignment is GrowthBook's (hash version 2)."""

    variants: dict[Word, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        min_length=1, max_length=64
    )
    """Variant -> weight, in any scale. Changing weights moves units; changing `coverage` does not."""
    coverage: float = Field(default=1.0, ge=0, le=1)
    """Share of units that take part. The others get no variant and no header."""
    by: Annotated[str, AfterValidator(_unit_source)] = "cookie"
    """What a unit is: `cookie` (a sticky random id), `client_ip`, `claim:PATH`, `header:NAME`, or the
    application's own `cookie:NAME`. Requests without one do not take part."""
    seed: str | None = None
    """What the hash starts from. Default: the experiment's name. Experiments with one seed agree."""
    cookie: VariantCookie = VariantCookie()
    """The sticky cookie of `by: cookie`."""
    header: FieldName | None = None
    """Field that tells the origin the variant. Default: `X-Variant-<experiment>`."""
    override: bool | tuple[NetworkField, ...] = True
    """May a tester force a variant with a query parameter: everybody, nobody, or these networks."""
    override_parameter: Token | None = None
    """Name of that parameter; its value is a variant or its index. Default: `ab_<experiment>`."""
    namespace: Namespace | None = None
    """Only units in this part of a namespace take part."""

    @field_validator("variants")
    @classmethod
    def _somebody_gets_one(cls, variants: dict[str, float]) -> dict[str, float]:
        if sum(variants.values()) <= 0:
            raise ValueError("all weights are 0; at least one variant needs some")
        return variants


@record
class _Arm:
    """What one variant does to a request. The arm of those outside has no variant and no edit."""

    variant: str
    key_part: bytes
    edit: Edit | None


class _StickyCookie:
    """Reads the random unit from a request, or makes one and the Set-Cookie for it."""

    __slots__ = ("_new_id", "_plain", "_prefix", "_read", "_secure", "_secured", "name")

    def __init__(self, config: VariantCookie, new_id: Callable[[], str]) -> None:
        age = f"; Max-Age={int(config.max_age)}" if config.max_age else ""
        self.name = config.name
        self._read = cookie_reader(config.name)
        self._new_id = new_id
        self._prefix = config.name.encode() + b"="
        self._secure = config.secure
        self._plain = f"; Path=/{age}; HttpOnly; SameSite={config.same_site.capitalize()}".encode()
        self._secured = self._plain + b"; Secure"

    def unit(self, request: Request, ctx: Context) -> str:
        known = self._read(request)
        if known is not None and _UNIT.fullmatch(known):
            return known
        drawn = self._drawn_before(ctx)
        if drawn is not None:
            return drawn
        unit = self._new_id()
        secure = request.secure if self._secure == "auto" else self._secure
        value = self._prefix + unit.encode() + (self._secured if secure else self._plain)
        ctx.to_client.append(Edit(Op.ADD, b"Set-Cookie", value))
        if ctx.recorder is not None:
            ctx.recorder.spoil()
        return unit

    def _drawn_before(self, ctx: Context) -> str | None:
        """The unit that an earlier experiment of this request has drawn: one visitor, one unit."""
        for edit in ctx.to_client:
            if edit.name == b"Set-Cookie" and edit.value.startswith(self._prefix):
                return edit.value[len(self._prefix) :].partition(b";")[0].decode()
        return None


class _Trial:
    """One experiment made ready to draw."""

    __slots__ = (
        "_config", "_networks", "_ranges", "_seeded", "arms", "by", "by_name", "draw", "header", "name",
        "needle", "outside", "parameter", "unit",
    )  # fmt: skip

    def __init__(self, name: str, config: Experiment, new_id: Callable[[], str]) -> None:
        if not re.fullmatch(_WORD, name):
            raise ValueError(f"the experiment {name!r} needs another name: letters, digits and ._- only")
        total = sum(config.variants.values())
        weights = [weight / total for weight in config.variants.values()]
        self.name = name
        self.by = config.by
        self.header = (config.header or f"X-Variant-{name}").encode()
        self.parameter = config.override_parameter or f"ab_{name}"
        self.needle = None if config.override is False else self.parameter.encode() + b"="
        self.arms = [self._arm(variant) for variant in config.variants]
        self.by_name = {arm.variant: arm for arm in self.arms}
        self.outside = _Arm("", b"variant:%b=" % name.encode(), None)
        self.unit = _StickyCookie(config.cookie, new_id).unit if config.by == "cookie" else source(config.by)
        self.draw = lru_cache(_REMEMBERED)(self._draw)
        self._config = config
        self._networks: tuple[Network, ...] | None = (
            config.override if isinstance(config.override, tuple) else None
        )
        self._ranges = bucket_ranges(len(weights), config.coverage, weights)
        self._seeded = fnv1a32(name if config.seed is None else config.seed)

    def _arm(self, variant: str) -> _Arm:
        key_part = f"variant:{self.name}={variant}".encode()
        return _Arm(variant, key_part, Edit(Op.SET, self.header, variant.encode()))

    def _draw(self, unit: str) -> _Arm:
        space = self._config.namespace
        if space is not None and not in_namespace(unit, space.name, *space.range):
            return self.outside
        index = choose_variation(fraction_from(self._seeded, unit), self._ranges)
        return self.outside if index < 0 else self.arms[index]

    def assigned(self, request: Request, ctx: Context) -> _Arm:
        """The arm of the request's unit; outside when it has none."""
        unit = self.unit(request, ctx)
        return self.draw(unit) if unit is not None and len(unit) <= _LONGEST_UNIT else self.outside

    def forced(self, request: Request, ctx: Context) -> _Arm | None:
        """The arm that a tester asks for in the query, if it exists and the client may."""
        if self._networks is not None and not _within(ctx.client, self._networks):
            return None
        value = query_value(self.parameter, request.query.decode("latin-1"))
        if value is None:
            return None
        index = as_index(value, len(self.arms))
        return self.by_name.get(value) or (None if index is None else self.arms[index])


class AbTest:
    """The policy: one or several experiments. `new_id` makes the random unit of a new visitor."""

    name = "ab"
    repeatable = True
    fails_open = False  # without its key part an answer could reach the wrong variant

    def __init__(
        self,
        experiments: Mapping[str, Experiment],
        new_id: Callable[[], str] = lambda: secrets.token_urlsafe(16),
    ) -> None:
        _agree(experiments)
        self._trials = tuple([_Trial(name, each, new_id) for name, each in experiments.items()])
        self.asserted: tuple[bytes, ...] = tuple([trial.header.lower() for trial in self._trials])
        if len(set(self.asserted)) < len(self.asserted):
            raise ValueError("two experiments of one route tell the origin in the same header")

    def __call__(self, request: Request, ctx: Context, /) -> Response | None:
        """Always None: assigns, adds the key parts, and tells the origin."""
        for trial in self._trials:
            forced = None
            if trial.needle is not None and trial.needle in request.query:
                forced = trial.forced(request, ctx)
            arm = trial.assigned(request, ctx) if forced is None else forced
            ctx.key_parts += (arm.key_part,)
            if arm.edit is not None:
                ctx.variants[trial.name] = arm.variant
                ctx.to_origin.append(arm.edit)
            if ctx.notes is not None:
                ctx.note(self.name, Verdict.ALLOW, _why(trial, arm, forced is not None))
        return None


def _agree(experiments: Mapping[str, Experiment]) -> None:
    cookies: dict[str, VariantCookie] = {}
    for name, each in experiments.items():
        if each.by == "cookie" and cookies.setdefault(each.cookie.name, each.cookie) != each.cookie:
            raise ValueError(
                f"{name} describes the cookie {each.cookie.name} otherwise than an experiment beside it"
            )


def _why(trial: _Trial, arm: _Arm, forced: bool) -> str:
    if forced:
        return f"{trial.name}: {arm.variant}, forced by the query parameter {trial.parameter}"
    if arm.edit is None:
        return f"{trial.name}: takes no part (no unit by {trial.by}, or outside coverage or namespace)"
    return f"{trial.name}: {arm.variant}, drawn by {trial.by}"


def _within(client: str, networks: tuple[Network, ...]) -> bool:
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in networks)
