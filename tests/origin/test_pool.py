"""Who gets a connection: last in first out, capped, in order of arrival, and never a dirty one."""

from __future__ import annotations

import asyncio

import pytest

from edgeproxy.errors import OriginError, Retry
from edgeproxy.origin.connection import OriginConnection
from edgeproxy.origin.upstream import Upstream
from tests.helpers.scripted_origin import Peer, ScriptedOrigin, always, answers, silence
from tests.origin.support import (
    GET,
    OK,
    Recorder,
    SetClock,
    ask,
    eventually,
    kept,
    settle,
    start,
    sweep,
    upstream,
)


async def test_the_connection_used_last_is_used_next() -> None:
    async with ScriptedOrigin(always(OK)) as origin, upstream(origin.url) as made:
        first, latest = await made.connect(), await made.connect()
        for connection in (first, latest):
            sink = Recorder()
            connection.send(b"GET", GET, sink, has_body=False)
            await sink.finished()
        assert made.idle() is latest
        assert (kept(made), made.servers[0].in_flight) == (1, 1)
        latest.abandon()


async def test_what_an_origin_says_unasked_is_not_the_next_response() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(OK)
        await poison.wait()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
        await peer.eof()

    poison = asyncio.Event()
    async with ScriptedOrigin(script, always(OK)) as origin, upstream(origin.url) as made:
        await ask(made)
        poison.set()
        await eventually(lambda: kept(made) == 0)
        _, sink = await ask(made)
        assert (sink.outcome, sink.body) == ("end", b"ok")
        assert len(origin.peers) == 2


