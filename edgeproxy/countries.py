"""The words for countries in a configuration: ISO 3166 codes, continents, and groups of them.

Rule: a word that means nothing is refused when the configuration is loaded, with the nearest one
that does; while requests are served a set of places is two look-ups.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

from edgeproxy.context import Place

_EU = "AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK"
_ISO_3166_1 = """
    AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT
    BV BW BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH
    ER ES ET FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT
    HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS
    LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI
    NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG
    SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG
    UM US UY UZ VA VC VE VG VI VN VU WF WS XK YE YT ZA ZM ZW
"""

EU = frozenset(_EU.split())
GROUPS: dict[str, frozenset[str]] = {"EU": EU, "EEA": EU | {"IS", "LI", "NO"}}
"""Groups of countries that need no definition."""

CONTINENTS = {
    "africa": "AF",
    "antarctica": "AN",
    "asia": "AS",
    "europe": "EU",
    "north-america": "NA",
    "oceania": "OC",
    "south-america": "SA",
}
"""Words for continents: their codes are countries too (`NA` is Namibia, `AS` American Samoa)."""

COUNTRIES = frozenset(_ISO_3166_1.split())
"""ISO 3166-1 alpha-2, and XK, which databases use for Kosovo."""

_SAID_OTHERWISE = {"UK": "GB", "EL": "GR", "USA": "US", "GER": "DE", "EN": "GB"}


FLAGS = frozenset(
    {"anonymous", "anycast", "hosting", "proxy", "residential-proxy", "satellite", "tor", "vpn"}
)
"""Words for what a network is used for, when a database says it."""

UNKNOWN, PRIVATE = "unknown", "private"
"""Words for clients of no known country, and for those of private networks."""

_ASN = re.compile(r"AS([1-9]\d{0,9})")
_SUBDIVISION = re.compile(r"([A-Z]{2})-([A-Z0-9]{1,3})")
_RESERVED = frozenset({*GROUPS, *CONTINENTS, *FLAGS, UNKNOWN, PRIVATE})


def is_word(name: str) -> bool:
    """Does `name` mean a place without any definition?"""
    subdivision = _SUBDIVISION.fullmatch(name)
    if subdivision is not None:
        return subdivision[1] in COUNTRIES
    return name in COUNTRIES or name in _RESERVED or _ASN.fullmatch(name) is not None


def check_place_name(name: str, groups: Iterable[str] = ()) -> str:
    """`name` itself when it is a word for a place or a group. Raises ValueError with a hint."""
    known = {*groups, *_RESERVED}
    if is_word(name) or name in known:
        return name
    hint = _SAID_OTHERWISE.get(name.upper())
    if hint is None and name.upper() in COUNTRIES | known:
        hint = name.upper()
    if hint is None and name.lower() in known:
        hint = name.lower()
    if hint is None:
        pool = COUNTRIES if len(name) == 2 else known
        hint = next(iter(difflib.get_close_matches(name, sorted(pool), 1, 0.5)), None)
    said = f"; did you mean {hint!r}?" if hint else ""
    raise ValueError(f"{name!r} is no country (ISO 3166 code, upper case), continent or group{said}")


class PlaceSet:
    """Words for places, spelled out once: `place in set` is a few look-ups. Countries, continents, groups of
    them, subdivisions (`US-CA`), networks (`AS15169`), what networks are used for (`tor`), unknown, private.

    `attributes` are those of Place that it looks at.
    """

    __slots__ = (
        "_asns",
        "_continents",
        "_countries",
        "_flags",
        "_more",
        "_subdivisions",
        "_words",
        "attributes",
    )

    def __init__(self, names: Iterable[str], groups: Mapping[str, Iterable[str]] | None = None) -> None:
        """Raises ValueError for a name that means nothing."""
        self._countries: set[str] = set()
        self._continents: set[str] = set()
        self._asns: set[int] = set()
        self._subdivisions: set[tuple[str, str]] = set()
        self._flags: set[str] = set()
        self._words: set[str] = set()
        own = groups or {}
        for name in names:
            check_place_name(name, own)
            if name in own:
                self._join(PlaceSet(own[name]))  # no groups in groups: then none can contain itself
            else:
                self._add(name)
        self._more = bool(self._asns or self._subdivisions or self._flags or self._words)
        looked_at = [
            ("asn", self._asns), ("subdivision", self._subdivisions), ("flags", self._flags),
            ("private", self._words),
        ]  # fmt: skip
        self.attributes = ("country", "continent", *[name for name, members in looked_at if members])

    def _add(self, name: str) -> None:
        asn, subdivision = _ASN.fullmatch(name), _SUBDIVISION.fullmatch(name)
        if name in CONTINENTS:
            self._continents.add(CONTINENTS[name])
        elif name in FLAGS:
            self._flags.add(name)
        elif name in (UNKNOWN, PRIVATE):
            self._words.add(name)
        elif asn is not None:
            self._asns.add(int(asn[1]))
        elif subdivision is not None:
            self._subdivisions.add((subdivision[1], subdivision[2]))
        else:
            self._countries |= GROUPS.get(name, frozenset({name}))

    def _join(self, other: PlaceSet) -> None:
        self._countries |= other._countries
        self._continents |= other._continents
        self._asns |= other._asns
        self._subdivisions |= other._subdivisions
        self._flags |= other._flags
        self._words |= other._words

    def __contains__(self, place: Place) -> bool:
        if place.country in self._countries or place.continent in self._continents:
            return True
        return self._more and self._has(place)

    def _has(self, place: Place) -> bool:
        if place.asn in self._asns or (place.country, place.subdivision) in self._subdivisions:
            return True
        if not self._flags.isdisjoint(place.flags):
            return True
        if place.country or not self._words:
            return False
        return (PRIVATE if place.private else UNKNOWN) in self._words

    def __bool__(self) -> bool:
        return bool(self._countries or self._continents) or self._more
