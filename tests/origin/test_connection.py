"""One exchange on one connection: how it ends, and what may be done meanwhile (A16-A26)."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from edgeproxy.errors import Retry
from tests.helpers.scripted_origin import Peer, ScriptedOrigin, always, answers
from tests.origin.support import (
    GET,
    HEAD,
    OK,
    POST,
    Recorder,
    ask,
    eventually,
    kept,
    settle,
    start,
    upstream,
)

H = b"HTTP/1.1 200 OK\r\n"
CHUNKED = H + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("response", "error"),
    [
        pytest.param(b"", "connection_terminated", id="nothing"),
        pytest.param(b"HTTP/1.1 2", "http_response_incomplete", id="part of the head"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n", "http_response_incomplete", id="an interim only"),
        pytest.param(H + b"Content-Length: 3\r\n\r\n", "http_response_incomplete", id="no body"),
        pytest.param(H + b"Content-Length: 3\r\n\r\nok", "http_response_incomplete", id="short body"),
        pytest.param(CHUNKED, "http_response_incomplete", id="no chunk"),
        pytest.param(CHUNKED + b"5\r\nok", "http_response_incomplete", id="short chunk"),
        pytest.param(CHUNKED + b"2\r\nok\r\n", "http_response_incomplete", id="no last chunk"),
        pytest.param(
            CHUNKED + b"2\r\nok\r\n0\r\nX: y\r\n", "http_response_incomplete", id="trailers cut off"
        ),
    ],
)
@pytest.mark.parametrize("how", ["close", "reset", "half_close"])
async def test_an_origin_that_leaves_early_is_an_error(response: bytes, error: str, how: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        if response:
            await peer.send(response)
            await read.wait()
        getattr(peer, how)()

    read = asyncio.Event()
    async with ScriptedOrigin(script) as origin, upstream(origin.url) as made:
        connection, sink = await start(made)
        await eventually(lambda: connection.began or not response)
        read.set()
        await sink.finished()
        assert sink.outcome == error
        assert sink.error is not None
        retry = Retry.IDEMPOTENT if error == "connection_terminated" else Retry.NEVER
        assert sink.error.retry is retry
        assert made.open == 0


async def test_a_body_until_eof_ends_with_the_connection() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(H + b"\r\nsome")
        await more.wait()
        await peer.send(b" more")
        peer.close()

    more = asyncio.Event()
    async with ScriptedOrigin(script) as origin, upstream(origin.url) as made:
        connection, sink = await start(made)
        await sink.until("data")
        more.set()
        await sink.finished()
        assert (sink.outcome, sink.body, sink.length) == ("end", b"some more", None)
        assert connection.closed
        assert kept(made) == 0


async def test_a_body_until_eof_that_is_reset_is_incomplete() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(H + b"\r\nsome")
        await more.wait()
        peer.reset()

    more = asyncio.Event()
    async with ScriptedOrigin(script) as origin, upstream(origin.url) as made:
        _, sink = await start(made)
        await sink.until("data")
        more.set()
        await sink.finished()
        assert sink.outcome == "http_response_incomplete"


@pytest.mark.parametrize(
    ("head", "response", "body"),
    [
        (GET, H + b"A: b\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
        (GET, CHUNKED + b"3\r\nhel\r\n2\r\nlo\r\n0\r\nX-T: 1\r\n\r\n", b"hello"),
        (GET, b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK, b"ok"),
        (HEAD, H + b"Content-Length: 5\r\n\r\n", b""),
        (GET, b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    ],
    ids=["length", "chunked", "interim", "HEAD", "204"],
)
async def test_one_byte_at_a_time_is_the_same_response(head: bytes, response: bytes, body: bytes) -> None:
    async def script(peer: Peer) -> None:
        for _ in range(2):
            await peer.head()
            await peer.drip(response)
        await peer.eof()

    async with ScriptedOrigin(script) as origin, upstream(origin.url) as made:
        for turn in range(2):
            connection, sink = await ask(made, head)
            assert (sink.outcome, sink.body) == ("end", body)
            assert connection.reused
            assert kept(made) == 1, f"turn {turn}"


async def test_a_connection_serves_every_kind_of_response_in_turn() -> None:
    big = b"x" * 600_000
    turns = [
        (GET, H + b"Content-Length: 600000\r\n\r\n" + big, big),
        (HEAD, H + b"Content-Length: 600000\r\n\r\n", b""),
        (GET, OK, b"ok"),
        (GET, CHUNKED + b"927c0\r\n" + big + b"\r\n0\r\n\r\n", big),
        (GET, b"HTTP/1.1 304 Not\r\nContent-Length: 7\r\n\r\n", b""),
        (HEAD, CHUNKED, b""),
        (GET, OK, b"ok"),
    ]
    async with (
        ScriptedOrigin(answers(*[response for _, response, _ in turns])) as origin,
        upstream(origin.url) as made,
    ):
        for head, _, body in turns:
            _, sink = await ask(made, head)
            assert (sink.outcome, sink.body == body) == ("end", True)
        assert len(origin.peers) == 1


async def test_interim_responses_and_trailers_are_delivered() -> None:
    response = (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        + CHUNKED
        + b"2\r\nok\r\n0\r\nX-T: 1\r\nx-t: 2\r\n\r\n"
    )
    async with ScriptedOrigin(answers(response)) as origin, upstream(origin.url) as made:
        _, sink = await ask(made)
        assert sink.interims == [(100, []), (103, [(b"Link", b"</a>")])]
        assert sink.trailers == [(b"X-T", b"1"), (b"x-t", b"2")]
        assert kept(made) == 1


async def test_the_request_is_written_as_given_and_its_body_streamed() -> None:
    async with ScriptedOrigin(always(OK)) as origin, upstream(origin.url) as made:
        connection, sink = await start(made, POST, has_body=True)
        connection.write(b"bo")
        connection.write(b"dy")
        connection.finish()
        await sink.finished()
        assert origin.received == POST + b"body"
        assert kept(made) == 1


async def test_a_response_before_the_request_is_complete_closes_the_connection() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await peer.eof()

    async with ScriptedOrigin(script) as origin, upstream(origin.url) as made:
        connection, sink = await start(made, POST, has_body=True)
        connection.write(b"bo")
        await sink.finished()
        assert (sink.outcome, sink.status, sink.body) == ("end", 413, b"no")
        assert connection.closed
        connection.write(b"dy")  # too late, and harmless
        connection.finish()
        await origin.peers[0].ended.wait()
        assert not origin.received.endswith(b"dy")
        assert made.open == 0


async def test_a_response_while_the_request_is_still_in_our_buffer_closes_the_connection() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(OK)
        await forever.wait()

    forever = asyncio.Event()
    async with ScriptedOrigin(script) as origin, upstream(origin.url) as made:
        head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n"
        connection, sink = await start(made, head, has_body=True)
        connection.write(b"x" * 50_000_000)
        connection.finish()
        await sink.finished()
        assert sink.outcome == "end"
        assert connection.closed
        assert kept(made) == 0


async def test_a_slow_origin_pauses_the_request_body_and_then_resumes_it() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await reading.wait()
        await peer.exactly(20_000_000)
        await peer.send(OK)

    reading = asyncio.Event()
    async with ScriptedOrigin(script) as origin, upstream(origin.url) as made:
        head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20000000\r\n\r\n"
        connection, sink = await start(made, head, has_body=True)
        connection.write(b"x" * 20_000_000)
        await sink.until("write-paused")
        assert "write-resumed" not in sink.calls
        reading.set()
        await sink.until("write-resumed")
        connection.finish()
        await sink.finished()
        assert sink.outcome == "end"


async def test_a_paused_response_holds_at_most_one_read_and_loses_nothing() -> None:
    size = 8_000_000

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(H + b"Content-Length: %d\r\n\r\n" % size + b"x" * size)
        await peer.eof()

    async with ScriptedOrigin(script) as origin, upstream(origin.url) as made:
        connection = await made.connect()
        sink = Recorder()
        sink.on_call = lambda name: connection.pause() if name == "head" else None
        connection.send(b"GET", GET, sink, has_body=False)
        await sink.until("head")
        for _ in range(50):
            await asyncio.sleep(0.001)
        assert len(sink.body) <= 256 * 1024
        assert not sink.done.is_set()
        connection.resume()
        await sink.finished()
        assert (sink.outcome, len(sink.body)) == ("end", size)
        assert kept(made) == 1


async def test_a_connection_paused_at_the_end_of_a_response_reads_the_next_one() -> None:
    async with ScriptedOrigin(always(OK)) as origin, upstream(origin.url) as made:
        connection = await made.connect()
        sink = Recorder()
        sink.on_call = lambda name: connection.pause() if name == "data" else None
        connection.send(b"GET", GET, sink, has_body=False)
        await sink.finished()
        again, sink = await ask(made)
        assert again is connection
        assert sink.outcome == "end"


@pytest.mark.parametrize("moment", ["head", "data", "interim"])
async def test_an_abandoned_request_is_heard_of_no_more(moment: str) -> None:
    response = b"HTTP/1.1 103 Early Hints\r\n\r\n" + H + b"Content-Length: 2\r\n\r\nok"
    async with ScriptedOrigin(answers(response)) as origin, upstream(origin.url) as made:
        connection = await made.connect()
        sink = Recorder()
        sink.on_call = lambda name: connection.abandon() if name == moment else None
        connection.send(b"GET", GET, sink, has_body=False)
        await sink.until(moment)
        await origin.peers[0].ended.wait()
        await settle()
        assert sink.calls[-1] == moment
        assert connection.closed
        assert made.open == 0


@pytest.mark.parametrize("moment", ["head", "data"])
async def test_a_broken_sink_fails_its_request_only(moment: str) -> None:
    def break_down(name: str) -> None:
        if name == moment:
            raise RuntimeError("a bug")

    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    async with ScriptedOrigin(always(OK)) as origin, upstream(origin.url) as made:
        connection = await made.connect()
        sink = Recorder()
        sink.on_call = break_down
        connection.send(b"GET", GET, sink, has_body=False)
        await sink.finished()
        assert sink.outcome == "proxy_internal_error"
        assert [str(context["exception"]) for context in reported] == ["a bug"]
        _, sink = await ask(made)
        assert sink.outcome == "end"


async def test_a_request_on_a_closed_connection_fails_later_and_may_be_retried() -> None:
    async with ScriptedOrigin(always(OK)) as origin, upstream(origin.url) as made:
        connection = await made.connect()
        connection.abandon()
        sink = Recorder()
        connection.send(b"POST", POST, sink, has_body=True)
        assert sink.calls == []
        await sink.finished()
        assert sink.outcome == "connection_terminated"
        assert sink.error is not None
        assert sink.error.retry is Retry.ANY


async def test_one_that_leaves_before_it_hears_so_hears_nothing() -> None:
    async with ScriptedOrigin(always(OK)) as origin, upstream(origin.url) as made:
        connection = await made.connect()
        connection.abandon()
        sink = Recorder()
        connection.send(b"GET", GET, sink, has_body=False)
        connection.abandon()
        await settle()
        assert sink.calls == []


async def test_closed_connections_leave_no_cycles_behind() -> None:
    async with ScriptedOrigin(answers(OK)) as origin, upstream(origin.url) as made:
        connection, _ = await ask(made)
        connection.close_idle()
        await eventually(lambda: not hasattr(connection, "_parser"))
        assert "idle" not in repr(connection)
    gc.collect()


@pytest.mark.parametrize("ending", ["end", "error"])
async def test_a_sink_that_breaks_at_the_end_is_reported(ending: str) -> None:
    def break_down(name: str) -> None:
        if name == ending:
            raise RuntimeError("a bug")

    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    response = OK if ending == "end" else b"nonsense"
    async with ScriptedOrigin(answers(response)) as origin, upstream(origin.url) as made:
        connection = await made.connect()
        sink = Recorder()
        sink.on_call = break_down
        connection.send(b"GET", GET, sink, has_body=False)
        await sink.finished()
        assert [str(context["exception"]) for context in reported] == ["a bug"]
        assert made.open == (ending == "end")


async def test_a_connection_that_dies_before_it_is_used_is_forgotten() -> None:
    async def script(peer: Peer) -> None:
        await leave.wait()
        peer.reset()

    leave = asyncio.Event()
    async with ScriptedOrigin(script) as origin, upstream(origin.url) as made:
        connection = await made.connect()
        leave.set()
        await eventually(lambda: connection.closed)
        assert (made.open, made.servers[0].in_flight) == (0, 0)


class Spy:
    """A transport that writes down what is written at once."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self.writes: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        self._transport.write(data)

    def writelines(self, parts: tuple[bytes, ...]) -> None:
        self.writes.append(b"".join(parts))
        self._transport.writelines(parts)


@pytest.mark.parametrize(("at_once", "writes"), [(True, [POST + b"body"]), (False, [POST, b"body"])])
async def test_a_head_leaves_with_the_first_of_its_body_but_does_not_wait_for_it(
    at_once: bool, writes: list[bytes]
) -> None:
    async with ScriptedOrigin(always(OK)) as origin, upstream(origin.url) as made:
        await ask(made)
        connection, sink = made.idle(), Recorder()
        assert connection is not None
        spy = Spy(connection._transport)
        connection._transport = spy  # type: ignore[assignment]
        connection.send(b"POST", POST, sink, has_body=True)
        connection.flush()
        if not at_once:
            await settle()
        connection.write(b"body")
        connection.finish()
        await sink.finished()
        assert (sink.outcome, spy.writes) == ("end", writes)
