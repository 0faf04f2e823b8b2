"""An origin as the fetch sees it: who is asked, who is refused, and what was learnt from the answers."""

from __future__ import annotations

import asyncio
import socket

import pytest

from edgeproxy.errors import OriginError, origin_error
from edgeproxy.origin.upstream import Upstream
from tests.helpers.requests import request
from tests.helpers.scripted_origin import ScriptedOrigin, always, silence
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

NO = b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture
def refusing() -> str:
    """A port of the loopback where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


async def told(made: Upstream, head: bytes = GET) -> str:
    """Ask, and tell the upstream what became of it, as a trip does."""
    connection, sink = await ask(made, head)
    if sink.error is not None:
        made.failed(connection.server, sink.error)
        return sink.error.error
    made.answered(connection.server, sink.status, 0.01)
    return str(sink.status)


async def test_a_server_that_answers_badly_gets_nothing_for_a_while() -> None:
    clock = SetClock()
    async with (
        ScriptedOrigin(always(NO)) as bad,
        ScriptedOrigin(always(OK)) as good,
        upstream(bad.url, good.url, clock=clock, ejection={"errors": 3, "time": "10s"}) as made,
    ):
        assert [await told(made) for _ in range(6)] == ["503", "200"] * 3
        assert made.ejected(0)
        assert not made.usable(0)
        assert [await told(made) for _ in range(4)] == ["200"] * 4
        clock.now += 10
        assert await told(made) == "503"
        assert made.ejected(0)


async def test_when_nothing_answers_requests_are_refused_at_once(refusing: str) -> None:
    clock = SetClock()
    async with upstream(refusing, clock=clock, breaker={"failures": 3, "time": "1s"}) as made:
        for _ in range(3):
            with pytest.raises(OriginError, match="connection_refused"):
                await made.connect()
        assert not made.healthy()
        for _ in range(5):
            assert made.idle() is None
            with pytest.raises(OriginError, match="destination_unavailable") as refused:
                await made.connect()
            assert refused.value.status == 503
        assert (made.shed, made.open) == (5, 0)
        clock.now += 1
        with pytest.raises(OriginError, match="connection_refused"):  # one may try
            await made.connect()
        with pytest.raises(OriginError, match="destination_unavailable"):
            await made.connect()


async def test_an_answer_closes_the_breaker() -> None:
    clock = SetClock()
    async with (
        ScriptedOrigin(always(NO)) as origin,
        upstream(origin.url, clock=clock, breaker={"failures": 2}) as made,
    ):
        _, sink = await ask(made)
        for _ in range(2):
            made.failed(made.servers[0], origin_error("http_response_timeout"))
        assert made.idle() is None  # though one is
        clock.now += 1
        assert await told(made) == "503"  # an error, but an answer
        assert made.healthy()
        assert made.idle() is not None
        assert sink.status == 503


async def test_a_full_queue_says_nothing_about_the_servers() -> None:
    async with ScriptedOrigin(always(OK)) as origin, upstream(origin.url, breaker={"failures": 1}) as made:
        made.failed(made.servers[0], origin_error("connection_limit_reached"))
        assert made.healthy()


async def test_a_dead_server_costs_one_request_one_look(refusing: str) -> None:
    """The others go elsewhere while it is tried, and after it failed."""
    clock = SetClock()
    async with ScriptedOrigin(always(OK)) as origin, upstream(refusing, origin.url, clock=clock) as made:
        for _ in range(20):
            assert await told(made) == "200"
        assert [bool(each.suspect_until) for each in made.roster.servers] == [True, False]


async def test_a_server_that_swallows_requests_does_not_close_the_others() -> None:
    """They were sent together, so they fail together: a row of failures with no answer between them."""
    async with (
        ScriptedOrigin(silence) as hung,
        ScriptedOrigin(always(OK)) as good,
        upstream(hung.url, good.url, breaker={"failures": 5}) as made,
    ):
        for _ in range(30):
            made.failed(made.servers[0], origin_error("http_response_timeout"))
        assert made.healthy()
        assert await told(made) == "200"
        for _ in range(5):
            for server in made.servers:
                made.failed(server, origin_error("http_response_timeout"))
        assert not made.healthy()


async def test_answers_that_break_off_count_against_a_server() -> None:
    async with upstream("http://127.0.0.1:1", "http://127.0.0.1:2", ejection={"failures": 2}) as made:
        server = made.servers[0]
        for _ in range(2):
            made.answered(server, 200, 0.01)
            made.ended(server, origin_error("http_response_incomplete"))
        assert made.ejected(0)
        made.ended(made.servers[1], origin_error("http_response_incomplete"))
        assert made.servers[1].standing.truncated == 1
        made.ended(made.servers[1], None)
        assert made.servers[1].standing.truncated == 0


async def test_a_server_that_is_full_is_passed_over_and_all_full_ones_are_waited_for() -> None:
    async with (
        ScriptedOrigin(silence) as one,
        ScriptedOrigin(silence) as two,
        upstream(one.url, two.url, max_connections_per_server=2) as made,
    ):
        connections = [(await start(made))[0] for _ in range(4)]
        assert [server.open for server in made.servers] == [2, 2]
        waiting = asyncio.create_task(made.connect())
        await eventually(lambda: made.waiting == 1)
        assert made.open == 4
        connections[1].abandon()
        assert (await waiting).server is connections[1].server
        assert [server.open for server in made.servers] == [2, 2]


async def test_the_room_of_a_server_that_is_out_does_not_count() -> None:
    cells = bytearray([2, 1])
    async with (
        ScriptedOrigin(silence) as one,
        ScriptedOrigin(silence) as two,
        upstream(
            one.url,
            two.url,
            max_connections_per_server=1,
            health=memoryview(cells),
            queue={"timeout": "20ms"},
        ) as made,
    ):
        assert (await start(made))[0].server.index == 1
        with pytest.raises(OriginError, match="connection_limit_reached"):
            await made.connect()
        assert [server.open for server in made.servers] == [0, 1]
        assert made.refused == (0, 1)


async def test_a_connection_that_is_too_old_is_not_used_again() -> None:
    clock = SetClock()
    async with (
        ScriptedOrigin(always(OK)) as origin,
        upstream(origin.url, clock=clock, timeouts={"max_age": "50s", "idle": "40s"}) as made,
    ):
        first, _ = await ask(made)
        clock.now += 30
        assert (await ask(made))[0] is first
        sweep(made, clock, 19.9)
        assert kept(made) == 1
        sweep(made, clock, 0.2)  # its age, not its idleness
        assert (kept(made), first.closed) == (0, True)
        second, sink = await start(made)
        clock.now += 60
        await sink.finished()
        assert second.closed  # too old when it came back


async def test_closing_does_not_wait_for_ever() -> None:
    async with ScriptedOrigin(silence) as origin, upstream(origin.url) as made:
        connection, sink = await start(made)
        await made.close(patience=0.02)
        await settle()
        assert connection.closed
        assert sink.outcome == "http_response_timeout"
        assert made.open == 0


async def test_retries_are_bounded_by_what_was_answered() -> None:
    async with upstream("http://127.0.0.1:1", retry_budget={"least": 1}) as made:
        assert [made.may_retry() for _ in range(2)] == [True, False]
        for _ in range(11):
            made.answered(made.servers[0], 200, 0.0)
        assert [made.may_retry() for _ in range(3)] == [True, True, False]
        assert made.retry_budget.denied == 2
        made.tend()
        assert made.may_retry()


async def test_requests_of_one_key_go_to_one_server() -> None:
    async with (
        ScriptedOrigin(always(OK)) as one,
        ScriptedOrigin(always(OK)) as two,
        ScriptedOrigin(always(OK)) as three,
        upstream(one.url, two.url, three.url, balance="hash:header:X-User") as made,
    ):
        places: dict[bytes, set[int]] = {}
        for number in range(60):
            user = f"user {number % 30}"  # ports differ each time: so many that no server gets none
            key = made.key(request("/", {"X-User": user}), "192.0.2.1")
            connection = made.idle(key) or await made.connect(key)
            places.setdefault(key, set()).add(connection.server.index)
            sink = Recorder()
            connection.send(b"GET", GET, sink, has_body=False)
            await sink.finished()
        assert all(len(each) == 1 for each in places.values())
        assert set.union(*places.values()) == {0, 1, 2}


async def test_a_sticky_client_is_told_its_server_once() -> None:
    async with (
        ScriptedOrigin(always(OK)) as one,
        ScriptedOrigin(always(OK)) as two,
        upstream(one.url, two.url, balance="sticky:edge") as made,
    ):
        connection = await made.connect(b"")
        field = made.sticky_field(connection.server, b"", secure=False)
        assert field is not None
        ident = field[1].partition(b";")[0].partition(b"=")[2]
        for _ in range(8):
            again = made.idle(ident) or await made.connect(ident)
            assert again.server is connection.server
            assert made.sticky_field(again.server, ident, secure=False) is None


async def test_one_server_needs_neither_keys_nor_cookies() -> None:
    async with ScriptedOrigin(always(OK)) as origin, upstream(origin.url, balance="sticky:edge") as made:
        assert not made.keyed
        assert made.sticky_field(made.servers[0], b"", secure=False) is None


async def test_others_need_no_key() -> None:
    async with upstream("http://127.0.0.1:1", "http://127.0.0.1:2") as made:
        assert made.key(request("/"), "192.0.2.1") == b""
        assert made.sticky_field(made.servers[0], b"", secure=False) is None
