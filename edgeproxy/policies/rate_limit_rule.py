"""What a limit of `rate_limits` may say: a token bucket, a quota of the calendar, or so many at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, cast

from pydantic import Field, StringConstraints, field_validator, model_validator

from edgeproxy.policies.bucket_table import SECOND
from edgeproxy.policies.condition import WhenField
from edgeproxy.policies.identify import SourceField
from edgeproxy.policies.in_flight_table import MOST
from edgeproxy.units import Duration, Model, Rate, RateField, Size

_LONGEST_REFILL = 400 * 86_400
_LONGEST_DELAY = 30.0
_MOST_COST = 1_000_000
_KINDS = ("rate", "quota", "in_flight")
BY_CLIENT = ("client_ip",)

Method = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z-]*$")]
Price = Annotated[int, Field(ge=0, le=_MOST_COST)]


class Cost(Model):
    """What a request costs, in units of the limit."""

    request: Price = 1
    """What every request costs."""
    methods: dict[Method, Price] = Field(default_factory=dict)
    """Method -> what such a request costs in its place."""
    per_size: Size | None = None
    """One more for each so many bytes of the answer's body, charged when it has been sent."""
    per_origin_time: Duration | None = None
    """One more for each so much time that the origin took to answer, charged afterwards."""

    @model_validator(mode="after")
    def _divides(self) -> Cost:
        if self.per_size == 0 or self.per_origin_time == 0:
            raise ValueError("per_size and per_origin_time divide: write more than 0, or leave them out")
        return self

    @property
    def later(self) -> bool:
        """Is a part of it known only afterwards?"""
        return self.per_size is not None or self.per_origin_time is not None

    @property
    def usual(self) -> bool:
        """Is it 1, whatever the request?"""
        return self.request == 1 and not self.methods and not self.later


class Penalty(Model):
    """Who does not heed refusals is not listened to for a while."""

    after: int = Field(ge=1, le=100_000)
    """So many refusals put a key into the box."""
    within: Duration = 60.0
    """When they come within this time."""
    time: Duration = 600.0
    """How long it stays there: 429 for everything, and nothing is spent."""

    @model_validator(mode="after")
    def _takes_time(self) -> Penalty:
        if not (0 < self.within <= _LONGEST_REFILL and 0 < self.time <= _LONGEST_REFILL):
            raise ValueError("within and time are more than 0s, and 400d at most")
        return self


