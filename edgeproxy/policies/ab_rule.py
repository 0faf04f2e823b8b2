"""What an experiment of the configuration may say, and what of it makes no sense."""

from __future__ import annotations

import re
from datetime import datetime
from itertools import pairwise
from typing import Annotated, Literal, cast

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from edgeproxy.policies.ab_acts import Variant, Weight
from edgeproxy.policies.condition import WhenField
from edgeproxy.policies.field_names import TOKEN, TOKEN_SAID, FieldName
from edgeproxy.policies.identify import source
from edgeproxy.units import Duration, Model, NetworkField, parse_moment

_WORD = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
NAME = re.compile(_WORD)
Word = Annotated[str, StringConstraints(pattern=_WORD)]
Share = Annotated[float, Field(ge=0, le=1)]
Moment = Annotated[
    datetime,
    BeforeValidator(
        parse_moment, json_schema_input_type=Annotated[str, Field(examples=["2026-03-01T09:00:00Z"])]
    ),
]
Hash = Literal["growthbook", "growthbook-1", "unleash"]
Status = Literal["running", "testing", "paused", "off"]


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


Unit = Annotated[str, AfterValidator(_unit_source)]


def _ascending(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] >= value[1]:
        raise ValueError(f"the range {list(value)} is empty; write it like [0, 0.5]")
    return value


Part = Annotated[tuple[Share, Share], AfterValidator(_ascending)]


def _as_variant(value: float | Variant) -> Variant:
    return value if isinstance(value, Variant) else Variant(weight=value)


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
    range: Part
    """From (included) and to (excluded), between 0 and 1."""


class Filter(Model):
    """Units drawn by another seed: only those that fall into one of the ranges take part."""

    seed: str = Field(min_length=1)
    """What this draw starts from. Experiments that exclude each other share it."""
    ranges: tuple[Part, ...] = Field(min_length=1, max_length=64)
    """Parts of 0 to 1, each from (included) and to (excluded)."""
    by: Unit | None = None
    """What is drawn: as the experiment's `by`, which is the default. Not `cookie`."""

    @field_validator("by")
    @classmethod
    def _is_read_only(cls, by: str | None) -> str | None:
        if by == "cookie":
            raise ValueError("a filter makes no visitors; leave `by` out to draw by the experiment's unit")
        return by


class Holdout(Model):
    """Units that are kept out of every experiment that names the same holdout."""

    name: str = Field(min_length=1)
    """Name of the holdout."""
    share: Share
    """Share of units that is kept out."""


class Sticky(Model):
    """Units keep the variant they once got, whatever weights, coverage or targeting become."""

    version: int = Field(default=0, ge=0, le=9999)
    """Raise it to draw everybody anew."""
    min_version: int = Field(default=0, ge=0, le=9999)
    """Units with a variant of an earlier version take no part any more."""
    cookie: Token | None = None
    """Name of the cookie that holds it. Default: `edge_ab_<experiment>`."""
    max_age: Duration = 180 * 86_400.0
    """How long browsers keep it."""


