"""`workers: auto` is for the cores that the edge gets, not for those that the machine has."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeproxy.server import cores


@pytest.mark.parametrize(
    ("group", "quota", "usable"),
    [
        ("0::/", "max 100000", 8),
        ("0::/", "200000 100000", 2),
        ("0::/", "250000 100000", 3),
        ("0::/", "5000 100000", 1),
        ("0::/", "9900000 100000", 8),
        ("0::/system.slice/edge.service", "100000 100000", 1),
        ("12:cpu:/old\n0::/", "100000 100000", 1),
        ("0::/", "nonsense", 8),
        ("0::/", "1 0", 8),
        ("0::/", None, 8),
        (None, None, 8),
    ],
    ids=["none", "2", "2.5", "little", "more than there are", "systemd", "v1 beside", "nonsense", "zero",
         "no quota", "no cgroups"],
)  # fmt: skip
def test_a_quota_counts_like_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str | None, quota: str | None, usable: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(cores, "CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(cores, "CGROUPS", tmp_path)
    if group is not None:
        (tmp_path / "cgroup").write_text(f"{group}\n")
        folder = tmp_path / group.rpartition("::/")[2]
        folder.mkdir(parents=True, exist_ok=True)
        if quota is not None:
            (folder / "cpu.max").write_text(f"{quota}\n")
    assert cores.usable_cores() == usable
