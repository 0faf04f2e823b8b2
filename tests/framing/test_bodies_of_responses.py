"""Framing of responses, RFC 9112 §6 to §9, from the origin to our client: raw bytes in, raw bytes out.

What is refused, and whether the connection to the origin is kept, are the tables of `tests/origin`:
`test_reading.py` and `test_refusals.py`. Here is what a client gets of it, in HTTP/1.1 and HTTP/1.0.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from tests.helpers.edge import PATIENCE, Running, running
from tests.helpers.scripted_origin import Peer, ScriptedOrigin

CONFIG = """
edge: {{id: edge-1}}
server: {{listen: ["127.0.0.1:8080"], access_log: {{path: "off"}}}}
admin: {{listen: null}}
origins: {{main: {{servers: ["{origin}"], timeouts: {{first_byte: 20s, between_bytes: {patience}}}}}}}
routes: [{{name: all, cache: {cache}, origin: main}}]
"""
H = b"HTTP/1.1 200 OK\r\n"
IN_CHUNKS = H + b"Transfer-Encoding: chunked\r\n\r\n"
HELLO = b"5\r\nhello\r\n0\r\n\r\n"

Edge = Callable[[bytes, str], AbstractAsyncContextManager[Running]]


@pytest.fixture(params=["false", "{ttl: 60s}"], ids=["passed", "stored"])
def edge(request: pytest.FixtureRequest, door: str, tmp_path: Path) -> Edge:
    """An edge and an origin that answers with these bytes, and then closes, resets, stays or stops."""

    @asynccontextmanager
    async def make(response: bytes, then: str) -> AsyncGenerator[Running]:
        async def script(peer: Peer) -> None:
            await peer.head()
            await peer.send(response)
            while then in ("stay", "stop"):
                await peer.head()
                await peer.send(response)
            if then == "reset":
                await asyncio.sleep(0.05)  # so that what was sent is read: a reset may overtake it
                peer.reset()

        async with ScriptedOrigin(script) as origin:
            patience = "300ms" if then == "stop" else "20s"
            text = CONFIG.format(origin=origin.url, cache=request.param, patience=patience)
            async with running(text, tmp_path, door) as started:
                yield started

    return make


def fields_of(head: bytes) -> dict[bytes, bytes]:
    pairs = [line.partition(b": ") for line in head.split(b"\r\n")[1:]]
    return {name.lower(): value for name, _, value in pairs}


async def ask(edge: Running, method: str = "GET", version: str = "1.1", *fields: str) -> tuple[bytes, bytes]:
    """Head, and everything behind it until the edge closes, because it is asked to."""
    client = await edge.client()
    lines = [f"{method} /a HTTP/{version}", "Host: example.com", "Connection: close", *fields, "", ""]
    client.send("\r\n".join(lines).encode())
    head = await client.head()
    return head, await client.closed()


# What a client of HTTP/1.1 reads: ("length" or "chunked", the bytes behind the head).
WHOLE = [
    pytest.param(H + b"Content-Length: 5\r\n\r\nhello", "stay", "length", b"hello", id="§6.2 a length"),
    pytest.param(H + b"Content-Length: 5\r\n\r\nhello", "close", "length", b"hello", id="§9.6 then close"),
    pytest.param(H + b"Content-Length: 0\r\n\r\n", "stay", "length", b"", id="§6.2 a length of 0"),
    pytest.param(IN_CHUNKS + HELLO, "stay", "chunked", b"hello", id="§7.1 chunks"),
    pytest.param(IN_CHUNKS + b"0\r\n\r\n", "stay", "chunked", b"", id="§7.1 no chunk"),
    pytest.param(
        IN_CHUNKS + b"02;a=b\r\nhe\r\n3;c=\"d\"\r\nllo\r\n00\r\n\r\n", "stay", "chunked", b"hello", id="§7"
    ),
    pytest.param(
        H + b"Transfer-Encoding: Chunked\r\n\r\n" + HELLO, "stay", "chunked", b"hello", id="§7 any case"
    ),
    pytest.param(H + b"\r\nhello", "close", "chunked", b"hello", id="§6.3 until the close"),
    pytest.param(b"HTTP/1.0 200 OK\r\n\r\nhello", "close", "chunked", b"hello", id="§6.3 HTTP/1.0, neither"),
    pytest.param(
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", "close", "length", b"hello", id="§6.2 HTTP/1.0"
    ),
    pytest.param(
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + H + b"Content-Length: 5\r\n\r\nhello",
        "stay",
        "length",
        b"hello",
        id="§6.3 behind an interim",
    ),
    pytest.param(
        H + b"Content-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        "stay",
        "length",
        b"hello",
        id="§9.2 and what nobody asked for",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("response", "then", "framing", "body"), WHOLE)
async def test_a_whole_answer_is_framed_anew_and_whole(
    edge: Edge, response: bytes, then: str, framing: str, body: bytes
) -> None:
    async with edge(response, then) as started:
        head, rest = await ask(started)
        while head.startswith(b"HTTP/1.1 1"):
            head, _, rest = rest.partition(b"\r\n\r\n")
        fields = fields_of(head)
        assert head.startswith(b"HTTP/1.1 200 ")
        assert (b"content-length" in fields) != (b"transfer-encoding" in fields)
        if b"content-length" in fields:
            assert (int(fields[b"content-length"]), rest) == (len(body), body)
        else:
            assert framing == "chunked"
            assert fields[b"transfer-encoding"] == b"chunked"
            assert dechunk(rest) == (body, True)


@pytest.mark.parametrize(("response", "then", "framing", "body"), WHOLE)
@pytest.mark.parametrize("door", ["native"])  # uvicorn sends chunks to everybody
async def test_a_client_of_http_10_gets_neither_chunks_nor_interims(
    edge: Edge, response: bytes, then: str, framing: str, body: bytes
) -> None:
    async with edge(response, then) as started:
        head, rest = await ask(started, "GET", "1.0")
        fields = fields_of(head)
        assert head.split(b" ")[1] == b"200"
        assert b"transfer-encoding" not in fields
        assert (int(fields.get(b"content-length", len(body))), rest) == (len(body), body)


def dechunk(data: bytes) -> tuple[bytes, bool]:
    """The body, and whether its end was said."""
    body = b""
    while b"\r\n" in data:
        size, _, data = data.partition(b"\r\n")
        count = int(size, 16)
        if count == 0:
            return body, data == b"\r\n"
        body += data[:count]
        data = data[count + 2 :]
    return body, False


@pytest.mark.parametrize(
    ("response", "then"),
    [
        pytest.param(H + b"Content-Length: 50\r\n\r\nhello", "close", id="§8 shorter than its length"),
        pytest.param(H + b"Content-Length: 50\r\n\r\nhello", "reset", id="§8 reset within a length"),
        pytest.param(H + b"Content-Length: 50\r\n\r\nhello", "stop", id="§8 the rest never comes"),
        pytest.param(IN_CHUNKS + b"5\r\nhello\r\n", "close", id="§8 without the last chunk"),
        pytest.param(IN_CHUNKS + b"5\r\nhello\r\n0\r\n", "close", id="§8 without the end of the trailers"),
        pytest.param(IN_CHUNKS + b"A\r\nhello", "close", id="§8 within a chunk"),
        pytest.param(IN_CHUNKS + b"5\r\nhello\r\nzz\r\n", "stay", id="§7.1 a chunk that is none"),
        pytest.param(IN_CHUNKS + b"5\r\nhelloXX0\r\n\r\n", "stay", id="§7.1 a chunk that is too long"),
        pytest.param(H + b"\r\nhello", "reset", id="§8 reset where the close is the end"),
    ],
)
@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_what_breaks_off_is_seen_to_be_broken_and_not_stored(
    edge: Edge, response: bytes, then: str, version: str
) -> None:
    """HTTP/1.0 has only the reset of the connection to say so."""
    async with edge(response, then) as started:
        for _ in range(2):
            client = await started.client()
            client.send(f"GET /a HTTP/{version}\r\nHost: example.com\r\n\r\n".encode())
            said, reset = b"", False
            async with asyncio.timeout(PATIENCE):
                try:
                    while data := await client.reader.read(65536):
                        said += data
                except ConnectionResetError:
                    reset = True
            head, _, rest = said.partition(b"\r\n\r\n")
            fields = fields_of(head)
            if not head or int(head.split(b" ")[1]) == 502:
                continue  # it broke before anything was said
            if b"content-length" in fields:
                assert int(fields[b"content-length"]) > len(rest)
            elif b"transfer-encoding" in fields:
                assert dechunk(rest)[1] is False
            else:
                assert reset


@pytest.mark.parametrize(
    ("method", "response"),
    [
        pytest.param("HEAD", H + b"Content-Length: 50\r\n\r\n", id="§6.3 HEAD with a length"),
        pytest.param("HEAD", IN_CHUNKS, id="§6.3 HEAD with a coding"),
        pytest.param("HEAD", H + b"\r\n", id="§6.3 HEAD with neither"),
        pytest.param("GET", b"HTTP/1.1 204 No Content\r\n\r\n", id="§6.3 204"),
        pytest.param("GET", b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n", id="§6.3 304"),
        pytest.param("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 50\r\n\r\n", id="§6.3 304, CL"),
        pytest.param("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", id="§6.3 204 lies"),
        pytest.param("HEAD", H + b"Content-Length: 5\r\n\r\nhello", id="§6.3 HEAD, body"),
    ],
)  # fmt: skip
async def test_an_answer_without_a_body_has_none_whatever_its_fields_say(
    edge: Edge, door: str, method: str, response: bytes
) -> None:
    async with edge(response, "stay") as started:
        client = await started.client()
        for _ in range(2):  # the connection goes on behind it
            condition = 'If-None-Match: "a"\r\n' if b" 304 " in response else ""
            client.send(f"{method} /a HTTP/1.1\r\nHost: example.com\r\n{condition}\r\n".encode())
            head = await client.head()
            assert head.split(b" ")[1] == response.split(b" ")[1]
            fields = fields_of(head)
            if b" 204 " in response:
                assert not {b"content-length", b"transfer-encoding"} & set(fields)
            assert client.reader._buffer == b""  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [1, 65_536, 1_000_000])
@pytest.mark.parametrize("chunked", [False, True])
async def test_long_bodies_arrive_whole(edge: Edge, size: int, chunked: bool) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    body = body[:size]
    framed = b"%x\r\n%b\r\n0\r\n\r\n" % (size, body) if chunked else body
    head = IN_CHUNKS if chunked else H + b"Content-Length: %d\r\n\r\n" % size
    async with edge(head + framed, "stay") as started:
        for _ in range(2):
            answer = await started.ask()
            assert (answer.status, answer.body == body) == (200, True)
