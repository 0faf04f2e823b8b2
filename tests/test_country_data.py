"""Currencies and languages of countries are what CLDR says; each exception has its reason here."""

from __future__ import annotations

import pytest
from babel.languages import get_official_languages, get_territory_language_info
from babel.numbers import get_territory_currencies

from edgeproxy.countries import COUNTRIES
from edgeproxy.country_data import COUNTRY_DATA

LATE = {"BG": "EUR"}  # the euro since 2026; releases of CLDR differ
OTHERWISE = {
    "BQ": {"en"},  # official on Saba and Sint Eustatius
    "CW": {"en"},  # official since 2007
    "FO": {"da"},  # Home Rule Act, section 11
    "HM": {"en"},  # nobody lives there; it belongs to Australia
    "IQ": {"ku"},  # the macrolanguage of CLDR's ckb
    "ME": {"cnr"},  # ISO 639 has had Montenegrin since 2017
}


def base(tag: str) -> str:
    """`zh` of `zh_Hant`."""
    return tag.partition("_")[0]


def test_every_country_has_its_data() -> None:
    assert COUNTRY_DATA.keys() == COUNTRIES


@pytest.mark.parametrize("country", sorted(COUNTRY_DATA))
def test_the_currency_is_legal_tender(country: str) -> None:
    currency, tender = COUNTRY_DATA[country].currency, get_territory_currencies(country, tender=True)
    assert currency in (tender or [""]) or LATE.get(country) == currency


@pytest.mark.parametrize("country", sorted(COUNTRY_DATA))
def test_its_languages_are_spoken_and_the_first_is_official(country: str) -> None:
    languages = COUNTRY_DATA[country].languages
    spoken = {base(tag) for tag in get_territory_language_info(country)}
    assert set(languages) - spoken == OTHERWISE.get(country, set())
    official = {base(tag) for tag in get_official_languages(country, de_facto=True)}
    if official and country != "ME":
        assert languages[0] in official
