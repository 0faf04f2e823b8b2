"""A second server is asked when the first says nothing: whose answer counts, and what it may cost."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgeproxy.observe.cells import encode_series
from edgeproxy.origin.upstream import Upstream
from tests.helpers.edge import Running, running
from tests.helpers.h2_edge import hello
from tests.helpers.h2_origin import H2Origin
from tests.helpers.scripted_origin import Peer, Script, ScriptedOrigin
from tests.origin.support import eventually

CONFIG = """
edge: {{id: edge-1, pop: ams}}
server: {{listen: ["127.0.0.1:8080"], workers: 1, access_log: {{path: "off"}}}}
admin: {{listen: null}}
origins:
  main:
    servers: ["{one}", "{two}"]
    retry_budget: {budget}
    hedge: {{after: 1ms, share: {share}}}
    timeouts: {{connect: {connect}}}
    protocol: {protocol}
routes: [{{name: all, origin: main, cache: {cache}}}]
"""
FRESH = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nCache-Control: max-age=60\r\n\r\n"


def config(
    one: ScriptedOrigin | H2Origin,
    two: ScriptedOrigin | H2Origin,
    *,
    share: float = 1.0,
    cache: str = "false",
    budget: str = "{share: 1, least: 100}",
    connect: str = "3s",
) -> str:
    protocol = "h2" if isinstance(one, H2Origin) else "http/1.1"
    return CONFIG.format(
        one=one.url, two=two.url, share=share, cache=cache, budget=budget, connect=connect, protocol=protocol
    )


def hedges(edge: Running) -> dict[str, int]:
    """How many there were of each outcome, of those that came about."""
    cells = edge.worker.shared.cells
    series = {
        word: encode_series("edgeproxy_origin_hedges_total", origin="main", outcome=word)
        for word in ("won", "lost", "failed", "abandoned", "denied")
    }
    found = {word: int(cells.total(cells.intern(name))) for word, name in series.items()}
    return {word: count for word, count in found.items() if count}


class Turns:
    """The scripts of two servers: whichever is asked, the n-th request that matters gets the n-th act.
    Everything before is answered at once."""

    def __init__(self, *acts: Script) -> None:
        self._acts = list(acts)
        self.warm = True

    async def script(self, peer: Peer) -> None:
        while True:
            await peer.request()
            if self.warm:
                await peer.send(FRESH + b"old")
                continue
            await self._acts.pop(0)(peer)


def says(body: bytes, gate: asyncio.Event | None = None) -> Script:
    async def script(peer: Peer) -> None:
        if gate is not None:
            await gate.wait()
        await peer.send(FRESH + body)

    return script


async def hangs(peer: Peer) -> None:
    await peer.eof()
    raise EOFError


def resets(gate: asyncio.Event) -> Script:
    async def script(peer: Peer) -> None:
        await gate.wait()
        peer.reset()
        raise EOFError

    return script


async def warmed(edge: Running, turns: Turns) -> None:
    """Both servers have a connection, and the budgets something to spend."""
    upstream = edge.worker.parts.upstreams["main"]
    hedge, upstream.hedge = upstream.hedge, None
    for number in range(4):
        assert (await edge.ask(f"/warm-{number}")).body == b"old"
    upstream.hedge = hedge
    turns.warm = False


def asked(*origins: ScriptedOrigin) -> Callable[[], int]:
    return lambda: sum(len(origin.heads) for origin in origins)


def ended(*origins: ScriptedOrigin) -> int:
    return sum(peer.ended.is_set() for origin in origins for peer in origin.peers)


async def test_the_sooner_answer_counts_and_the_other_connection_closes(tmp_path: Path, door: str) -> None:
    turns = Turns(hangs, says(b"new"))
    async with (
        ScriptedOrigin(turns.script) as one,
        ScriptedOrigin(turns.script) as two,
        running(config(one, two, cache="{ttl: 60s}"), tmp_path, door) as edge,
    ):
        await warmed(edge, turns)
        assert (await edge.ask("/a")).body == b"new"
        assert hedges(edge) == {"won": 1}
        await eventually(lambda: ended(one, two) == 1)
        upstream = edge.worker.parts.upstreams["main"]
        assert (upstream.open, sum(server.in_flight for server in upstream.servers)) == (1, 0)
        again = await edge.ask("/a")
        assert (again.body, "hit" in again["cache-status"]) == (b"new", True)


async def test_a_first_server_that_is_sooner_after_all_wins(tmp_path: Path, door: str) -> None:
    gate = asyncio.Event()
    turns = Turns(says(b"new", gate), hangs)
    async with (
        ScriptedOrigin(turns.script) as one,
        ScriptedOrigin(turns.script) as two,
        running(config(one, two), tmp_path, door) as edge,
    ):
        await warmed(edge, turns)
        asking = asyncio.create_task(edge.ask("/a"))
        await eventually(lambda: asked(one, two)() == 6)
        gate.set()
        assert (await asking).body == b"new"
        assert hedges(edge) == {"lost": 1}
        await eventually(lambda: ended(one, two) == 1)
        assert edge.worker.parts.upstreams["main"].open == 1


async def test_the_second_try_stands_in_when_the_first_fails(tmp_path: Path, door: str) -> None:
    broken, late = asyncio.Event(), asyncio.Event()
    turns = Turns(resets(broken), says(b"new", late))
    async with (
        ScriptedOrigin(turns.script) as one,
        ScriptedOrigin(turns.script) as two,
        running(config(one, two), tmp_path, door) as edge,
    ):
        await warmed(edge, turns)
        asking = asyncio.create_task(edge.ask("/a"))
        await eventually(lambda: asked(one, two)() == 6)
        broken.set()
        await eventually(lambda: edge.worker.parts.upstreams["main"].open == 1)
        late.set()
        assert (await asking).body == b"new"
        assert (hedges(edge), asked(one, two)()) == ({"won": 1}, 6)


async def test_the_first_goes_on_when_the_second_fails(tmp_path: Path, door: str) -> None:
    broken, late = asyncio.Event(), asyncio.Event()
    turns = Turns(says(b"new", late), resets(broken))
    async with (
        ScriptedOrigin(turns.script) as one,
        ScriptedOrigin(turns.script) as two,
        running(config(one, two), tmp_path, door) as edge,
    ):
        await warmed(edge, turns)
        asking = asyncio.create_task(edge.ask("/a"))
        await eventually(lambda: asked(one, two)() == 6)
        broken.set()
        await eventually(lambda: hedges(edge) == {"failed": 1})
        late.set()
        assert (await asking).body == b"new"


async def test_when_both_fail_the_client_is_told(tmp_path: Path, door: str) -> None:
    gate = asyncio.Event()
    turns = Turns(resets(gate), resets(gate))
    async with (
        ScriptedOrigin(turns.script) as one,
        ScriptedOrigin(turns.script) as two,
        running(config(one, two), tmp_path, door) as edge,
    ):
        await warmed(edge, turns)
        asking = asyncio.create_task(edge.ask("/a"))
        await eventually(lambda: asked(one, two)() == 6)
        gate.set()
        assert ((await asking).status, hedges(edge)) == (502, {"failed": 1})
        assert asked(one, two)() == 6  # no third try
        assert edge.worker.parts.upstreams["main"].open == 0


async def test_a_client_that_leaves_closes_both(tmp_path: Path, door: str) -> None:
    turns = Turns(hangs, hangs)
    async with (
        ScriptedOrigin(turns.script) as one,
        ScriptedOrigin(turns.script) as two,
        running(config(one, two), tmp_path, door) as edge,
    ):
        await warmed(edge, turns)
        client = await edge.client()
        client.send(b"GET /a HTTP/1.1\r\nHost: example.com\r\n\r\n")
        await eventually(lambda: asked(one, two)() == 6)
        client.writer.close()
        await eventually(lambda: edge.worker.parts.upstreams["main"].open == 0)
        assert hedges(edge) == {"abandoned": 1}


async def test_a_second_server_that_cannot_be_reached_harms_nobody(tmp_path: Path, door: str) -> None:
    late = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await late.wait()
        await peer.send(FRESH + b"new")

    async with ScriptedOrigin(script) as one:
        nobody = ScriptedOrigin()
        nobody.port = 1
        async with running(config(one, nobody), tmp_path, door) as edge:
            upstream = edge.worker.parts.upstreams["main"]
            upstream.answered(upstream.servers[0], 200, 0.0)  # a hedge is earned
            asking = asyncio.create_task(edge.ask("/a"))
            await eventually(lambda: len(one.heads) == 1)
            await eventually(lambda: not upstream.usable(1))
            late.set()
            assert (await asking).body == b"new"


@pytest.mark.parametrize(
    ("method", "body"), [("POST", b""), ("PUT", b"body"), ("DELETE", b""), ("GET", b"body")]
)
async def test_what_may_not_be_asked_twice_is_not(
    tmp_path: Path, door: str, method: str, body: bytes
) -> None:
    gate = asyncio.Event()
    turns = Turns(says(b"new", gate), hangs, says(b"two"))
    async with (
        ScriptedOrigin(turns.script) as one,
        ScriptedOrigin(turns.script) as two,
        running(config(one, two), tmp_path, door) as edge,
    ):
        await warmed(edge, turns)
        asking = asyncio.create_task(edge.ask("/a", method=method, body=body))
        await eventually(lambda: asked(one, two)() == 5)
        assert (await edge.ask("/b")).body == b"two"  # it waited no less than the other one
        gate.set()
        assert ((await asking).body, asked(one, two)(), hedges(edge)) == (b"new", 7, {"won": 1})


@pytest.mark.parametrize(
    ("share", "budget"), [(0.05, "{share: 1, least: 100}"), (1.0, "{share: 0, least: 0}")]
)
async def test_both_budgets_bound_it(tmp_path: Path, door: str, share: float, budget: str) -> None:
    gate = asyncio.Event()
    turns = Turns(says(b"new", gate), says(b"bad"))
    async with (
        ScriptedOrigin(turns.script) as one,
        ScriptedOrigin(turns.script) as two,
        running(config(one, two, share=share, budget=budget), tmp_path, door) as edge,
    ):
        await warmed(edge, turns)
        asking = asyncio.create_task(edge.ask("/a"))
        await eventually(lambda: hedges(edge) == {"denied": 1})
        gate.set()
        assert ((await asking).body, asked(one, two)()) == (b"new", 5)


@contextmanager
def black_hole() -> Generator[ScriptedOrigin]:
    """A server whose connections are neither accepted nor refused: its queue is full."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    queued = [socket.socket() for _ in range(3)]
    for each in queued:
        each.setblocking(False)
        each.connect_ex(listener.getsockname())
    nobody = ScriptedOrigin()
    nobody.port = listener.getsockname()[1]
    try:
        yield nobody
    finally:
        for each in (*queued, listener):
            each.close()


