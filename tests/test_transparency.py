"""What passes through the edge as it is: interim answers, expectations, trailers, streams, and their ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.helpers.edge import PATIENCE, Client, Running, running
from tests.helpers.scripted_origin import Peer, Script, ScriptedOrigin, always

CONFIG = """
edge: {{id: edge-1, pop: ams}}
server: {{listen: ["127.0.0.1:8080"], workers: 1, access_log: {{path: "off"}}, limits: {{body_size: 64MiB}}}}
admin: {{listen: null}}
origins: {{main: {{servers: ["{origin}"], timeouts: {{connect: 20s, first_byte: 20s}}}}}}
jwt_providers:
  p: {{issuer: i, audience: a, algorithms: [HS256], secret: "0123456789abcdef0123456789abcdef"}}
routes:
  - {{name: auth, match: {{path: "/auth"}}, policies: [{{jwt: {{provider: p}}}}], origin: main}}
  - {{name: cached, match: {{path: "/cached"}}, cache: {{ttl: 60s}}, origin: main}}
  - {{name: plain, cache: false, origin: main}}
"""
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HEAD = "POST /up HTTP/1.1\r\nHost: example.com\r\nExpect: 100-continue\r\n"
CONTINUE = b"HTTP/1.1 100 Continue"


class Stage:
    """An edge, started for an origin's script."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self._folder, self._stack = folder, stack

    async def __call__(self, *scripts: Script, door: str = "native") -> tuple[Running, ScriptedOrigin]:
        origin = await self._stack.enter_async_context(ScriptedOrigin(*scripts))
        text = CONFIG.format(origin=origin.url)
        return await self._stack.enter_async_context(running(text, self._folder, door)), origin


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        yield Stage(tmp_path, stack)


async def exactly(client: Client, count: int) -> bytes:
    async with asyncio.timeout(PATIENCE):
        return await client.reader.readexactly(count)


async def silent(client: Client) -> bool:
    """Does nothing come for a moment?"""
    try:
        async with asyncio.timeout(0.05):
            await client.reader.readexactly(1)
    except TimeoutError:
        return True
    return False


# --- interim answers


async def test_early_hints_go_on_at_once_without_what_is_for_one_hop(stage: Stage) -> None:
    gate = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(
            b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nlink: </b.js>; rel=preload\r\n"
            b"Connection: X-Hop\r\nX-Hop: 1\r\n\r\n"
        )
        await gate.wait()
        await peer.send(OK)
        await peer.eof()

    edge, _ = await stage(script)
    client = await edge.client()
    client.send(b"GET /cached HTTP/1.1\r\nHost: example.com\r\n\r\n")
    assert await client.head() == (
        b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nlink: </b.js>; rel=preload"
    )
    gate.set()
    assert (await client.answer()).body == b"ok"
    hit = await client.ask("/cached")
    assert "hit" in hit["cache-status"], "what is stored has no hints"


async def test_http_1_0_clients_get_no_interim_answers(stage: Stage) -> None:
    edge, _ = await stage(always(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK))
    client = await edge.client()
    client.send(b"GET / HTTP/1.0\r\nHost: example.com\r\n\r\n")
    assert (await client.answer()).status == 200


# --- expectations


async def test_100_is_the_origins_to_say(stage: Stage, door: str) -> None:
    gate = asyncio.Event()

    async def script(peer: Peer) -> None:
        head = await peer.head()
        assert head.count(b"Expect: 100-continue\r\n") == 1
        await gate.wait()
        await peer.send(CONTINUE + b"\r\n\r\n")
        assert await peer.exactly(4) == b"body"
        await peer.send(OK)
        await peer.eof()

    edge, _ = await stage(script, door=door)
    client = await edge.client()
    client.send(f"{HEAD}Content-Length: 4\r\n\r\n".encode())
    assert await silent(client)
    gate.set()
    assert await client.head() == CONTINUE
    client.send(b"body")
    answer = await client.answer()
    assert (answer.status, answer.body, answer["connection"]) == (200, b"ok", "")


