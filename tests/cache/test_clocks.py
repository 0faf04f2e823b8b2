"""Which entries are older than a purge that names them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeproxy.cache.clocks import PurgeClocks, Purged
from edgeproxy.cache.entry import Entry
from edgeproxy.cache.purge import matcher
from edgeproxy.http.wire import response
from edgeproxy.purge_log import Purge, PurgeKind, joined_location, split_location
from tests.helpers.requests import NOW


def entry(location: bytes, tags: bytes = b"", position: int = 0) -> Entry:
    return Entry(
        b"key", (), b"", response(200, [], b""), NOW, NOW + 60, NOW + 60, NOW + 60,
        must_validate=False, never_stale=False, position=position, tags=frozenset(tags.split()),
        location=split_location(location),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "value", "named"),
    [
        (PurgeKind.URL, b"a.example/x/1?q", True),
        (PurgeKind.URL, b"a.example/x/1", False),
        (PurgeKind.HOST, b"a.example", True),
        (PurgeKind.HOST, b"b.example", False),
        (PurgeKind.TAG, b"red", True),
        (PurgeKind.TAG, b"re", False),
        (PurgeKind.PREFIX, b"a.example/x", True),
        (PurgeKind.PREFIX, b"a.example/x/1/and/more", False),
        (PurgeKind.PREFIX, b"b.example/x", False),
        (PurgeKind.ALL, b"", True),
    ],
)
@pytest.mark.parametrize("soft", [False, True])
def test_an_entry_is_covered_by_a_later_purge_that_names_it(
    kind: PurgeKind, value: bytes, named: bool, soft: bool
) -> None:
    clocks = PurgeClocks()
    clocks.record(Purge(kind, value, soft, 100))
    expected = (Purged.SOFT if soft else Purged.HARD) if named else None
    assert clocks.covers(entry(b"a.example/x/1?q", b"red blue", 99)) is expected
    assert clocks.covers(entry(b"a.example/x/1?q", b"red blue", 100)) is None, "its fetch began after it"


def test_hard_wins_over_soft_whichever_came_first() -> None:
    clocks = PurgeClocks()
    clocks.record(Purge(PurgeKind.TAG, b"red", False, 10))
    clocks.record(Purge(PurgeKind.ALL, b"", True, 20))
    assert clocks.covers(entry(b"a/", b"red", 5)) is Purged.HARD
    assert clocks.covers(entry(b"a/", b"red", 15)) is Purged.SOFT


def test_what_is_no_longer_remembered_raises_the_floor() -> None:
    clocks = PurgeClocks(most=3)
    for number in range(5):
        clocks.record(Purge(PurgeKind.PREFIX, b"h/%d" % number, False, number + 1))
    assert (len(clocks), clocks.floor) == (3, 2)
    assert clocks.covers(entry(b"other/", position=1)) is Purged.HARD, "nobody knows any more"
    assert clocks.covers(entry(b"other/", position=2)) is None
    assert clocks.covers(entry(b"h/4", position=2)) is Purged.HARD


def test_a_prefix_counts_although_another_of_its_length_is_forgotten() -> None:
    clocks = PurgeClocks(most=1)
    for number in (1, 2):
        clocks.record(Purge(PurgeKind.PREFIX, b"h/%d" % number, False, number))
    assert clocks.covers(entry(b"h/2", position=1)) is Purged.HARD
    clocks.record(Purge(PurgeKind.HOST, b"other", False, 3))
    assert clocks._lengths == {}


def test_names_are_bounded_in_bytes_too() -> None:
    clocks = PurgeClocks(most_bytes=1000)
    for number in range(10):
        clocks.record(Purge(PurgeKind.TAG, b"%0300d" % number, False, number + 1))
    assert (len(clocks), clocks.floor, clocks._size) == (3, 7, 900)


def test_a_purge_said_again_is_one_record_and_the_youngest() -> None:
    clocks = PurgeClocks(most=2)
    for position, tag in enumerate([b"a", b"b", b"a", b"c"], 1):
        clocks.record(Purge(PurgeKind.TAG, tag, False, position))
    assert clocks.floor == 2, "b was the one purged longest ago"
    assert [(purge.value, purge.position) for purge in clocks.purges()] == [(b"a", 3), (b"c", 4)]


def test_clocks_that_lost_purges_know_nothing_older() -> None:
    clocks = PurgeClocks()
    clocks.record(Purge(PurgeKind.PREFIX, b"a/x", True, 10))
    clocks.lose(500)
    assert (clocks.position, len(clocks), clocks._lengths) == (500, 0, {})
    assert clocks.covers(entry(b"b/", position=499)) is Purged.HARD
    assert clocks.covers(entry(b"b/", position=500)) is None


_VALUES = st.sampled_from([b"a/", b"a/x", b"a/x/y", b"a/xy?q", b"b/", b"b/x"])
_PURGES = st.tuples(st.sampled_from(PurgeKind), _VALUES, st.booleans())


@settings(max_examples=300, deadline=None)
@given(st.lists(_PURGES, max_size=20), _VALUES, st.sampled_from([b"", b"a", b"a b"]), st.integers(0, 20))
def test_clocks_say_what_a_search_through_all_purges_says(
    purges: list[tuple[PurgeKind, bytes, bool]], location: bytes, tags: bytes, position: int
) -> None:
    clocks = PurgeClocks()
    one, verdicts = entry(location, tags, position), set[bool]()
    for number, (kind, value, soft) in enumerate(purges, 1):
        if kind in (PurgeKind.HOST, PurgeKind.TAG):
            value = value[:1]
        purge = Purge(kind, value, soft, number)
        clocks.record(purge)
        if number > position and matcher(purge)(one):
            verdicts.add(soft)
    expected = Purged.HARD if False in verdicts else Purged.SOFT if True in verdicts else None
    assert clocks.covers(one) is expected
    again = PurgeClocks()
    for purge in clocks.purges():
        again.record(purge)
    assert again.covers(one) is expected, "what is written down says the same"


@given(_VALUES)
def test_a_location_is_written_as_it_is_read(value: bytes) -> None:
    assert joined_location(split_location(value)) == value
