"""What geo databases say about addresses: one `Place` per network.

Rule: a look-up never raises. A database that breaks at some address knows nothing about it, which
is counted, and the request is served as one without a country.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Protocol, cast

from cachetools import LRUCache

from edgeproxy.context import NOWHERE, Place
from edgeproxy.countries import CONTINENTS, COUNTRIES, FLAGS

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_ADDRESSES = 65_536
MAX_NETWORKS = 65_536

_CONTINENTS = frozenset(CONTINENTS.values())
_ORGANISATION = ("autonomous_system_organization", "as_organization", "as_name", "organization")
_FLAGS = {  # of MaxMind's records -> our word
    "is_anonymous": "anonymous",
    "is_anonymous_proxy": "anonymous",
    "is_anonymous_vpn": "vpn",
    "is_anycast": "anycast",
    "is_hosting_provider": "hosting",
    "is_public_proxy": "proxy",
    "is_residential_proxy": "residential-proxy",
    "is_satellite_provider": "satellite",
    "is_tor_exit_node": "tor",
}
_NOT_PUBLIC = [  # RFC 1918, 3927, 4193, 4291, 6598: nobody can say where these are
    ipaddress.ip_network(text)
    for text in (
        "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16",
        "::1/128", "fc00::/7", "fe80::/10",
    )
]  # fmt: skip
PRIVATE = Place(private=True)
LATEST = 2**33  # seconds; a build time beyond the year 2242 is none


class Metadata(Protocol):
    """The part of `maxminddb.reader.Metadata` that is needed here."""

    @property
    def node_count(self) -> int: ...
    @property
    def build_epoch(self) -> int: ...
    @property
    def ip_version(self) -> int: ...


class Reader(Protocol):
    """The part of `maxminddb.Reader` that is needed here."""

    def metadata(self) -> Metadata: ...
    def get_with_prefix_len(self, ip_address: Address, /) -> tuple[Any, int]: ...


class GeoCounts:
    """What look-ups came to; carried from one database to the next, so that it only grows."""

    __slots__ = ("errors", "known", "unknown")

    def __init__(self) -> None:
        self.known = 0  # addresses looked up (not remembered) that have a country
        self.unknown = 0  # and that have none
        self.errors = 0  # times that a database failed at an address


class GeoDatabase:
    """The opened databases of one load. A warm look-up costs one dict access."""

    def __init__(self, readers: Sequence[Reader], counts: GeoCounts | None = None) -> None:
        """`readers` in order of belief: the first that knows an attribute is right."""
        about = [reader.metadata() for reader in readers]
        self._readers = [(reader, each.ip_version == 6) for reader, each in zip(readers, about, strict=True)]
        self._addresses: dict[str, Place] = {}
        self._older: dict[str, Place] = {}
        self._networks: LRUCache[tuple[int, int, int], Place] = LRUCache(MAX_NETWORKS)
        epochs = [each.build_epoch for each in about]
        self.built_at = float(min([epoch for epoch in epochs if epoch < LATEST], default=0))
        """Build time of the oldest database, in epoch seconds; 0 when none of them says it."""
        self.counts = GeoCounts() if counts is None else counts

    def place(self, address: str) -> Place:
        """Where `address` is; NOWHERE when nobody knows. Never raises."""
        place = self._addresses.get(address)
        return self._look_up(address) if place is None else place

    def _look_up(self, address: str) -> Place:
        place = self._older.get(address)
        if place is None:
            place = self._ask(address)
            if place.country:
                self.counts.known += 1
            else:
                self.counts.unknown += 1
        # Two generations instead of an LRU list: a hit must not pay for the order.
        if len(self._addresses) >= MAX_ADDRESSES // 2:
            self._older, self._addresses = self._addresses, {}
        self._addresses[address] = place
        return place

    def _ask(self, address: str) -> Place:
        parsed = _parsed(address)
        if parsed is None:
            return NOWHERE
        place = NOWHERE
        for number, (reader, knows_ipv6) in enumerate(self._readers):
            if knows_ipv6 or parsed.version == 4:
                place = _merged(place, self._ask_one(number, reader, parsed))
        if not place.country and _is_private(parsed):
            return PRIVATE if place is NOWHERE else replace(place, private=True)
        return place

    def _ask_one(self, number: int, reader: Reader, address: Address) -> Place:
        try:
            record, prefix = reader.get_with_prefix_len(address)
            if record is None:
                return NOWHERE
            # Equal records of one network share one Place: memory stays small under many clients.
            key = (number, prefix + 128 * address.version, int(address) >> (address.max_prefixlen - prefix))
            place = self._networks.get(key)
            if place is None:
                place = self._networks[key] = read_place(record)
            return place
        except Exception:  # InvalidDatabaseError, UnicodeDecodeError, ValueError, RecursionError …
            self.counts.errors += 1
            return NOWHERE


@lru_cache(16_384)
def unlocated(address: str) -> Place:
    """What is known about an address without any database: whether it is private."""
    parsed = _parsed(address)
    return PRIVATE if parsed is not None and _is_private(parsed) else NOWHERE


def _parsed(address: str) -> Address | None:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed


def _is_private(address: Address) -> bool:
    return any(address in network for network in _NOT_PUBLIC)


def _merged(first: Place, second: Place) -> Place:
    """The first one's attributes, the second one's where they are unknown."""
    if second is NOWHERE:
        return first
    if first is NOWHERE:
        return second
    # City and subdivision of one country must not be joined to another: they come together or not.
    same = not first.country or not second.country or first.country == second.country
    detail = second if same else NOWHERE
    located = first.latitude is not None
    return Place(
        country=first.country or second.country,
        continent=first.continent or detail.continent,
        subdivision=first.subdivision or detail.subdivision,
        city=first.city or detail.city,
        latitude=first.latitude if located else detail.latitude,
        longitude=first.longitude if located else detail.longitude,
        asn=second.asn if first.asn is None else first.asn,
        organisation=first.organisation or second.organisation,
        postal=first.postal or detail.postal,
        time_zone=first.time_zone or detail.time_zone,
        flags=first.flags if not second.flags else tuple(sorted({*first.flags, *second.flags})),
    )


def read_place(record: object) -> Place:
    """The place of a record, in MaxMind's schema or a flat one. What has the wrong type is unknown."""
    if not isinstance(record, dict):
        return NOWHERE
    data = cast("dict[str, object]", record)
    country, continent = data.get("country"), data.get("continent")
    subdivisions = data.get("subdivisions")
    first = cast("list[object]", subdivisions)[0] if isinstance(subdivisions, list) and subdivisions else None
    latitude, longitude = _location(data)
    traits = data.get("traits")
    more = cast("dict[str, object]", traits) if isinstance(traits, dict) else {}
    return Place(
        country=_code(_inner(country, "iso_code") or data.get("country_code") or country, COUNTRIES),
        continent=_code(_inner(continent, "code") or data.get("continent_code") or continent, _CONTINENTS),
        subdivision=_text(_inner(first, "iso_code") or data.get("state1_code")),
        city=_text(_inner(_inner(data.get("city"), "names"), "en") or data.get("city")),
        latitude=latitude,
        longitude=longitude,
        asn=_asn(data.get("autonomous_system_number", data.get("asn", more.get("autonomous_system_number")))),
        organisation=_organisation(data) or _organisation(more),
        postal=_text(_inner(data.get("postal"), "code") or data.get("postcode")),
        time_zone=_text(_inner(data.get("location"), "time_zone") or data.get("timezone")),
        flags=_flags(data) or _flags(more),
    )


