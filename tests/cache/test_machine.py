"""The machine tier's own promises: its bound, its eviction, and that no failure reaches whoever asks."""

from __future__ import annotations

import os
import random
import resource
import signal
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import pytest

from edgeproxy.cache.entry import Entry
from edgeproxy.cache.key import variant_key
from edgeproxy.cache.machine import SLOW, DamagedError, MachineStore
from edgeproxy.cache.machine_objects import ASKED, HAND
from edgeproxy.cache.machine_rows import PAGE, PIECE, bytes_of_file, parse_row
from edgeproxy.http.message import Headers
from edgeproxy.http.wire import response
from tests.helpers.requests import NOW, headers

NOBODY = Headers([])
SIZE = 4 * 2**20
ERA = b"era"


def entry(key: str, body: bytes = b"", vary: str = "") -> Entry:
    names = (b"x",) if vary else ()
    return Entry(
        key.encode(), names, variant_key(names, headers({"X": vary})), response(200, [], body),
        NOW, NOW + 60, NOW + 90, NOW + 90,
        must_validate=False, never_stale=False, position=0, location=(b"h", b"/" + key.encode(), b""),
    )  # fmt: skip


class Home:
    """Opens the tier as a worker does."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "cache.mdb"
        self.said: list[str] = []
        self.asked = memoryview(bytearray(HAND + ASKED))
        self.now = NOW
        self.ahead = 0.0
        self.tiers: list[MachineStore] = []

    def clock(self) -> float:
        return self.now

    def failed(self, kind: str, why: str) -> None:
        self.said.append(f"{kind}: {why}")

    def open(self, size: int = SIZE, object_size: int = 2**18, era: bytes = ERA) -> MachineStore:
        tier = MachineStore(
            str(self.path), era, size, object_size, self.asked, self.clock, self.ahead, self.failed
        )
        self.tiers.append(tier)
        return tier


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    one = Home(tmp_path)
    yield one
    for tier in one.tiers:
        tier.close()


def holds(tier: MachineStore, key: str) -> bool:
    return tier.find(key.encode(), NOBODY)[0] is not None


def check_trees(tier: MachineStore) -> None:
    """Each object is in one row of its key, and each row's objects are there."""
    with tier._env.begin() as txn:
        listed = {
            number: key for key, row in txn.cursor(tier._objects._index) for _, number in parse_row(row)[1]
        }
        stored = dict(txn.cursor(tier._objects._objects))
        first = {key[:8]: value for key, value in stored.items() if key[8:] == bytes(2)}
        assert listed == {number: value[:16] for number, value in first.items()}
        assert len(stored) == sum([struct.unpack_from("<H", value, 16)[0] for value in first.values()])


def test_the_bound_is_kept_whatever_comes(home: Home) -> None:
    tier, chance = home.open(), random.Random(7)
    refused = 0
    for number in range(4000):
        size = min(int(chance.lognormvariate(8.5, 1.8)), 200_000)
        key = f"k{chance.randrange(900)}"
        refused += not tier.put([entry(key, b"x" * size, vary=chance.choice(["", "", "a", "b"]))])
        if chance.random() < 0.3:
            tier.find(f"k{chance.randrange(900)}".encode(), NOBODY)
        assert number % 100 or tier.bytes <= SIZE
    assert os.path.getsize(home.path) <= SIZE
    assert tier.evictions > 1000
    assert (refused, home.said) == (0, [])
    check_trees(tier)


def test_what_was_asked_again_is_spared_and_a_scan_goes_through(home: Home) -> None:
    tier = home.open(2**20)
    for number in range(40):
        tier.put([entry(f"hot{number}", b"x" * 4000)])
    for number in range(2000):
        if number % 50 == 0:
            assert all(holds(tier, f"hot{hot}") for hot in range(40))
        tier.put([entry(f"scan{number}", b"x" * 4000)])
    assert all(holds(tier, f"hot{hot}") for hot in range(40))
    assert not holds(tier, "scan0")
    check_trees(tier)


def test_when_all_were_asked_again_room_is_made_all_the_same(home: Home) -> None:
    tier = home.open(2**20)
    for number in range(600):
        key = f"k{number}"
        if tier.put([entry(key, b"x" * 3000)]):
            assert holds(tier, key)
    assert tier.bytes <= 2**20
    assert tier.evictions > 200


