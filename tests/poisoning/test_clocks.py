"""The wall clock may be set while the edge runs: how old an answer is follows the origin's clock and ours."""

from __future__ import annotations

import time
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path

import pytest

from edgeproxy import app
from edgeproxy.server import protocol
from tests.poisoning.support import FRESH, reply, site


@pytest.mark.parametrize("door", ["native", "asgi"])
@pytest.mark.parametrize("by", [-86_400, 86_400], ids=["back", "ahead"])
async def test_an_answer_of_this_moment_is_not_old_because_our_clock_was_set(
    tmp_path: Path, door: str, by: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wall() -> float:
        return time.time() + by

    for module in (protocol, app):
        monkeypatch.setattr(module, "wall", wall)
    dated = f"Date: {formatdate(wall(), usegmt=True)}"
    fields = [[FRESH, dated], [f"Expires: {formatdate(wall() + 60, usegmt=True)}"], [FRESH]]
    async with site(tmp_path, door, lambda _: reply(*fields[-1])) as edge:
        for path in ("/a", "/b", "/c"):
            await edge.ask(path)
            again = await edge.ask(path)
            assert "; hit; ttl=" in again["cache-status"]
            assert int(again["age"]) <= 2
            assert abs(parsedate_to_datetime(again["date"]).timestamp() - wall()) < 60
            fields.pop()
