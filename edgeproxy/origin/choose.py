"""Which origin a request goes to: one name, by the client's country, or the nearest that is well.

Rule 1: an origin named for a country stays the origin of that country, even while it is down; only
`nearest` goes elsewhere, because only there has the configuration allowed it.
Rule 2: `intended` names the origin whatever its health, for the cache key: what was stored before an
origin went down can be used while another stands in for it.
Rule 3: back only after the nearer one has been well for a while, so that nobody is sent to and fro.
Rule 4: where residency says that clients of a place only ever reach some origins, nothing else counts:
no fail-over, no affinity, no variant, no mirror leads out of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Annotated

from pydantic import Field

from edgeproxy.context import NOWHERE, Context, Place
from edgeproxy.countries import PlaceSet
from edgeproxy.origin.keep import AffinityRule
from edgeproxy.units import Duration, Model

NEAREST = "nearest"
Location = tuple[float, float]
"""Latitude and longitude in degrees."""

Residency = Sequence[tuple[Sequence[str], Sequence[str]]]
"""(words for places, names of origins); the first that fits counts."""

_REMEMBERED = 8192  # entries of each memo; when full it starts anew


class OriginRule(Model):
    """A choice of origin by where the client is."""

    by_country: dict[str, str] = Field(default_factory=dict)
    """Country, group or continent -> origin's name. The first that fits counts: put narrow ones first."""
    otherwise: str = NEAREST
    """The origin of everybody else: a name, or `nearest` for the closest healthy one."""
    return_after: Duration = 10.0
    """How long a nearer origin must have been well until `nearest` goes back to it."""
    bias: dict[str, Annotated[float, Field(gt=0, le=100)]] = Field(default_factory=dict)
    """Origin -> factor on its distance for `nearest`: 0.5 makes it seem half as far, 2 twice."""
    affinity: AffinityRule | None = None
    """Clients stay with the origin they once got, by a signed cookie, while it is healthy. Default: no."""


