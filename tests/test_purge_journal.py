"""The journal of purges: what is read again is what was in force, or it is known that it is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeproxy.cache.clocks import PurgeClocks
from edgeproxy.machine import purge_journal
from edgeproxy.machine.purge_journal import PurgeJournal, create, load
from edgeproxy.purge_log import Purge, PurgeKind

ERA = b"e" * purge_journal.ERA
PURGES = [
    Purge(PurgeKind.URL, b"h/a", False, 100),
    Purge(PurgeKind.URL, b"h/a", True, 200),
    Purge(PurgeKind.TAG, b"red", False, 300),
    Purge(PurgeKind.ALL, b"", True, 400),
]


def written(path: Path, purges: list[Purge]) -> Path:
    create(path, ERA, PurgeClocks(50, 7))
    journal = PurgeJournal(path)
    assert all(journal.append(purge) for purge in purges)
    journal.close()
    return path


def test_what_was_appended_is_read_again(tmp_path: Path) -> None:
    clocks = load(written(tmp_path / "purges.1", PURGES), ERA)
    assert clocks is not None
    assert (list(clocks.purges()), clocks.position, clocks.floor) == (PURGES, 400, 7)


def test_a_file_written_anew_says_the_same(tmp_path: Path) -> None:
    before = load(written(tmp_path / "purges.1", PURGES), ERA)
    assert before is not None
    create(tmp_path / "purges.2", ERA, before)
    after = load(tmp_path / "purges.2", ERA)
    assert after is not None
    assert list(after.purges()) == list(before.purges())
    assert (after.position, after.floor) == (before.position, before.floor)


def test_a_record_that_is_torn_makes_all_of_it_doubtful(tmp_path: Path) -> None:
    data = written(tmp_path / "purges.1", PURGES).read_bytes()
    whole = written(tmp_path / "purges.2", PURGES[:3]).read_bytes()
    for length in range(len(whole) + 1, len(data)):
        (tmp_path / "purges.1").write_bytes(data[:length])
        assert load(tmp_path / "purges.1", ERA) is None


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_changed_byte_is_noticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = written(tmp_path_factory.mktemp("j") / "purges.1", PURGES)
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    assert load(path, ERA) is None


@pytest.mark.parametrize("content", [b"", b"x" * 10, b"x" * 1000], ids=["empty", "short", "foreign"])
def test_a_foreign_file_is_not_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "purges.1").write_bytes(content)
    assert load(tmp_path / "purges.1", ERA) is None


def test_a_journal_of_another_era_is_not_read(tmp_path: Path) -> None:
    assert load(written(tmp_path / "purges.1", PURGES), b"f" * purge_journal.ERA) is None


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    journal = PurgeJournal(written(tmp_path / "purges.1", PURGES))
    journal.close()
    assert not journal.append(PURGES[0])
