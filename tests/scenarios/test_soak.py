"""A short soak: when nobody is there any more, a worker holds nothing of those who were."""

from __future__ import annotations

from importlib import import_module

from tests.scenarios.soak import play_cycle, soaked
from tests.scenarios.soak_clients import Clients

SECONDS = 1.5
CYCLES = 3
# What is there while somebody is served, and must go with them: a leak begins with one of these
PASSING = {
    "asgi_exchange.AsgiExchange", "cache.body.Body", "cache.body.Reader", "cache.flight.Flight",
    "compress.PressedBody", "door.Report", "door.RequestBody", "fetch.Fetcher", "hedge.Hedge", "job.Job",
    "origin.connection.OriginConnection", "origin.reader.ResponseReader", "recording.Recording",
    "server.exchange.Exchange", "server.protocol.EdgeProtocol", "spool.Spool", "trip.Trip", "tunnel.Tunnel",
}  # fmt: skip
# There is one of each, or one per route and setting, however many clients there were
STANDING = ("asyncio.", "uvloop.", "_asyncio.", "builtins.coroutine", "edgeproxy.config", "edgeproxy.build")


def test_what_passes_is_still_called_so() -> None:
    for name in PASSING:
        place, _, kind = name.rpartition(".")
        assert isinstance(getattr(import_module(f"edgeproxy.{place}"), kind), type)


async def test_who_is_gone_leaves_nothing_behind() -> None:
    async with soaked() as edge:
        clients = Clients(edge.port, number=12)
        found = [await play_cycle(edge, clients, SECONDS) for _ in range(CYCLES)]
        moves = {name for name, _ in clients.done}
        assert len(moves) > 10, "most of the moves were made"
    for one in found:
        types = one["types"]
        left = {name: types[f"edgeproxy.{name}"] for name in PASSING if types.get(f"edgeproxy.{name}", 0) > 1}
        assert left == {}
        assert one["clients"] == 0
    standing = [
        {name: count for name, count in one["types"].items() if name.startswith(STANDING)} for one in found
    ]
    for after in standing[1:]:
        more = {name: count for name, count in after.items() if count > 2 * standing[0].get(name, 0) + 8}
        assert more == {}, "each reload leaves what it replaced behind"
    assert len({one["tasks"] for one in found}) == 1
    assert max(one["threads"] for one in found) <= 16
