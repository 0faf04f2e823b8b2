"""Geo databases: known answers, broken files, and what a replaced file does to a running edge."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import os
from pathlib import Path
from random import Random
from typing import IO, Any

import pytest

from edgeproxy.build import Parts
from edgeproxy.config import read_config
from edgeproxy.config.file import parse
from edgeproxy.context import NOWHERE, Place
from edgeproxy.demo.geo_demo import render
from edgeproxy.demo.mmdb_writer import Value, Writer
from edgeproxy.errors import ConfigError
from edgeproxy.feeds.geo_database import GeoFeed, open_database
from edgeproxy.observe.cells import encode_series
from edgeproxy.policies.geo_data import GeoDatabase, read_place
from edgeproxy.shared import Shared
from edgeproxy.snapshot import Snapshot
from tests.helpers.edge import PATIENCE

ADDRESSES = [
    *(f"{first}.{second}.0.1" for first in range(1, 224, 3) for second in (0, 2, 81, 128, 216)),
    *(
        f"{start}::{end}"
        for start in ("2001:218", "2001:480", "2a02:cf40", "2c0f:ff80", "::")
        for end in (1, "ffff")
    ),
]


def database(folder: Path, name: str, *rows: tuple[str, dict[str, Value]]) -> str:
    writer = Writer("test", "made by a test")
    for network, record in rows:
        writer.insert(ipaddress.ip_network(network), record)
    path = folder / name
    path.write_bytes(writer.render(1_700_000_000))
    return str(path)


@pytest.mark.parametrize(
    "name", ["GeoIP2-City-Test", "GeoLite2-City-Test", "GeoIP2-Country-Test", "GeoLite2-Country-Test"]
)
def test_known_addresses_have_their_known_places(data_dir: Path, name: str) -> None:
    rows: dict[str, Any] = json.loads((data_dir / "geoip" / "lookups.json").read_text())[name]
    opened = open_database([str(data_dir / "geoip" / f"{name}.mmdb")])
    for _ in range(2):
        for address, expected in rows.items():
            place = opened.place(address)
            if expected is None:
                assert place == NOWHERE, address
                continue
            subdivisions = expected.get("subdivisions") or [""]
            assert (place.country, place.continent, place.city, place.subdivision) == (
                expected["country"] or "",
                expected["continent"] or "",
                expected.get("city") or "",
                subdivisions[0] or "",
            ), address
    assert opened.counts.errors == 0
    assert len(rows) > 250


def test_known_addresses_have_their_known_networks(data_dir: Path) -> None:
    rows: dict[str, Any] = json.loads((data_dir / "geoip" / "lookups.json").read_text())["GeoLite2-ASN-Test"]
    opened = open_database([str(data_dir / "geoip" / "GeoLite2-ASN-Test.mmdb")])
    for address, expected in rows.items():
        place = opened.place(address)
        wanted = expected or {}
        assert place.asn == wanted.get("autonomous_system_number"), address
        assert place.organisation == (wanted.get("autonomous_system_organization") or ""), address
    assert len(rows) > 700


def test_known_addresses_have_their_known_flags(data_dir: Path) -> None:
    rows: dict[str, Any] = json.loads((data_dir / "geoip" / "lookups.json").read_text())
    opened = open_database([str(data_dir / "geoip" / "GeoIP2-Anonymous-IP-Test.mmdb")])
    words = {
        "is_anonymous": "anonymous", "is_anonymous_vpn": "vpn", "is_hosting_provider": "hosting",
        "is_public_proxy": "proxy", "is_residential_proxy": "residential-proxy", "is_tor_exit_node": "tor",
    }  # fmt: skip
    for address, expected in rows["GeoIP2-Anonymous-IP-Test"].items():
        wanted = sorted(words[key] for key, value in (expected or {}).items() if value)
        assert list(opened.place(address).flags) == wanted, address
    assert len(rows["GeoIP2-Anonymous-IP-Test"]) > 20


@pytest.mark.parametrize("name", ["GeoIP2-City-Test", "GeoLite2-City-Test"])
def test_known_addresses_have_their_known_time_zones(data_dir: Path, name: str) -> None:
    rows: dict[str, Any] = json.loads((data_dir / "geoip" / "lookups.json").read_text())[name]
    source: list[dict[str, Any]] = json.loads((data_dir / "geoip" / "source" / f"{name}.json").read_text())
    opened = open_database([str(data_dir / "geoip" / f"{name}.mmdb")])
    for address, expected in rows.items():
        assert opened.place(address).time_zone == ((expected or {}).get("time_zone") or ""), address
    codes = {
        network: record["postal"]["code"]
        for each in source
        for network, record in each.items()
        if "postal" in record
    }
    assert codes
    for network, code in codes.items():
        address = str(ipaddress.ip_network(network).network_address)
        ipv4 = ipaddress.ip_address(address)
        if network.startswith("::") and "." in network:
            address = network[2:].partition("/")[0]
        assert opened.place(address).postal == code, (network, ipv4)


def test_a_broken_file_is_refused_or_knows_nothing_wrong(data_dir: Path) -> None:
    files = sorted((data_dir / "geoip" / "broken").glob("*.mmdb"))
    assert len(files) == 25
    truth = open_database([str(data_dir / "geoip" / "GeoIP2-City-Test.mmdb")])
    refused = 0
    for file in files:
        try:
            opened = open_database([str(file)])
        except ConfigError as error:
            named = file.name in str(error) and "fetch it again" in str(error)
            refused += named
            continue
        for address in ADDRESSES:
            assert opened.place(address).country in ("", truth.place(address).country), (file.name, address)
    assert refused == 19


def test_a_file_that_breaks_at_one_address_serves_the_others(data_dir: Path) -> None:
    """Around the check of `open_database`: readers of damaged files straight from the library."""
    maxminddb = pytest.importorskip("maxminddb")
    tried = 0
    for file in sorted((data_dir / "geoip" / "broken").glob("*.mmdb")):
        try:
            reader = maxminddb.open_database(str(file))
            opened = GeoDatabase([reader])
        except Exception:  # refused at the door, as the test above says
            continue
        tried += 1
        for address in ADDRESSES:
            assert isinstance(opened.place(address), Place)
    assert tried > 10


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "is not a file"),
        (b"", "not a sound"),
        (b"GIF89a", "not a sound"),
        (bytes(10_000), "not a sound"),
    ],
    ids=["missing", "empty", "other-format", "zeros"],
)
def test_what_is_no_database_is_refused_with_its_name(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "geo.mmdb"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=reason) as refused:
        open_database([str(path)])
    assert str(path) in str(refused.value)


def test_every_cut_of_a_file_is_refused_or_right(tmp_path: Path) -> None:
    whole = render()
    path = tmp_path / "geo.mmdb"
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        with pytest.raises(ConfigError):
            open_database([str(path)])


def test_overwriting_a_file_in_place_does_not_reach_what_is_open(tmp_path: Path) -> None:
    path = tmp_path / "geo.mmdb"
    path.write_bytes(render())
    opened = open_database([str(path)])
    os.truncate(path, 0)
    assert opened.place("192.0.2.1").country == "DE"


def test_a_file_that_is_being_written_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def copy_while_it_grows(source: IO[bytes], copy: IO[bytes]) -> None:
        copy.write(source.read())
        with file.open("ab") as other:
            other.write(b"more")

    monkeypatch.setattr("edgeproxy.feeds.geo_database.shutil.copyfileobj", copy_while_it_grows)
    with pytest.raises(ConfigError, match="replace it by rename"):
        open_database([str(file)])


def test_a_build_time_that_no_clock_reaches_is_none(data_dir: Path) -> None:
    odd = data_dir / "geoip" / "broken" / "libmaxminddb-uint64-max-epoch.mmdb"
    sound = data_dir / "geoip" / "GeoIP2-City-Test.mmdb"
    assert open_database([str(odd)]).built_at == 0.0
    assert open_database([str(odd), str(sound)]).built_at == open_database([str(sound)]).built_at > 1e9


def test_no_copy_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = Path(database(tmp_path, "geo.mmdb", ("192.0.2.0/24", {"country_code": "DE"})))
    opened = open_database([str(path)])
    assert opened.place("192.0.2.1").country == "DE"
    assert list(tmp_path.iterdir()) == [path]


# --- several databases, schemas, addresses


def test_the_first_database_that_knows_an_attribute_is_believed(tmp_path: Path) -> None:
    city: dict[str, Value] = {"country": {"iso_code": "DE"}, "city": {"names": {"en": "Bonn"}}}
    paths = [
        database(tmp_path, "a.mmdb", ("192.0.2.0/24", city)),
        database(
            tmp_path,
            "b.mmdb",
            ("0.0.0.0/1", {"country_code": "US", "asn": "AS7"}),
            ("192.0.0.0/8", {"country_code": "DE", "state1_code": "NW", "asn": 64500, "as_name": "Example"}),
        ),
    ]
    both = open_database(paths)
    assert both.place("192.0.2.1") == Place("DE", "", "NW", "Bonn", None, None, 64500, "Example")
    assert both.place("192.0.3.1").city == ""
    assert both.place("10.0.0.1") == Place("US", asn=7)
    assert both.place("223.0.0.1") == NOWHERE


def test_a_city_is_never_joined_to_another_country(tmp_path: Path) -> None:
    other: dict[str, Value] = {
        "country": {"iso_code": "FR"},
        "continent": {"code": "EU"},
        "city": {"names": {"en": "Paris"}},
        "location": {"latitude": 48.8, "longitude": 2.3},
        "autonomous_system_number": 64500,
    }
    paths = [
        database(tmp_path, "a.mmdb", ("192.0.2.0/24", {"country_code": "US"})),
        database(tmp_path, "b.mmdb", ("192.0.2.0/24", other)),
    ]
    assert open_database(paths).place("192.0.2.1") == Place("US", asn=64500)


RECORDS: dict[str, tuple[object, Place]] = {
    "flat-country": ({"country_code": "de"}, Place("DE")),
    "flat-city": (
        {"country_code": "DE", "city": "Bonn", "state1_code": "NW", "latitude": 50.7, "longitude": "7.1"},
        Place("DE", "", "NW", "Bonn", 50.7, 7.1),
    ),
    "flat-continent": ({"country": "JP", "continent": "AS"}, Place("JP", "AS")),
    "country-name-only": ({"country": "Japan"}, NOWHERE),
    "no-country": ({"country": {"iso_code": "ZZ"}, "continent": {"code": "XX"}}, NOWHERE),
    "region-of-old-databases": (
        {"country_code": "EU", "as_organization": "Example"},
        Place(organisation="Example"),
    ),
    "registered-elsewhere": ({"registered_country": {"iso_code": "US"}}, NOWHERE),
    "no-map": ("DE", NOWHERE),
    "wrong-types": (
        {"country": ["DE"], "continent": 7, "city": {"names": "x"}, "subdivisions": ["x"], "location": "x"},
        NOWHERE,
    ),
    "wrong-inner-types": (
        {"country": {"iso_code": 5}, "subdivisions": [], "location": {"latitude": {}}},
        NOWHERE,
    ),
    "half-a-location": ({"location": {"latitude": 1.0}}, NOWHERE),
    "off-the-globe": ({"location": {"latitude": 91.0, "longitude": 0.0}}, NOWHERE),
    "no-number": ({"location": {"latitude": float("nan"), "longitude": 0.0}}, NOWHERE),
    "number-as-word": ({"latitude": "north", "longitude": "x"}, NOWHERE),
    "line-end-in-country": ({"country": {"iso_code": "D\n"}}, NOWHERE),
    "asn-zero": ({"asn": 0}, NOWHERE),
    "asn-too-large": ({"asn": 2**32}, NOWHERE),
    "asn-true": ({"asn": True}, NOWHERE),
}


@pytest.mark.parametrize(("record", "place"), RECORDS.values(), ids=RECORDS.keys())
def test_what_has_the_wrong_shape_is_unknown(record: object, place: Place) -> None:
    assert read_place(record) == place


@pytest.mark.parametrize("address", ["", "unix:", "1.2.3", "192.0.2.256", "x" * 1000, "::1::"])
def test_what_is_no_address_is_nowhere(tmp_path: Path, address: str) -> None:
    opened = open_database([database(tmp_path, "a.mmdb", ("0.0.0.0/1", {"country_code": "US"}))])
    assert opened.place(address) is NOWHERE
    assert opened.counts.errors == 0


def test_other_spellings_of_an_address_have_its_place(tmp_path: Path) -> None:
    rows: list[tuple[str, dict[str, Value]]] = [
        ("192.0.2.0/24", {"country_code": "DE"}),
        ("fe80::/10", {"country_code": "FR"}),
    ]
    opened = open_database([database(tmp_path, "a.mmdb", *rows)])
    assert opened.place("::ffff:192.0.2.1").country == "DE"
    assert opened.place("fe80::1%eth0").country == "FR"


def test_a_database_without_ipv6_knows_nothing_of_it_and_that_is_no_error(data_dir: Path) -> None:
    opened = open_database([str(data_dir / "geoip" / "MaxMind-DB-test-ipv4-24.mmdb")])
    assert opened.place("2001:db8::1") is NOWHERE
    assert opened.counts.errors == 0


def test_memory_does_not_grow_with_addresses(tmp_path: Path) -> None:
    opened = open_database([database(tmp_path, "a.mmdb", ("10.0.0.0/8", {"country_code": "US"}))])
    first = opened.place("10.0.0.0")
    for number in range(70_000):
        assert opened.place(str(ipaddress.ip_address(0x0A00_0000 + number))) is first
    assert len(opened._addresses) + len(opened._older) <= 65_536
    assert len(opened._networks) == 1
    assert opened.counts.known == 70_000
    assert opened.counts.unknown == 0


def test_realistic_traffic_is_answered_from_memory(data_dir: Path) -> None:
    """Clients come for a while, some far more often than others (Zipf), among many who come once."""
    opened = open_database([str(data_dir / "geoip" / "GeoIP2-City-Test.mmdb")])
    chosen = Random(7)
    clients = [str(ipaddress.IPv4Address(chosen.getrandbits(32))) for _ in range(5_000)]
    often = [1 / rank for rank in range(1, 5_001)]
    for address in chosen.choices(clients, often, k=150_000):
        opened.place(address)
    asked = opened.counts.known + opened.counts.unknown
    assert 1 - asked / 150_000 >= 0.95


# --- the feed


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "live.mmdb"
    path.write_bytes(render())
    return path


def replace(path: Path, content: bytes) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_bytes(content)
    fresh.replace(path)


async def test_a_replaced_file_is_used_from_the_next_look(file: Path, tmp_path: Path) -> None:
    snapshot: Snapshot[GeoDatabase | None] = Snapshot(None)
    feed = GeoFeed([str(file)], 5.0, snapshot)
    feed.load()
    first = snapshot.value
    assert first is not None
    assert first.place("192.0.2.1").country == "DE"
    await feed.look()
    assert snapshot.value is first, "nothing changed, nothing is opened"
    other = database(tmp_path, "other.mmdb", ("192.0.2.0/24", {"country_code": "SE"}))
    os.replace(other, file)
    await feed.look()
    assert snapshot.value is not None
    assert snapshot.value.place("192.0.2.1").country == "SE"
    assert first.place("192.0.2.1").country == "DE", "whoever still holds the old one can use it"
    assert (feed.loads, feed.failures) == (2, 0)
    assert snapshot.value.counts is first.counts
    assert snapshot.value.built_at == 1_700_000_000


@pytest.mark.parametrize(
    "content", [b"", b"garbage", render()[:-40], None], ids=["empty", "garbage", "cut", "gone"]
)
async def test_a_damaged_replacement_is_refused_once_and_the_old_one_serves(
    file: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    snapshot: Snapshot[GeoDatabase | None] = Snapshot(None)
    feed = GeoFeed([str(file)], 5.0, snapshot)
    feed.load()
    good = snapshot.value
    if content is None:
        os.remove(file)
    else:
        replace(file, content)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            await feed.look()
    assert snapshot.value is good
    assert (feed.loads, feed.failures) == (1, 1)
    assert str(file) in feed.last_error
    assert [str(file) in record.getMessage() for record in caplog.records] == [True]
    replace(file, render())
    await feed.look()
    assert snapshot.value is not good
    assert (feed.loads, feed.failures, feed.last_error) == (2, 1, "")


async def test_a_replacement_that_is_not_taken_shows_in_the_metrics(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = f"""
origins: {{o: {{servers: ["http://10.0.0.1"]}}}}
geo: {{database: "{file}"}}
routes: [{{name: r, origin: o}}]
"""
    shared = Shared(Path(), 1)
    made = Parts(read_config(parse(text.encode(), "edge.yaml", Path(), {})), shared, 0, None, logs=False)
    column = shared.cells.intern(encode_series("edgeproxy_geo_database_failures_total"))
    replace(file, b"garbage")
    feed = asyncio.create_task(made.feeds[0]())
    async with asyncio.timeout(PATIENCE):
        while not shared.cells.total(column):
            await asyncio.sleep(0)
            made.publish()
    feed.cancel()
    assert shared.cells.total(column) == 1
    await made.close()


async def test_none_of_the_broken_files_takes_the_place_of_a_good_one(
    file: Path, data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    snapshot: Snapshot[GeoDatabase | None] = Snapshot(None)
    feed = GeoFeed([str(file)], 5.0, snapshot)
    feed.load()
    good = snapshot.value
    broken = sorted((data_dir / "geoip" / "broken").glob("*.mmdb"))
    with caplog.at_level(logging.CRITICAL):
        for number, other in enumerate(broken, start=1):
            replace(file, other.read_bytes())
            await feed.look()
            assert snapshot.value is good, other.name
            assert feed.failures == number
    assert len(broken) == 25
    for sound in ("GeoIP2-City-Test", "GeoIP2-Country-Test", "GeoLite2-ASN-Test", "GeoIP2-Anonymous-IP-Test"):
        replace(file, (data_dir / "geoip" / f"{sound}.mmdb").read_bytes())
        await feed.look()
        assert feed.last_error == ""
    assert feed.loads == 5


async def test_the_feed_looks_at_every_interval_until_it_is_cancelled(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 1:
            assert snapshot.value is not None
            replace(file, b"garbage")
            return
        raise asyncio.CancelledError

    snapshot: Snapshot[GeoDatabase | None] = Snapshot(None)
    feed = GeoFeed([str(file)], 7.0, snapshot)
    monkeypatch.setattr("edgeproxy.feeds.geo_database.asyncio.sleep", pause)
    with pytest.raises(asyncio.CancelledError):
        await feed.run()
    assert pauses == [7.0, 7.0]
    assert (feed.loads, feed.failures) == (1, 1)


def test_without_room_for_a_copy_the_file_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edgeproxy.feeds.geo_database.NamedTemporaryFile", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        open_database([str(file)])


def test_without_the_c_extension_it_works_and_says_so(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("edgeproxy.feeds.geo_database.find_spec", lambda _: None)
    with caplog.at_level(logging.WARNING):
        assert open_database([str(file)]).place("192.0.2.1").country == "DE"
    assert "no C extension" in caplog.text


async def test_a_feed_that_starts_without_a_file_finds_it_later(tmp_path: Path) -> None:
    snapshot: Snapshot[GeoDatabase | None] = Snapshot(None)
    path = tmp_path / "late.mmdb"
    feed = GeoFeed([str(path)], 5.0, snapshot)
    with pytest.raises(ConfigError, match="is not a file"):
        feed.load()
    await feed.look()
    assert snapshot.value is None
    path.write_bytes(render())
    await feed.look()
    assert snapshot.value is not None


@pytest.mark.parametrize(("built", "warned"), [(1_600_000_000, True), (1_800_000_000, False)])
async def test_an_older_file_is_used_and_said_to_be_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, built: int, warned: bool
) -> None:
    """Going back may be meant: to a file that was bought, from one that was wrong."""
    file = Path(database(tmp_path, "live.mmdb", ("192.0.2.0/24", {"country_code": "SE"})))
    snapshot: Snapshot[GeoDatabase | None] = Snapshot(None)
    feed = GeoFeed([str(file)], 5.0, snapshot)
    feed.load()
    writer = Writer("test", "made by a test")
    writer.insert(ipaddress.ip_network("0.0.0.0/1"), {"country_code": "DE"})
    replace(file, writer.render(built))
    await feed.look()
    assert snapshot.value is not None
    assert (snapshot.value.built_at, feed.failures) == (built, 0)
    assert ("built before the one in use" in caplog.text) is warned