def _location(data: dict[str, object]) -> tuple[float | None, float | None]:
    inner = data.get("location", data)
    latitude = _degrees(_inner(inner, "latitude"), 90.0)
    longitude = _degrees(_inner(inner, "longitude"), 180.0)
    return (None, None) if latitude is None or longitude is None else (latitude, longitude)


def _organisation(data: Mapping[str, object]) -> str:
    return _text(next((data[key] for key in _ORGANISATION if data.get(key)), ""))


def _flags(data: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(sorted({word for key, word in _FLAGS.items() if data.get(key) is True} & FLAGS))


def _inner(value: object, key: str) -> object:
    return cast("dict[str, object]", value).get(key) if isinstance(value, dict) else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _code(value: object, known: Container[str]) -> str:
    """A code of `known` or nothing: a damaged record, or `A1` and `ZZ` of old ones, is no place."""
    code = value.upper() if isinstance(value, str) else ""
    return code if code in known else ""


def _degrees(value: object, most: float) -> float | None:
    try:
        number = float(value) if isinstance(value, str | float | int) else math.nan
    except (ValueError, OverflowError):
        return None
    return number if abs(number) <= most else None


def _asn(value: object) -> int | None:
    if isinstance(value, str) and value.removeprefix("AS").isdecimal() and len(value) <= 12:
        value = int(value.removeprefix("AS"))
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**32 else None
