"""Origins that speak HTTP/2, through the whole edge: what they are told, and what comes back."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trustme
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from edgeproxy.origin.http2 import Http2Stream
from tests.helpers.edge import PATIENCE
from tests.helpers.h2_edge import Stage, hello
from tests.helpers.h2_origin import H2Origin, Stream


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        yield Stage(tmp_path, stack)


async def test_a_request_is_told_in_the_fields_of_http_2_and_its_answer_comes_back(stage: Stage) -> None:
    edge, origin = await stage(hello)
    answer = await edge.ask("/a?b=c", "X-KeEp: 1", "Connection: close, X-Hop", "X-Hop: 1", "TE: trailers")
    assert (answer.status, answer.body, answer["content-type"]) == (200, b"hello", "text/plain")
    assert (answer["content-length"], answer["via"]) == ("5", "1.1 edge-1")
    stream = origin.streams[0]
    assert stream.headers[:4] == [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":authority", b"example.com"),
        (b":path", b"/a?b=c"),
    ]
    assert (stream["x-keep"], stream["via"], stream["te"]) == ("1", "1.1 edge-1", "trailers")
    names = {name for name, _ in stream.headers}
    assert names.isdisjoint({b"connection", b"host", b"transfer-encoding", b"x-hop", b"keep-alive"})
    assert "; hit" in (await edge.ask("/a?b=c"))["cache-status"]


async def test_one_connection_serves_one_request_after_the_other(stage: Stage) -> None:
    edge, origin = await stage(hello)
    for _ in range(3):
        assert (await edge.ask("/direct/a")).body == b"hello"
    assert len(origin.peers) == 1
    assert [stream.number for stream in origin.streams] == [1, 3, 5]


async def test_an_answer_that_is_whole_without_its_end_costs_the_client_no_connection(stage: Stage) -> None:
    """The head is all that HEAD asks for; in HTTP/2 its stream can break off behind it."""

    async def script(stream: Stream) -> None:
        if stream[":method"] == "HEAD":
            stream.head((b"content-length", b"100"))
            stream.abort()
        else:
            await hello(stream)

    edge, _ = await stage(script)
    client = await edge.client()
    answer = await client.ask("/direct/a", method="HEAD")
    assert (answer.status, answer["content-length"]) == (200, "100")
    assert (await client.ask("/direct/a")).body == b"hello"


async def test_requests_at_once_share_a_connection(stage: Stage) -> None:
    gate = asyncio.Event()

    async def script(stream: Stream) -> None:
        if len(origin.streams) == 50:
            gate.set()
        await gate.wait()
        await hello(stream)

    edge, origin = await stage(script)
    for _ in range(2):
        answers = await asyncio.gather(*(edge.ask("/direct/a") for _ in range(50)))
        assert [answer.body for answer in answers] == [b"hello"] * 50
    assert len(origin.peers) == 1


async def test_a_large_answer_passes_its_windows(stage: Stage) -> None:
    body = bytes(range(256)) * 4096 * 5

    async def script(stream: Stream) -> None:
        stream.head()
        await stream.data(body, end=True)

    edge, _ = await stage(script)
    answer = await edge.ask("/direct/a")
    assert answer.body == body
    assert answer["transfer-encoding"] == "chunked"


@pytest.mark.parametrize("chunked", [False, True], ids=["counted", "chunked"])
async def test_a_large_upload_passes_theirs(stage: Stage, chunked: bool) -> None:
    body = bytes(range(256)) * 4096 * 3
    got = b""

    async def script(stream: Stream) -> None:
        nonlocal got
        got = await stream.body()
        await hello(stream)

    edge, origin = await stage(script)
    client = await edge.client()
    if chunked:
        client.send(b"POST /direct/a HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n")
        for start in range(0, len(body), 60_000):
            part = body[start : start + 60_000]
            client.send(b"%x\r\n%b\r\n" % (len(part), part))
        client.send(b"0\r\n\r\n")
    else:
        client.send(
            b"POST /direct/a HTTP/1.1\r\nHost: example.com\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
    assert (await client.answer()).body == b"hello"
    assert got == body
    assert (await edge.ask("/direct/a", method="POST", body=b"x")).status == 200
    assert len(origin.peers) == 1


async def test_an_upload_waits_for_the_origins_window(stage: Stage) -> None:
    gate = asyncio.Event()

    async def script(stream: Stream) -> None:
        await gate.wait()
        origin.reads = True
        stream.peer.h2.increment_flow_control_window(2**24)
        stream.peer.h2.increment_flow_control_window(2**24, stream.number)
        stream.peer.flush()
        assert len(await stream.body()) == total
        await hello(stream)

    def no_windows(origin: H2Origin) -> None:
        origin.reads = False

    stage.prepare = no_windows
    edge, origin = await stage(script)
    total = 16 * 2**20
    client = await edge.client()
    client.send(b"POST /direct/a HTTP/1.1\r\nHost: example.com\r\nContent-Length: %d\r\n\r\n" % total)
    sent = 0

    async def upload() -> None:
        nonlocal sent
        while sent < total:
            client.send(b"x" * 2**18)
            sent += 2**18
            await client.writer.drain()

    task = asyncio.create_task(upload())
    before = -1
    while before != sent:
        before = sent
        await asyncio.sleep(0.2)
    assert sent < total
    connection = next(iter(edge.worker.parts.upstreams["main"]._pool._members))
    assert isinstance(connection, Http2Stream)
    assert sum(map(len, connection._held)) < 2**20
    gate.set()
    assert (await client.answer()).status == 200
    await task


@pytest.mark.parametrize(
    ("method", "status", "fields", "length"),
    [
        ("HEAD", 200, [(b"content-length", b"7")], "7"),
        ("GET", 204, [], ""),
        ("GET", 304, [(b"etag", b'"x"')], ""),
        ("GET", 200, [(b"content-length", b"0")], "0"),
    ],
)
async def test_answers_without_content(
    stage: Stage, method: str, status: int, fields: list[tuple[bytes, bytes]], length: str
) -> None:
    async def script(stream: Stream) -> None:
        stream.head(*fields, status=status, end=True)

    edge, origin = await stage(script)
    client = await edge.client()
    for _ in range(2):
        answer = await client.ask("/direct/a", method=method)
        assert (answer.status, answer["content-length"], answer.body) == (status, length, b"")
    assert len(origin.peers) == 1


async def test_hints_expectations_and_trailers_pass(stage: Stage) -> None:
    async def script(stream: Stream) -> None:
        assert stream["expect"] == "100-continue"
        stream.interim(103, (b"link", b"</a>"))
        stream.interim(100)
        assert await stream.body() == b"body"
        stream.head()
        await stream.data(b"ok")
        stream.trailers((b"grpc-status", b"0"))

    edge, _ = await stage(script)
    client = await edge.client()
    client.send(
        b"POST /direct/a HTTP/1.1\r\nHost: example.com\r\nTE: trailers\r\nExpect: 100-continue\r\n"
        b"Content-Length: 4\r\n\r\n"
    )
    assert await client.head() == b"HTTP/1.1 103 Early Hints\r\nlink: </a>"
    assert await client.head() == b"HTTP/1.1 100 Continue"
    client.send(b"body")
    assert b" 200 OK" in await client.head()
    async with asyncio.timeout(PATIENCE):
        assert await client.reader.readuntil(b"\r\n\r\n") == b"2\r\nok\r\n0\r\ngrpc-status: 0\r\n\r\n"


async def test_the_head_of_a_slow_answer_arrives_at_once(stage: Stage) -> None:
    gate = asyncio.Event()

    async def script(stream: Stream) -> None:
        stream.head()
        await gate.wait()
        await stream.data(b"ok", end=True)

    edge, _ = await stage(script)
    client = await edge.client()
    client.send(b"GET /direct/a HTTP/1.1\r\nHost: example.com\r\n\r\n")
    assert b" 200 OK" in await client.head()
    gate.set()


async def test_an_origin_that_goes_away_finishes_what_it_began(stage: Stage) -> None:
    async def script(stream: Stream) -> None:
        stream.go_away()
        await hello(stream)

    edge, origin = await stage(script)
    for _ in range(2):
        assert (await edge.ask("/direct/a")).body == b"hello"
    assert len(origin.peers) == 2


@pytest.mark.parametrize("how", ["goes away before it", "refuses it"])
async def test_what_an_origin_did_not_begin_is_asked_again(stage: Stage, how: str) -> None:
    async def script(stream: Stream) -> None:
        if len(origin.streams) > 1:
            await stream.body()
            await hello(stream)
        elif how == "refuses it":
            stream.abort(ErrorCodes.REFUSED_STREAM)
        else:
            stream.go_away(0)

    edge, origin = await stage(script)
    assert (await edge.ask("/direct/a")).body == b"hello"
    assert len(origin.streams) == 2


@pytest.mark.parametrize("begun", [False, True], ids=["before the head", "in the body"])
async def test_a_stream_that_is_reset_is_a_broken_answer(stage: Stage, begun: bool) -> None:
    async def script(stream: Stream) -> None:
        if begun:
            stream.head((b"content-length", b"10"))
            await stream.data(b"first")
        stream.abort()

    edge, _ = await stage(script)
    if begun:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await edge.ask("/a")
        assert len(edge.worker.hall.edge.store) == 0
    else:
        answer = await edge.ask("/direct/a", method="POST", body=b"x")
        assert (answer.status, answer["proxy-status"]) == (502, "edge-1; error=connection_terminated")


async def test_a_length_that_is_not_kept_is_a_broken_answer(stage: Stage) -> None:
    gate = asyncio.Event()

    async def script(stream: Stream) -> None:
        stream.head((b"content-length", b"10"))
        await stream.data(b"short")
        await gate.wait()
        stream.peer.transport.write(b"\x00\x00\x00\x00\x01" + stream.number.to_bytes(4, "big"))

    edge, _ = await stage(script)
    client = await edge.client()
    client.send(b"GET /a HTTP/1.1\r\nHost: example.com\r\n\r\n")
    await client.head()
    gate.set()
    assert await client.closed() in (b"", b"short")
    assert len(edge.worker.hall.edge.store) == 0


async def test_an_answer_before_the_end_of_an_upload_costs_the_connection(stage: Stage) -> None:
    async def script(stream: Stream) -> None:
        await hello(stream)

    edge, origin = await stage(script)
    client = await edge.client()
    client.send(b"POST /direct/a HTTP/1.1\r\nHost: example.com\r\nContent-Length: 100\r\n\r\nx")
    assert (await client.answer()).body == b"hello"
    assert (await edge.ask("/direct/a")).body == b"hello"
    assert len(origin.peers) == 2


async def test_when_the_client_is_gone_the_origin_is_not_kept_busy(stage: Stage) -> None:
    async def script(stream: Stream) -> None:
        stream.head()
        await stream.peer.lost.wait()

    edge, origin = await stage(script)
    client = await edge.client()
    client.send(b"GET /direct/a HTTP/1.1\r\nHost: example.com\r\n\r\n")
    await client.head()
    client.writer.close()
    async with asyncio.timeout(PATIENCE):
        await origin.peers[0].lost.wait()


async def test_a_ping_to_an_unused_connection_does_not_cost_it(stage: Stage) -> None:
    edge, origin = await stage(hello)
    await edge.ask("/direct/a")
    origin.peers[0].h2.ping(b"12345678")
    origin.peers[0].h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 5})
    origin.peers[0].flush()
    await asyncio.sleep(0.02)
    await edge.ask("/direct/a")
    assert len(origin.peers) == 1


@pytest.mark.parametrize("speaks", [True, False], ids=["h2", "http/1.1 only"])
async def test_tls_is_asked_for_h2(stage: Stage, speaks: bool) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    context.set_alpn_protocols(["h2" if speaks else "http/1.1"])
    path = stage.folder / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    edge, origin = await stage(hello, tls=context, ca=str(path))
    answer = await edge.ask("/direct/a")
    if speaks:
        assert (answer.body, origin.streams[0][":scheme"]) == (b"hello", "https")
    else:
        assert (answer.status, answer["proxy-status"]) == (502, "edge-1; error=tls_protocol_error")
