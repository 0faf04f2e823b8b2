"""`geo`: where a client is, who may come, who is sent elsewhere, and what the origin learns of it.

Rule: whatever the origin is told becomes part of the cache key, so nobody gets another place's answer.
What a rule says about a place is worked out once per country (or what else it tells), not per request.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from operator import attrgetter
from typing import Literal

from pydantic import Field, field_validator

from edgeproxy.context import NOWHERE, Context, Edit, Op, Place, Verdict
from edgeproxy.countries import CONTINENTS, COUNTRIES, GROUPS, PlaceSet, check_place_name
from edgeproxy.http.message import Request, Response
from edgeproxy.http.replies import problem, redirect
from edgeproxy.policies.geo_data import GeoDatabase
from edgeproxy.policies.redirect_target import Target
from edgeproxy.record import record
from edgeproxy.snapshot import Snapshot
from edgeproxy.units import Above0, Model

Fact = Literal["country", "continent", "subdivision", "city", "location", "asn", "organisation"]
"""What an origin can be told about a client."""

# Fact -> (field, attribute of Place) of each field that says it.
_FIELDS: dict[Fact, tuple[tuple[bytes, str], ...]] = {
    "country": ((b"X-Geo-Country", "country"),),
    "continent": ((b"X-Geo-Continent", "continent"),),
    "subdivision": ((b"X-Geo-Subdivision", "subdivision"),),
    "city": ((b"X-Geo-City", "city"),),
    "location": ((b"X-Geo-Latitude", "latitude"), (b"X-Geo-Longitude", "longitude")),
    "asn": ((b"X-Geo-ASN", "asn"),),
    "organisation": ((b"X-Geo-Organisation", "organisation"),),
}
# Clients' copies never pass, whatever a rule tells: an origin that reads one field trusts them all.
ASSERTED = tuple([name.lower() for fields in _FIELDS.values() for name, _ in fields])
_NOT_IN_FIELDS = re.compile(rb"[^ -$&-~]")  # visible ASCII and spaces, without `%`
_GROUP_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_MAX_OUTCOMES = 4096  # per policy: different facts that are remembered


class GeoSection(Model):
    """Where places come from, and words for groups of countries."""

    database: str | list[str] = ""
    """Path of an .mmdb file, or several: the first that knows an attribute wins. Empty: no look-ups."""
    groups: dict[str, list[str]] = Field(default_factory=dict)
    """Name -> countries (ISO 3166 alpha-2), EU, EEA or continents: `dach: [DE, AT, CH]`. Usable wherever
    a country is; EU, EEA and the continents (africa, antarctica, asia, europe, north-america, oceania,
    south-america) are there already."""
    check: Above0 = 5.0
    """Time between two looks at the files; a replaced one is opened and used. Replace by rename."""

    @property
    def paths(self) -> list[str]:
        """The files, always as a list."""
        return [self.database] if self.database and isinstance(self.database, str) else list(self.database)

    @field_validator("groups")
    @classmethod
    def _are_countries(cls, groups: dict[str, list[str]]) -> dict[str, list[str]]:
        for name, members in groups.items():
            if not _GROUP_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name for a group: letters, digits, - and _")
            if name in GROUPS or name in CONTINENTS or name in COUNTRIES:
                raise ValueError(f"{name!r} means something already; give the group another name")
            for member in members:
                check_place_name(member)
        return groups


class GeoRule(Model):
    """What `geo:` in a route's policies may say. Places are countries, groups or continents."""

    allow: tuple[str, ...] = ()
    """Only these may come. Empty: everybody."""
    deny: tuple[str, ...] = ()
    """These may not, even if allowed."""
    unknown: Literal["allow", "deny"] = "allow"
    """What happens to a client whose country nobody knows; also while there is no database."""
    status: Literal[403, 451] = 403
    """Status of a refusal; 451 where the law asks for it (RFC 7725)."""
    redirect: dict[str, str] = Field(default_factory=dict)
    """Place -> URL its visitors are sent to, like `https://de.example.com{path}{query}` or `/de{path}`.
    {path}, {query} (with its `?`) and {country} are filled in. The first place that fits counts."""
    headers: bool | tuple[Fact, ...] = True
    """Tell the origin where the client is: `true` for X-Geo-Country and X-Geo-Continent, or a list of
    country, continent, subdivision, city, location (X-Geo-Latitude, X-Geo-Longitude), asn (X-Geo-ASN) and
    organisation. Answers are cached apart for everything told: ask for more than the country where
    little is cached. Text is percent-encoded UTF-8; what is not known is not sent."""

    @property
    def told(self) -> tuple[Fact, ...]:
        """The facts that `headers` names."""
        if isinstance(self.headers, tuple):
            return tuple(dict.fromkeys(self.headers))
        return ("country", "continent") if self.headers else ()

    @field_validator("redirect")
    @classmethod
    def _are_targets(cls, templates: dict[str, str]) -> dict[str, str]:
        for template in templates.values():
            Target(template)
        return templates

    def wrong_names(self, groups: Iterable[str]) -> Iterator[tuple[str, str]]:
        """(key of the rule, what is wrong) for each place that is no country, continent or group."""
        for key, names in (("allow", self.allow), ("deny", self.deny), ("redirect", self.redirect)):
            for name in names:
                try:
                    check_place_name(name, groups)
                except ValueError as error:
                    yield key, str(error)


