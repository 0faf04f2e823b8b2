"""The folder of the machine tier: what may be used again, and what must be thrown away."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeproxy import process_lock
from edgeproxy.cache.clocks import Purged
from edgeproxy.cache.machine import MachineStore
from edgeproxy.cache.marks import PLACES
from edgeproxy.clock import OFFSET, steady
from edgeproxy.config.sections import MachineSection
from edgeproxy.http.message import Headers
from edgeproxy.machine import home as machine_home
from edgeproxy.machine import purge_journal
from edgeproxy.machine import state as machine_state
from edgeproxy.machine.home import MachineHome
from edgeproxy.purge_log import PurgeKind, PurgeLog
from edgeproxy.shared import Shared
from tests.cache.test_store import entry

SIZE = 16 * 2**20
NOBODY = Headers([])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "tier"


@pytest.fixture(autouse=True)
def boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "boot_id"
    path.write_text("first boot\n")
    monkeypatch.setattr(machine_state, "_BOOT_ID", path)
    return path


def start(folder: Path, size: int = SIZE) -> MachineHome:
    return MachineHome(folder, size, PurgeLog())


def kill(home: MachineHome) -> None:
    """As kill -9 does: nothing is said, the kernel drops the lock."""
    os.close(home._lock)


def fill(home: MachineHome, *keys: str) -> None:
    store = open_store(home)
    assert store.put([entry(key) for key in keys]) == len(keys)
    store.close()


def open_store(home: MachineHome) -> MachineStore:
    return MachineStore(
        str(home.objects), home.era, home.size, 2**18, home.asked, steady, home.ahead, _nothing
    )


def _nothing(kind: str, why: str) -> None:
    raise AssertionError(f"{kind}: {why}")


def holds(home: MachineHome, key: str) -> bool:
    store = open_store(home)
    try:
        return store.find(key.encode(), NOBODY)[0] is not None
    finally:
        store.close()


@pytest.mark.parametrize("end", [kill, MachineHome.close], ids=["killed", "stopped"])
def test_what_was_stored_outlives_the_edge(folder: Path, end: Callable[[MachineHome], None]) -> None:
    home = start(folder)
    assert not home.survived
    fill(home, "a")
    end(home)
    again = start(folder)
    assert again.survived
    assert holds(again, "a")
    assert not any(again.remade.values())


def test_a_machine_that_stopped_without_a_word_costs_the_cache(folder: Path, boot: Path) -> None:
    home = start(folder)
    fill(home, "a")
    kill(home)
    boot.write_text("second boot\n")
    again = start(folder)
    assert not again.survived
    assert again.remade["power"] == 1
    assert not holds(again, "a")
    again.close()
    boot.write_text("third boot\n")
    assert start(folder).survived, "it was stopped in good order, and all is on the disk"


@pytest.mark.parametrize(("restarted", "later"), [(False, 3600.0), (True, 0.0)], ids=["edge", "machine"])
def test_what_was_stored_is_as_old_as_it_is_though_the_clock_was_set(
    folder: Path, boot: Path, monkeypatch: pytest.MonkeyPatch, restarted: bool, later: float
) -> None:
    """By the time since the machine began; only where it began anew, the wall clock is all there is."""
    home = start(folder)
    fill(home, "a")
    home.close()
    if restarted:
        boot.write_text("second boot\n")
    monkeypatch.setattr(machine_home, "OFFSET", OFFSET + 3600)  # what the wall clock said at the next start
    for _ in range(2):
        again = start(folder)
        store = open_store(again)
        found, _ = store.find(b"a", NOBODY)
        store.close()
        again.close()
        assert found is not None
        assert found.born == pytest.approx(entry("a").born + later)


def _edit_state(folder: Path, **values: object) -> None:
    state = json.loads((folder / "state").read_text())
    (folder / "state").write_text(json.dumps({**state, **values}))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: (folder / "state").unlink(), "state"),
        (lambda folder: (folder / "state").write_text("{"), "state"),
        (lambda folder: (folder / "state").write_text("[1]"), "state"),
        (lambda folder: _edit_state(folder, format=0), "state"),
        (lambda folder: _edit_state(folder, era="zz"), "state"),
        (lambda folder: _edit_state(folder, era="00"), "state"),
        (lambda folder: _edit_state(folder, objects="1"), "state"),
        (lambda folder: _edit_state(folder, clock=float("inf")), "state"),
        (lambda folder: _edit_state(folder, objects=-1), "state"),
        (lambda folder: _edit_state(folder, purges=2**70), "state"),
        (lambda folder: _edit_state(folder, era="00" * purge_journal.ERA), "purges"),
        (lambda folder: (folder / "purges.1").unlink(), "purges"),
        (lambda folder: (folder / "purges.1").write_bytes(b"x" * 100), "purges"),
        (lambda folder: os.truncate(folder / "objects.1", SIZE + 1), "size"),
    ],
)  # fmt: skip
def test_what_is_not_certain_is_thrown_away(folder: Path, spoil: Callable[[Path], None], reason: str) -> None:
    home = start(folder)
    fill(home, "a")
    kill(home)
    spoil(folder)
    again = start(folder)
    assert not again.survived
    assert {one for one, count in again.remade.items() if count} == {reason}
    assert not holds(again, "a")
    assert [path.name for path in folder.glob("objects.*") if "lock" not in path.name] == [again.objects.name]


def test_purges_are_in_force_after_a_restart(folder: Path) -> None:
    home = start(folder)
    log = home._log
    log.append(PurgeKind.URL, b"example.com/a")
    log.append(PurgeKind.TAG, b"red", soft=True)
    position = log.position
    kill(home)
    again = start(folder)
    assert again._log.position == position
    assert again.clocks.covers(entry("a")) is Purged.HARD
    assert again.clocks.covers(entry("b", tags="red")) is Purged.SOFT
    assert again.clocks.covers(entry("c")) is None
    again._log.append(PurgeKind.ALL, b"")
    assert again._log.position > position
    kill(again)
    assert start(folder).clocks.covers(entry("c", position=position)) is Purged.HARD


def test_a_purge_that_cannot_be_written_down_costs_the_cache(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = start(folder)
    fill(home, "a")
    number = home.number
    with monkeypatch.context() as patch:
        patch.setattr(
            "edgeproxy.machine.purge_journal.os.write", lambda _, data: len(data) - 1
        )  # the disk is full
        home._log.append(PurgeKind.URL, b"example.com/b")
    home.tend()
    assert home.number > number
    assert home.remade["purges"] == 1
    home._log.append(PurgeKind.URL, b"example.com/c")
    kill(home)
    again = start(folder)
    assert again.survived
    assert [purge.value for purge in again.clocks.purges()] == [b"example.com/b", b"example.com/c"]


def test_it_does_so_too_when_everything_ends_before_the_supervisor_comes_to_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = start(folder)
    fill(home, "a")
    monkeypatch.setattr(home._journal, "append", lambda _: False)
    home._log.append(PurgeKind.URL, b"example.com/a")
    kill(home)
    again = start(folder)
    assert again.remade["state"] == 1
    assert not holds(again, "a")


def test_a_long_journal_is_written_anew_and_says_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_home, "LARGE", 1000)
    home = start(folder)
    for number in range(100):
        home._log.append(PurgeKind.URL, b"example.com/%d" % (number % 3))
    home.tend()
    assert home._journal.path.name == "purges.2"
    assert home._journal.size < 1000
    home._log.append(PurgeKind.HOST, b"h")
    kill(home)
    again = start(folder)
    assert again.survived
    assert again.clocks.position == home._log.position
    assert [purge.value for purge in again.clocks.purges()] == [
        b"example.com/1", b"example.com/2", b"example.com/0", b"h",
    ]  # fmt: skip


def test_a_condemned_file_is_made_anew_once(folder: Path) -> None:
    home = start(folder)
    fill(home, "a")
    number = home.number
    home.condemn("damaged", number)
    home.tend()
    assert home.number == number + 1
    home.condemn("damaged", number)  # said by somebody who had not noticed
    home.tend()
    assert home.number == number + 1
    assert home.remade["damaged"] == 1
    assert not holds(home, "a")
    fill(home, "b")
    kill(home)
    assert holds(start(folder), "b")


def test_a_number_does_not_come_again_though_nobody_made_its_file(folder: Path) -> None:
    """A worker that still holds the first file must see that it is not the one in use."""
    home = start(folder)
    fill(home, "a")
    seen = [home.number]
    for _ in range(3):
        home.condemn("crash", home.number)
        home.tend()
        seen.append(home.number)
    assert seen == sorted(set(seen))
    home.close()


@pytest.mark.parametrize("what", ["the folder", "what is in it"])
def test_a_folder_that_was_removed_at_work_is_made_again(folder: Path, what: str) -> None:
    home = start(folder)
    fill(home, "a")
    home._log.append(PurgeKind.URL, b"example.com/before")
    for path in folder.iterdir():
        path.unlink()
    if what == "the folder":
        folder.rmdir()
    home.tend()
    home.tend()
    assert home.remade["removed"] == 1
    assert not holds(home, "a")
    fill(home, "b")
    home._log.append(PurgeKind.TAG, b"after")
    kill(home)
    again = start(folder)
    assert again.survived
    assert holds(again, "b")
    assert [purge.value for purge in again.clocks.purges()] == [b"example.com/before", b"after"]


def test_a_folder_that_is_another_edges_meanwhile_is_left_to_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = start(folder)
    shutil.rmtree(folder)
    other = start(folder)
    monkeypatch.setattr(machine_home, "REST", 0.0)
    home.tend()
    assert (home.number, other.number, sum(home.remade.values())) == (1, 1, 0)
    other.close()
    home.tend()
    assert home.remade["removed"] == 1


def test_one_edge_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_lock, "PATIENCE", 0.0)
    home = start(folder)
    with pytest.raises(BlockingIOError):
        start(folder)
    kill(home)
    start(folder)


def test_a_predecessor_that_is_just_ending_is_waited_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = start(folder)
    monkeypatch.setattr("edgeproxy.process_lock.time.sleep", lambda _: kill(home))
    assert start(folder).survived


def test_a_folder_that_could_not_be_used_is_not_used_later_when_something_was_purged(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = start(folder)
    fill(home, "a")
    kill(home)
    section = MachineSection(path=str(folder))
    shared = Shared(folder, 1)
    with monkeypatch.context() as patch:
        patch.setattr("edgeproxy.machine.home.os.open", _refuse)  # read-only, at that time
        shared.open_machine(section)
    assert shared.machine is None
    shared.tend_machine()
    assert (folder / "state").exists()
    shared.purge_log.append(PurgeKind.URL, b"example.com/a")
    shared.tend_machine()
    again = start(folder)
    assert not again.survived
    assert not holds(again, "a")


def _refuse(*_: object) -> int:
    raise OSError(30, "Read-only file system")


def test_a_tier_that_survived_may_hold_any_url(folder: Path) -> None:
    kill(start(folder))
    shared = Shared(folder, 1)
    shared.open_machine(MachineSection(path=str(folder), max_bytes=SIZE))
    assert shared.machine is not None
    assert all(shared.marks.change(place, 0.0) for place in range(0, PLACES, 1000))


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Not a directory"):
        start(tmp_path / "file" / "tier")
