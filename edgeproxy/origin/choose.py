"""Which origin a request goes to: one name, by the client's country, or the nearest that is well.

Rule 1: an origin named for a country stays the origin of that country, even while it is down; only
`nearest` goes elsewhere, because only there has the configuration allowed it.
Rule 2: `intended` names the origin whatever its health, for the cache key: what was stored before an
origin went down can be used while another stands in for it.
Rule 3: back only after the nearer one has been well for a while, so that nobody is sent to and fro.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping

from pydantic import Field

from edgeproxy.context import NOWHERE, Context, Place
from edgeproxy.countries import PlaceSet, check_place_name
from edgeproxy.units import Duration, Model

NEAREST = "nearest"
Location = tuple[float, float]
"""Latitude and longitude in degrees."""

_REMEMBERED = 8192  # entries of each memo; when full it starts anew


class OriginRule(Model):
    """A choice of origin by where the client is."""

    by_country: dict[str, str] = Field(default_factory=dict)
    """Country, group or continent -> origin's name. The first that fits counts: put narrow ones first."""
    otherwise: str = NEAREST
    """The origin of everybody else: a name, or `nearest` for the closest healthy one."""
    return_after: Duration = 10.0
    """How long a nearer origin must have been well until `nearest` goes back to it."""

    def wrong_names(self, groups: Iterable[str]) -> Iterator[tuple[str, str]]:
        """(key of by_country, what is wrong) for each that is no country, continent or group."""
        for name in self.by_country:
            try:
                check_place_name(name, groups)
            except ValueError as error:
                yield name, str(error)


class OriginChoice:
    """The choice of one route, ready to run.

    `varies`: there is more than one origin it may name, else `only` is the one. `needs_place`:
    `ctx.place` must be set first (by a `geo` policy, or `policies.geo.Locate`).
    """

    def __init__(
        self,
        rule: str | OriginRule,
        locations: Mapping[str, Location | None],
        edge_location: Location | None,
        groups: Mapping[str, Iterable[str]],
        healthy: Callable[[str], bool],
    ) -> None:
        """`locations` has every origin; `edge_location` stands in for clients whose place is unknown.

        Raises ValueError for an unknown place, or `nearest` without any located origin.
        """
        chosen = OriginRule(otherwise=rule) if isinstance(rule, str) else rule
        self._rows = [(PlaceSet([place], groups), name) for place, name in chosen.by_country.items()]
        self._otherwise = chosen.otherwise
        self._located = {name: at for name, at in locations.items() if at is not None}
        if self._otherwise == NEAREST and not self._located:
            raise ValueError("nearest needs an origin with a location")
        self._edge_location = edge_location
        self._healthy = healthy
        self._return_after = chosen.return_after
        self._shunned_until: dict[str, float] = {}  # origins that were ill when last looked at
        self._by_place: dict[tuple[str, str], str] = {}
        self._by_distance: dict[Location | None, tuple[str, ...]] = {}
        possible = {name for _, name in self._rows}
        possible |= set(self._located) if self._otherwise == NEAREST else {self._otherwise}
        self.varies = len(possible) > 1
        self.needs_place = self.varies
        self.only = "" if self.varies else next(iter(possible))

    def __call__(self, ctx: Context) -> str:
        """The origin's name."""
        if self.only:
            return self.only
        place = ctx.place or NOWHERE
        name = self._by_place.get((place.country, place.continent)) or self._named(place)
        return self._nearest(place, ctx.now) if name == NEAREST else name

    def intended(self, ctx: Context) -> str:
        """The name that `__call__` gives while every origin is well."""
        if self.only:
            return self.only
        place = ctx.place or NOWHERE
        name = self._by_place.get((place.country, place.continent)) or self._named(place)
        return self._ranked(_location(place))[0] if name == NEAREST else name

    def explain(self, ctx: Context) -> str:
        """Why `__call__` names what it names, in a sentence."""
        name = self(ctx)
        place = ctx.place or NOWHERE
        if self.only:
            return f"{name}: the only origin of this route"
        if self._named(place) != NEAREST:
            listed = any(place in places for places, _ in self._rows)
            where = place.country or place.continent or "an unknown place"
            return f"{name}: {'by_country has' if listed else 'otherwise, for'} {where}"
        at = _location(place)
        whence = "the client" if at is not None else "the edge (the client's place is unknown)"
        if at is None and self._edge_location is None:
            whence = "nowhere known, in the order of the configuration"
        passed = [each for each in self._ranked(at) if each != name and not self._fit(each, ctx.now)]
        down = f"; not healthy, or not for long enough: {', '.join(passed)}" if passed else ""
        return f"{name}: nearest to {whence}{down}"

    def _named(self, place: Place) -> str:
        name = next((name for places, name in self._rows if place in places), self._otherwise)
        if len(self._by_place) >= _REMEMBERED:
            self._by_place.clear()
        self._by_place[place.country, place.continent] = name
        return name

    def _nearest(self, place: Place, now: float) -> str:
        ranked = self._ranked(_location(place))
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

    def _ranked(self, at: Location | None) -> tuple[str, ...]:
        """The located origins, nearest first; as configured when nothing is known to be near to."""
        ranked = self._by_distance.get(at)
        if ranked is None:
            start = self._edge_location if at is None else at
            ranked = tuple(self._located)
            if start is not None:
                ranked = tuple(sorted(ranked, key=lambda name: distance(start, self._located[name])))
            if len(self._by_distance) >= _REMEMBERED:
                self._by_distance.clear()
            self._by_distance[at] = ranked
        return ranked


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
