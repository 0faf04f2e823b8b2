"""Dates in the three forms of RFC 9110 §5.6.7, and nothing that only looks like one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeproxy.http.dates import format_date, parse_date


@pytest.mark.parametrize(
    "text",
    ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"],
)
def test_all_three_forms_name_the_same_instant(text: str) -> None:
    assert parse_date(text.encode()) == 784111777.0


@pytest.mark.parametrize(("year", "instant"), [("69", 3124224000.0), ("70", 0.0)])
def test_two_digits_of_a_year_lie_between_1970_and_2069(year: str, instant: float) -> None:
    assert parse_date(f"Thursday, 01-Jan-{year} 00:00:00 GMT".encode()) == instant


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 1994 08:49:37 CET",
        "Sun, 06 Now 1994 08:49:37 GMT",
        "Sun, 32 Nov 1994 08:49:37 GMT",
        "Sun, 00 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 24:49:37 GMT",
        "Sun, 06 Nov 1994 08:60:37 GMT",
        "Sun, 06 Nov 1994 08:49:61 GMT",
        "Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT",
    ],
)
def test_anything_else_is_no_date(text: str) -> None:
    assert parse_date(text.encode()) is None


def test_an_absent_field_is_no_date() -> None:
    assert parse_date(None) is None


@given(st.integers(0, 253402300799))
def test_what_is_written_reads_back(instant: int) -> None:
    assert parse_date(format_date(instant)) == instant


@given(st.binary(max_size=60))
def test_no_bytes_break_it(value: bytes) -> None:
    parse_date(value)