@pytest.mark.parametrize("size", [0, 1, PIECE - 300, PIECE, PIECE + 1, 3 * PIECE, 10 * PIECE + 77])
def test_records_of_any_number_of_pieces_come_back_whole(home: Home, size: int) -> None:
    tier = home.open()
    body = random.Random(size).randbytes(size)
    for _ in range(2):
        assert tier.put([entry("a", body)])
        found, _others = tier.find(b"a", NOBODY)
        assert found is not None
        assert found.response.body == body
    check_trees(tier)


def test_large_objects_stay_out(home: Home) -> None:
    tier = home.open(object_size=5000)
    assert not tier.put([entry("a", b"x" * 6000)])
    assert tier.put([entry("b", b"x" * 1000)])
    assert tier.keys == 1


def test_many_are_stored_in_one_transaction(home: Home) -> None:
    tier = home.open()
    before = tier._env.info()["last_txnid"]
    assert tier.put([entry(f"k{number}", b"x") for number in range(100)]) == 100
    assert tier._env.info()["last_txnid"] == before + 1
    assert all(holds(tier, f"k{number}") for number in range(100))


def test_what_is_stored_outlives_the_process(home: Home) -> None:
    tier = home.open()
    tier.put([entry("a", b"body")])
    tier.close()
    again = home.open()
    found, _ = again.find(b"a", NOBODY)
    assert found is not None
    assert found.response.body == b"body"


def test_a76_a_record_that_was_changed_is_a_miss(home: Home) -> None:
    tier = home.open()
    tier.put([entry("a", b"body")])
    with tier._env.begin(write=True) as txn, txn.cursor(tier._objects._objects) as cursor:
        assert cursor.first()
        cursor.put(cursor.key(), cursor.value()[:-1] + b"!")
    assert tier.find(b"a", NOBODY) == (None, False)


