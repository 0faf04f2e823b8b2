"""Fields behind a body, RFC 9110 §6.5 and RFC 9112 §7.1.2: which of the client's reach the origin, and
which of the origin's the client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from edgeproxy.app import EdgeApp
from tests.helpers.edge import Running, running
from tests.helpers.h2_origin import H2Origin, Stream
from tests.helpers.scripted_origin import Peer, ScriptedOrigin, always

CONFIG = """
edge: {{id: edge-1}}
server: {{listen: ["127.0.0.1:8080"], access_log: {{path: "off"}}}}
admin: {{listen: null}}
origins: {{main: {{servers: ["{origin}"], protocol: {protocol}}}}}
routes:
  - name: all
    cache: false
    policies: [{{headers: {{to_origin: {{set: {{X-Plan: gold}}, remove: [X-Debug]}}, to_client: {{remove: [X-Inner]}}}}}}]
    origin: main
"""  # noqa: E501
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SENT = b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n%b\r\n5\r\nhello\r\n0\r\n%b\r\n"


class Stage:
    """An edge in front of an origin that remembers heads and trailers."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.folder, self.stack = folder, stack
        self.peers: list[Peer] = []

    async def edge(self, door: str) -> Running:
        async def script(peer: Peer) -> None:
            self.peers.append(peer)
            while True:
                await peer.request()
                await peer.send(OK)

        origin = await self.stack.enter_async_context(ScriptedOrigin(script))
        return await self.running(origin.url, "http/1.1", door)

    async def running(self, url: str, protocol: str, door: str = "native") -> Running:
        text = CONFIG.format(origin=url, protocol=protocol)
        return await self.stack.enter_async_context(running(text, self.folder, door))


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        yield Stage(tmp_path, stack)


NOT_BEHIND = [
    "Host: evil",
    "Trailer: x",
    "TE: trailers",
    "Connection: keep-alive",
    "Keep-Alive: 5",
    "Upgrade: h2c",
    "Expect: 100-continue",
    "Range: bytes=0-1",
    'If-Match: "a"',
    "Max-Forwards: 0",
    "Cache-Control: no-store",
    "Authorization: Basic eA==",
    "Proxy-Authorization: Basic eA==",
    "Cookie: a=b",
    "Content-Type: text/html",
    "Content-Encoding: gzip",
    "Via: 1.1 edge-1",
    "CDN-Loop: edge-1",
    "X-Forwarded-For: 10.0.0.1",
    "Forwarded: for=10.0.0.1",
    "X-Real-IP: 10.0.0.1",
    "X.Forwarded.For: 10.0.0.1",
    "X-Plan: platinum",
    "x_plan: platinum",
    "X-Debug: 1",
    "X-Nominated: 1",
]


async def test_those_that_may_follow_reach_the_origin_as_they_were_sent(stage: Stage) -> None:
    edge = await stage.edge("native")
    client = await edge.client()
    for _ in range(2):
        client.send(SENT % (b"Trailer: X-Sum, Content-Length, x-More\r\n", b"X-Sum: 1\r\nx-More: \xff\r\n"))
        assert (await client.answer()).status == 200
    (peer,) = stage.peers
    assert peer.trailers == [b"X-Sum: 1", b"x-More: \xff"] * 2
    assert b"\r\nTrailer: X-Sum, x-More\r\n" in peer.heads[0]


@pytest.mark.parametrize("line", NOT_BEHIND)
async def test_what_belongs_into_a_head_does_not_come_behind_the_body(stage: Stage, line: str) -> None:
    edge = await stage.edge("native")
    client = await edge.client()
    name = line.partition(":")[0]
    fields = f"Connection: x-nominated\r\nTrailer: {name}\r\n".encode()
    client.send(SENT % (fields, line.encode() + b"\r\nX-Sum: 1\r\n"))
    assert (await client.answer()).status == 200
    (peer,) = stage.peers
    assert peer.trailers == [b"X-Sum: 1"]
    assert b"\r\nTrailer:" not in peer.heads[0]
    assert peer.heads[0].count(b"\r\nX-Plan: gold\r\n") == 1


