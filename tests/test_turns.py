"""A crowd that waits for one answer is served a few at a time, and everybody in it gets the whole."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edgeproxy import turns
from edgeproxy.job import Job
from edgeproxy.turns import Turns
from tests.helpers.builds import STANDS_IN
from tests.helpers.edge import PATIENCE, Answer, Running, running
from tests.helpers.scripted_origin import Peer, ScriptedOrigin

CONFIG = """
edge: {{id: edge-1, pop: ams}}
server: {{listen: ["127.0.0.1:8080"], workers: 1, access_log: {{path: "off"}}}}
admin: {{listen: null}}
cache: {{memory: 4MiB, object_size: 4KiB}}
origins: {{main: {{servers: ["{origin}"], timeouts: {{connect: 20s, first_byte: 20s, between_bytes: 20s}}}}}}
routes: [{{name: all, origin: main}}]
"""
FRESH = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n"


def jobs(own: int, siblings: int = 0) -> list[Job]:
    """Own clients' first, other workers' last."""
    return [
        cast(
            Job,
            SimpleNamespace(name=number, sibling=None if number < own else "other", door=None, ctx=Context()),
        )
        for number in range(own + siblings)
    ]


class Context:
    request_id = "r1"


def name(job: Job) -> Any:
    return cast(Any, job).name


async def test_other_workers_and_the_first_client_are_served_at_once_the_others_later() -> None:
    order: list[object] = []
    Turns(jobs(3, siblings=2), lambda job: order.append(name(job)))
    assert order == [3, 4, 0]
    await asyncio.sleep(0)
    assert order == [3, 4, 0, 1, 2]


async def test_what_else_the_loop_has_to_do_goes_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "FEW", 2)
    order: list[object] = []
    Turns(jobs(6), lambda job: order.append(name(job)))
    for _ in range(3):
        asyncio.get_running_loop().call_soon(order.append, "else")
        await asyncio.sleep(0)
    assert order == [0, 1, 2, "else", 3, 4, "else", 5, "else"]


async def test_who_is_left_can_be_served_at_once() -> None:
    order: list[object] = []
    under_way = Turns(jobs(200), lambda job: order.append(name(job)))
    under_way.rush()
    assert order == list(range(200))
    await asyncio.sleep(0)
    assert len(order) == 200, "nobody is served twice"


@STANDS_IN
async def test_a_fault_with_one_is_none_of_the_others(caplog: pytest.LogCaptureFixture) -> None:
    order: list[object] = []

    def act(job: Job) -> None:
        if name(job) in (1, 3):
            raise ValueError
        order.append(name(job))

    Turns(jobs(5), act)
    await asyncio.sleep(0)
    assert order == [0, 2, 4]
    assert [record.message for record in caplog.records] == [
        "an answer could not be handed on; request_id=r1"
    ] * 2


async def test_a_fault_with_the_first_is_the_callers_who_has_an_answer_for_all() -> None:
    order: list[object] = []

    def act(job: Job) -> None:
        order.append(name(job))
        raise KeyError

    with pytest.raises(KeyError):
        Turns(jobs(5), act)
    await asyncio.sleep(0)
    assert order == [0]


# --- through a running edge, one client in each turn


class Waiting:
    """An origin that answers each request when it may, part by part, and counts them."""

    def __init__(self, *parts: bytes) -> None:
        self.requests = 0
        self._parts = parts
        self.arrived, self.may = asyncio.Event(), asyncio.Event()

    async def script(self, peer: Peer) -> None:
        while True:
            await peer.head()
            self.requests += 1
            self.arrived.set()
            await self.may.wait()
            for part in self._parts:
                await peer.send(part)
            if not self._parts:
                return


async def crowd(edge: Running, origin: Waiting, size: int = 8) -> list[asyncio.Task[Answer]]:
    """So many clients that wait for one answer; the first of them leads."""
    asking = [asyncio.create_task(edge.ask())]
    await origin.arrived.wait()
    asking += [asyncio.create_task(edge.ask()) for _ in range(size - 1)]
    flights = edge.worker.hall.fetcher.flights.flights
    async with asyncio.timeout(PATIENCE):
        while sum(len(flight.jobs) for flight in flights.values()) < size:
            await asyncio.sleep(0.01)
    return asking


PRIVATE = b"HTTP/1.1 200 OK\r\nCache-Control: private\r\n"
LONG = b"x" * 100_000  # more than memory takes
CROWDS = {
    "all of it in one piece": ([FRESH + b"Content-Length: 4\r\n\r\nbody"], 200, b"body", 1),
    "head and body apart": ([FRESH + b"Content-Length: 4\r\n\r\n", b"bo", b"dy"], 200, b"body", 1),
    "no body at all": ([FRESH + b"Content-Length: 0\r\n\r\n"], 200, b"", 1),
    "longer than memory takes, as its head says": (
        [FRESH + b"Content-Length: 100000\r\n\r\n", LONG], 200, LONG, 8,
    ),
    "longer than memory takes, as turns out": (
        [FRESH + b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n", b"186a0\r\n" + LONG + b"\r\n0\r\n\r\n"],
        200, b"body" + LONG, 1,
    ),
    "for nobody else": ([PRIVATE + b"Content-Length: 2\r\n\r\nme"], 200, b"me", 8),
    "none": ([], 502, None, 1),
}  # fmt: skip


@pytest.mark.parametrize("door", ["native", "asgi"])
@pytest.mark.parametrize(("parts", "status", "body", "requests"), CROWDS.values(), ids=CROWDS)
async def test_everybody_gets_the_whole_one_client_in_each_turn(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    door: str,
    parts: list[bytes],
    status: int,
    body: bytes | None,
    requests: int,
) -> None:
    monkeypatch.setattr(turns, "FEW", 1)
    waiting = Waiting(*parts)
    async with (
        ScriptedOrigin(waiting.script) as origin,
        running(CONFIG.format(origin=origin.url), tmp_path, door) as edge,
    ):
        asking = await crowd(edge, waiting)
        waiting.may.set()
        answers = await asyncio.gather(*asking)
        assert {answer.status for answer in answers} == {status}
        assert body is None or [answer.body for answer in answers] == [body] * 8
        assert waiting.requests == requests
