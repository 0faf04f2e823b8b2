"""One suite over every tier: memory, the machine's, and both. What a cache promises does not depend on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeproxy.cache.clocks import PurgeClocks
from edgeproxy.cache.entry import Entry
from edgeproxy.cache.key import variant_key
from edgeproxy.cache.machine import MachineStore
from edgeproxy.cache.machine_objects import ASKED, HAND
from edgeproxy.cache.marks import Marks
from edgeproxy.cache.memory import VARIANTS
from edgeproxy.cache.purge import apply_purges
from edgeproxy.cache.store import Store
from edgeproxy.http.message import Headers
from edgeproxy.http.wire import response
from edgeproxy.purge_log import PurgeKind, PurgeLog
from tests.helpers.requests import NOW, headers, whole_body

NOBODY = Headers([])
MANY = 8 * 2**20


@dataclass
class Machine:
    """What the workers of a machine share, and its clocks."""

    path: Path
    log: PurgeLog = field(default_factory=PurgeLog)
    marks: Marks = field(default_factory=Marks)
    asked: memoryview = field(default_factory=lambda: memoryview(bytearray(HAND + ASKED)))
    now: float = NOW
    said: list[str] = field(default_factory=list)
    opened: MachineStore | None = None

    def clock(self) -> float:
        return self.now

    def failed(self, kind: str, why: str) -> None:
        self.said.append(f"{kind}: {why}")

    def tier(self) -> AtOnce:
        """The tier; a process opens it once, so two stores of a test share it."""
        if self.opened is None:
            self.opened = MachineStore(
                str(self.path), b"era", MANY, 2**18, self.asked, self.clock, 0.0, self.failed
            )
        return AtOnce(self.opened)

    def close(self) -> None:
        if self.opened is not None:
            self.opened.close()
            self.opened = None


class AtOnce:
    """The machine tier without the thread that writes."""

    def __init__(self, store: MachineStore) -> None:
        self._store = store
        self.find = store.find

    def put(self, entry: Entry) -> bool:
        return self._store.put([entry]) == 1


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    one = Machine(tmp_path / "objects")
    yield one
    one.close()
    assert one.said == []


Make = Callable[[], Store]


@pytest.fixture(params=["memory", "machine", "both"])
def make(request: pytest.FixtureRequest, machine: Machine) -> Make:
    def memory() -> Store:
        return Store(MANY, machine.log, machine.clock, machine.marks)

    def tiers() -> Store:
        size = 0 if request.param == "machine" else MANY
        return Store(size, machine.log, machine.clock, machine.marks, below=machine.tier())

    return memory if request.param == "memory" else tiers


def entry(key: str, body: bytes = b"", *, path: str = "", tags: str = "", vary: str = "", **more: object):
    names = (b"x",) if vary else ()
    position = more.get("position", 0)
    assert isinstance(position, int)
    return Entry(
        key.encode(), names, variant_key(names, headers({"X": vary})),
        response(200, [(b"ETag", b'"1"')], body),
        float(str(more.get("born", NOW))), NOW + float(str(more.get("ttl", 60))), NOW + 90, NOW + 90,
        must_validate=False, never_stale=False, position=position, tags=frozenset(tags.encode().split()),
        location=(b"example.com", (path or f"/{key}").encode(), b""),
    )  # fmt: skip


for _ in range(3):
    entry("warm")  # what entries have in common is kept once: from now on equal ones are of equal size


def body_of(store: Store, key: str, vary: str | None = None) -> bytes | None:
    found, _ = store.find(key.encode(), headers({"X": vary}) if vary is not None else NOBODY)
    return None if found is None else whole_body(found.response)


def test_what_was_put_is_found(make: Make) -> None:
    store = make()
    assert store.find(b"a", NOBODY) == (None, False)
    assert store.put(entry("a", b"first"))
    assert store.put(entry("a", b"second"))
    found, others = store.find(b"a", NOBODY)
    assert found is not None
    assert (found.response.body, found.etag, found.fresh_until, others) == (
        b"second",
        b'"1"',
        NOW + 60,
        False,
    )
    assert body_of(store, "b") is None


def test_variants_stand_side_by_side(make: Make) -> None:
    store = make()
    for vary in "abc":
        store.put(entry("k", vary.encode(), vary=vary))
    assert [body_of(store, "k", vary) for vary in "abcd"] == [b"a", b"b", b"c", None]
    assert store.find(b"k", headers({"X": "d"})) == (None, True)
    store.put(entry("k", b"B", vary="b"))
    assert [body_of(store, "k", vary) for vary in "abc"] == [b"a", b"B", b"c"]
    store.put(entry("k", b"now without Vary"))
    assert body_of(store, "k", "a") == b"now without Vary"


def test_variants_are_bounded_and_the_oldest_goes(make: Make) -> None:
    store = make()
    for number in range(VARIANTS + 3):
        store.put(entry("k", b"%d" % number, vary=f"v{number}"))
    found = [body_of(store, "k", f"v{number}") for number in range(VARIANTS + 3)]
    assert found[:3] == [None, None, None]
    assert None not in found[3:]


@pytest.mark.parametrize(
    ("kind", "value", "left"),
    [
        (PurgeKind.URL, b"example.com/a", "bcd"),
        (PurgeKind.PREFIX, b"example.com/x", "ab"),
        (PurgeKind.HOST, b"example.com", ""),
        (PurgeKind.HOST, b"other.example", "abcd"),
        (PurgeKind.TAG, b"red", "acd"),
        (PurgeKind.ALL, b"", ""),
    ],
    ids=["url", "prefix", "host", "other host", "tag", "all"],
)
def test_a_purge_is_in_force_whoever_stored_it(
    make: Make, machine: Machine, kind: PurgeKind, value: bytes, left: str
) -> None:
    store, other = make(), make()
    for one in (entry("a"), entry("b", tags="red blue"), entry("c", path="/x/1"), entry("d", path="/x/2")):
        store.put(one)
    assert machine.log.append(kind, value) == machine.log.position
    for each in (store, other):
        apply_purges(each, machine.log, NOW)
        assert each.position == machine.log.position
    assert "".join(key for key in "abcd" if body_of(store, key) is not None) == left
    assert set("".join(key for key in "abcd" if body_of(other, key) is not None)) <= set(left)
    assert machine.log.reached(value, machine.log.position)[0] == 2, "both workers said so"


def test_a_soft_purge_makes_stale_until_it_is_stored_anew(make: Make, machine: Machine) -> None:
    store = make()
    store.put(entry("a"))
    machine.now += 10
    machine.log.append(PurgeKind.ALL, b"", soft=True)
    store.keep_up()
    found, _ = store.find(b"a", NOBODY)
    assert found is not None
    assert found.fresh_until <= machine.now < found.stale_until
    store.put(entry("a", position=machine.log.position))
    found, _ = store.find(b"a", NOBODY)
    assert found is not None
    assert found.fresh_until == NOW + 60


def test_what_was_validated_after_a_soft_purge_is_fresh_again(make: Make, machine: Machine) -> None:
    store = make()
    store.put(entry("a"))
    machine.log.append(PurgeKind.ALL, b"", soft=True)
    began = machine.log.position
    assert store.renew(entry("a"), began)
    found, _ = store.find(b"a", NOBODY)
    assert found is not None
    assert found.fresh_until == NOW + 60


@pytest.mark.parametrize("soft", [False, True])
def test_a_validation_that_began_before_a_purge_makes_nothing_fresh(
    make: Make, machine: Machine, soft: bool
) -> None:
    store = make()
    store.put(entry("a"))
    machine.log.append(PurgeKind.ALL, b"", soft=soft)
    store.renew(entry("a"), 0)
    found, _ = store.find(b"a", NOBODY)
    assert (found is None) is not soft
    assert found is None or found.fresh_until <= NOW


def test_what_was_purged_is_not_put_back_by_a_validation_that_began_later(
    make: Make, machine: Machine
) -> None:
    store = make()
    store.put(entry("a"))
    machine.log.append(PurgeKind.ALL, b"")
    assert not store.renew(entry("a"), machine.log.position)
    assert store.find(b"a", NOBODY) == (None, False)


@pytest.mark.parametrize("soft", [False, True])
def test_a_fetch_that_began_before_a_purge_does_not_put_the_old_answer_back(
    make: Make, machine: Machine, soft: bool
) -> None:
    store = make()
    began = store.position
    machine.log.append(PurgeKind.URL, b"example.com/a", soft=soft)
    assert store.put(entry("a", position=began)) is soft
    found, _ = store.find(b"a", NOBODY)
    assert (found is None) is not soft
    assert found is None or found.fresh_until <= NOW
    assert store.put(entry("b", position=began)), "others are not concerned"


def test_an_unsafe_request_invalidates_in_every_worker(make: Make, machine: Machine) -> None:
    store, other = make(), make()
    for each in (store, other):
        each.put(entry("a1", path="/a"))
        each.put(entry("a2", path="/a", vary="x"))
        each.put(entry("b"))
    store.invalidate((b"example.com", b"/a", b""))
    other.keep_up()
    for each in (store, other):
        assert [body_of(each, key, "x") for key in ("a1", "a2", "b")] == [None, None, b""]


def test_an_unsafe_request_to_a_url_that_nobody_stored_is_no_purge(make: Make, machine: Machine) -> None:
    make().invalidate((b"example.com", b"/never", b""))
    assert machine.log.position == 0


def test_readers_that_fell_behind_forget_everything_older(make: Make, machine: Machine) -> None:
    store = make()
    store.put(entry("a"))
    for _ in range(200):
        machine.log.append(PurgeKind.URL, b"h/" + b"x" * 8000)
    store.keep_up()
    assert body_of(store, "a") is None
    assert store.put(entry("a", position=store.position))
    assert body_of(store, "a") == b""


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["put", "purge", "ask"])), max_size=30))
def test_a_store_is_a_dictionary_with_purges(
    make: Make, machine: Machine, work: list[tuple[str, str]]
) -> None:
    store, model = make(), dict[str, bytes]()
    machine.log.append(PurgeKind.ALL, b"")
    for number, (key, what) in enumerate(work):
        if what == "put":
            model[key] = b"%d" % number
            store.keep_up()
            store.put(entry(key, model[key], position=store.position))
        elif what == "purge":
            model.pop(key, None)
            machine.log.append(PurgeKind.URL, b"example.com/" + key.encode())
        store.keep_up()
        assert body_of(store, key) == model.get(key)


# --- two tiers together


def test_what_memory_had_to_drop_is_still_found_below(machine: Machine) -> None:
    store = Store(
        3 * entry("a", b"x" * 100).size, machine.log, machine.clock, machine.marks, below=machine.tier()
    )
    for key in "abcdef":
        store.put(entry(key, b"x" * 100))
    assert len(store) == 3
    assert all(body_of(store, key) is not None for key in "abcdef")
    assert store.below_hits >= 3
    assert store.bytes <= store.max_bytes


def test_a_second_worker_finds_what_the_first_one_stored_and_then_has_it_itself(machine: Machine) -> None:
    first, second = (
        Store(MANY, machine.log, machine.clock, machine.marks, below=machine.tier()) for _ in range(2)
    )
    first.put(entry("a", b"shared"))
    assert body_of(second, "a") == body_of(second, "a") == b"shared"
    assert (second.below_hits, len(second)) == (1, 1)


def test_a_stale_entry_is_replaced_by_what_another_worker_refreshed(machine: Machine) -> None:
    first, second = (
        Store(MANY, machine.log, machine.clock, machine.marks, below=machine.tier()) for _ in range(2)
    )
    first.put(entry("a", b"old", ttl=1))
    old, _ = second.find(b"a", NOBODY)
    assert old is not None
    machine.now += 2
    assert second.renewed(old, NOBODY) is old, "nobody has"
    first.put(entry("a", b"new", ttl=50, born=machine.now))
    assert second.renewed(old, NOBODY) is old, "it was looked for a moment ago"
    machine.now += 1
    assert second.renewed(old, NOBODY).response.body == b"new"
    assert body_of(second, "a") == b"new"
    machine.log.append(PurgeKind.ALL, b"")
    second.keep_up()
    machine.now += 1
    assert second.renewed(old, NOBODY) is old, "it was purged since"


@pytest.mark.parametrize("how", [Entry.end, Entry.expire], ids=["end", "expire"])
def test_what_was_made_stale_in_memory_is_not_fresh_again_from_below(
    machine: Machine, how: Callable[[Entry, float], None]
) -> None:
    store, other = (
        Store(MANY, machine.log, machine.clock, machine.marks, below=machine.tier()) for _ in range(2)
    )
    store.put(entry("a"))
    found, _ = store.find(b"a", NOBODY)
    assert found is not None
    how(found, machine.now)
    machine.now += 1
    assert store.renewed(found, NOBODY) is found, "the one below is the same, and looks fresh"
    store.changed(found)
    elsewhere, _ = other.find(b"a", NOBODY)
    assert elsewhere is not None
    assert elsewhere.fresh_until <= machine.now
    assert elsewhere.must_validate is found.must_validate
    store.put(entry("a", b"new", born=machine.now))
    store.changed(found)
    assert body_of(other, "a") == b"", "it holds the old one"
    third = Store(MANY, machine.log, machine.clock, machine.marks, below=machine.tier())
    assert body_of(third, "a") == b"new", "what was replaced meanwhile does not come back"


def test_a_purge_is_in_force_on_what_an_earlier_start_stored(machine: Machine) -> None:
    store = Store(MANY, machine.log, machine.clock, machine.marks, below=machine.tier())
    store.put(entry("a"))
    store.put(entry("b"))
    machine.log.append(PurgeKind.URL, b"example.com/a")
    clocks = PurgeClocks()
    for purge in machine.log.since(0)[0]:
        clocks.record(purge)
    machine.close()
    machine.log = PurgeLog()
    machine.log.begin(clocks.position)
    again = Store(MANY, machine.log, machine.clock, machine.marks, clocks, machine.tier())
    assert (body_of(again, "a"), body_of(again, "b")) == (None, b"")
    assert again.position == machine.log.position


def test_what_took_so_long_that_it_is_stale_does_not_replace_what_is_fresh(machine: Machine) -> None:
    store = Store(MANY, machine.log, machine.clock, machine.marks)
    slow = entry("a", b"old", ttl=10)
    store.fill(entry("a", b"new", ttl=60), machine.now)
    machine.now += 20
    assert not store.fill(slow, NOW)
    assert body_of(store, "a") == b"new"
    machine.now += 60
    assert store.fill(slow, NOW), "both are stale, and the one can be validated as well as the other"
