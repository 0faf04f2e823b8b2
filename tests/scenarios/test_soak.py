"""A short soak: when nobody is there any more, a worker holds nothing of those who were."""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import Any

from tests.scenarios.soak import Soaked, play_cycle, soaked
from tests.scenarios.soak_clients import Clients

SECONDS = 1.5
CYCLES = 3
# What is there while somebody is served, and must go with them: a leak begins with one of these
PASSING = {
    "asgi_exchange.AsgiExchange", "cache.body.Body", "cache.body.Reader", "cache.flight.Flight",
    "compress.PressedBody", "door.Report", "door.RequestBody", "fetch.Fetcher", "hedge.Hedge", "job.Job",
    "origin.connection.OriginConnection", "recording.Recording",
    "server.exchange.Exchange", "server.protocol.EdgeProtocol", "machine.spool.Spool", "trip.Trip",
    "tunnel.Tunnel",
}  # fmt: skip
# There is one of each, or one per route and setting, however many clients there were
STANDING = ("asyncio.", "uvloop.", "_asyncio.", "builtins.coroutine", "edgeproxy.config", "edgeproxy.build")


def test_what_passes_is_still_called_so() -> None:
    for name in PASSING:
        place, _, kind = name.rpartition(".")
        assert isinstance(getattr(import_module(f"edgeproxy.{place}"), kind), type)


def left(one: dict[str, Any]) -> dict[str, int]:
    """What did not pass, and how many of them."""
    types: dict[str, int] = one["types"]
    return {name: types[f"edgeproxy.{name}"] for name in PASSING if types.get(f"edgeproxy.{name}", 0) > 1}


async def settled(edge: Soaked) -> dict[str, Any]:
    """A count when nothing is left; after a while, with what still is."""
    one = await edge.count()
    for _ in range(30):
        if not left(one) and not one["clients"]:
            break
        await asyncio.sleep(0.5)
        one = await edge.count()
    return one


async def test_who_is_gone_leaves_nothing_behind() -> None:
    async with soaked() as edge:
        clients = Clients(edge.port, number=12)
        found: list[dict[str, Any]] = []
        for _ in range(CYCLES):
            await play_cycle(edge, clients, SECONDS)
            found.append(await settled(edge))
        moves = {name for name, _ in clients.done}
        assert len(moves) > 10, "most of the moves were made"
    assert [left(one) for one in found] == [{}] * CYCLES
    assert [one["clients"] for one in found] == [0] * CYCLES
    standing = [
        {name: count for name, count in one["types"].items() if name.startswith(STANDING)} for one in found
    ]
    for after in standing[1:]:
        more = {name: count for name, count in after.items() if count > 2 * standing[0].get(name, 0) + 8}
        assert more == {}, "each reload leaves what it replaced behind"
    assert len({one["tasks"] for one in found}) == 1
    assert max(one["threads"] for one in found) <= 16
