"""The words for countries in a configuration: ISO 3166 codes, continents, and groups of them.

Rule: a word that means nothing is refused when the configuration is loaded, with the nearest one
that does; while requests are served a set of places is two look-ups.
"""

from __future__ import annotations

import difflib
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


def check_place_name(name: str, groups: Iterable[str] = ()) -> str:
    """`name` itself when it is a country, a continent's word or a group. Raises ValueError with a hint."""
    known = {*groups, *GROUPS, *CONTINENTS}
    if name in COUNTRIES or name in known:
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
    """Countries, groups and continents of a rule, spelled out once: `place in set` is a look-up."""

    __slots__ = ("_continents", "_countries")

    def __init__(self, names: Iterable[str], groups: Mapping[str, Iterable[str]] | None = None) -> None:
        """Raises ValueError for a name that is neither country, continent nor group."""
        countries: set[str] = set()
        continents: set[str] = set()
        own = groups or {}
        for name in names:
            check_place_name(name, own)
            if name in CONTINENTS:
                continents.add(CONTINENTS[name])
            elif name in own:
                inner = PlaceSet(own[name])  # no groups in groups: then none can contain itself
                countries |= inner._countries
                continents |= inner._continents
            else:
                countries |= GROUPS.get(name, frozenset({name}))
        self._countries, self._continents = countries, continents

    def __contains__(self, place: Place) -> bool:
        return place.country in self._countries or place.continent in self._continents

    def __bool__(self) -> bool:
        return bool(self._countries or self._continents)
