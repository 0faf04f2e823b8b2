"""Buckets that outlive the edge."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from edgeproxy import process_lock
from edgeproxy.bucket_file import kept_table, mend
from edgeproxy.policies.bucket_table import SECOND, BucketTable

START = 1_800_000_000 * SECOND


def spend(table: BucketTable, cost: int) -> bool:
    most = 10 * SECOND
    return table.spend(table.key(b"ann"), cost * SECOND, most, most, START) + cost * SECOND <= most


def reopened(path: Path, before: BucketTable, entries: int = 1024) -> BucketTable:
    before.close()
    return kept_table(path, entries, shared=False)


def test_what_was_spent_is_still_spent_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "limits"
    table = kept_table(path, 1024, shared=False)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600, "it holds the secret of the digests"
    assert spend(table, 7)
    table = reopened(path, table)
    assert not spend(table, 4)
    assert spend(table, 3)
    table.close()


def test_a_file_that_is_made_shorter_is_mended_and_counts_anew(tmp_path: Path) -> None:
    """Whoever touches what was cut off is ended by SIGBUS: here that would be this process."""
    path = tmp_path / "limits"
    table = kept_table(path, 1024, shared=False)
    assert spend(table, 7)
    assert not mend(path, 1024), "nothing was cut off"
    os.truncate(path, 0)
    assert mend(path, 1024)
    assert spend(table, 7), "it begins anew"
    assert not spend(table, 7)
    path.unlink()
    assert not mend(path, 1024), "nothing can be done, nor need be"
    assert spend(table, 3)
    table.close()


@pytest.mark.parametrize("how", ["other size", "cut off", "not ours"])
def test_a_file_that_does_not_fit_begins_anew(tmp_path: Path, how: str) -> None:
    path = tmp_path / "limits"
    table = kept_table(path, 1024, shared=False)
    assert spend(table, 10)
    table.close()
    if how == "cut off":
        path.write_bytes(path.read_bytes()[:-1])
    if how == "not ours":
        path.write_bytes(path.read_bytes()[:-32] + bytes(32))
    table = kept_table(path, 2048 if how == "other size" else 1024, shared=False)
    assert spend(table, 10)
    table.close()


def test_two_edges_never_share_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_lock, "PATIENCE", 0.0)
    table = kept_table(tmp_path / "limits", 1024, shared=False)
    with pytest.raises(OSError, match="another edge"):
        kept_table(tmp_path / "limits", 1024, shared=False)
    table.close()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "limits").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"."):
        kept_table(tmp_path / "limits", 1024, shared=False)
    assert not (tmp_path / "elsewhere").exists()