@record
class _Outcome:
    """What the rule says about places that do not differ in what it looks at or tells."""

    refused: str  # why, or empty
    target: Target | None
    edits: tuple[Edit, ...]
    key_parts: tuple[bytes, ...]


class Geo:
    """The policy. Looks the client up, then refuses, redirects, or carries on."""

    name = "geo"
    repeatable = True
    asserted = ASSERTED

    def __init__(
        self,
        rule: GeoRule,
        groups: Mapping[str, Iterable[str]],
        database: Snapshot[GeoDatabase | None],
    ) -> None:
        """`groups` are those of the `geo:` section. Raises ValueError for an unknown place."""
        self.fails_open = not (rule.deny or rule.allow or rule.unknown == "deny")
        self._rule = rule
        self._database = database
        self._allow = PlaceSet(rule.allow, groups)
        self._deny = PlaceSet(rule.deny, groups)
        self._targets = [(PlaceSet([name], groups), Target(each)) for name, each in rule.redirect.items()]
        self._fields = [field for fact in rule.told for field in _FIELDS[fact]]
        self._facts = attrgetter("country", "continent", *[attribute for _, attribute in self._fields])
        self._outcomes: dict[object, _Outcome] = {}

    def __call__(self, request: Request, ctx: Context, /) -> Response | None:
        """A refusal, a redirect, or None with `ctx.place` set and the origin's fields added."""
        database = self._database.value
        if ctx.recorder is not None:
            ctx.recorder.reads(self._database, database)
        place = ctx.place = NOWHERE if database is None else database.place(ctx.client)
        outcome = self._outcomes.get(self._facts(place))
        if outcome is None:
            outcome = self._work_out(place)
        if outcome.refused:
            return self._refuse(request, ctx, outcome)
        if outcome.target is not None:
            location = outcome.target.location(request, place.country)
            if location is not None:
                return self._redirect(request, ctx, location)
        ctx.to_origin += outcome.edits
        ctx.key_parts += outcome.key_parts
        if ctx.notes is not None:
            ctx.note(self.name, Verdict.ALLOW, f"{_shown(place)} may come{_told(outcome)}")
        return None

    def _refuse(self, request: Request, ctx: Context, outcome: _Outcome) -> Response:
        if ctx.notes is not None:
            ctx.note(self.name, Verdict.REFUSE, outcome.refused)
        detail = "This is not available where you are."
        return problem(request, ctx, self._rule.status, "geo-denied", detail)

    def _redirect(self, request: Request, ctx: Context, location: bytes) -> Response:
        if ctx.notes is not None:
            where = _shown(ctx.place or NOWHERE)
            ctx.note(self.name, Verdict.ANSWER, f"{where} is redirected to {location.decode('ascii')}")
        return redirect(302 if request.method in (b"GET", b"HEAD") else 307, location)

    def _work_out(self, place: Place) -> _Outcome:
        if len(self._outcomes) >= _MAX_OUTCOMES:
            self._outcomes.clear()
        target = next((target for places, target in self._targets if place in places), None)
        outcome = _Outcome(self._refusal(place), target, *self._assertions(place))
        self._outcomes[self._facts(place)] = outcome
        return outcome

    def _refusal(self, place: Place) -> str:
        if place in self._deny:
            return f"{_shown(place)} is in deny: {', '.join(self._rule.deny)}"
        if place in self._allow:
            return ""
        if not place.country:
            return "country unknown, and unknown: deny" if self._rule.unknown == "deny" else ""
        if self._allow:
            return f"{_shown(place)} is not in allow: {', '.join(self._rule.allow)}"
        return ""

    def _assertions(self, place: Place) -> tuple[tuple[Edit, ...], tuple[bytes, ...]]:
        edits: list[Edit] = []
        key_parts: list[bytes] = []
        for name, attribute in self._fields:
            value = _field_value(getattr(place, attribute))
            key_parts.append(attribute.encode() + b":" + value)
            if value:
                edits.append(Edit(Op.SET, name, value))
        return tuple(edits), tuple(key_parts)


class Locate:
    """Only says where the client is: for routes that choose their origin by place, without `geo`."""

    name = "geo"
    repeatable = True
    fails_open = True
    asserted: tuple[bytes, ...] = ()

    def __init__(self, database: Snapshot[GeoDatabase | None]) -> None:
        self._database = database

    def __call__(self, request: Request, ctx: Context, /) -> Response | None:
        """Always None; sets `ctx.place`."""
        database = self._database.value
        if ctx.recorder is not None:
            ctx.recorder.reads(self._database, database)
        ctx.place = NOWHERE if database is None else database.place(ctx.client)
        if ctx.notes is not None:
            ctx.note(self.name, Verdict.ALLOW, f"located: {_shown(ctx.place)}")
        return None


def _field_value(value: str | float | None) -> bytes:
    """What a fact looks like in a field; empty when unknown. No byte of it can end a line."""
    if value is None:
        return b""
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return _NOT_IN_FIELDS.sub(lambda match: b"%%%02X" % match[0][0], text.strip().encode("utf-8", "replace"))


def _shown(place: Place) -> str:
    known = [place.city, place.subdivision, place.country, place.continent]
    return ", ".join([word for word in known if word]) or "an unknown place"


def _told(outcome: _Outcome) -> str:
    said = [f"{edit.name.decode()}: {edit.value.decode()}" for edit in outcome.edits]
    return f"; the origin is told {', '.join(said)}" if said else ""
