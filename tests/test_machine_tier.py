"""The way to the machine tier in one process: written by a thread, opened again when it was made anew."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from edgeproxy.cache.machine import MachineStore
from edgeproxy.http.message import Headers
from edgeproxy.machine.home import MachineHome
from edgeproxy.machine.tier import MachineTier
from edgeproxy.observe.cells import Cells
from edgeproxy.purge_log import PurgeLog
from tests.cache.test_store import entry
from tests.helpers.edge import PATIENCE

NOBODY = Headers([])


@pytest.fixture
async def tier(tmp_path: Path) -> AsyncIterator[MachineTier]:
    home = MachineHome(tmp_path / "tier", 16 * 2**20, PurgeLog())
    one = MachineTier(home, 2**18)
    yield one
    one.close()
    home.close()


def holds(tier: MachineTier, key: str) -> bool:
    return tier.find(key.encode(), NOBODY)[0] is not None


def figures(tier: MachineTier) -> dict[str, float]:
    cells = Cells(1)
    slot = cells.slot(0)
    tier.publish(slot)
    return {name: slot.values[column] for column, name in enumerate(cells.names()) if slot.values[column]}


async def test_what_was_put_is_written_behind_and_found_by_others(tier: MachineTier) -> None:
    running = asyncio.create_task(tier.run())
    for number in range(500):
        assert tier.put(entry(f"k{number}", b"x" * 1000))
    async with asyncio.timeout(PATIENCE):
        while tier.outbox or not holds(tier, "k499"):
            await asyncio.sleep(0.001)
    running.cancel()
    assert all(holds(tier, f"k{number}") for number in range(500))
    assert figures(tier)['["edgeproxy_cache_machine_entries",{}]'] == 500


async def test_what_is_too_large_for_it_is_left_out(tier: MachineTier) -> None:
    assert not tier.put(entry("a", b"x" * 2**18))
    assert not tier.outbox


async def test_what_still_waits_at_the_end_is_written(tmp_path: Path) -> None:
    home = MachineHome(tmp_path / "tier", 16 * 2**20, PurgeLog())
    tier = MachineTier(home, 2**18)
    tier.put(entry("a"))
    tier.close()
    assert not holds(tier, "a"), "it is closed"
    again = MachineTier(home, 2**18)
    assert holds(again, "a")
    again.close()


async def test_a_damaged_file_is_made_anew_and_used_again(
    tier: MachineTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tier._home
    tier.put(entry("a"))
    await tier.tend()
    assert holds(tier, "a")
    assert tier._store is not None
    tier._store._fail("damaged", "as if")
    assert not holds(tier, "a")
    tier.put(entry("b"))
    await tier.tend()
    assert len(tier.outbox) == 1, "it waits"
    home.tend()
    await tier.tend()
    assert holds(tier, "b")
    assert not holds(tier, "a")
    counted = figures(tier)
    assert counted['["edgeproxy_cache_machine_errors_total",{"kind":"damaged"}]'] == 1
    assert home.remade["damaged"] == 1


async def test_a_file_that_is_made_anew_while_it_is_opened_leaves_none_behind(
    tier: MachineTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tier._home

    def renew_first(path: str, *rest: Any) -> MachineStore:
        if path.endswith("objects.2"):
            home.condemn("damaged", 2)
            home.tend()
        return MachineStore(path, *rest)

    home.condemn("damaged", 1)
    home.tend()
    with monkeypatch.context() as patch:
        patch.setattr("edgeproxy.machine.tier.MachineStore", renew_first)
        await tier.tend()
    tier.put(entry("a"))
    await tier.tend()
    assert holds(tier, "a")
    assert sorted(path.name for path in home.folder.glob("objects.*")) == ["objects.3", "objects.3-lock"]


async def test_a_file_that_cannot_be_opened_is_tried_again_later(
    tier: MachineTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("edgeproxy.machine.tier.steady", lambda: now)
    with monkeypatch.context() as patch:

        def refuse(*_: object) -> MachineStore:
            raise OSError(30, "Read-only file system")

        patch.setattr("edgeproxy.machine.tier.MachineStore", refuse)
        tier._home.condemn("damaged", tier._number)
        tier._home.tend()
        for _ in range(3):
            await tier.tend()
        assert figures(tier)['["edgeproxy_cache_machine_errors_total",{"kind":"disk"}]'] == 1
        assert not holds(tier, "a")
        assert tier.put(entry("a")), "it may be back soon"
    await tier.tend()
    assert not holds(tier, "a")
    now += 2
    await tier.tend()
    assert holds(tier, "a")
    assert figures(tier)['["edgeproxy_cache_machine_errors_total",{"kind":"disk"}]'] == 1
