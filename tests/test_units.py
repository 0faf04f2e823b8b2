"""Values with units: what is read, what is refused and how, and that editors are told the same."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from edgeproxy.units import (
    Above0,
    Duration,
    Rate,
    Size,
    parse_address,
    parse_duration,
    parse_network,
    parse_rate,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25), ("30s", 30), ("1.5m", 90), ("2h", 7200), ("7d", 604800), (" 1s ", 1), ("0s", 0),
        (0, 0), ("0", 0), (0.0, 0),
    ],
)  # fmt: skip
def test_a_duration_is_a_number_and_a_unit_or_0(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "value", [1, 1.5, 30, "30", "", "s", "-1s", "1 s", "1w", "1.s", ".5s", True, False, None, []]
)
def test_a_bare_number_is_no_duration(value: object) -> None:
    with pytest.raises(ValueError, match="is not a duration; write a number and a unit: 250ms 30s 5m 1h 7d"):
        parse_duration(value)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512B", 512),
        ("8KiB", 8192),
        ("1.5MiB", 1572864),
        ("1GiB", 2**30),
        ("500KB", 500_000),
        ("7", 7),
        (0, 0),
    ],
)
def test_a_size_has_a_unit_or_counts_bytes(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("value", [-1, 1.5, "1kb", "1 KiB", "", True, None])
def test_anything_else_is_no_size(value: object) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(value)


def test_what_was_parsed_is_taken_as_it_is() -> None:
    for made, parse in (
        (parse_rate("100/s"), parse_rate),
        (parse_address(":80"), parse_address),
        (parse_network("::1"), parse_network),
    ):
        assert parse(made) is made


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("[::1]:80", "[::1]:80"),
        (":80", "0.0.0.0:80"),
    ],
)
def test_an_address_is_an_ip_and_a_port(text: str, address: str) -> None:
    assert str(parse_address(text)) == address


def test_a_rate_is_a_count_in_a_time() -> None:
    assert parse_rate("100/s") == Rate(100, 1)
    assert parse_rate("30/m").per_second == 0.5
    for value in (100, "100", "0/s", "1/w", "1/2s", None):
        with pytest.raises(ValueError, match="is not a rate"):
            parse_rate(value)


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.1.2.3", "10.1.2.3/32"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("::1", "::1/128"),
        ("10.0.0.0/255.0.0.0", "10.0.0.0/8"),
    ],
)
def test_a_network_is_an_address_with_the_length_of_its_prefix(text: str, network: str) -> None:
    assert str(parse_network(text)) == network


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("10.1.2.3/8", "write 10.0.0.0/8 for all of it, or 10.1.2.3 for one address"),
        ("2001:db8::1/32", "write 2001:db8::/32 for all of it, or 2001:db8::1 for one address"),
        ("10.0.0.0/33", "write it like 10.0.0.0/8 or 2001:db8::/32, or one address"),
        ("everybody", "write it like 10.0.0.0/8 or 2001:db8::/32, or one address"),
        (10, "write it like 10.0.0.0/8 or 2001:db8::/32, or one address"),
        ("", "write it like 10.0.0.0/8 or 2001:db8::/32, or one address"),
    ],
)
def test_what_is_no_network_is_told_what_would_be(value: object, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{value!r} is not a network; {told}")):
        parse_network(value)


@pytest.mark.parametrize("parse", [parse_duration, parse_size, parse_rate, parse_network, parse_address])
@given(
    value=st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.lists(st.none())
)
def test_every_value_is_read_or_refused_with_a_sentence(
    parse: Callable[[object], object], value: object
) -> None:
    with contextlib.suppress(ValueError):
        parse(value)


KINDS: list[Any] = [Duration, Above0, Size]


def agrees(kind: Any, value: Any) -> tuple[bool, bool]:
    """(does the schema take it, is it read)."""
    adapter = TypeAdapter[Any](kind)
    told = jsonschema.Draft202012Validator(adapter.json_schema()).is_valid(value)
    try:
        adapter.validate_python(value)
    except ValueError:
        return told, False
    return told, True


@pytest.mark.parametrize("kind", [Duration, Above0, Size], ids=["duration", "above 0", "size"])
@pytest.mark.parametrize(
    "value",
    [
        0,
        "0",
        "0s",
        "0.00ms",
        "10ms",
        "1s",
        "1.5h",
        1,
        1.5,
        "1.2.3s",
        "1",
        "-1s",
        "8KiB",
        "8kib",
        True,
        None,
        "s",
    ],
)
def test_editors_are_told_what_is_read(kind: Any, value: object) -> None:
    told, read = agrees(kind, value)
    if kind is Above0 or value not in (0, "0"):
        assert told == read
    assert told or not read, "an editor must not draw a red line under what is right"


@given(st.text(alphabet="0123456789.smhdKiB", max_size=6) | st.integers(-3, 3) | st.floats(-2, 2))
def test_no_editor_complains_about_what_is_read(value: object) -> None:
    for kind in KINDS:
        told, read = agrees(kind, value)
        assert told or not read


def test_0_is_shown_to_editors_where_it_is_fine() -> None:
    assert agrees(Duration, 0) == (True, True)
    assert agrees(Above0, 0) == (False, False)
