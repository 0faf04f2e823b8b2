"""The native door against hostile bytes: reliability A1-A17, limits, deadlines, order of answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edgeproxy.server.protocol import EdgeProtocol
from tests.helpers.edge import PATIENCE, Running, running
from tests.helpers.scripted_origin import Peer, ScriptedOrigin, always

CONFIG = """
edge: {{id: edge-1}}
server:
  listen: ["127.0.0.1:8080"]
  access_log: {{path: "off"}}
  limits: {{connections: 20, keep_alive_requests: 50}}
admin: {{listen: null}}
origins: {{main: {{servers: ["{origin}"]}}}}
routes: [{{name: all, origin: main}}]
"""
FRESH = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 5\r\n\r\nhello"
GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.fixture
async def origin() -> AsyncIterator[ScriptedOrigin]:
    async with ScriptedOrigin(always(FRESH)) as origin:
        yield origin


@pytest.fixture
async def edge(origin: ScriptedOrigin, tmp_path: Path) -> AsyncIterator[Running]:
    async with running(CONFIG.format(origin=origin.url), tmp_path, "native") as edge:
        yield edge


def post(*fields: str, body: bytes = b"") -> bytes:
    return "\r\n".join(["POST /a HTTP/1.1", "Host: h", *fields, "", ""]).encode() + body


CHUNKED = "Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(post("Content-Length: 5", CHUNKED, body=b"0\r\n\r\n"), 400, id="A1 both framings"),
        pytest.param(post("Content-Length: 5", "Content-Length: 5", body=b"hello"), 400, id="A2 twice"),
        pytest.param(post("Content-Length: 5, 5", body=b"hello"), 400, id="A2 as a list"),
        *[
            pytest.param(post(f"Content-Length: {bad}"), 400, id=f"A3 {bad}")
            for bad in ("+5", "-0", "0x5", "5_0", "5 5", "9" * 20)
        ],
        *[
            pytest.param(post(f"Transfer-Encoding: {bad}", body=b"0\r\n\r\n"), (400, 501), id=f"A4 {bad}")
            for bad in ("xchunked", "chunked, identity", "chunked,chunked", "gzip", "\x0bchunked")
        ],
        pytest.param(
            b"POST /a HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            id="A5 in HTTP/1.0",
        ),
        *[
            pytest.param(post(CHUNKED, body=size + b"\r\nhello\r\n0\r\n\r\n"), 400, id=f"A6 size {size!r}")
            for size in (b"0x5", b"+5", b"5_0", b"5 ", b"1" * 17, b"")
        ],
        *[
            pytest.param(
                post(CHUNKED, body=b"5\r\nhello" + end + b"0\r\n\r\n"), 400, id=f"A7 ended by {end!r}"
            )
            for end in (b"XX", b"\n", b"\r")
        ],
        pytest.param(post(CHUNKED, body=b"5;a=\rb\r\nhello\r\n0\r\n\r\n"), 400, id="A8 CR in an extension"),
        pytest.param(post(CHUNKED, body=b"5;" + b"x" * 9000 + b"\r\nhello\r\n"), 400, id="A8 long extension"),
        pytest.param(b"GET /a HTTP/1.1\nHost: h\n\n", 400, id="A10 bare LF"),
        pytest.param(b"GET /a HTTP/1.1\r\nHost: h\r\nA: b\rc\r\n\r\n", 400, id="A10 bare CR"),
        pytest.param(b"GET /a HTTP/1.1\r\nHost: h\r\nA: b\0c\r\n\r\n", 400, id="A10 NUL"),
        pytest.param(b"GET /a HTTP/1.1\r\nHost: h\r\n\rX", 400, id="A10 head ended by CR X"),
        pytest.param(b"GET /a HTTP/1.1\r\nHost : h\r\n\r\n", 400, id="A11 space before the colon"),
        pytest.param(b"GET /a HTTP/1.1\r\nHost: h\r\nA: b\r\n c\r\n\r\n", 400, id="A11 folded line"),
        pytest.param(b"GET /a HTTP/1.1\r\nHost: h\r\n: x\r\n\r\n", 400, id="A12 empty name"),
        pytest.param(b"GET /a HTTP/1.1\r\nHost: h\r\nA\xff: x\r\n\r\n", 400, id="A12 8-bit name"),
        pytest.param(b"GET /a HTTP/1.1\r\n\r\n", 400, id="A13 no Host"),
        pytest.param(b"GET /a HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, id="A13 two Hosts"),
        *[
            pytest.param(f"GET /a HTTP/1.1\r\nHost: {bad}\r\n\r\n".encode(), 400, id=f"A13 {bad}")
            for bad in ("a/b", "a?x=", "u@a", "a b", "a:99999", "")
        ],
        *[
            pytest.param(b"GET " + bad + b" HTTP/1.1\r\nHost: h\r\n\r\n", 400, id=f"A15 {bad!r}")
            for bad in (b"@evil.com", b"foo", b"/x#frag", b"/\x7f", b"/\xff", b"/%zz", b"/../x", b"/%00")
        ],
        pytest.param(b"GET /a HTTP/0.9\r\nHost: h\r\n\r\n", (400, 505), id="A27 HTTP/0.9"),
        pytest.param(b"GET /a HTTP/2.0\r\nHost: h\r\n\r\n", (400, 505), id="A27 HTTP/2.0"),
        pytest.param(b"GET /a HTPP/1.1\r\nHost: h\r\n\r\n", 400, id="A27 HTPP"),
        pytest.param(b"BREW /a HTTP/1.1\r\nHost: h\r\n\r\n", 501, id="unknown method"),
        pytest.param(
            post("Connection: Content-Length", "Content-Length: 0"), 400, id="A30 nominated framing"
        ),
        pytest.param(post("Expect: x", "Content-Length: 1"), 417, id="A20 unknown expectation"),
        pytest.param(b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 414, id="A130 URL"),
        pytest.param(
            b"GET /a HTTP/1.1\r\nHost: h\r\nA: " + b"x" * 40_000 + b"\r\n\r\n", 431, id="A130 one large field"
        ),
        pytest.param(
            b"GET /a HTTP/1.1\r\nHost: h\r\n" + b"A: b\r\n" * 101 + b"\r\n",
            431,
            id="A130 same field 101 times",
        ),
        pytest.param(
            b"GET /a HTTP/1.1\r\nHost: h\r\n" + b"".join(b"A%d: b\r\n" % n for n in range(101)) + b"\r\n",
            431,
            id="A130 101 fields",
        ),
        pytest.param(post("Content-Length: 99999999"), 413, id="A129 body by its length"),
    ],
)
async def test_bad_requests_get_their_status_and_nothing_more(
    edge: Running, origin: ScriptedOrigin, sent: bytes, status: int | tuple[int, ...]
) -> None:
    client = await edge.client()
    client.send(sent + GET)  # A16: what follows gets no answer
    answer = await client.answer()
    assert answer.status in (status if isinstance(status, tuple) else (status,))
    assert answer["connection"] == "close"
    assert answer["cache-control"] == "no-store"
    assert answer["content-type"] == "application/problem+json"
    assert await client.closed() == b""
    assert not any(b"GET" in head for head in origin.heads)
    assert len(edge.worker.hall.edge.store) == 0
    assert (await edge.ask()).status == 200, "others are served"


@pytest.mark.parametrize(
    ("target", "host", "seen"),
    [
        (b"http://b.example/x", b"a.example", b"GET /x HTTP/1.1\r\nHost: b.example\r\n"),
        (b"/%61/./b//c/../d", b"A.Example.:80", b"GET /a/b/d HTTP/1.1\r\nHost: a.example\r\n"),
        (b"/a%2fb?x=%zz", b"h:8080", b"GET /a%2Fb?x=%zz HTTP/1.1\r\nHost: h:8080\r\n"),
    ],
    ids=["A14 absolute form wins", "normalised once", "escapes stay"],
)
async def test_one_target_for_everybody(
    edge: Running, origin: ScriptedOrigin, target: bytes, host: bytes, seen: bytes
) -> None:
    client = await edge.client()
    client.send(b"GET " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
    assert (await client.answer()).status == 200
    assert origin.heads[0].startswith(seen)


async def test_pipelined_requests_are_answered_in_order(edge: Running, origin: ScriptedOrigin) -> None:
    await edge.ask("/hit")
    client = await edge.client()
    client.send(
        b"".join(
            b"GET /%b HTTP/1.1\r\nHost: example.com\r\n\r\n" % path for path in (b"hit", b"miss", b"hit")
        )
    )
    words = [(await client.answer())["cache-status"].split(";")[1].strip() for _ in range(3)]
    assert words == ["hit", "fwd=uri-miss", "hit"], "a hit never overtakes"


async def test_a_split_request_and_a_body_between_two_requests(edge: Running) -> None:
    client = await edge.client()
    for byte in GET:
        client.send(bytes([byte]))
        await asyncio.sleep(0)
    assert (await client.answer()).status == 200
    client.send(post("Content-Length: 5", body=b"hello") + GET)
    assert [(await client.answer()).status for _ in range(2)] == [200, 200]


async def test_an_unread_body_is_never_taken_for_a_request(edge: Running, origin: ScriptedOrigin) -> None:
    """A17: the answer is a hit that leaves at once, the body follows."""
    await edge.ask("/a")
    inner = b"GET /smuggled HTTP/1.1\r\nHost: example.com\r\n\r\n"
    client = await edge.client()
    client.send(b"GET /a HTTP/1.1\r\nHost: example.com\r\nContent-Length: %d\r\n\r\n" % len(inner) + inner)
    assert (await client.answer()).status == 200
    client.send(GET)
    await client.closed() if client.reader.at_eof() else await client.answer()
    assert not any(b"smuggled HTTP" in head for head in origin.heads)


async def test_upgrades_are_answered_as_plain_http(edge: Running, origin: ScriptedOrigin) -> None:
    """A21: h2c and WebSocket are not spoken; their fields go no further."""
    client = await edge.client()
    client.send(
        b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        b"Upgrade: h2c\r\nHTTP2-Settings: AAMA\r\n\r\n" + GET
    )
    assert [(await client.answer()).status for _ in range(2)] == [200, 200]
    assert b"pgrade" not in origin.heads[0]


async def test_http_10(edge: Running) -> None:
    client = await edge.client()
    client.send(b"GET /a HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n")
    assert (await client.answer())["connection"] == "keep-alive"
    client.send(b"GET /a HTTP/1.0\r\n\r\n")
    assert (await client.answer())["connection"] == "close"
    assert await client.closed() == b""


async def test_expect_continue(edge: Running) -> None:
    client = await edge.client()
    client.send(post("Content-Length: 5", "Expect: 100-continue"))
    assert (await client.head()) == b"HTTP/1.1 100 Continue"
    client.send(b"hello")
    assert (await client.answer()).status == 200


async def test_connections_over_the_cap_are_refused(edge: Running) -> None:
    clients = [await edge.client() for _ in range(20)]
    assert [(await client.ask()).status for client in clients] == [200] * 20
    refused = await (await edge.client()).answer()
    assert refused.status == 503


def connections(edge: Running) -> list[EdgeProtocol]:
    return [one for one in edge.worker.hall.connections if isinstance(one, EdgeProtocol)]


async def test_a_head_that_takes_too_long_is_a_408(edge: Running) -> None:
    """A133: the deadline is set by the first byte, and bytes now and then do not move it."""
    client = await edge.client()
    client.send(b"GET /a HTTP/1.1\r\n")
    while not (found := [one for one in connections(edge) if one.in_head]):
        await asyncio.sleep(0)
    deadline = found[0].deadline
    client.send(b"Host: h\r\n")
    for _ in range(20):
        await asyncio.sleep(0)
    assert found[0].deadline == deadline
    found[0].deadline = 0.0
    edge.worker.hall.sweep()
    assert (await client.answer()).status == 408
    assert await client.closed() == b""


async def test_an_idle_connection_is_closed_without_a_word(edge: Running) -> None:
    client = await edge.client()
    await client.ask()
    for one in connections(edge):
        one.deadline = 0.0
    edge.worker.hall.sweep()
    assert await client.closed() == b""


async def test_draining_says_close(edge: Running) -> None:
    client = await edge.client()
    assert (await client.ask())["connection"] == ""
    edge.worker.hall.draining = True
    assert (await client.ask())["connection"] == "close"
    assert await client.closed() == b""


async def test_a_connection_ends_after_its_requests(edge: Running) -> None:
    client = await edge.client()
    answers = [await client.ask() for _ in range(50)]
    assert answers[-1]["connection"] == "close"
    assert {answer["connection"] for answer in answers[:-1]} == {""}


async def test_a_hit_creates_no_task(edge: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    await edge.ask("/a")
    client = await edge.client()
    made: list[object] = []
    loop = asyncio.get_running_loop()
    original = loop.create_task
    monkeypatch.setattr(loop, "create_task", lambda *a, **k: made.append(a) or original(*a, **k))
    client.send(b"GET /a HTTP/1.1\r\nHost: example.com\r\n\r\n")
    data = await client.reader.read(4096)
    assert b"; hit; ttl=" in data
    assert made == []


async def test_a_client_that_leaves_takes_its_origin_request_along(tmp_path: Path) -> None:
    """A148, for an answer nobody else waits for."""
    gone = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.eof()
        gone.set()

    async with (
        ScriptedOrigin(script) as origin,
        running(CONFIG.format(origin=origin.url), tmp_path, "native") as edge,
    ):
        client = await edge.client()
        client.send(GET)
        async with asyncio.timeout(PATIENCE):
            while not origin.heads:
                await asyncio.sleep(0)
            client.writer.close()
            await gone.wait()