def ready(edge: Running) -> Upstream:
    """The first server is the next to be asked, and a hedge is earned."""
    upstream = edge.worker.parts.upstreams["main"]
    upstream.answered(upstream.servers[1], 200, 0.0)
    return upstream


async def test_a_server_that_cannot_be_connected_to_is_not_waited_for(tmp_path: Path, door: str) -> None:
    turns = Turns(says(b"new"), says(b"two"))
    turns.warm = False
    with black_hole() as one:
        async with (
            ScriptedOrigin(turns.script) as two,
            running(config(one, two, connect="300ms"), tmp_path, door) as edge,
        ):
            upstream = ready(edge)
            answer = await edge.ask("/a")
            assert (answer.body, hedges(edge)) == (b"new", {"won": 1})
            assert (
                upstream.servers[0].open == 1
            )  # the dial goes on: whether it can be reached is worth knowing
            await eventually(lambda: not upstream.usable(0))
            assert (await edge.ask("/b")).body == b"two"
            await eventually(lambda: upstream.servers[0].open == 0)
            assert hedges(edge) == {"won": 1}


async def test_a_second_server_that_fails_leaves_the_first_the_time_to_connect(
    tmp_path: Path, door: str
) -> None:
    nobody = ScriptedOrigin()
    nobody.port = 1
    with black_hole() as one:
        async with running(config(one, nobody, connect="300ms"), tmp_path, door) as edge:
            upstream = ready(edge)
            asking = asyncio.create_task(edge.ask("/a"))
            await eventually(lambda: not upstream.usable(1))
            assert (hedges(edge), asking.done()) == ({"failed": 1}, False)
            assert (await asking).status in (502, 504)
            await eventually(lambda: upstream.open == 0)


