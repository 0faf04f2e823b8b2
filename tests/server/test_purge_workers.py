"""A purge reaches all workers, and holds after a restart: the short form of the scenario."""

from __future__ import annotations

from tests.scenarios.purge import play


async def test_after_a_purge_no_worker_serves_what_it_names_nor_after_a_restart() -> None:
    said: list[str] = []
    assert await play(2, said.append), "\n".join(said)
