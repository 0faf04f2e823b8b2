"""GrowthBook's arithmetic, against the vectors of its specification."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeproxy.policies.ab_hash import (
    as_index,
    bucket_ranges,
    choose_variation,
    equal_weights,
    fnv1a32,
    fraction,
    in_namespace,
    position,
    query_value,
)

Cases = dict[str, list[Any]]


def override(name: str, url: str, count: int) -> int | None:
    value = query_value(name, url.partition("?")[2].partition("#")[0])
    return None if value is None else as_index(value, count)


@pytest.fixture(scope="module")
def cases(data_dir: Path) -> Cases:
    return json.loads((data_dir / "ab" / "growthbook" / "cases.json").read_text())


CHECKS: dict[str, tuple[int, Callable[[list[Any]], object]]] = {
    "hash": (15, lambda c: (fraction(c[0], c[1], c[2]), c[3])),
    "chooseVariation": (13, lambda c: (choose_variation(c[1], c[2]), c[3])),
    "inNamespace": (16, lambda c: (in_namespace(c[1], *c[2]), c[3])),
    "getQueryStringOverride": (16, lambda c: (override(c[1], c[2], c[3]), c[4])),
    "getEqualWeights": (6, lambda c: ([round(w, 8) for w in equal_weights(c[0])], c[1])),
    "getBucketRange": (
        13,
        lambda c: ([[round(x, 9) for x in pair] for pair in bucket_ranges(*c[1])], c[2]),
    ),
}


@pytest.mark.parametrize("name", CHECKS)
def test_every_case_of_growthbook_holds(cases: Cases, name: str) -> None:
    count, check = CHECKS[name]
    assert len(cases[name]) == count
    wrong = [(case, pair) for case in cases[name] if (pair := check(case))[0] != pair[1]]  # type: ignore[index]
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", 0x811C9DC5), ("a", 0xE40C292C), ("foobar", 0xBF9CF968)],
)
def test_ascii_text_has_the_published_fnv1a_values(text: str, expected: int) -> None:
    assert fnv1a32(text) == expected


def test_other_text_is_hashed_by_utf16_code_unit() -> None:
    assert fnv1a32("é") == (0x811C9DC5 ^ 0xE9) * 0x01000193 & 0xFFFFFFFF
    assert fnv1a32("😀") == fnv1a32("\ud83d\ude00"), "two units, whichever way Python holds them"


def fnv1a_by_hand(units: Iterable[int]) -> int:
    state = 0x811C9DC5
    for unit in units:
        state = (state ^ unit) * 0x01000193 % 2**32
    return state


@given(st.text(st.characters(max_codepoint=0xFF)), st.text(st.characters(max_codepoint=0xFF)))
def test_seed_and_unit_are_hashed_as_one_text(seed: str, unit: str) -> None:
    first = fnv1a_by_hand([ord(one) for one in seed + unit])
    second = fnv1a_by_hand(str(first).encode())
    assert fraction(seed, unit) == position(seed, unit) == second % 10000 / 10000 < 1


weights_of_several = st.lists(st.integers(1, 100), min_size=1, max_size=8)


@given(weights=weights_of_several, low=st.floats(0, 1), high=st.floats(0, 1), unit=st.text(max_size=30))
def test_raising_the_coverage_moves_nobody(weights: list[int], low: float, high: float, unit: str) -> None:
    shares = [weight / sum(weights) for weight in weights]
    position = fraction("seed", unit)
    assert position is not None
    before = choose_variation(position, bucket_ranges(len(shares), min(low, high), shares))
    after = choose_variation(position, bucket_ranges(len(shares), max(low, high), shares))
    assert before in (-1, after)


@given(weights=weights_of_several, unit=st.text(max_size=30))
def test_with_full_coverage_everybody_gets_a_variant(weights: list[int], unit: str) -> None:
    shares = [weight / sum(weights) for weight in weights]
    position = fraction("seed", unit)
    assert position is not None
    assert choose_variation(position, bucket_ranges(len(shares), 1.0, shares)) >= 0


@pytest.mark.parametrize("text", ["", "-1", "2", "٣", "1.0", "9" * 5000, " 1"])
def test_what_is_no_index_is_none(text: str) -> None:
    assert as_index(text, 2) is None