async def test_a_connection_that_comes_too_late_is_for_the_next_request(tmp_path: Path, door: str) -> None:
    async with H2Origin(hello) as one, H2Origin(hello) as two:
        one.mute = True
        async with running(config(one, two), tmp_path, door) as edge:
            upstream = ready(edge)
            assert ((await edge.ask("/a")).body, hedges(edge)) == (b"hello", {"won": 1})
            await eventually(lambda: bool(one.peers))
            one.mute = False
            one.peers[0].speak()
            await eventually(lambda: bool(upstream.servers[0].idle))
            assert (upstream.open, sum(server.in_flight for server in upstream.servers)) == (2, 0)
            upstream.hedge = None
            for path in ("/b", "/c"):
                assert (await edge.ask(path)).body == b"hello"
            assert (len(one.streams), len(one.peers)) == (1, 1)


async def test_a_client_that_leaves_takes_the_dial_along(tmp_path: Path, door: str) -> None:
    turns = Turns(hangs)
    turns.warm = False
    with black_hole() as one:
        async with (
            ScriptedOrigin(turns.script) as two,
            running(config(one, two, connect="60s"), tmp_path, door) as edge,
        ):
            upstream = ready(edge)
            client = await edge.client()
            client.send(b"GET /a HTTP/1.1\r\nHost: example.com\r\n\r\n")
            await eventually(lambda: len(two.heads) == 1)
            client.writer.close()
            await eventually(lambda: upstream.open == 0)
            assert hedges(edge) == {"abandoned": 1}
