"""The queue in front of the machine tier: bounded, in order, the last word per variant."""

from __future__ import annotations

from edgeproxy.cache.outbox import Outbox
from tests.cache.test_store import entry


def test_the_last_word_of_a_variant_counts() -> None:
    box = Outbox()
    for body, vary in ((b"1", ""), (b"a", "a"), (b"2", "")):
        box.put(entry("k", body, vary=vary))
    assert [one.response.body for one in box.take(10**6)] == [b"a", b"2"]
    assert (len(box), box.bytes, box.dropped) == (0, 0, 0)


def test_a_full_one_lets_the_oldest_go_and_counts_it() -> None:
    box = Outbox(most=3)
    for number in range(5):
        box.put(entry(f"k{number}"))
    assert [one.key for one in box.take(10**6)] == [b"k2", b"k3", b"k4"]
    assert box.dropped == 2
    size = [entry("k0", b"x" * 1000).size for _ in range(3)][-1]  # what they have in common is kept once
    box = Outbox(most_bytes=3 * size)
    for number in range(5):
        box.put(entry(f"k{number}", b"x" * 1000))
    assert (len(box), box.bytes, box.dropped) == (3, 3 * size, 2)


def test_it_is_taken_in_portions_of_one_entry_at_least() -> None:
    box = Outbox()
    for number in range(4):
        box.put(entry(f"k{number}", b"x" * 5000))
    assert [len(box.take(1)), len(box.take(8000)), len(box.take(8000)), len(box.take(1))] == [1, 2, 1, 0]
