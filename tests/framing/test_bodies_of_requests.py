"""Framing of requests, RFC 9112 §6 to §9, from our door to the origin's: raw bytes in, what arrives out.

What is refused at the door, and with which status, is a table of `tests/server/test_protocol.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.helpers.edge import PATIENCE, Running, running
from tests.helpers.scripted_origin import Peer, ScriptedOrigin

CONFIG = """
edge: {{id: edge-1}}
server: {{listen: ["127.0.0.1:8080"], access_log: {{path: "off"}}}}
admin: {{listen: null}}
origins: {{main: {{servers: ["{origin}"]}}}}
routes: [{{name: all, cache: false, origin: main}}]
"""
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
CHUNKED = "Transfer-Encoding: chunked"


@dataclass
class Taken:
    """What arrived at the origin: (method, framing, body) of each whole request."""

    requests: list[tuple[str, str, bytes]] = field(default_factory=list[tuple[str, str, bytes]])
    peers: list[Peer] = field(default_factory=list[Peer])

    async def script(self, peer: Peer) -> None:
        self.peers.append(peer)
        while True:
            head, body = await peer.request()
            lines = head.lower().split(b"\r\n")
            framing = [
                line.decode()
                for line in lines
                if line.startswith((b"content-length:", b"transfer-encoding:", b"trailer:", b"te:"))
            ]
            self.requests.append((head.split(b" ")[0].decode(), ", ".join(framing), body))
            await peer.send(OK)


@pytest.fixture
def taken() -> Taken:
    return Taken()


@pytest.fixture
async def edge(door: str, taken: Taken, tmp_path: Path) -> AsyncIterator[Running]:
    async with (
        ScriptedOrigin(taken.script) as origin,
        running(CONFIG.format(origin=origin.url), tmp_path, door) as edge,
    ):
        yield edge


def post(*fields: str, body: bytes = b"", version: str = "1.1") -> bytes:
    return "\r\n".join([f"POST /a HTTP/{version}", "Host: h", *fields, "", ""]).encode() + body


LENGTH_5, IN_CHUNKS, NONE = "content-length: 5", "transfer-encoding: chunked", "content-length: 0"
HELLO = b"5\r\nhello\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "framing", "body"),
    [
        pytest.param(post("Content-Length: 5", body=b"hello"), LENGTH_5, b"hello", id="§6.2 a length"),
        pytest.param(
            post("Content-Length:5", body=b"hello"), LENGTH_5, b"hello", id="§5.1 no space behind the colon"
        ),
        pytest.param(
            post("Content-Length: \t5 \t", body=b"hello"), LENGTH_5, b"hello", id="§5.1 space around"
        ),
        pytest.param(post("content-LENGTH: 5", body=b"hello"), LENGTH_5, b"hello", id="§5 any case"),
        pytest.param(
            post("Content-Length: 0005", body=b"hello"), LENGTH_5, b"hello", id="§6.2 leading zeros"
        ),
        pytest.param(post("Content-Length: 0"), NONE, b"", id="§6.2 a length of 0"),
        pytest.param(post(), NONE, b"", id="§6.3 neither: no body"),
        pytest.param(post(CHUNKED, body=HELLO), IN_CHUNKS, b"hello", id="§7.1 one chunk"),
        pytest.param(post(CHUNKED, body=b"0\r\n\r\n"), IN_CHUNKS, b"", id="§7.1 no chunk"),
        pytest.param(
            post(CHUNKED, body=b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"), IN_CHUNKS, b"hello", id="§7.1 two chunks"
        ),
        pytest.param(
            post("Transfer-Encoding: Chunked", body=HELLO), IN_CHUNKS, b"hello", id="§7 names in any case"
        ),
        pytest.param(
            post(CHUNKED, body=b"000A\r\nhellohello\r\n000\r\n\r\n"),
            IN_CHUNKS,
            b"hellohello",
            id="§7.1 zeros and capitals in sizes",
        ),
        pytest.param(
            post(CHUNKED, body=b"5;a=b;c=\"d\"\r\nhello\r\n0;e\r\n\r\n"),
            IN_CHUNKS,
            b"hello",
            id="§7.1.1 extensions are not passed on",
        ),
        pytest.param(
            post("TE: gzip, trailers;q=0.5", "Connection: TE", "Content-Length: 5", body=b"hello"),
            LENGTH_5,
            b"hello",
            id="§7.4 TE is for us",
        ),
        pytest.param(
            post("Content-Length: 5", body=b"hello", version="1.0"), LENGTH_5, b"hello", id="§6.2 in HTTP/1.0"
        ),
        pytest.param(b"\r\n" + post(CHUNKED, body=HELLO), IN_CHUNKS, b"hello", id="§2.2 a line end before"),
        pytest.param(
            GET.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\nhello"),
            LENGTH_5,
            b"hello",
            id="§6 GET with a body",
        ),
        pytest.param(GET, "", b"", id="§6.3 GET without one"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("cut", [False, True], ids=["at once", "byte by byte"])
async def test_a_body_arrives_whole_and_framed_once(
    edge: Running, taken: Taken, sent: bytes, framing: str, body: bytes, cut: bool
) -> None:
    client = await edge.client()
    if cut:
        for position in range(len(sent)):
            client.send(sent[position : position + 1])
            await asyncio.sleep(0)
    else:
        client.send(sent)
    answer = await client.answer()
    assert (answer.status, answer.body) == (200, b"ok")
    assert [(each[1], each[2]) for each in taken.requests] == [(framing, body)]


@pytest.mark.parametrize(
    ("sent", "methods", "closes"),
    [
        pytest.param(GET + GET, ["GET", "GET"], False, id="§9.3.2 two at once"),
        pytest.param(
            post(CHUNKED, body=HELLO) + GET, ["POST", "GET"], False, id="§9.3.2 behind a chunked body"
        ),
        pytest.param(
            post("Content-Length: 5", body=b"hello") + GET, ["POST", "GET"], False, id="§9.3.2 after a length"
        ),
        pytest.param(
            post("Content-Length: 5", body=b"hello") + b"\r\n" + GET,
            ["POST", "GET"],
            False,
            id="§2.2 a line end between them",
        ),
        pytest.param(
            post("Connection: close", "Content-Length: 5", body=b"hello") + GET,
            ["POST"],
            True,
            id="§9.6 nothing behind close",
        ),
        pytest.param(
            post("Connection: Keep-Alive, CLOSE", "Content-Length: 0") + GET, ["POST"], True, id="§9.3 both"
        ),
        pytest.param(post("Content-Length: 0", version="1.0") + GET, ["POST"], True, id="§9.3 HTTP/1.0"),
        pytest.param(
            post("Connection: keep-alive", "Content-Length: 0", version="1.0") + GET,
            ["POST", "GET"],
            False,
            id="§9.3 HTTP/1.0 with keep-alive",
        ),
    ],
)  # fmt: skip
async def test_requests_on_one_connection_are_answered_in_order_until_one_closes_it(
    edge: Running, door: str, taken: Taken, sent: bytes, methods: list[str], closes: bool
) -> None:
    if b"HTTP/1.0\r\nHost: h\r\nConnection: keep-alive" in sent and door == "asgi":
        pytest.skip("uvicorn closes behind HTTP/1.0")
    client = await edge.client()
    client.send(sent)
    for _ in methods:
        assert (await client.answer()).body == b"ok"
    assert [each[0] for each in taken.requests] == methods
    if closes:
        assert await client.closed() == b""
    else:
        assert (await client.ask()).status == 200


@pytest.mark.parametrize(
    "behind",
    [
        b"BAD\r\n\r\n",
        b"GET /a HTTP/1.1\r\n\r\n",
        post("Content-Length: 5", CHUNKED, body=b"0\r\n\r\n"),
        post(CHUNKED, body=b"zz\r\n"),
        b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: h\r\n\r\n",
    ],
    ids=["a method", "no Host", "two framings", "a chunk size", "a long target"],
)
@pytest.mark.parametrize("door", ["native"])  # uvicorn's own protocol writes its 400 at once
async def test_what_is_wrong_behind_a_request_does_not_take_its_answer_away(
    edge: Running, taken: Taken, behind: bytes
) -> None:
    client = await edge.client()
    client.send(post("Content-Length: 5", body=b"hello") + behind + GET)
    answer = await client.answer()
    assert (answer.status, answer.body, answer["connection"]) == (200, b"ok", "close")
    assert await client.closed() == b""
    assert [each[0] for each in taken.requests] == ["POST"]


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(post("Content-Length: 5", body=b"hel"), id="§8 shorter than its length"),
        pytest.param(post(CHUNKED, body=b"5\r\nhel"), id="§8 within a chunk"),
        pytest.param(post(CHUNKED, body=b"5\r\nhello\r\n"), id="§8 without the last chunk"),
        pytest.param(post(CHUNKED, body=b"5\r\nhello\r\n0\r\n"), id="§8 without the end of the trailers"),
    ],
)
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_body_that_breaks_off_is_no_request(
    edge: Running, taken: Taken, sent: bytes, how: str
) -> None:
    """Part of it may be at the origin already: the connection ends there, and the body does not."""
    client = await edge.client()
    client.send(sent)
    async with asyncio.timeout(PATIENCE):
        while not taken.peers:
            await asyncio.sleep(0.001)
        if how == "reset":
            client.writer.transport.abort()
        else:
            client.writer.close()
        await taken.peers[0].ended.wait()
    assert taken.requests == []
    assert not taken.peers[0].received.endswith(b"0\r\n\r\n")
    assert (await edge.ask()).status == 200


async def test_a_body_that_becomes_malformed_on_its_way_ends_both_connections(
    edge: Running, taken: Taken
) -> None:
    client = await edge.client()
    client.send(post(CHUNKED, body=b"5\r\nhello\r\n"))
    async with asyncio.timeout(PATIENCE):
        while not taken.peers or b"hello" not in taken.peers[0].received:
            await asyncio.sleep(0.001)
        client.send(b"zz\r\n" + GET)
        await taken.peers[0].ended.wait()
    said = await client.closed()
    assert taken.requests == []
    assert b"200 OK" not in said


async def test_an_early_answer_to_a_body_closes_behind_it(tmp_path: Path) -> None:
    """§9.3: what is left of the body must not become a request, here or at the origin."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await peer.eof()

    async with (
        ScriptedOrigin(script) as origin,
        running(CONFIG.format(origin=origin.url), tmp_path, "native") as edge,
    ):
        client = await edge.client()
        client.send(post("Content-Length: 100"))
        assert (await client.answer()).status == 413
        client.send(GET * 4)
        await client.closed()
        await edge.ask()
        assert len(origin.peers) == 2
        assert all(len(peer.heads) == 1 for peer in origin.peers)