class _Figures(Model):
    rate: RateField | None = None
    """How fast requests are regained: `100/s`, `600/m`, `5000/h`, `10000/d`. At most 1000000/s."""
    burst: int | None = Field(default=None, ge=1)
    """How many requests may come at once. Default: what `rate` gives in one second, at least 1."""
    quota: RateField | None = None
    """In the place of `rate`: so many in each minute, hour or day of the calendar (UTC)."""
    in_flight: int | None = Field(default=None, ge=1, le=MOST)
    """In the place of `rate`: so many requests under way at once."""

    @property
    def kind(self) -> str:
        """Which of `rate`, `quota` and `in_flight` it has."""
        return next((kind for kind in _KINDS if getattr(self, kind) is not None), "")

    @property
    def burst_size(self) -> int:
        """`burst` or its default; the count of a quota."""
        if self.quota is not None:
            return int(self.quota.count)
        return self.burst or max(1, int(self._pace.per_second))

    @property
    def interval(self) -> int:
        """Nanoseconds in which one more is regained. That of a quota fits so often into its window."""
        pace = self._pace
        return (
            round(pace.seconds * SECOND / pace.count)
            if self.rate
            else int(pace.seconds * SECOND // pace.count)
        )

    @property
    def _pace(self) -> Rate:
        return cast(Rate, self.rate or self.quota)

    @model_validator(mode="after")
    def _fits_the_bucket(self) -> _Figures:
        kinds = [kind for kind in _KINDS if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError(f"found {' and '.join(kinds) or 'none'} of rate, quota, in_flight, expected one")
        if self.burst is not None and self.rate is None:
            raise ValueError(f"found burst beside {kinds[0]}, expected it beside rate")
        if self.rate is not None:
            rate: Rate = self.rate
            if rate.per_second > 1e6:
                raise ValueError("the rate is above 1000000/s, which the bucket cannot count exactly")
            if self.burst_size / rate.per_second > _LONGEST_REFILL:
                raise ValueError(
                    "the burst takes more than 400 days to be regained; lower it or raise the rate"
                )
        if self.quota is not None:
            quota: Rate = self.quota
            if quota.seconds < 60 or quota.count != int(quota.count) or quota.count > 1e9:
                raise ValueError("a quota is a whole number per m, h or d, like 10000/d; at most 1000000000")
        return self


class Override(_Figures):
    """Other figures for some requests."""

    when: WhenField
    """For which: `claim:plan == gold`, `client in [192.0.2.0/24]`, `header:X-Api-Key == k1`."""


class RateLimit(_Figures):
    """A limit: a bucket of `burst` requests regained at `rate`; or a `quota`; or so many `in_flight`."""

    by: SourceField | tuple[SourceField, ...] = "client_ip"
    """Who is counted: `client_ip`, `route`, `header:NAME`, `claim:PATH`, `cookie:NAME`, or a list of them
    for the combination. Headers and cookies are the client's to choose: combine them with `client_ip`."""
    ipv6_prefix: int = Field(default=64, ge=32, le=128)
    """IPv6 clients are counted by network of this length, because one customer gets a whole /64."""
    on_missing: Literal["skip", "client_ip", "deny"] = "client_ip"
    """When a header, claim or cookie to count by is absent: do not count, count by client address in its
    place, or refuse with 403."""
    on_error: Literal["allow", "deny"] = "allow"
    """What to do with a request when the limiter itself fails."""
    cost: Price | Cost = 1
    """What a request costs: a number, or by method, size of the answer and time of the origin."""
    exempt: WhenField = ""
    """Requests for which this condition holds are not counted: `client in [10.0.0.0/8]`."""
    overrides: tuple[Override, ...] = Field(default=(), max_length=32)
    """Other figures for some: the first whose `when` holds."""
    delay: Duration = 0.0
    """How long a request may wait for its turn before it is refused; 0 for not at all, 30s at most."""
    delay_queue: int = Field(default=1000, ge=1, le=100_000)
    """How many requests may wait at once, per worker and route; others are refused."""
    penalty: Penalty | None = None
    """A box for keys that are refused again and again."""

    @field_validator("by")
    @classmethod
    def _names_somebody(cls, by: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not by:
            raise ValueError(
                "an empty list counts nobody; write at least one of client_ip, route, header:NAME"
            )
        return by

    @model_validator(mode="after")
    def _goes_together(self) -> RateLimit:
        if any(other.kind != self.kind for other in self.overrides):
            raise ValueError(
                f"found an override without {self.kind}, expected all to have it: this limit has"
            )
        if self.delay and self.rate is None:
            raise ValueError(f"found delay beside {self.kind}, expected it beside rate")
        if self.delay > _LONGEST_DELAY:
            raise ValueError("found a delay of more than 30s; clients do not wait so long")
        if self.in_flight is not None and not self.price.usual:
            raise ValueError("found cost beside in_flight, expected none: each request is one")
        largest = max([self.price.request, *self.price.methods.values()])
        smallest = min(figures.burst_size for figures in (self, *self.overrides)) if not self.in_flight else 0
        if self.in_flight is None and largest > smallest:
            raise ValueError(
                f"a request may cost {largest}, more than the {smallest} that may be spent at once"
            )
        return self

    @property
    def price(self) -> Cost:
        """`cost`, always as a section."""
        return self.cost if isinstance(self.cost, Cost) else Cost(request=self.cost)

    @property
    def plain(self) -> bool:
        """Is it a token bucket and no more? Then the short way is enough."""
        extras = (self.exempt, self.overrides, self.delay, self.penalty)
        return self.rate is not None and self.price.usual and not any(extras)

    @property
    def sources(self) -> tuple[str, ...]:
        """What `by` names, always as a tuple."""
        return (self.by,) if isinstance(self.by, str) else self.by

    def conditions(self) -> Iterator[str]:
        """The conditions in it."""
        if self.exempt:
            yield self.exempt
        yield from (other.when for other in self.overrides)
