"""What an origin is told about a client's place: the fields, and what stands in them.

Rule: clients' copies never pass, whatever a rule tells: an origin that reads one field trusts them all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from edgeproxy.context import Place
from edgeproxy.countries import EU, PlaceSet
from edgeproxy.country_data import COUNTRY_DATA, NO_COUNTRY
from edgeproxy.policies.geo_rule import Fact
from edgeproxy.record import record

Value = str | float | int | None
Groups = Mapping[str, Iterable[str]]
_NOT_IN_FIELDS = re.compile(rb"[^ -$&-~]")  # visible ASCII and spaces, without `%`


@record
class Told:
    """One field: its name, what it is called in the key, the attributes it rests on, and its value."""

    name: bytes
    word: bytes
    attributes: tuple[str, ...]
    value: Callable[[Place], Value]


def _plain(name: bytes, attribute: str) -> Told:
    def value(place: Place) -> Value:
        return getattr(place, attribute)

    return Told(name, attribute.encode(), (attribute,), value)


def _eu(place: Place) -> str:
    return "" if not place.country else "1" if place.country in EU else "0"


def _languages(place: Place) -> str:
    return ", ".join(COUNTRY_DATA.get(place.country, NO_COUNTRY).languages)


def _currency(place: Place) -> str:
    return COUNTRY_DATA.get(place.country, NO_COUNTRY).currency


_FIELDS: dict[Fact, tuple[Told, ...]] = {
    "country": (_plain(b"X-Geo-Country", "country"),),
    "continent": (_plain(b"X-Geo-Continent", "continent"),),
    "eu": (Told(b"X-Geo-EU", b"eu", ("country",), _eu),),
    "subdivision": (_plain(b"X-Geo-Subdivision", "subdivision"),),
    "city": (_plain(b"X-Geo-City", "city"),),
    "postal": (_plain(b"X-Geo-Postal", "postal"),),
    "location": (_plain(b"X-Geo-Latitude", "latitude"), _plain(b"X-Geo-Longitude", "longitude")),
    "time_zone": (_plain(b"X-Geo-Time-Zone", "time_zone"),),
    "asn": (_plain(b"X-Geo-ASN", "asn"),),
    "organisation": (_plain(b"X-Geo-Organisation", "organisation"),),
    "flags": (Told(b"X-Geo-Flags", b"flags", ("flags",), lambda place: ", ".join(place.flags)),),
    "languages": (Told(b"X-Geo-Languages", b"languages", ("country",), _languages),),
    "currency": (Told(b"X-Geo-Currency", b"currency", ("country",), _currency),),
}
_GROUP = b"X-Geo-Group"
ASSERTED = tuple([field.name.lower() for fields in _FIELDS.values() for field in fields] + [_GROUP.lower()])


class Memberships:
    """Which of the configuration's groups a place belongs to."""

    def __init__(self, groups: Groups) -> None:
        self._groups = [(name, PlaceSet([name], groups)) for name in groups]
        found = [attribute for _, places in self._groups for attribute in places.attributes]
        self.attributes = tuple(dict.fromkeys(["country", "continent", *found]))

    def __call__(self, place: Place) -> str:
        """Their names, in the order of the configuration."""
        return ", ".join([name for name, places in self._groups if place in places])


def fields_of(facts: Iterable[Fact], groups: Groups) -> list[Told]:
    """The fields that say these facts."""
    found: list[Told] = []
    for fact in facts:
        if fact == "group":
            members = Memberships(groups)
            found.append(Told(_GROUP, b"group", members.attributes, members))
        else:
            found += _FIELDS[fact]
    return found


def field_value(value: Value) -> bytes:
    """What a fact looks like in a field; empty when unknown. No byte of it can end a line."""
    if value is None:
        return b""
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return _NOT_IN_FIELDS.sub(lambda match: b"%%%02X" % match[0][0], text.strip().encode("utf-8", "replace"))