def test_a76_two_keys_of_one_digest_are_two_keys(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    tier = home.open()
    monkeypatch.setattr("edgeproxy.cache.machine_objects.key_digest", lambda _: b"d" * 16)
    tier.put([entry("a")])
    assert tier.find(b"b", NOBODY) == (None, False)


class Broken:
    """An LMDB environment that raises, or is slow, whatever is asked of it."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.calls = 0

    def begin(self, **_: object) -> None:
        self.calls += 1
        raise self.error

    def reader_check(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (lmdb.DiskError("full"), "disk"),
        (OSError(28, "No space left on device"), "disk"),
        (lmdb.ReadonlyError("read-only"), "disk"),
        (lmdb.MapFullError("map"), "full"),
        (lmdb.CorruptedError("bad page"), "damaged"),
    ],
    ids=["disk", "no space", "read-only", "map full", "damaged"],
)
def test_a_failure_is_counted_and_the_tier_left_alone_for_a_while(
    home: Home, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: str
) -> None:
    tier, broken = home.open(), Broken(error)
    tier.put([entry("a")])
    with monkeypatch.context() as patch:
        patch.setattr(tier, "_env", broken)
        for _ in range(3):
            assert not tier.put([entry("b")])
            assert tier.find(b"a", NOBODY) == (None, False)
            assert (tier.keys, tier.bytes) == (0, 0)
        assert tier.paused
        assert {one: count for one, count in tier.failures.items() if count} == {kind: 1}
        assert len(home.said) == 1
        asked = broken.calls
        home.now += 1.1
        tier.put([entry("b")])
        assert (broken.calls > asked) is (kind != "damaged"), "what is damaged is not asked again"
        home.now += 1.1
        assert tier.paused, "the second pause is longer"
    home.now += 10
    assert holds(tier, "a") is (kind != "damaged"), "it comes back when the disk does"


def test_a_file_that_may_not_grow_is_still_read(home: Home) -> None:
    tier = home.open()
    tier.put([entry("a", b"x" * 3000)])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(home.path), before[1]))  # as on a full disk
    try:
        assert not tier.put([entry(f"k{number}", b"x" * 3000) for number in range(50)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert tier.failures["disk"] == 1
    home.now += 2
    assert holds(tier, "a")
    assert tier.put([entry("b")])
    check_trees(tier)


@pytest.mark.parametrize("left", [0, 8192])
def test_a_file_that_somebody_cuts_off_is_damaged_and_ends_no_process(home: Home, left: int) -> None:
    for use in (
        lambda tier: tier.find(b"a", NOBODY),
        lambda tier: tier.put([entry("b")]),
        lambda tier: tier.keys,
        lambda tier: tier.bytes,
    ):
        tier = home.open()
        tier.put([entry(f"k{number}", b"x" * 3000) for number in range(50)])
        assert tier.keys == 50
        os.truncate(home.path, left)
        assert use(tier) in ((None, False), 0)
        assert tier.failures["damaged"] == 1
        assert use(tier) in ((None, False), 0)
        tier.close()
        os.unlink(home.path)


def test_a_look_up_that_took_long_is_not_followed_by_another(home: Home) -> None:
    tier = home.open()
    tier.put([entry("a")])
    times = iter([NOW, NOW + SLOW * 2])
    tier._clock = lambda: next(times, NOW + SLOW * 2)
    assert holds(tier, "a"), "it was there, after all"
    assert tier.paused
    assert tier.failures["slow"] == 1
    assert not holds(tier, "a")


def test_a_map_with_no_room_at_all_is_counted(home: Home) -> None:
    tier = home.open(2**16)
    assert not tier.put([entry("a", b"x" * 60_000)])
    assert tier.put([entry("b")]) or tier.failures["full"]


def foreign(path: Path) -> None:
    with lmdb.open(str(path), subdir=False, max_dbs=2) as env, env.begin(write=True) as txn:
        txn.put(b"k", b"v", db=env.open_db(b"objects", txn=txn))


def cut_short(path: Path) -> None:
    tier = home_of(path).open()
    tier.put([entry(f"k{number}", b"x" * 100_000) for number in range(30)])
    tier.close()
    os.truncate(path, 2 * PAGE)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b"not a database" * 1000),
        lambda path: path.write_bytes(b"\xde\xc0\xef\xbe" * 4096),
        foreign,
        lambda path: home_of(path).open(era=b"another").close(),
        cut_short,
    ],
    ids=["foreign", "half right", "another LMDB file", "of another era", "cut short"],
)
def test_a_file_that_is_not_ours_is_refused(home: Home, spoil: Callable[[Path], None]) -> None:
    spoil(home.path)
    for _ in range(2):  # and the refusal leaves nothing open
        with pytest.raises(DamagedError):
            home.open()


def home_of(path: Path) -> Home:
    return Home(path.parent)


def test_the_header_says_how_long_the_file_must_be(home: Home) -> None:
    tier = home.open()
    for number in range(50):
        tier.put([entry(f"k{number}", b"x" * 3000)])
    header = home.path.read_bytes()[:8192]
    map_size, used = bytes_of_file(header) or (0, 0)
    assert map_size == SIZE
    assert tier.bytes <= used <= SIZE
    assert bytes_of_file(header[:4000]) is None
    assert bytes_of_file(bytes(8192)) is None
    assert bytes_of_file(b"\xff" * 8192) is None


def work(home: Home, seed: int) -> None:
    """A worker that writes until it is killed."""
    tier, chance = home.open(), random.Random(seed)
    while True:
        tier.put([entry(f"k{chance.randrange(300)}", b"%d" % seed * chance.randrange(20_000))])


@pytest.mark.parametrize("seed", range(3))
def test_workers_killed_in_the_middle_of_a_write_harm_nobody(home: Home, seed: int) -> None:
    chance = random.Random(seed)
    home.asked = memoryview(bytearray(HAND + ASKED))
    alive: list[int] = []
    for turn in range(8):
        pid = os.fork()
        if pid == 0:  # pragma: no cover - ends by SIGKILL
            try:
                work(home, turn)
            finally:
                os._exit(1)
        alive.append(pid)
        if len(alive) == 2:
            time.sleep(0.02 + chance.random() / 50)  # real processes: nothing else can interrupt a write
            os.kill(alive[0], signal.SIGKILL)
            assert os.waitpid(alive.pop(0), 0)[1] == signal.SIGKILL
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    tier = home.open()
    before = tier.keys
    assert before > 0
    check_trees(tier)
    for number in range(600):
        assert tier.put([entry(f"k{number}", b"after")])
        assert holds(tier, f"k{number}")
    assert home.said == []
    check_trees(tier)