async def test_an_origin_that_does_not_want_the_body_never_sees_it(stage: Stage, door: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
        await peer.eof()
        assert peer.received.endswith(b"\r\n\r\n")

    edge, origin = await stage(script, door=door)
    client = await edge.client()
    client.send(f"{HEAD}Content-Length: 4\r\n\r\n".encode())
    answer = await client.answer()
    assert (answer.status, answer.body, answer["connection"]) == (403, b"no", "close")
    async with asyncio.timeout(PATIENCE):
        await origin.peers[0].ended.wait()


async def test_an_origin_that_says_nothing_gets_the_body_after_a_moment(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeproxy.expect.PATIENCE", 0.02)

    async def script(peer: Peer) -> None:
        assert (await peer.request())[1] == b"body"
        await peer.send(CONTINUE + b"\r\n\r\n" + OK)
        await peer.eof()

    edge, _ = await stage(script)
    client = await edge.client()
    client.send(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode())
    assert await client.head() == CONTINUE
    client.send(b"4\r\nbody\r\n0\r\n\r\n")
    assert (await client.answer()).status == 200, "the origin's late 100 is not said again"


async def test_an_origin_that_knows_no_expectations_is_asked_without(stage: Stage, door: str) -> None:
    async def script(peer: Peer) -> None:
        if b"Expect" in await peer.head():
            await peer.send(b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n")
            await peer.eof()
            return
        assert await peer.exactly(4) == b"body"
        await peer.send(OK)
        await peer.eof()

    edge, origin = await stage(script, door=door)
    client = await edge.client()
    client.send(f"{HEAD}Content-Length: 4\r\n\r\n".encode())
    assert await client.head() == CONTINUE
    client.send(b"body")
    assert (await client.answer()).status == 200
    assert [b"Expect" in head for head in origin.heads] == [True, False]


async def test_a_refused_request_hears_no_100(stage: Stage) -> None:
    edge, origin = await stage(always(OK))
    client = await edge.client()
    client.send(f"{HEAD.replace('/up', '/auth')}Content-Length: 4\r\n\r\n".encode())
    assert (await client.answer()).status == 401
    assert origin.heads == []


async def test_another_expectation_is_a_417(stage: Stage, door: str) -> None:
    edge, _ = await stage(always(OK), door=door)
    assert (await edge.ask("/up", "Expect: miracles", method="POST", body=b"x")).status == 417


async def test_a_request_that_was_not_begun_is_sent_again_with_its_body(stage: Stage) -> None:
    async def dying(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.head()
        peer.reset()

    async def living(peer: Peer) -> None:
        await peer.head()
        await peer.send(CONTINUE + b"\r\n\r\n")
        assert await peer.exactly(4) == b"body"
        await peer.send(OK)
        await peer.eof()

    edge, _ = await stage(dying, living)
    client = await edge.client()
    assert (await client.ask("/up", method="PUT", body=b"first")).status == 200
    client.send(f"{HEAD.replace('POST', 'PUT')}Content-Length: 4\r\n\r\n".encode())
    assert await client.head() == CONTINUE
    client.send(b"body")
    assert (await client.answer()).status == 200


# --- messages without content


@pytest.mark.parametrize(
    ("method", "head", "length"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 7", "7"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", ""),
        ("HEAD", b"HTTP/1.1 200 OK", ""),
        ("GET", b"HTTP/1.1 204 No Content", ""),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7", "7"),
        ("GET", b'HTTP/1.1 304 Not Modified\r\nETag: "x"', ""),
        ("GET", b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0", "0"),
        ("GET", b"HTTP/1.1 205 Reset Content\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nbad\r\n0", "0"),
    ],
)
async def test_answers_without_content_end_with_their_head(
    stage: Stage, door: str, method: str, head: bytes, length: str
) -> None:
    if door == "asgi" and b" 304 " in head:
        length = ""  # servers take it for a promise of content
    edge, _ = await stage(always(head + b"\r\n\r\n"), door=door)
    client = await edge.client()
    for _ in range(2):
        answer = await client.ask("/x", method=method)
        assert str(answer.status).encode() in head
        assert (answer["content-length"], answer["transfer-encoding"], answer.body) == (length, "", b"")
        assert await silent(client)


# --- trailers

TRAILED = (
    b"HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n"
    b"X-Sum: 1\r\nCache-Control: no-store\r\nSet-Cookie: a=b\r\n\r\n"
)


async def test_trailers_reach_a_client_that_wants_them_but_for_those_that_must_not(stage: Stage) -> None:
    edge, origin = await stage(always(TRAILED))
    client = await edge.client()
    client.send(b"GET / HTTP/1.1\r\nHost: example.com\r\nTE: trailers\r\nConnection: TE\r\n\r\n")
    head = await client.head()
    assert b"Transfer-Encoding: chunked" in head
    async with asyncio.timeout(PATIENCE):
        rest = await client.reader.readuntil(b"\r\n\r\n")
    assert rest == b"2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n"
    assert b"\r\nTE: trailers\r\n" in origin.heads[0]
    assert b"\r\nConnection: TE\r\n" in origin.heads[0]


async def test_trailers_end_here_for_a_client_that_does_not(stage: Stage, door: str) -> None:
    edge, origin = await stage(always(TRAILED), door=door)
    client = await edge.client()
    for _ in range(2):
        assert (await client.ask("/", "TE: gzip")).body == b"ok"
    assert not any(b"\r\nTE:" in head for head in origin.heads)


# --- streams


@pytest.mark.parametrize("path", ["/events", "/cached"])
@pytest.mark.parametrize(
    "framing",
    [b"Transfer-Encoding: chunked\r\n", b"Content-Length: 12\r\n", b"Connection: close\r\n"],
    ids=["chunked", "counted", "until close"],
)
async def test_head_and_each_event_arrive_at_once(stage: Stage, door: str, path: str, framing: bytes) -> None:
    gate = asyncio.Event()

    async def step() -> None:
        await gate.wait()
        gate.clear()

    async def script(peer: Peer) -> None:
        chunked = b"chunked" in framing
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + framing + b"\r\n")
        for _ in range(2):
            await step()
            await peer.send(b"6\r\ndata: \r\n" if chunked else b"data: ")
        await step()
        await peer.send(b"0\r\n\r\n" if chunked else b"")

    edge, _ = await stage(script, door=door)
    client = await edge.client()
    client.send(f"GET {path} HTTP/1.1\r\nHost: example.com\r\n\r\n".encode())
    head = await client.head()
    event = b"data: " if b"12" in framing else b"6\r\ndata: \r\n"
    assert (b"content-length: 12" in head.lower()) == (b"12" in framing)
    for _ in range(2):
        gate.set()
        assert await exactly(client, len(event)) == event
    gate.set()
    if b"12" not in framing:
        assert await exactly(client, 5) == b"0\r\n\r\n"


async def test_one_who_comes_late_to_a_slow_answer_gets_its_head_at_once(stage: Stage) -> None:
    gate = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        await gate.wait()
        await peer.send(b"ok")
        await peer.eof()

    edge, origin = await stage(script)
    clients = [await edge.client(), await edge.client()]
    for client in clients:
        client.send(b"GET /cached HTTP/1.1\r\nHost: example.com\r\n\r\n")
        assert b" 200 OK" in await client.head()
    gate.set()
    assert await exactly(clients[1], 2) == b"ok"
    assert len(origin.heads) == 1


async def test_grpc_web_passes_as_it_is(stage: Stage, door: str) -> None:
    message = b"\x00\x00\x00\x00\x05hello"
    trailers = b"\x80\x00\x00\x00\x0fgrpc-status:0\r\n"

    async def script(peer: Peer) -> None:
        head, body = await peer.request()
        assert b"content-type: application/grpc-web+proto\r\n" in head.lower()
        assert body == message
        await peer.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc-web+proto\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
            b"a\r\n" + message + b"\r\n14\r\n" + trailers + b"\r\n0\r\n\r\n"
        )
        await peer.eof()

    edge, _ = await stage(script, door=door)
    answer = await edge.ask(
        "/pkg.Service/Call",
        "Content-Type: application/grpc-web+proto",
        "X-Grpc-Web: 1",
        method="POST",
        body=message,
    )
    assert (answer.status, answer.body) == (200, message + trailers)
    assert answer["content-type"] == "application/grpc-web+proto"


# --- uploads


@pytest.mark.parametrize("chunked", [False, True], ids=["counted", "chunked"])
async def test_an_upload_waits_for_a_slow_origin(stage: Stage, door: str, chunked: bool) -> None:
    gate = asyncio.Event()
    total = 48 * 2**20

    async def script(peer: Peer) -> None:
        await peer.head()
        await gate.wait()
        left = total
        while left > 0:
            data = await peer._reader.read(2**20)
            left -= len(data)
        await peer.send(OK)
        await peer.eof()

    edge, _ = await stage(script, door=door)
    client = await edge.client()
    block = b"x" * 2**20
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {total}"
    client.send(f"POST /up HTTP/1.1\r\nHost: example.com\r\n{framing}\r\n\r\n".encode())
    sent = 0

    async def upload() -> None:
        nonlocal sent
        while sent < total:
            client.send(b"100000\r\n" + block + b"\r\n" if chunked else block)
            sent += len(block)
            await client.writer.drain()
        client.send(b"0\r\n\r\n" if chunked else b"")

    task = asyncio.create_task(upload())
    before = -1
    while before != sent:  # until the client is stuck
        before = sent
        await asyncio.sleep(0.2)
    assert sent < total
    connection = next(iter(edge.worker.parts.upstreams["main"]._pool._members))
    assert connection._transport.get_write_buffer_size() < 2**20
    if door == "native":
        (held,) = edge.worker.hall.connections
        assert held.deadline == float("inf"), "the client is not late when the origin is slow"
    gate.set()
    answer = await client.answer()
    await task
    assert answer.status == 200


async def test_a_client_that_does_not_send_what_was_asked_for_is_not_waited_for(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(CONTINUE + b"\r\n\r\n")
        await peer.eof()

    edge, origin = await stage(script)
    client = await edge.client()
    client.send(f"{HEAD}Content-Length: 4\r\n\r\n".encode())
    assert await client.head() == CONTINUE
    (late,) = edge.worker.hall.connections
    assert late.deadline < float("inf")
    late.on_deadline()
    assert (await client.answer()).status == 408
    async with asyncio.timeout(PATIENCE):
        await origin.peers[0].ended.wait()


# --- ends


@pytest.mark.parametrize("headed", [False, True], ids=["before the head", "in the body"])
async def test_when_the_client_is_gone_the_origin_is_not_kept_busy(
    stage: Stage, door: str, headed: bool
) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        if headed:
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
        await peer.eof()

    edge, origin = await stage(script, door=door)
    client = await edge.client()
    client.send(b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n")
    if headed:
        await client.head()
    async with asyncio.timeout(PATIENCE):
        while not origin.heads:
            await asyncio.sleep(0.005)
        client.writer.close()
        await origin.peers[0].ended.wait()


@pytest.mark.parametrize("stuck", [False, True], ids=["reading", "stuck"])
async def test_a_body_too_large_to_keep_ends_with_its_last_reader(
    stage: Stage, door: str, stuck: bool
) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await peer.send(b"100000\r\n" + b"x" * 2**20 + b"\r\n")

    edge, origin = await stage(script, door=door)
    client = await edge.client()
    client.send(b"GET /cached HTTP/1.1\r\nHost: example.com\r\n\r\n")
    await client.head()
    if stuck:
        before = -1
        while before != len(client.reader._buffer) or not before:  # type: ignore[attr-defined]
            before = len(client.reader._buffer)  # type: ignore[attr-defined]
            await asyncio.sleep(0.3)
    else:
        await exactly(client, 9 * 2**20)
    client.writer.transport.abort()
    async with asyncio.timeout(PATIENCE):
        await origin.peers[0].ended.wait()
        while edge.worker.parts.upstreams["main"].open or edge.worker.hall.fetcher.flights.flights:
            await asyncio.sleep(0.005)


async def test_a_fill_that_others_wait_for_goes_on(stage: Stage, door: str) -> None:
    gate = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
        await gate.wait()
        await peer.send(b"k")
        await peer.eof()

    edge, origin = await stage(script, door=door)
    first, second = await edge.client(), await edge.client()
    for client in (first, second):
        client.send(b"GET /cached HTTP/1.1\r\nHost: example.com\r\n\r\n")
        await client.head()
    first.writer.close()
    gate.set()
    assert await exactly(second, 2) == b"ok"
    assert len(origin.heads) == 1
