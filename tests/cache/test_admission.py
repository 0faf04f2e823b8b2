"""`min_uses`: what is asked for once is not stored."""

from __future__ import annotations

from edgeproxy.cache.admission import Uses


def test_a_key_is_admitted_when_it_came_often_enough() -> None:
    uses = Uses()
    for reached in (False, False, True, True):
        uses.count(b"a")
        uses.count(b"b")
        assert uses.reaches(b"a", 3) is reached
    assert not uses.reaches(b"c", 1)


def test_a_flood_of_keys_is_forgotten_from_its_start() -> None:
    uses = Uses(cap=100)
    for number in range(1000):
        uses.count(b"%d" % number)
    assert len(uses) == 100
    assert uses.reaches(b"999", 1)
    assert not uses.reaches(b"0", 1)
