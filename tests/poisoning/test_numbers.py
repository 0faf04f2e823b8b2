"""The assertions of the cache, A39 to A85, are each named by a test that is about it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent
NOT_OURS = {77}  # about a cache in Redis, which there is none of
NAMED = re.compile(r"(?:def test_|_)a(\d\d)(?=_)|\bA(\d\d)\b")


@pytest.fixture(scope="session")
def named() -> set[int]:
    files = [path for path in TESTS.rglob("test_*.py") if path != Path(__file__)]
    return {int(one or other) for path in files for one, other in NAMED.findall(path.read_text())}


@pytest.mark.parametrize("number", [number for number in range(39, 86) if number not in NOT_OURS])
def test_an_assertion_has_a_test(named: set[int], number: int) -> None:
    assert number in named
