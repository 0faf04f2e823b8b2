"""`edgeproxy geo lookup`: everything that databases and tables say about one address."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from edgeproxy.countries import GROUPS, PlaceSet
from edgeproxy.country_data import COUNTRY_DATA, NO_COUNTRY
from edgeproxy.feeds.geo_database import open_database


def about(address: str, paths: Sequence[str], groups: Mapping[str, Iterable[str]]) -> dict[str, object]:
    """What is known; what is not is left out. Raises ValueError when `address` is none, ConfigError when a
    database cannot be opened."""
    try:
        ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        raise ValueError(f"{address!r} is no IP address; write it like 203.0.113.7 or 2001:db8::1") from None
    database = open_database(paths)
    place = database.place(address)
    data = COUNTRY_DATA.get(place.country, NO_COUNTRY)
    member = [name for name in (*GROUPS, *groups) if place in PlaceSet([name], groups)]
    built = datetime.fromtimestamp(database.built_at, UTC).isoformat() if database.built_at else ""
    found: dict[str, object] = {
        "address": address,
        "country": place.country,
        "continent": place.continent,
        "groups": member,
        "subdivision": place.subdivision,
        "city": place.city,
        "postal": place.postal,
        "latitude": place.latitude,
        "longitude": place.longitude,
        "time_zone": place.time_zone,
        "asn": place.asn,
        "organisation": place.organisation,
        "flags": list(place.flags),
        "private": place.private,
        "currency": data.currency,
        "languages": list(data.languages),
        "database_built": built,
    }
    kept = {key: value for key, value in found.items() if value not in ("", None, [], False)}
    return kept if place.country else {"address": address, "country": None, **kept}


def as_lines(found: Mapping[str, object]) -> str:
    """For people: a fact a line."""
    width = max(map(len, found))
    return "\n".join([f"{key.ljust(width)}  {_shown(value)}" for key, value in found.items()])


def _shown(value: object) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, list):
        return ", ".join(map(str, value))  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] - texts
    return "yes" if value is True else str(value)