async def test_unasked_bytes_that_the_loop_has_not_seen_are_noticed_when_it_is_taken() -> None:
    async with ScriptedOrigin(answers(OK)) as origin, upstream(origin.url) as made:
        await ask(made)
        await eventually(lambda: bool(origin.peers))
        origin.peers[0].send_now(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
        assert kept(made) == 1
        assert made.idle() is None  # no await since: only the socket itself can tell
        assert (kept(made), made.open, made.servers[0].in_flight) == (0, 0, 0)


async def test_unasked_bytes_are_noticed_when_a_connection_goes_to_the_first_in_line() -> None:
    async with (
        ScriptedOrigin(answers(OK), always(OK)) as origin,
        upstream(origin.url, max_connections=1) as made,
    ):
        first, sink = await made.connect(), Recorder()
        waiting = asyncio.create_task(ask(made))
        await eventually(lambda: made.waiting == 1)

        def poison(name: str) -> None:
            if name == "end":  # the connection was given away, and its next user has not run
                origin.peers[0].send_now(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")

        sink.on_call = poison
        first.send(b"GET", GET, sink, has_body=False)
        _, second = await waiting
        assert (second.outcome, second.body) == ("end", b"ok")
        assert (made.open, made.waiting, made.servers[0].in_flight) == (1, 0, 0)


@pytest.mark.parametrize("how", ["close", "reset", "half_close"])
async def test_an_idle_connection_that_the_origin_closes_is_forgotten(how: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(OK)
        await leave.wait()
        getattr(peer, how)()

    leave = asyncio.Event()
    async with ScriptedOrigin(script, always(OK)) as origin, upstream(origin.url) as made:
        await ask(made)
        assert kept(made) == 1
        leave.set()
        await eventually(lambda: kept(made) == 0)
        assert (made.open, made.idle()) == (0, None)


async def test_a_stale_connection_says_that_it_was_reused() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(OK)
        await peer.head()
        peer.reset()

    async with ScriptedOrigin(script) as origin, upstream(origin.url) as made:
        await ask(made)
        connection, sink = await ask(made)
        assert connection.reused
        assert sink.outcome == "connection_terminated"
        assert sink.error is not None
        assert sink.error.retry is Retry.IDEMPOTENT


async def test_unused_connections_are_closed_after_their_time() -> None:
    clock = SetClock()
    async with (
        ScriptedOrigin(always(OK)) as origin,
        upstream(origin.url, clock=clock, timeouts={"idle": "20s"}) as made,
    ):
        await ask(made)
        sweep(made, clock, 19.9)
        assert kept(made) == 1
        sweep(made, clock, 0.2)
        assert (kept(made), made.open, len(made._sweeper)) == (0, 0, 0)
        await origin.peers[0].ended.wait()


@pytest.mark.parametrize(
    ("hint", "kept_for"),
    [
        (b"timeout=5", 4.0),
        (b"Timeout=10, max=100", 8.0),
        (b"max=100, timeout = 5", 4.0),
        (b"timeout=0", 0.0),
        (b"timeout=600", 20.0),
        (b"timeout=soon", 20.0),
        (b"xtimeout=5", 20.0),
        (b"", 20.0),
    ],
)
async def test_an_idle_connection_goes_before_the_origin_closes_it(hint: bytes, kept_for: float) -> None:
    clock = SetClock()
    response = OK.replace(b"\r\n\r\n", b"\r\nKeep-Alive: " + hint + b"\r\n\r\n")
    async with (
        ScriptedOrigin(always(response)) as origin,
        upstream(origin.url, clock=clock, timeouts={"idle": "20s"}) as made,
    ):
        await ask(made)
        if kept_for:
            sweep(made, clock, kept_for - 0.1)
            assert kept(made) == 1
        sweep(made, clock, 0.2)
        assert kept(made) == 0


async def test_no_more_than_max_idle_are_kept() -> None:
    async with ScriptedOrigin(always(OK)) as origin, upstream(origin.url, max_idle=2) as made:
        connections = [await made.connect() for _ in range(4)]
        for connection in connections:
            sink = Recorder()
            connection.send(b"GET", GET, sink, has_body=False)
            await sink.finished()
        assert (kept(made), made.open) == (2, 2)
        await eventually(lambda: sum(peer.ended.is_set() for peer in origin.peers) == 2)


async def _one(made: Upstream, number: int, order: list[int]) -> None:
    connection = await made.connect()
    order.append(number)
    sink = Recorder()
    connection.send(b"GET", GET, sink, has_body=False)
    await sink.finished()
    assert sink.outcome == "end"


@pytest.mark.parametrize("close", [b"", b"Connection: close\r\n"], ids=["kept", "closed"])
async def test_requests_beyond_the_cap_wait_in_order_for_what_comes_free(close: bytes) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.head()
            await gate.acquire()
            await peer.send(b"HTTP/1.1 200 OK\r\n" + close + b"Content-Length: 2\r\n\r\nok")

    gate = asyncio.Semaphore(0)
    order: list[int] = []
    async with ScriptedOrigin(script) as origin, upstream(origin.url, max_connections=2) as made:
        tasks = [asyncio.create_task(_one(made, number, order)) for number in range(6)]
        await eventually(lambda: made.waiting == 4 and len(order) == 2)
        assert made.open == 2
        for _ in range(6):
            gate.release()
        await asyncio.gather(*tasks)
        assert {*order[:2]} == {0, 1}  # what is dialled side by side ends in any order
        assert {*order[2:]} == {2, 3, 4, 5}
        if not close:
            assert order[2:] == [2, 3, 4, 5]
        assert (made.open, kept(made), len(origin.peers)) == ((0, 0, 6) if close else (2, 2, 2))
        assert (made.waiting, made.servers[0].in_flight) == (0, 0)


async def test_a_newcomer_does_not_overtake_the_queue() -> None:
    async with ScriptedOrigin(always(OK)) as origin, upstream(origin.url, max_connections=1) as made:
        first = await made.connect()
        waiting = asyncio.create_task(made.connect())
        await eventually(lambda: made.waiting == 1)
        first.abandon()  # its slot is the waiter's, though it has not run yet
        newcomer = asyncio.create_task(made.connect())
        second = await waiting
        assert made.open == 1
        assert not newcomer.done()
        second.abandon()
        (await newcomer).abandon()
        assert made.open == 0


async def test_waiting_has_a_deadline_and_the_queue_an_end() -> None:
    async with (
        ScriptedOrigin(silence) as origin,
        upstream(origin.url, max_connections=1, queue={"size": 1, "timeout": "50ms"}) as made,
    ):
        await start(made)
        waiting = asyncio.create_task(made.connect())
        await eventually(lambda: made.waiting == 1)
        with pytest.raises(OriginError, match="connection_limit_reached: too many") as full:
            await made.connect()
        assert full.value.status == 503
        with pytest.raises(OriginError, match="connection_limit_reached: no connection"):
            await waiting
        assert (made.waiting, made.open) == (0, 1)


async def test_a_queue_of_none_refuses_at_once() -> None:
    async with (
        ScriptedOrigin(silence) as origin,
        upstream(origin.url, max_connections=1, queue={"size": 0}) as made,
    ):
        await start(made)
        with pytest.raises(OriginError, match="connection_limit_reached"):
            await made.connect()


@pytest.mark.parametrize("given", ["slot", "connection"])
async def test_what_is_given_to_one_that_just_left_goes_to_the_next(given: str) -> None:
    async with ScriptedOrigin(always(OK)) as origin, upstream(origin.url, max_connections=1) as made:
        first, sink = await made.connect(), Recorder()
        leaver = asyncio.create_task(made.connect())
        stayer = asyncio.create_task(made.connect())
        await eventually(lambda: made.waiting == 2)

        def leave(name: str) -> None:
            if name == "end":
                leaver.cancel()  # it has been given the connection and has not run

        if given == "connection":
            sink.on_call = leave
            first.send(b"GET", GET, sink, has_body=False)
            await sink.finished()
        else:
            first.abandon()
            leaver.cancel()
        connection = await stayer
        assert connection.reused is (given == "connection")
        assert leaver.cancelled()
        assert (made.open, made.servers[0].in_flight, made.waiting) == (1, 1, 0)


async def test_one_that_leaves_the_queue_is_passed_over() -> None:
    async with ScriptedOrigin(always(OK)) as origin, upstream(origin.url, max_connections=1) as made:
        first = await made.connect()
        leaver = asyncio.create_task(made.connect())
        stayer = asyncio.create_task(made.connect())
        await eventually(lambda: made.waiting == 2)
        leaver.cancel()
        first.abandon()
        assert isinstance(await stayer, OriginConnection)
        assert (made.open, made.waiting) == (1, 0)


async def test_a_cancelled_dial_gives_its_slot_back() -> None:
    async with (
        ScriptedOrigin(silence) as origin,  # speaks no TLS: the handshake hangs
        upstream(origin.url.replace("http:", "https:"), max_connections=1) as made,
    ):
        dial = asyncio.create_task(made.connect())
        await eventually(lambda: bool(origin.peers))
        assert made.open == 1
        dial.cancel()
        await asyncio.wait([dial])
        assert (made.open, made.servers[0].in_flight) == (0, 0)


async def test_a_dial_cancelled_as_it_succeeds_leaves_no_connection_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """uvloop closes such a connection and does not tell it."""
    connection_made = OriginConnection.connection_made

    def made_too_late(self: OriginConnection, transport: asyncio.BaseTransport) -> None:
        connection_made(self, transport)
        dial.cancel()

    monkeypatch.setattr(OriginConnection, "connection_made", made_too_late)
    async with ScriptedOrigin(silence) as origin, upstream(origin.url) as made:
        dial = asyncio.create_task(made.connect())
        await asyncio.wait([dial])
        assert dial.cancelled()
        await eventually(lambda: len(made._sweeper) == 0)
        assert (made.open, made.servers[0].in_flight) == (0, 0)


async def test_at_the_cap_an_idle_connection_makes_room_for_another_server() -> None:
    async with (
        ScriptedOrigin(always(OK)) as one,
        ScriptedOrigin(always(OK)) as two,
        upstream(one.url, two.url, max_connections=1) as made,
    ):
        for _ in range(4):
            _, sink = await ask(made)
            assert sink.outcome == "end"
            assert made.open == 1
        assert (len(one.heads), len(two.heads)) == (2, 2)


async def test_closing_keeps_nothing_and_waits_for_what_is_in_flight() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await gate.wait()
        await peer.send(OK)
        await peer.eof()

    gate = asyncio.Event()
    async with ScriptedOrigin(always(OK), script) as origin, upstream(origin.url, max_connections=2) as made:
        busy, slow = await made.connect(), await made.connect()
        first, sink = Recorder(), Recorder()
        busy.send(b"GET", GET, first, has_body=False)
        slow.send(b"GET", GET, sink, has_body=False)
        await first.finished()
        assert kept(made) == 1
        closing = asyncio.create_task(made.close())
        await settle()
        assert not closing.done()
        assert made.idle() is None
        gate.set()
        await sink.finished()
        await closing
        assert sink.outcome == "end"
        assert busy.closed
        assert slow.closed
        assert (made.open, made.servers[0].in_flight) == (0, 0)


async def test_closing_serves_who_is_in_line_and_refuses_what_is_left_in_the_end() -> None:
    async with ScriptedOrigin(silence) as origin, upstream(origin.url, max_connections=1) as made:
        connection, _ = await start(made)
        served, late = asyncio.create_task(made.connect()), asyncio.create_task(made.connect())
        await eventually(lambda: made.waiting == 2)
        closing = asyncio.create_task(made.close(patience=0.2))
        await settle()
        connection.abandon()
        assert not (await served).closed
        with pytest.raises(OriginError, match="destination_unavailable"):
            await late
        await closing
        with pytest.raises(OriginError, match="destination_unavailable"):
            await made.connect()
