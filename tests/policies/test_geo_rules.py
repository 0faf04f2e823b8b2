"""Geo in depth: other words for places, private addresses, rewrites, fields, groups in the key, testers."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from edgeproxy.context import NOWHERE, Context, Op, Place
from edgeproxy.countries import COUNTRIES, PlaceSet
from edgeproxy.country_data import COUNTRY_DATA
from edgeproxy.http.message import Field, Headers, Request
from edgeproxy.policies.geo import Geo
from edgeproxy.policies.geo_data import GeoDatabase, read_place, unlocated
from edgeproxy.policies.geo_locate import KeyByGroup, Locate
from edgeproxy.policies.geo_rule import GeoRule, GeoSection, Override
from edgeproxy.snapshot import Snapshot

BERLIN = Place(
    "DE", "EU", "BE", "Berlin", 52.5, 13.4, 64500, "Example", "10115", "Europe/Berlin", ("anonymous", "tor")
)
FRESNO = Place("US", "NA", "CA", "Fresno", asn=64501, flags=("hosting",))
BOISE = Place("US", "NA", "ID", "Boise")
PLACES = {"192.0.2.1": BERLIN, "192.0.2.2": FRESNO, "192.0.2.3": BOISE, "10.0.0.1": Place(private=True)}
B, F, S, P, N = (*PLACES, "203.0.113.9")
GROUPS = {"dach": ["DE", "AT", "CH"], "west": ["US-CA", "US-OR"], "cloud": ["hosting", "AS64500"]}


class Known(GeoDatabase):
    """A database that knows PLACES."""

    def __init__(self) -> None:
        super().__init__([])

    def place(self, address: str) -> Place:
        return PLACES.get(address, NOWHERE)


def geo(override: Override | None = None, **rule: Any) -> Geo:
    return Geo(GeoRule.model_validate(rule), GROUPS, Snapshot(Known()), override)


def ask(path: bytes = b"/a", *fields: Field) -> Request:
    return Request(b"GET", b"shop.example", path, b"q=1", Headers(list(fields)), "127.0.0.1")


def context(client: str) -> Context:
    return Context(1000.0, 1000.0, client, "route", "id")


def refused(policy: Geo) -> set[str]:
    return {client for client in (B, F, S, P, N) if policy(ask(), context(client)) is not None}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"deny": ["US-CA"]}, {F}),
        ({"deny": ["AS64500"]}, {B}),
        ({"deny": ["tor", "vpn"]}, {B}),
        ({"deny": ["hosting"]}, {F}),
        ({"deny": ["west", "dach"]}, {B, F}),
        ({"deny": ["cloud"]}, {B, F}),
        ({"deny": ["unknown"]}, {N}),
        ({"deny": ["private"]}, {P}),
        ({"unknown": "deny"}, {N, P}),
        ({"unknown": "deny", "private": "allow"}, {N}),
        ({"private": "deny"}, {P}),
        ({"allow": ["US-CA", "private"], "unknown": "deny"}, {B, S, N}),
        ({"allow": ["US"], "deny": ["hosting"]}, {B, F}),
    ],
)
def test_rules_go_by_subdivision_network_flag_and_whether_anybody_knows(
    rule: dict[str, Any], expected: set[str]
) -> None:
    policy = geo(**rule)
    assert refused(policy) == expected
    assert refused(policy) == expected, "from memory"
    assert policy.fails_open is False


@pytest.mark.parametrize(
    "word", ["AS0", "AS99999999999", "ZZ-CA", "US-", "US-CALI", "as64500", "Tor", "darknet"]
)
def test_a_word_that_means_nothing_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="is no country"):
        PlaceSet([word])


@pytest.mark.parametrize("name", ["tor", "unknown", "private", "EU", "DE", "asia", "a b"])
def test_a_group_cannot_take_a_word_that_means_something(name: str) -> None:
    with pytest.raises(ValidationError):
        GeoSection.model_validate({"groups": {name: ["DE"]}})


# --- what the origin is told


@pytest.mark.parametrize(
    ("fact", "client", "told"),
    [
        ("eu", B, {b"X-Geo-EU": b"1"}),
        ("eu", F, {b"X-Geo-EU": b"0"}),
        ("eu", N, {}),
        ("group", B, {b"X-Geo-Group": b"dach, cloud"}),
        ("group", F, {b"X-Geo-Group": b"west, cloud"}),
        ("group", S, {}),
        ("postal", B, {b"X-Geo-Postal": b"10115"}),
        ("time_zone", B, {b"X-Geo-Time-Zone": b"Europe/Berlin"}),
        ("flags", B, {b"X-Geo-Flags": b"anonymous, tor"}),
        ("languages", B, {b"X-Geo-Languages": b"de"}),
        ("languages", N, {}),
        ("currency", F, {b"X-Geo-Currency": b"USD"}),
    ],
)
def test_the_origin_is_told_what_is_asked_for_and_the_key_has_just_that(
    fact: str, client: str, told: dict[bytes, bytes]
) -> None:
    ctx = context(client)
    assert geo(headers=[fact])(ask(), ctx) is None
    assert {edit.name: edit.value for edit in ctx.to_origin} == told
    assert ctx.key_parts == (fact.encode() + b":" + next(iter(told.values()), b""),)


def test_keys_by_group_are_fewer_than_by_country() -> None:
    for fact, count in (("country", 4), ("group", 3)):
        keys: set[tuple[bytes, ...]] = set()
        database = Known()
        policy = Geo(GeoRule.model_validate({"headers": [fact]}), {"dach": ["DE", "AT"]}, Snapshot(database))
        for place in (Place("DE"), Place("AT"), Place("FR"), Place("IT")):
            PLACES["192.0.2.99"] = place
            ctx = context("192.0.2.99")
            policy(ask(), ctx)
            keys.add(ctx.key_parts)
        assert len(keys) == (count if fact == "country" else 2)
    del PLACES["192.0.2.99"]


def test_a_route_can_have_the_groups_in_its_key_without_telling_them() -> None:
    policy = KeyByGroup(GROUPS)
    keys: dict[str, tuple[bytes, ...]] = {}
    for client in (B, F, S, N):
        for _ in range(2):
            ctx = context(client)
            ctx.place = PLACES.get(client, NOWHERE)
            assert policy(ask(), ctx) is None
            assert keys.setdefault(client, ctx.key_parts) == ctx.key_parts
    assert keys == {B: (b"group:dach, cloud",), F: (b"group:west, cloud",), S: (b"group:",), N: (b"group:",)}


def test_fields_are_set_by_place_and_the_later_rule_wins() -> None:
    policy = geo(
        headers=False,
        set={"US": {"X-Market": "us", "X-Tax": "us"}, "US-CA": {"X-Tax": "ca"}, "tor": {"X-Market": "none"}},
    )
    told: dict[str, dict[bytes, bytes]] = {}
    keys: dict[str, tuple[bytes, ...]] = {}
    for client in (B, F, S, N):
        ctx = context(client)
        policy(ask(), ctx)
        assert all(edit.op is Op.SET for edit in ctx.to_origin)
        told[client] = {edit.name: edit.value for edit in ctx.to_origin}
        keys[client] = ctx.key_parts
    assert told == {
        B: {b"X-Market": b"none"},
        F: {b"X-Market": b"us", b"X-Tax": b"ca"},
        S: {b"X-Market": b"us", b"X-Tax": b"us"},
        N: {},
    }
    assert len(set(keys.values())) == 4
    assert {b"x-market", b"x-tax"} <= set(policy.asserted)


@pytest.mark.parametrize(
    ("client", "path", "seen"),
    [
        (B, b"/a", b"/de/a"),
        (B, b"/de/a", None),
        (B, b"/dea", b"/de/dea"),
        (F, b"/a", b"/ca/a"),
        (S, b"/a", None),
    ],
)
def test_a_path_is_rewritten_by_place_once(client: str, path: bytes, seen: bytes | None) -> None:
    ctx = context(client)
    geo(rewrite={"dach": "/de{path}", "US-CA": "/ca{path}"})(ask(path), ctx)
    assert (None if ctx.rewritten is None else ctx.rewritten.path) == seen
    assert ctx.rewritten is None or ctx.rewritten.query == b"q=1"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rewrite": {"DE": "de"}}, "is no path"),
        ({"set": {"DE": {"Host": "x"}}}, "chooses the site"),
        ({"set": {"DE": {"X-A": "a\r\nb"}}}, "control characters"),
        ({"private": "maybe"}, "allow"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        GeoRule.model_validate(change)


# --- testers

TESTERS = Override.model_validate({"networks": ["10.0.0.0/8", "192.0.2.3/32"]})


@pytest.mark.parametrize(
    ("client", "said", "country", "continent"),
    [
        (S, b"FR", "FR", "EU"),
        (S, b" fr ", "FR", "EU"),
        (P, b"BR", "BR", "SA"),
        (B, b"FR", "DE", "EU"),
        (S, b"XX", "US", "NA"),
        (S, b"", "US", "NA"),
        (S, b"FR\xff", "US", "NA"),
        (N, b"FR", "", ""),
    ],
)
def test_only_testers_say_where_they_are(client: str, said: bytes, country: str, continent: str) -> None:
    for policy in (geo(TESTERS), Locate(Snapshot(Known()), TESTERS)):
        ctx = context(client)
        assert policy(ask(b"/a", (b"X-Geo-Override", said)), ctx) is None
        assert ctx.place is not None
        assert (ctx.place.country, ctx.place.continent) == (country, continent)
        assert b"x-geo-override" in policy.asserted


def test_without_an_override_the_field_means_nothing() -> None:
    ctx = context(S)
    geo()(ask(b"/a", (b"X-Geo-Override", b"FR")), ctx)
    assert ctx.place == BOISE


# --- data


def test_every_country_has_its_data() -> None:
    assert set(COUNTRY_DATA) == COUNTRIES
    for code, country in COUNTRY_DATA.items():
        assert country.continent in {"AF", "AN", "AS", "EU", "NA", "OC", "SA"}, code
        assert code == "AQ" or (len(country.currency) == 3 and country.currency.isupper()), code
        assert len(country.languages) <= 4
    assert COUNTRY_DATA["CH"].languages == ("de", "fr", "it", "rm")


@pytest.mark.parametrize(
    ("address", "private"),
    [
        ("10.1.2.3", True), ("172.16.0.1", True), ("172.32.0.1", False), ("192.168.1.1", True),
        ("100.64.0.1", True), ("127.0.0.1", True), ("169.254.1.1", True), ("::1", True), ("fd00::1", True),
        ("fe80::1%eth0", True), ("::ffff:10.0.0.1", True), ("8.8.8.8", False), ("2a00::1", False),
        ("192.0.2.1", False), ("unix:", False), ("", False),
    ],
)  # fmt: skip
def test_private_addresses_are_known_without_any_database(address: str, private: bool) -> None:
    assert unlocated(address).private is private
    assert GeoDatabase([]).place(address).private is private


class OneRecord:
    """A database with one record for every address."""

    ip_version, node_count, build_epoch = 6, 1, 0

    def __init__(self, record: object) -> None:
        self._record = record

    def metadata(self) -> OneRecord:
        return self

    def get_with_prefix_len(self, ip_address: object, /) -> tuple[object, int]:
        return self._record, 8


@pytest.mark.parametrize(
    ("address", "record", "private"),
    [
        ("10.1.2.3", {"autonomous_system_number": 64512}, True),
        ("10.1.2.3", {"country_code": "DE"}, False),
        ("8.8.8.8", {"autonomous_system_number": 64512}, False),
    ],
)
def test_a_private_address_is_private_unless_a_database_has_a_country_for_it(
    address: str, record: object, private: bool
) -> None:
    place = GeoDatabase([OneRecord(record)]).place(address)
    assert (place.private, place == NOWHERE) == (private, False)


ASN = "autonomous_system_number"


def test_records_say_more_than_countries() -> None:
    record = {
        "country": {"iso_code": "DE"},
        "postal": {"code": "10115"},
        "location": {"latitude": 1.0, "longitude": 2.0, "time_zone": "Europe/Berlin"},
        "traits": {
            "is_anycast": True,
            "is_anonymous_proxy": 1,
            "autonomous_system_number": 7,
            "organization": "X",
        },
    }
    assert read_place(record) == Place(
        "DE", "", "", "", 1.0, 2.0, 7, "X", "10115", "Europe/Berlin", ("anycast",)
    )
    flags = {"is_tor_exit_node": True, "is_anonymous": True, "is_hosting_provider": False}
    assert read_place(flags) == Place(flags=("anonymous", "tor"))
