"""A tiny geo database for trying things out: real format, hand-written content, no product's data.

Documentation networks (RFC 5737, RFC 3849) get places of our choice, so a demo can play every
visitor; a few networks whose country is general knowledge make it answer for real ones too.
"""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

from edgeproxy.demo.mmdb_writer import Value, Writer
from edgeproxy.record import record

BUILT = 1_767_225_600  # 2026-01-01: the same file whoever writes it


@record
class Town:
    """A place that networks can be put into."""

    continent: str
    country: str
    country_name: str
    subdivision: str
    name: str
    latitude: float
    longitude: float


FRANKFURT = Town("EU", "DE", "Germany", "HE", "Frankfurt am Main", 50.1155, 8.6842)
BERLIN = Town("EU", "DE", "Germany", "BE", "Berlin", 52.5200, 13.4050)
ASHBURN = Town("NA", "US", "United States", "VA", "Ashburn", 39.0438, -77.4874)
MOUNTAIN_VIEW = Town("NA", "US", "United States", "CA", "Mountain View", 37.3861, -122.0839)
BERKELEY = Town("NA", "US", "United States", "CA", "Berkeley", 37.8716, -122.2727)
PYONGYANG = Town("AS", "KP", "North Korea", "01", "Pyongyang", 39.0392, 125.7625)
PARIS = Town("EU", "FR", "France", "75", "Paris", 48.8566, 2.3522)
AMSTERDAM = Town("EU", "NL", "The Netherlands", "NH", "Amsterdam", 52.3676, 4.9041)
BRISBANE = Town("OC", "AU", "Australia", "QLD", "Brisbane", -27.4698, 153.0251)
TOKYO = Town("AS", "JP", "Japan", "13", "Tokyo", 35.6895, 139.6917)
LONDON = Town("EU", "GB", "United Kingdom", "ENG", "London", 51.5074, -0.1278)
ZURICH = Town("EU", "CH", "Switzerland", "ZH", "Zurich", 47.3769, 8.5417)
SAO_PAULO = Town("SA", "BR", "Brazil", "SP", "São Paulo", -23.5505, -46.6333)
CAPE_TOWN = Town("AF", "ZA", "South Africa", "WC", "Cape Town", -33.9249, 18.4241)

PLACES: dict[str, Town] = {
    # Documentation networks: nobody's, so ours to give away.
    "192.0.2.0/24": FRANKFURT,
    "198.51.100.0/24": ASHBURN,
    "203.0.113.0/24": PYONGYANG,
    "2001:db8::/32": PARIS,
    "2001:db8:81::/48": TOKYO,
    "2001:db8:55::/48": SAO_PAULO,
    "2001:db8:27::/48": CAPE_TOWN,
    # Networks whose country is general knowledge: public resolvers, registries, universities.
    "1.1.1.0/24": BRISBANE,
    "8.8.8.0/24": MOUNTAIN_VIEW,
    "8.8.4.0/24": MOUNTAIN_VIEW,
    "9.9.9.0/24": BERKELEY,
    "128.32.0.0/16": BERKELEY,
    "130.149.0.0/16": BERLIN,
    "129.132.0.0/16": ZURICH,
    "133.11.0.0/16": TOKYO,
    "143.107.0.0/16": SAO_PAULO,
    "137.158.0.0/16": CAPE_TOWN,
    "175.45.176.0/22": PYONGYANG,
    "193.0.0.0/21": AMSTERDAM,
    "212.58.224.0/19": LONDON,
    "2001:67c:2e8::/48": AMSTERDAM,
    "2001:4860:4860::/48": MOUNTAIN_VIEW,
}
"""Network -> town, wide networks before the narrow ones inside them."""


def render() -> bytes:
    """The database's bytes; the same at every call."""
    writer = Writer(
        "edgeproxy-demo-City",
        "Demonstration data of edgeproxy: a few made-up and well-known networks. Not for production.",
    )
    for network, town in PLACES.items():
        writer.insert(ip_network(network), _record(town))
    return writer.render(BUILT)


def write(path: Path | str) -> None:
    """Write the database to `path`. Raises OSError."""
    Path(path).write_bytes(render())


def _record(town: Town) -> dict[str, Value]:
    """The town in MaxMind's City schema."""
    return {
        "city": {"names": {"en": town.name}},
        "continent": {"code": town.continent},
        "country": {"iso_code": town.country, "names": {"en": town.country_name}},
        "location": {"latitude": town.latitude, "longitude": town.longitude},
        "subdivisions": [{"iso_code": town.subdivision}],
    }
