"""Deadlines per phase, with a clock that is set: nothing waits for time to pass (A147, A149)."""

from __future__ import annotations

import asyncio

import pytest

from edgeproxy.origin.sweeper import NEVER, Sweeper
from tests.helpers.scripted_origin import Peer, ScriptedOrigin, answers, silence
from tests.origin.support import OK, POST, SetClock, eventually, settle, start, sweep, upstream

TIMEOUTS = {"first_byte": "10s", "between_bytes": "5s", "idle": "60s"}
H = b"HTTP/1.1 200 OK\r\n"


def sends(data: bytes):  # type: ignore[no-untyped-def]
    async def script(peer: Peer) -> None:
        await peer.head()
        if data:
            await peer.send(data)
        await peer.eof()

    return script


@pytest.mark.parametrize(
    ("sent", "heard", "allowed", "detail"),
    [
        pytest.param(b"", "", 10, "no response in time", id="silence"),
        pytest.param(b"HTTP/1.1 2", "", 10, "no response in time", id="part of a head"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n", "interim", 10, "no response in time", id="interim"),
        pytest.param(H + b"Content-Length: 9\r\n\r\n", "head", 5, "the response stalled", id="no body"),
        pytest.param(
            H + b"Content-Length: 9\r\n\r\nx", "data", 5, "the response stalled", id="part of a body"
        ),
        pytest.param(
            H + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
            "data",
            5,
            "the response stalled",
            id="chunks",
        ),
        pytest.param(H + b"\r\nx", "data", 5, "the response stalled", id="until EOF"),
    ],
)
async def test_an_origin_that_falls_silent_is_given_up(
    sent: bytes, heard: str, allowed: float, detail: str
) -> None:
    clock = SetClock()
    async with (
        ScriptedOrigin(sends(sent)) as origin,
        upstream(origin.url, clock=clock, timeouts=TIMEOUTS) as made,
    ):
        connection, sink = await start(made)
        if heard:
            await sink.until(heard)
        elif sent:
            await eventually(lambda: connection.began)
        sweep(made, clock, allowed - 0.1)
        assert not sink.done.is_set()
        sweep(made, clock, 0.2)
        assert sink.outcome == "http_response_timeout"
        assert sink.error is not None
        assert (sink.error.status, sink.error.detail) == (504, detail)
        assert connection.closed
        assert made.open == 0


async def test_a_head_that_drips_has_one_deadline_for_all_of_it() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(H)
        for number in range(3):
            await more[number].wait()
            await peer.send(b"A: %d\r\n" % number)
        await peer.eof()

    more = [asyncio.Event() for _ in range(3)]
    clock = SetClock()
    async with (
        ScriptedOrigin(script) as origin,
        upstream(origin.url, clock=clock, timeouts=TIMEOUTS) as made,
    ):
        connection, sink = await start(made)
        await eventually(lambda: connection.began)
        for event in more:
            before = connection._unread
            event.set()
            await eventually(lambda: connection._unread > before)  # noqa: B023
            sweep(made, clock, 3.3)
        assert not sink.done.is_set()
        sweep(made, clock, 0.2)
        assert sink.outcome == "http_response_timeout"


async def test_every_piece_of_a_body_starts_its_deadline_again() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(H + b"Content-Length: 4\r\n\r\nx")
        for event in more:
            await event.wait()
            await peer.send(b"x")
        await peer.eof()

    more = [asyncio.Event() for _ in range(3)]
    clock = SetClock()
    async with (
        ScriptedOrigin(script) as origin,
        upstream(origin.url, clock=clock, timeouts=TIMEOUTS) as made,
    ):
        _, sink = await start(made)
        await sink.until("data")
        for event in more:
            sweep(made, clock, 4.9)
            length = len(sink.body)
            event.set()
            await eventually(lambda: len(sink.body) > length)  # noqa: B023
        assert sink.outcome == "end"


async def test_the_total_ends_an_exchange_that_never_stalls() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(H + b"\r\n")
        while True:
            await tick.acquire()
            await peer.send(b"x")

    tick = asyncio.Semaphore(0)
    clock = SetClock()
    async with (
        ScriptedOrigin(script) as origin,
        upstream(origin.url, clock=clock, timeouts={**TIMEOUTS, "total": "20s"}) as made,
    ):
        _, sink = await start(made)
        for turn in range(1, 5):
            tick.release()
            await eventually(lambda: len(sink.body) == turn)  # noqa: B023
            sweep(made, clock, 4.9)
        assert not sink.done.is_set()
        sweep(made, clock, 0.5)
        assert sink.outcome == "http_response_timeout"
        assert sink.error is not None
        assert sink.error.detail == "the exchange took too long"


async def test_the_total_of_one_request_does_not_haunt_the_next() -> None:
    clock = SetClock()
    async with (
        ScriptedOrigin(answers(OK)) as origin,
        upstream(origin.url, clock=clock, timeouts={"idle": "60s", "total": "20s"}) as made,
    ):
        connection, sink = await start(made)
        await sink.finished()
        sweep(made, clock, 30)
        assert not connection.closed


async def test_a_slow_client_is_not_the_origins_fault() -> None:
    clock = SetClock()
    async with (
        ScriptedOrigin(sends(H + b"Content-Length: 900000\r\n\r\n" + b"x" * 900_000)) as origin,
        upstream(origin.url, clock=clock, timeouts=TIMEOUTS) as made,
    ):
        connection, sink = await start(made)
        sink.on_call = lambda name: connection.pause() if name == "data" else None
        await sink.until("data")
        sweep(made, clock, 1000)
        assert not sink.done.is_set()
        sink.on_call = None
        connection.resume()
        await sink.finished()
        assert (sink.outcome, len(sink.body)) == ("end", 900_000)


async def test_a_slow_upload_is_not_the_origins_fault_but_its_answer_is() -> None:
    clock = SetClock()
    async with (
        ScriptedOrigin(silence) as origin,
        upstream(origin.url, clock=clock, timeouts=TIMEOUTS) as made,
    ):
        connection, sink = await start(made, POST, has_body=True)
        sweep(made, clock, 1000)
        assert not sink.done.is_set()
        connection.write(b"body")
        connection.finish()
        sweep(made, clock, 9.9)
        assert not sink.done.is_set()
        sweep(made, clock, 0.2)
        assert sink.outcome == "http_response_timeout"


async def test_an_origin_that_stops_reading_is_given_up() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await forever.wait()

    forever = asyncio.Event()
    clock = SetClock()
    async with (
        ScriptedOrigin(script) as origin,
        upstream(origin.url, clock=clock, timeouts=TIMEOUTS) as made,
    ):
        connection, sink = await start(made, POST, has_body=True)
        connection.write(b"x" * 30_000_000)
        await sink.until("write-paused")
        await settle()
        sweep(made, clock, 4.9)
        assert not sink.done.is_set()
        sweep(made, clock, 0.2)
        assert sink.outcome == "connection_write_timeout"
        assert sink.error is not None
        assert sink.error.detail == "the origin stopped reading the request"


async def test_the_loop_of_the_sweeper_reads_its_clock() -> None:
    class Member:
        deadline = 5.0
        expired = 0

        def expire(self, now: float) -> None:
            self.deadline = NEVER
            self.expired += 1

    clock = SetClock(4.0)
    sweeper = Sweeper(clock)
    member = Member()
    sweeper.add(member)
    task = asyncio.create_task(sweeper.run())
    sweeper.sweep(clock.now)
    assert member.expired == 0
    clock.now = 6.0
    await eventually(lambda: member.expired == 1)
    sweeper.discard(member)
    assert len(sweeper) == 0
    task.cancel()


def test_a_member_that_an_earlier_one_put_off_is_left_alone() -> None:
    class Member:
        deadline = 5.0
        other: Member | None = None
        expired = 0

        def expire(self, now: float) -> None:
            self.expired += 1
            assert self.other is not None
            self.other.deadline = NEVER

    one, two = Member(), Member()
    one.other, two.other = two, one
    sweeper = Sweeper(lambda: 0.0)
    sweeper.add(one)
    sweeper.add(two)
    sweeper.sweep(6.0)
    assert one.expired + two.expired == 1


def test_a_member_that_fails_takes_no_deadline_from_the_others(caplog: pytest.LogCaptureFixture) -> None:
    class Member:
        deadline = 5.0
        expired = 0

        def expire(self, now: float) -> None:
            self.expired += 1
            raise RuntimeError("a bug")

    one, two = Member(), Member()
    sweeper = Sweeper(lambda: 0.0)
    sweeper.add(one)
    sweeper.add(two)
    sweeper.sweep(6.0)
    assert (one.expired, two.expired) == (1, 1)
    assert caplog.text.count("RuntimeError: a bug") == 2
