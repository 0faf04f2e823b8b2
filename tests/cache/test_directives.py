"""Cache-Control: what strangers write in it costs no memory, and only makes a cache more careful."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeproxy.cache import directives
from edgeproxy.cache.directives import FOREVER, Directives, parse_cache_control

NAMES = st.sampled_from(
    [b"max-age", b"s-maxage", b"no-store", b"no-cache", b"private", b"public", b"must-revalidate", b"x", b""]
)
VALUES = st.sampled_from(
    [b"", b"=", b"=60", b'="60"', b"=-1", b"=9" * 3, b'="set-cookie, x"', b'="', b" = 60", b"=1.5"]
)
FIELDS = st.lists(st.builds(bytes.__add__, NAMES, VALUES), max_size=6).map(b",".join)


def test_long_values_are_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    memo: dict[bytes, Directives] = {}
    monkeypatch.setattr(directives, "_memo", memo)
    assert parse_cache_control(b"max-age=60").max_age == 60
    for number in range(10):
        names = b",".join(b"x%d-%d" % (number, each) for each in range(500))
        assert parse_cache_control(b'no-cache="' + names + b'", no-store').no_store
    assert list(memo) == [b"max-age=60"]


@given(st.one_of(FIELDS, st.binary(max_size=60)))
def test_anything_can_be_read(value: bytes) -> None:
    found = parse_cache_control(value)
    ages = (found.max_age, found.s_maxage, found.stale_while_revalidate, found.max_stale)
    assert all(age is None or 0 <= age <= FOREVER for age in ages)


@given(FIELDS, st.sampled_from([b"no-store", b"private", b"no-cache", b"max-age=0", b"s-maxage=0"]))
def test_what_forbids_is_heard_wherever_it_stands(others: bytes, word: bytes) -> None:
    """Unless quotes around it do not balance: then nothing is kept at all."""
    for value in (word + b"," + others, others + b"," + word):
        found = parse_cache_control(value)
        name, _, age = word.partition(b"=")
        said = getattr(found, name.replace(b"s-maxage", b"s_maxage").replace(b"-", b"_").decode())
        assert found.no_store or (said == 0 if age else said is True)