class Experiment(Model):
    """Variants and who gets which. Assignment is GrowthBook's or Unleash's, to the unit."""

    variants: dict[Word, Weight | Variant] = Field(min_length=1, max_length=64)
    """Variant -> weight, in any scale, or a section with `weight` and what the variant does. Changing
    weights moves units; changing `coverage` does not."""
    coverage: Share = 1.0
    """Share of units that take part. The others get no variant and no header."""
    by: Unit = "cookie"
    """What a unit is: `cookie` (a sticky random id), `client_ip`, `claim:PATH`, `header:NAME`, or the
    application's own `cookie:NAME`. Requests without one do not take part."""
    fallback: Unit | None = None
    """What a unit is where there is none by `by`: `cookie` for visitors not logged in yet. Needs `sticky`,
    which lets them keep their variant when they log in."""
    hash: Hash = "growthbook"
    """Whose SDKs agree with the edge: `growthbook` (hash version 2), `growthbook-1`, or `unleash`."""
    seed: str | None = None
    """What the hash starts from (Unleash: the group id). Default: the experiment's name. Experiments with
    one seed agree."""
    status: Status = "running"
    """`running`; `testing`: `force` and testers only; `paused`: testers only; `off`: nobody."""
    start: Moment | None = None
    """When it begins, like 2026-03-01T09:00:00Z; paused before."""
    stop: Moment | None = None
    """When it ends; paused from then on."""
    when: WhenField | None = None
    """Only requests for which this condition holds take part: `country in [DE] and cookie:plan == pro`."""
    namespace: Namespace | None = None
    """Only units in this part of a namespace take part."""
    filters: tuple[Filter, ...] = Field(default=(), max_length=16)
    """Only units that pass all of them take part; `namespace` is then not asked."""
    holdout: Holdout | None = None
    """Units kept out of all experiments that name it."""
    ranges: dict[Word, Part] | None = None
    """Variant -> its part of 0 to 1, instead of weights and coverage."""
    forced: dict[Word, tuple[str, ...]] = Field(default_factory=dict)
    """Variant -> units that always get it, for testing; they are not counted."""
    force: Word | None = None
    """Everybody who takes part gets this variant."""
    sticky: Sticky | None = None
    """Units keep the variant they once got, in a cookie bound to the unit."""
    cookie: VariantCookie = VariantCookie()
    """The sticky cookie of `by: cookie`."""
    header: FieldName | None = None
    """Field that tells the origin the variant. Default: `X-Variant-<experiment>`."""
    override: bool | tuple[NetworkField, ...] = True
    """May a tester force a variant with a query parameter: everybody, nobody, or these networks."""
    override_parameter: Token | None = None
    """Name of that parameter; its value is a variant or its index. Default: `ab_<experiment>`."""

    @field_validator("variants")
    @classmethod
    def _somebody_gets_one(cls, variants: dict[str, float | Variant]) -> dict[str, float | Variant]:
        if sum(_as_variant(each).weight for each in variants.values()) <= 0:
            raise ValueError("all weights are 0; at least one variant needs some")
        return variants

    @field_validator("forced")
    @classmethod
    def _forces_each_unit_once(cls, forced: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        units = [unit for each in forced.values() for unit in each]
        if len(units) > 1000 or len(set(units)) < len(units):
            raise ValueError("a unit may stand in it once, and 1000 of them at most")
        return forced

    @model_validator(mode="after")
    def _fits_together(self) -> Experiment:
        self._names_its_variants()
        if self.hash == "unleash":
            self._can_be_unleash()
        if self.fallback is not None and self.sticky is None:
            raise ValueError("fallback needs sticky, or visitors change their variant when they log in")
        if self.fallback == self.by:
            raise ValueError("fallback is what by is; name another, or leave it out")
        if self.sticky is not None and self.sticky.min_version > self.sticky.version:
            raise ValueError("sticky.min_version is above sticky.version, so nobody could take part")
        if self.start is not None and self.stop is not None and self.start >= self.stop:
            raise ValueError("stop is not after start")
        return self

    def _names_its_variants(self) -> None:
        named = [*self.forced, *(self.ranges or ()), *([self.force] if self.force is not None else [])]
        unknown = [name for name in named if name not in self.variants]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is none of its variants: {', '.join(self.variants)}")
        if self.ranges is None:
            return
        parts = sorted(self.ranges.values())
        if any(low[1] > high[0] for low, high in pairwise(parts)):
            raise ValueError("two ranges overlap; a unit can have one variant only")

    def _can_be_unleash(self) -> None:
        if any(variant.weight != int(variant.weight) for variant in self.arms.values()):
            raise ValueError("hash: unleash needs whole weights, like 25")
        if self.ranges is not None:
            raise ValueError("hash: unleash knows weights, no ranges")

    @property
    def arms(self) -> dict[str, Variant]:
        """The variants, each as a section."""
        return {name: _as_variant(each) for name, each in self.variants.items()}

    @property
    def shares(self) -> dict[str, float]:
        """Variant -> the share of those who take part that it should get."""
        sizes = {name: variant.weight for name, variant in self.arms.items()}
        if self.ranges is not None:
            sizes = dict.fromkeys(sizes, 0.0) | {
                name: end - start for name, (start, end) in self.ranges.items()
            }
        if self.force is not None:
            sizes = {name: float(name == self.force) for name in sizes}
        total = sum(sizes.values())
        return {name: size / total for name, size in sizes.items()}

    def moves_units_of(self, before: Experiment) -> str:
        """What was changed that gives units another variant in the middle of an experiment; or empty."""
        if self.sticky is not None and before.sticky is not None:
            return ""
        for what in ("seed", "hash", "by", "ranges"):
            if cast("object", getattr(self, what)) != cast("object", getattr(before, what)):
                return what
        return "weights" if self.shares != before.shares and self.force is before.force is None else ""