class OriginChoice:
    """The choice of one route, ready to run.

    `varies`: there is more than one origin it may name, else `only` is the one. `needs_place`:
    `ctx.place` must be set first (by a `geo` policy, or `policies.geo_locate.Locate`).
    """

    def __init__(
        self,
        rule: str | OriginRule,
        locations: Mapping[str, Location | None],
        edge_location: Location | None,
        groups: Mapping[str, Iterable[str]],
        healthy: Callable[[str], bool],
        residency: Residency = (),
    ) -> None:
        """`locations` has every origin; `edge_location` stands in for clients whose place is unknown.

        Raises ValueError for an unknown place, or `nearest` without any located origin.
        """
        chosen = OriginRule(otherwise=rule) if isinstance(rule, str) else rule
        self._rows = [(PlaceSet([place], groups), name) for place, name in chosen.by_country.items()]
        self._residency = [(PlaceSet(places, groups), tuple(names)) for places, names in residency]
        self._otherwise = chosen.otherwise
        self._located = {name: at for name, at in locations.items() if at is not None}
        if self._otherwise == NEAREST and not self._located:
            raise ValueError("nearest needs an origin with a location")
        self._edge_location = edge_location
        self._healthy = healthy
        self._bias = chosen.bias
        self._return_after = chosen.return_after
        self._shunned_until: dict[str, float] = {}  # origins that were ill when last looked at
        looked_at = [name for places, _ in (*self._rows, *self._residency) for name in places.attributes]
        self._facts = attrgetter(*dict.fromkeys(["country", "continent", *looked_at]))
        self._by_place: dict[object, tuple[str, tuple[str, ...]]] = {}
        self._by_distance: dict[tuple[Location | None, tuple[str, ...]], tuple[str, ...]] = {}
        possible = {name for _, name in self._rows}
        possible |= set(self._located) if self._otherwise == NEAREST else {self._otherwise}
        if not possible.isdisjoint({NEAREST}):
            possible = (possible - {NEAREST}) | set(self._located)
        confined = [names for _, names in self._residency if not possible.issubset(names)]
        self.possible = frozenset(possible.union(*confined))
        self.varies = len(self.possible) > 1
        self.needs_place = self.varies or bool(self._residency)
        self.only = "" if self.varies else next(iter(self.possible))

    def __call__(self, ctx: Context) -> str:
        """The origin's name. The client is told to stay with it, where that is wished."""
        if self.only and not ctx.origin_named:
            return self.only
        name = self._chosen(ctx)
        keeper = ctx.keeper
        if keeper is not None and name != keeper[0] and name in keeper[1]:
            ctx.to_client.append(keeper[1][name])
        return name

    def intended(self, ctx: Context) -> str:
        """The name that `__call__` gives while every origin is well."""
        if self.only and not ctx.origin_named:
            return self.only
        place = ctx.place or NOWHERE
        name, allowed = self._placed(place)
        name = ctx.origin_named or self._kept(ctx) or name
        if name == NEAREST or (allowed and name not in allowed):
            return self._ranked(_location(place), allowed)[0]
        return name

    def _chosen(self, ctx: Context) -> str:
        place = ctx.place or NOWHERE
        name, allowed = self._placed(place)
        kept = self._kept(ctx)
        if kept and not self._healthy(kept):
            kept = ""
        name = ctx.origin_named or kept or name
        if name == NEAREST or (allowed and name not in allowed):
            return self._nearest(place, ctx.now, allowed)
        return name

    def _kept(self, ctx: Context) -> str:
        """The origin that the client had before, if it can be of this route."""
        keeper = ctx.keeper
        return keeper[0] if keeper is not None and keeper[0] in self.possible else ""

    def allows(self, name: str, ctx: Context) -> bool:
        """Does residency let this client reach the origin `name`?"""
        _, allowed = self._placed(ctx.place or NOWHERE)
        return not allowed or name in allowed

    def explain(self, ctx: Context) -> str:
        """Why `__call__` names what it names, in a sentence."""
        if self.only and not ctx.origin_named:
            return f"{self.only}: the only origin of this route"
        name = self._chosen(ctx)
        place = ctx.place or NOWHERE
        where = place.country or place.continent or "an unknown place"
        ruled, allowed = self._placed(place)
        wanted = ctx.origin_named or self._kept(ctx) or ruled
        if allowed and wanted != NEAREST and wanted not in allowed:
            return f"{name}: residency of {where} allows {', '.join(allowed)}, not {wanted}"
        if ctx.origin_named:
            return f"{name}: named by a policy"
        if name == self._kept(ctx):
            return f"{name}: the client's cookie says so"
        if ruled != NEAREST:
            listed = any(place in places for places, _ in self._rows)
            return f"{name}: {'by_country has' if listed else 'otherwise, for'} {where}"
        at = _location(place)
        whence = "the client" if at is not None else "the edge (the client's place is unknown)"
        if at is None and self._edge_location is None:
            whence = "nowhere known, in the order of the configuration"
        ranked = self._ranked(at, allowed)
        passed = [each for each in ranked if each != name and not self._fit(each, ctx.now)]
        down = f"; not healthy, or not for long enough: {', '.join(passed)}" if passed else ""
        confined = f" among {', '.join(allowed)}, by residency" if allowed else ""
        return f"{name}: nearest to {whence}{confined}{down}"

    def _placed(self, place: Place) -> tuple[str, tuple[str, ...]]:
        """What the rule names for a place, and the only origins it may reach; none when all."""
        facts = self._facts(place)
        found = self._by_place.get(facts)
        if found is None:
            name = next((name for places, name in self._rows if place in places), self._otherwise)
            allowed = next((names for places, names in self._residency if place in places), ())
            if len(self._by_place) >= _REMEMBERED:
                self._by_place.clear()
            found = self._by_place[facts] = (name, allowed)
        return found

    def _nearest(self, place: Place, now: float, allowed: tuple[str, ...]) -> str:
        ranked = self._ranked(_location(place), allowed)
        for name in ranked:
            if self._fit(name, now):
                return name
        return next((name for name in ranked if self._healthy(name)), ranked[0])

    def _fit(self, name: str, now: float) -> bool:
        """Is it well, and has it been since it was last seen ill and long enough after that?"""
        if not self._healthy(name):
            self._shunned_until[name] = now + self._return_after
            return False
        return not self._shunned_until or now >= self._shunned_until.get(name, now)

    def _ranked(self, at: Location | None, allowed: tuple[str, ...]) -> tuple[str, ...]:
        """The located origins, or those allowed, nearest first; as configured when nothing is known to be
        near to. What has no location comes last."""
        ranked = self._by_distance.get((at, allowed))
        if ranked is None:
            start = self._edge_location if at is None else at
            ranked = allowed or tuple(self._located)
            if start is not None:
                ranked = tuple(sorted(ranked, key=lambda name: self._distance(start, name)))
            if len(self._by_distance) >= _REMEMBERED:
                self._by_distance.clear()
            self._by_distance[at, allowed] = ranked
        return ranked

    def _distance(self, start: Location, name: str) -> float:
        at = self._located.get(name)
        return math.inf if at is None else distance(start, at) * self._bias.get(name, 1.0)


def distance(one: Location, other: Location) -> float:
    """Kilometres along the great circle (haversine)."""
    latitude, longitude = math.radians(one[0]), math.radians(one[1])
    to_latitude, to_longitude = math.radians(other[0]), math.radians(other[1])
    half = (
        math.sin((to_latitude - latitude) / 2) ** 2
        + math.cos(latitude) * math.cos(to_latitude) * math.sin((to_longitude - longitude) / 2) ** 2
    )
    return 2 * 6371.0088 * math.asin(math.sqrt(min(1.0, half)))


def _location(place: Place) -> Location | None:
    if place.latitude is None or place.longitude is None:
        return None
    return place.latitude, place.longitude
