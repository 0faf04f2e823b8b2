"""What our writer writes, MaxMind's reader reads: C and Python alike."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import maxminddb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from maxminddb.const import MODE_MEMORY, MODE_MMAP_EXT

from edgeproxy.demo.geo_demo import PLACES, render, write
from edgeproxy.demo.mmdb_writer import Value, Writer
from edgeproxy.feeds.geo_database import open_database

MODES = pytest.mark.parametrize("mode", [MODE_MMAP_EXT, MODE_MEMORY], ids=["c", "python"])
SIZES = pytest.mark.parametrize("size", [24, 28, 32])


def opened(folder: Path, writer: Writer, mode: int = MODE_MMAP_EXT) -> Any:
    path = folder / "made.mmdb"
    path.write_bytes(writer.render(1_700_000_000))
    return maxminddb.open_database(str(path), mode)


@MODES
@SIZES
def test_networks_of_both_families_are_found_with_their_length(tmp_path: Path, mode: int, size: int) -> None:
    writer = Writer("made-up", "words", record_size=size)
    for network in (
        "10.0.0.0/8",
        "10.1.0.0/16",
        "10.1.2.3/32",
        "2001:db8::/32",
        "2001:db8::1/128",
        "8000::/1",
    ):
        writer.insert(ip_network(network), {"name": network})
    with opened(tmp_path, writer, mode) as reader:
        found = {
            address: reader.get_with_prefix_len(address)
            for address in (
                "10.1.2.3",
                "10.1.2.4",
                "10.1.3.0",
                "10.2.0.0",
                "2001:db8::1",
                "2001:db8::2",
                "9000::",
            )
        }
        assert found == {
            "10.1.2.3": ({"name": "10.1.2.3/32"}, 32),
            "10.1.2.4": ({"name": "10.1.0.0/16"}, 30),
            "10.1.3.0": ({"name": "10.1.0.0/16"}, 24),
            "10.2.0.0": ({"name": "10.0.0.0/8"}, 15),
            "2001:db8::1": ({"name": "2001:db8::1/128"}, 128),
            "2001:db8::2": ({"name": "2001:db8::/32"}, 127),
            "9000::": ({"name": "8000::/1"}, 1),
        }
        assert reader.get("11.0.0.0") is None
        assert reader.get("2001:db9::") is None
        about = reader.metadata()
        assert (about.database_type, about.description, about.languages) == (
            "made-up",
            {"en": "words"},
            ["en"],
        )
        assert (about.ip_version, about.record_size, about.build_epoch) == (6, size, 1_700_000_000)


RECORDS: dict[str, dict[str, Value]] = {
    "empty": {},
    "text": {"a": "", "b": "x", "c": "ä" * 14, "d": "y" * 28, "e": "y" * 29, "f": "z" * 284, "g": "z" * 285},
    "long-text": {"a": "q" * 65_820},
    "numbers": {"zero": 0, "one": 1, "most": 2**32 - 1, "wide": 2**63, "half": -0.5, "pi": 3.14159},
    "truth": {"yes": True, "no": False},
    "nested": {"list": ["a", {"b": [1, 2.5, []]}, "repeated", "repeated"], "map": {"repeated": "repeated"}},
    "many": {f"key {number}": number for number in range(300)},
}


@MODES
@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS.keys())
def test_records_come_back_as_they_were(tmp_path: Path, mode: int, record: dict[str, Value]) -> None:
    writer = Writer("test", "")
    writer.insert(ip_network("192.0.2.0/24"), record)
    with opened(tmp_path, writer, mode) as reader:
        assert reader.get("192.0.2.1") == record


def test_equal_records_are_written_once_and_far_ones_are_pointed_at(tmp_path: Path) -> None:
    writer = Writer("test", "")
    shared: dict[str, Value] = {"filler": "f" * 60_000}
    for number in range(12):
        writer.insert(
            ip_network(f"10.{number}.0.0/16"), {"text": chr(97 + number) * 60_000, "again": "repeated"}
        )
        writer.insert(ip_network(f"11.{number}.0.0/16"), shared)
    size = len(writer.render(0))
    assert size < 13 * 60_000 + 10_000
    with opened(tmp_path, writer) as reader:
        for number in range(12):
            assert reader.get(f"10.{number}.0.1") == {"text": chr(97 + number) * 60_000, "again": "repeated"}
            assert reader.get(f"11.{number}.0.1") == shared


def test_a_wide_network_after_a_narrow_one_is_refused() -> None:
    writer = Writer("test", "")
    writer.insert(ip_network("10.1.0.0/16"), {})
    with pytest.raises(ValueError, match="covers networks"):
        writer.insert(ip_network("10.0.0.0/8"), {})


def test_what_the_format_cannot_hold_is_refused() -> None:
    writer = Writer("test", "")
    with pytest.raises(ValueError, match="whole tree"):
        writer.insert(ip_network("::/0"), {})
    with pytest.raises(ValueError, match="too large"):
        writer.insert(ip_network("10.0.0.0/8"), {"a": "x" * 65_821})
    with pytest.raises(ValueError, match="record_size"):
        Writer("test", "", record_size=16)


networks = st.one_of(
    st.builds(
        lambda number, length: IPv4Network((number, length), strict=False),
        st.integers(0, 2**32 - 1),
        st.integers(1, 32),
    ),
    st.builds(
        lambda number, length: IPv6Network((2**127 | number, length), strict=False),
        st.integers(0, 2**127 - 1),
        st.integers(1, 128),
    ),
)


@settings(max_examples=40, deadline=None)
@given(st.sets(networks, min_size=1, max_size=8))
def test_the_narrowest_network_wins(chosen: set[IPv4Network | IPv6Network]) -> None:
    writer = Writer("test", "")
    for network in sorted(chosen, key=lambda each: each.prefixlen):
        writer.insert(network, {"network": str(network)})
    with TemporaryDirectory() as folder, opened(Path(folder), writer) as reader:
        for network in chosen:
            for address in (network.network_address, network.broadcast_address):
                around = [other for other in chosen if other.version == network.version and address in other]
                narrowest = max(around, key=lambda each: each.prefixlen)
                assert reader.get(address) == {"network": str(narrowest)}


def test_the_demo_database_in_config_is_what_the_code_writes(tmp_path: Path) -> None:
    write(tmp_path / "demo.mmdb")
    shipped = Path(__file__).resolve().parents[2] / "config" / "demo-geo.mmdb"
    assert shipped.read_bytes() == (tmp_path / "demo.mmdb").read_bytes() == render()
    assert len(render()) < 64 * 1024


def test_the_demo_database_says_that_it_is_one_and_knows_its_networks(tmp_path: Path) -> None:
    path = tmp_path / "demo.mmdb"
    write(path)
    with maxminddb.open_database(str(path)) as reader:
        assert reader.metadata().database_type == "edgeproxy-demo-City"
        assert "Demonstration" in reader.metadata().description["en"]
    places = open_database([str(path)])
    for network, town in PLACES.items():
        place = places.place(network.partition("/")[0])
        assert (place.country, place.city, place.latitude) == (town.country, town.name, town.latitude), (
            network
        )
        assert (place.continent, place.longitude) == (town.continent, town.longitude)
    assert places.place("127.0.0.1").country == ""
    assert places.counts.errors == 0
