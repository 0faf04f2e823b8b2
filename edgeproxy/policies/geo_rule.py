"""What the configuration may say about places: the `geo` section, and `geo:` among a route's policies."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from edgeproxy.countries import CONTINENTS, COUNTRIES, GROUPS, check_place_name, is_word
from edgeproxy.policies.field_names import FieldName, check_field
from edgeproxy.policies.redirect_target import Target
from edgeproxy.policies.rewriter import check_path
from edgeproxy.units import Above0, Model, NetworkField

Fact = Literal[
    "country", "continent", "eu", "group", "subdivision", "city", "postal", "location", "time_zone", "asn",
    "organisation", "flags", "languages", "currency",
]  # fmt: skip
"""What an origin can be told about a client."""

_GROUP_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


class Override(Model):
    """Testers may say where they are."""

    header: FieldName = "X-Geo-Override"
    """Field that holds a country; origins never see it."""
    networks: tuple[NetworkField, ...] = Field(min_length=1)
    """Whose word is taken."""


class Residency(Model):
    """Clients of some places only ever reach some origins: before fail-over, affinity and variants."""

    places: tuple[str, ...] = Field(min_length=1)
    """Countries, groups or continents."""
    origins: tuple[str, ...] = Field(min_length=1)
    """The only origins for them. While all of these are down, so is the service."""

    @field_validator("places")
    @classmethod
    def _are_known_places(cls, places: tuple[str, ...]) -> tuple[str, ...]:
        if "unknown" in places or "private" in places:
            raise ValueError("unknown and private are no places that data could have to stay in")
        return places


class GeoSection(Model):
    """Where places come from, and words for groups of countries."""

    database: str | list[str] = ""
    """Path of an .mmdb file, or several: the first that knows an attribute wins. Empty: no look-ups."""
    groups: dict[str, list[str]] = Field(default_factory=dict)
    """Name -> countries (ISO 3166 alpha-2), EU, EEA or continents: `dach: [DE, AT, CH]`. Usable wherever
    a country is; EU, EEA and the continents (africa, antarctica, asia, europe, north-america, oceania,
    south-america) are there already, and so are subdivisions (US-CA), networks (AS15169), what they are used
    for (anonymous, anycast, hosting, proxy, residential-proxy, satellite, tor, vpn), unknown and private."""
    check: Above0 = 5.0
    """Time between two looks at the files; a replaced one is opened and used. Replace by rename."""
    residency: tuple[Residency, ...] = Field(default=(), max_length=64)
    """Places whose clients only ever reach certain origins. The first that fits counts."""
    override: Override | None = None
    """A field by which testers say where they are. Default: none."""

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
            if name in GROUPS or name in CONTINENTS or name in COUNTRIES or is_word(name):
                raise ValueError(f"{name!r} means something already; give the group another name")
            for member in members:
                check_place_name(member)
        return groups

    @model_validator(mode="after")
    def _residency_names_places(self) -> GeoSection:
        for rule in self.residency:
            for place in rule.places:
                check_place_name(place, self.groups)
        return self


def _fields(fields: dict[str, str]) -> dict[str, str]:
    for name, value in fields.items():
        check_field(name, value)
    return fields


class GeoRule(Model):
    """What `geo:` in a route's policies may say. Places are countries, groups, continents, and other words
    of the `geo` section."""

    allow: tuple[str, ...] = ()
    """Only these may come. Empty: everybody."""
    deny: tuple[str, ...] = ()
    """These may not, even if allowed."""
    unknown: Literal["allow", "deny"] = "allow"
    """What happens to a client whose country nobody knows; also while there is no database."""
    private: Literal["allow", "deny"] | None = None
    """What happens to a client of a private network that no database knows. Default: as `unknown` says."""
    status: Literal[403, 451] = 403
    """Status of a refusal; 451 where the law asks for it (RFC 7725)."""
    redirect: dict[str, str] = Field(default_factory=dict)
    """Place -> URL its visitors are sent to, like `https://de.example.com{path}{query}` or `/de{path}`.
    {path}, {query} (with its `?`) and {country} are filled in. The first place that fits counts."""
    rewrite: dict[str, str] = Field(default_factory=dict)
    """Place -> path that the origin is asked for, like `/de{path}`. The first place that fits counts."""
    set: dict[str, dict[str, str]] = Field(default_factory=dict)
    """Place -> fields that the origin gets, like `dach: {X-Market: central}`. All places that fit count, a
    later one over an earlier one. Clients cannot send these fields."""
    headers: bool | tuple[Fact, ...] = True
    """Tell the origin where the client is: `true` for X-Geo-Country and X-Geo-Continent, or a list of
    country, continent, eu (X-Geo-EU: 1 or 0), group (X-Geo-Group: your groups it belongs to), subdivision,
    city, postal, location (X-Geo-Latitude, X-Geo-Longitude), time_zone (X-Geo-Time-Zone), asn (X-Geo-ASN),
    organisation, flags (X-Geo-Flags: what its network is used for), languages and currency of the country.
    Answers are cached apart for everything told: ask for `group` rather than `country` where that is enough.
    Text is percent-encoded UTF-8; what is not known is not sent."""

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

    @field_validator("rewrite")
    @classmethod
    def _are_paths(cls, templates: dict[str, str]) -> dict[str, str]:
        for template in templates.values():
            check_path(template)
        return templates

    @field_validator("set")
    @classmethod
    def _are_fields(cls, places: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
        for fields in places.values():
            _fields(fields)
        return places
