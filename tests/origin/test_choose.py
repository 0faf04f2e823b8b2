"""Which origin: by name, by country, or the nearest that is well."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from edgeproxy.context import Context, Place
from edgeproxy.origin.choose import Location, OriginChoice, OriginRule, distance

LOCATIONS: dict[str, Location | None] = {
    "eu": (50.11, 8.68),
    "us": (39.04, -77.49),
    "asia": (1.35, 103.82),
    "files": None,
}
BERLIN = Place("DE", "EU", latitude=52.5, longitude=13.4)
OTTAWA = Place("CA", "NA", latitude=45.4, longitude=-75.7)
SYDNEY = Place("AU", "OC", latitude=-33.9, longitude=151.2)
FIJI = Place("FJ", "OC", latitude=-17.7, longitude=-179.9)
SOMEWHERE = Place("SE", "EU")
GROUPS = {"dach": ["DE", "AT", "CH"]}


def choice(
    rule: str | OriginRule, ill: set[str] | None = None, edge: Location | None = (52.3, 4.8)
) -> OriginChoice:
    down = ill or set[str]()
    return OriginChoice(rule, LOCATIONS, edge, GROUPS, lambda name: name not in down)


def context(place: Place | None, now: float = 0.0) -> Context:
    ctx = Context(now, 0.0, "192.0.2.1", "route", "id")
    ctx.place = place
    return ctx


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (BERLIN, "eu"),
        (OTTAWA, "us"),
        (SYDNEY, "asia"),
        (FIJI, "asia"),
        (SOMEWHERE, "eu"),
        (Place(), "eu"),
        (None, "eu"),
    ],
    ids=["berlin", "ottawa", "sydney", "over-the-date-line", "no-location", "unknown", "nobody-looked"],
)
def test_nearest_goes_by_the_client_or_else_by_the_edge(place: Place | None, expected: str) -> None:
    nearest = choice("nearest")
    for _ in range(2):
        assert nearest(context(place)) == expected


def test_without_any_place_the_first_located_origin_counts() -> None:
    assert choice("nearest", edge=None)(context(None)) == "eu"


@pytest.mark.parametrize(
    ("ill", "expected"),
    [({"eu"}, "us"), ({"eu", "us"}, "asia"), ({"eu", "us", "asia"}, "eu"), ({"us"}, "eu")],
    ids=["nearest-down", "two-down", "all-down", "another-down"],
)
def test_nearest_passes_over_the_ill_unless_all_are(ill: set[str], expected: str) -> None:
    assert choice("nearest", ill)(context(BERLIN)) == expected


def test_nearest_goes_back_when_the_nearer_one_has_been_well_for_a_while() -> None:
    ill: set[str] = set()
    nearest = OriginChoice("nearest", LOCATIONS, None, {}, lambda name: name not in ill)
    told: list[str] = []
    for now, down in [(0, ""), (1, "eu"), (2, ""), (10.9, ""), (11, ""), (12, "eu"), (13, ""), (22, "")]:
        ill.clear()
        ill.add(down)
        told.append(nearest(context(BERLIN, now)))
    assert told == ["eu", "us", "us", "us", "eu", "us", "us", "eu"]


def test_an_origin_that_has_just_become_well_is_better_than_none() -> None:
    ill: set[str] = set()
    nearest = OriginChoice("nearest", LOCATIONS, None, {}, lambda name: name not in ill)
    ill.add("eu")
    assert nearest(context(BERLIN)) == "us"
    ill.update(("us", "asia"))
    ill.remove("eu")
    assert nearest(context(BERLIN)) == "eu"


@pytest.mark.parametrize("ill", [set[str](), {"eu"}, {"eu", "us", "asia"}])
@pytest.mark.parametrize("place", [BERLIN, OTTAWA, SYDNEY, SOMEWHERE, None])
def test_what_is_intended_does_not_depend_on_health(place: Place | None, ill: set[str]) -> None:
    for rule in ("nearest", "files", RULE, OriginRule(by_country={"DE": "files"})):
        assert choice(rule, ill).intended(context(place)) == choice(rule)(context(place))


RULE = OriginRule(by_country={"CH": "files", "dach": "eu", "north-america": "us"}, otherwise="asia")


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (Place("CH", "EU"), "files"),
        (BERLIN, "eu"),
        (OTTAWA, "us"),
        (Place("", "NA"), "us"),
        (SYDNEY, "asia"),
        (None, "asia"),
    ],
    ids=["country-first", "group", "continent", "continent-alone", "otherwise", "unknown"],
)
def test_by_country_takes_the_first_that_fits(place: Place | None, expected: str) -> None:
    by_country = choice(RULE)
    for _ in range(2):
        assert by_country(context(place)) == expected


def test_explain_says_when_nothing_is_known_to_be_near_to() -> None:
    assert choice("nearest", edge=None).explain(context(None)) == (
        "eu: nearest to nowhere known, in the order of the configuration"
    )


def test_an_origin_named_for_a_country_is_kept_while_it_is_down() -> None:
    fenced = choice(OriginRule(by_country={"DE": "eu"}, otherwise="nearest"), {"eu"})
    assert fenced(context(BERLIN)) == "eu"
    assert fenced(context(Place("FR", "EU", latitude=48.9, longitude=2.4))) == "us"


@pytest.mark.parametrize(
    ("rule", "varies"),
    [
        ("files", False),
        ("nearest", True),
        (RULE, True),
        (OriginRule(by_country={"DE": "eu"}, otherwise="eu"), False),
        (OriginRule(), True),
    ],
    ids=["name", "nearest", "by-country", "same-for-all", "default"],
)
def test_a_choice_knows_whether_it_varies_and_needs_a_place(rule: str | OriginRule, varies: bool) -> None:
    chosen = choice(rule)
    assert (chosen.varies, chosen.needs_place) == (varies, varies)


def test_one_located_origin_is_no_choice() -> None:
    only = OriginChoice("nearest", {"eu": (50.0, 8.0), "files": None}, None, {}, lambda _: False)
    assert only(context(SYDNEY)) == "eu"
    assert not only.varies


def test_nearest_without_locations_is_refused() -> None:
    with pytest.raises(ValueError, match="location"):
        OriginChoice("nearest", {"files": None}, (0.0, 0.0), {}, lambda _: True)


def test_words_that_are_no_places_are_refused_with_a_hint() -> None:
    rule = OriginRule(by_country={"UK": "eu", "dach": "eu", "dahc": "eu"})
    with pytest.raises(ValueError, match="'GB'"):
        choice(rule)
    with pytest.raises(ValidationError):
        OriginRule.model_validate({"by_country": {"DE": "eu"}, "else": "us"})


@pytest.mark.parametrize(
    ("rule", "ill", "place", "why"),
    [
        ("files", set[str](), None, "files: the only origin of this route"),
        ("nearest", set[str](), BERLIN, "eu: nearest to the client"),
        ("nearest", {"eu"}, BERLIN, "us: nearest to the client; not healthy, or not for long enough: eu"),
        ("nearest", set[str](), None, "eu: nearest to the edge (the client's place is unknown)"),
        (RULE, set[str](), BERLIN, "eu: by_country has DE"),
        (RULE, set[str](), None, "asia: otherwise, for an unknown place"),
    ],
)
def test_explain_says_why(rule: str | OriginRule, ill: set[str], place: Place | None, why: str) -> None:
    assert choice(rule, ill).explain(context(place)) == why


def test_memory_does_not_grow_with_places() -> None:
    nearest = choice("nearest")
    for number in range(20_000):
        nearest(context(Place(f"code {number}", "EU", latitude=number / 250, longitude=8.0)))
    sizes = [len(memo) for name, memo in vars(nearest).items() if name.startswith("_by_")]
    assert len(sizes) == 2
    assert max(sizes) <= 8192


@pytest.mark.parametrize(
    ("one", "other", "kilometres"),
    [
        ((0.0, 0.0), (0.0, 0.0), 0.0),
        ((52.52, 13.405), (48.8566, 2.3522), 878.0),
        ((0.0, 179.5), (0.0, -179.5), 111.2),
        ((90.0, 0.0), (-90.0, 0.0), 20015.1),
        ((0.0, 0.0), (0.0, 180.0), 20015.1),
    ],
    ids=["same", "berlin-paris", "date-line", "poles", "antipodes"],
)
def test_distance_is_that_of_the_great_circle(one: Location, other: Location, kilometres: float) -> None:
    assert distance(one, other) == pytest.approx(kilometres, abs=1.0)
    assert distance(other, one) == pytest.approx(distance(one, other))