async def test_a_body_with_a_length_announces_none(stage: Stage) -> None:
    edge = await stage.edge("native")
    await edge.ask("/a", "Trailer: X-Sum", method="POST", body=b"x")
    assert b"\r\nTrailer" not in stage.peers[0].heads[0]


async def test_asgi_has_no_place_for_those_of_requests(stage: Stage) -> None:
    edge = await stage.edge("asgi")
    client = await edge.client()
    client.send(SENT % (b"", b"X-Sum: 1\r\n"))
    assert (await client.answer()).status == 200
    assert stage.peers[0].trailers == []


async def test_more_of_them_than_a_door_takes_are_refused_however_they_come(stage: Stage) -> None:
    edge = await stage.edge("native")
    client = await edge.client()
    client.send(SENT % (b"", b"X-Sum: 1\r\n" * 500))
    assert (await client.answer()).status == 400


async def test_an_http_2_origin_gets_them_in_lower_case(stage: Stage) -> None:
    async def script(stream: Stream) -> None:
        assert await stream.body() == b"hello"
        stream.head(end=True)

    origin = await stage.stack.enter_async_context(H2Origin(script))
    edge = await stage.running(origin.url, "h2")
    client = await edge.client()
    for trailers in (b"X-Sum: 1\r\nHost: evil\r\n", b"", b"Host: evil\r\n"):
        client.send(SENT % (b"", trailers))
        assert (await client.answer()).status == 200
    assert [stream.behind for stream in origin.streams] == [[(b"x-sum", b"1")], [], []]


# --- of responses, through a server that speaks `http.response.trailers`

TRAILED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\nX-Inner: 1\r\n\r\n"
)
PLAIN = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
END = {"type": "http.response.body", "body": b""}


def behind(*fields: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http.response.trailers", "headers": list(fields)}


@pytest.mark.parametrize(
    ("method", "response", "wanted", "extension", "announced", "last"),
    [
        pytest.param("GET", TRAILED, True, True, True, behind((b"x-sum", b"1")), id="wanted"),
        pytest.param("GET", PLAIN, True, True, True, behind(), id="wanted, and there are none"),
        pytest.param("GET", OK, True, True, False, END, id="a length leaves no room"),
        pytest.param("HEAD", PLAIN, True, True, False, END, id="HEAD has no end"),
        pytest.param("GET", TRAILED, False, True, False, END, id="not wanted"),
        pytest.param("GET", TRAILED, True, False, False, END, id="a server that has none"),
    ],
)
async def test_asgi_servers_that_know_trailers_get_them(
    stage: Stage,
    method: str,
    response: bytes,
    wanted: bool,
    extension: bool,
    announced: bool,
    last: dict[str, Any],
) -> None:
    if method == "HEAD":
        response = response[: response.index(b"\r\n\r\n") + 4]
    origin = await stage.stack.enter_async_context(ScriptedOrigin(always(response)))
    path = stage.folder / "edge.yaml"
    path.write_text(CONFIG.format(origin=origin.url, protocol="http/1.1"))
    app = EdgeApp(path)
    await app.start()
    said: list[dict[str, Any]] = []

    read: list[int] = []

    async def receive() -> dict[str, Any]:
        if read:
            await asyncio.Event().wait()  # for the client to leave
        read.append(1)
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        said.append(message)

    scope: dict[str, Any] = {
        "type": "http", "http_version": "1.1", "method": method, "path": "/a", "raw_path": b"/a",
        "query_string": b"", "client": ("127.0.0.1", 1), "scheme": "http",
        "headers": [(b"host", b"h"), *([(b"te", b"trailers")] if wanted else [])],
        "extensions": {"http.response.trailers": {}} if extension else {},
    }  # fmt: skip
    await app(scope, receive, send)
    await app.stop()
    assert said[0].get("trailers", False) is announced
    assert said[-1] == last
