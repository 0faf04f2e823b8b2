"""A head before a body that a client repeats is not parsed again: each body arrives, and in its place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest

from edgeproxy.clock import steady
from edgeproxy.server.protocol import EdgeProtocol
from edgeproxy.visits import HEADS, KnownHeads
from tests.helpers.edge import Client, Running, running
from tests.helpers.scripted_origin import Peer, ScriptedOrigin

CONFIG = """
edge: {{id: e, pop: p}}
server:
  listen: ["127.0.0.1:0"]
  access_log: {{path: "off"}}
  limits: {{body_size: 1MiB, keep_alive_requests: 40}}
rate_limits: {{few: {{rate: 2/h, burst: 2, by: client_ip}}}}
origins: {{o: {{servers: ["{origin}"]}}}}
routes:
  - {{name: small, match: {{path: /small}}, origin: o, body_size: 10B}}
  - {{name: no, match: {{path: /no}}, policies: [{{respond: {{status: 403, body: "no"}}}}], origin: o}}
  - {{name: few, match: {{path: /few}}, origin: o, policies: [{{rate_limit: few}}]}}
  - {{name: a, origin: o}}
"""


async def echo(peer: Peer) -> None:
    """Answers with the body."""
    while True:
        head, body = await peer.request()
        said = head.split(b" ")[0] + b" " + body
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(said), said))


@pytest.fixture
async def origin() -> AsyncIterator[ScriptedOrigin]:
    async with ScriptedOrigin(echo) as origin:
        yield origin


@pytest.fixture
async def edge(origin: ScriptedOrigin, tmp_path: Path) -> AsyncIterator[Running]:
    async with running(CONFIG.format(origin=origin.url), tmp_path, "native") as edge:
        yield edge


def post(body: bytes, path: str = "/x", *fields: str, method: str = "POST") -> tuple[bytes, bytes]:
    """Head and body."""
    lines = [f"{method} {path} HTTP/1.1", "Host: a.example", f"Content-Length: {len(body)}", *fields, "", ""]
    return "\r\n".join(lines).encode(), body


async def in_two(edge: Running, client: Client, message: bytes, place: int) -> None:
    """Send it so that the edge reads it in two parts."""
    client.send(message[:place])
    for _ in range(3):
        await edge.turn()
    client.send(message[place:])


async def warm(edge: Running, head: bytes, body: bytes) -> Client:
    """A client whose head is known, and that is at rest."""
    client = await edge.client()
    client.send(head + body)
    assert (await client.answer()).body.endswith(body)
    assert edge.worker.hall.known_heads.with_body("127.0.0.1", "http", head) is not None
    return client


@pytest.mark.parametrize("size", [1, 100, 5_000, 70_000, 300_000])
async def test_bodies_under_one_head_arrive_as_they_were_sent(size: int, edge: Running) -> None:
    client = await warm(edge, *post(b"a" * size))
    with patch.object(EdgeProtocol, "_parse", side_effect=AssertionError("it is known")):
        for letter in (b"b", b"\n", b"d"):
            head, body = post(letter * size)
            client.send(head + body)
            assert (await client.answer()).body == b"POST " + body


@pytest.mark.parametrize("size", [5, 200, 100_000])
@pytest.mark.parametrize("behind", [0, 1, 3])
async def test_however_it_is_cut(size: int, behind: int, edge: Running) -> None:
    head, body = post(b"x" * size)
    client = await warm(edge, head, body)
    for place in (1, len(head) - 2, len(head), len(head) + 1, len(head) + size - 1):
        _, other = post(b"y" * (size - 1) + b"\n")
        await in_two(edge, client, head + other + (head + body) * behind, place)
        assert (await client.answer()).body == b"POST " + other
        for _ in range(behind):
            assert (await client.answer()).body == b"POST " + body


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(post(b"12345", "/y"), id="another path"),
        pytest.param(post(b"12345", "/x", "Cookie: a=2"), id="another field"),
        pytest.param(post(b"12345", method="PUT"), id="another method"),
        pytest.param(post(b"123456"), id="another length"),
    ],
)
async def test_another_head_is_another_request(other: tuple[bytes, bytes], edge: Running) -> None:
    client = await warm(edge, *post(b"abcde"))
    for head, body in (other, post(b"abcde"), other):
        client.send(head + body)
        assert (await client.answer()).body == head.split(b" ")[0] + b" " + body


async def test_a_request_behind_it_is_not_lost_and_not_part_of_it(edge: Running) -> None:
    head, body = post(b"abcde")
    client = await warm(edge, head, body)
    client.send(head + body + head + b"fghij" + b"GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n")
    assert [(await client.answer()).body for _ in range(3)] == [b"POST abcde", b"POST fghij", b"GET "]


@pytest.mark.parametrize("before", [b"\r\n", b"\r\n\r\n"])
async def test_line_ends_before_a_head_are_not_one(before: bytes, edge: Running) -> None:
    head, body = post(b"abcde")
    client = await edge.client()
    for _ in range(3):
        client.send(before + head + body)
        assert (await client.answer()).body == b"POST abcde"
    assert edge.worker.hall.known_heads.with_body("127.0.0.1", "http", before) is None


async def test_policies_are_asked_each_time_and_a_refusal_leaves_the_connection_open(edge: Running) -> None:
    head, body = post(b"abcde", "/few")
    client = await warm(edge, head, body)
    for status in (200, 429, 429):
        client.send(head + body)
        answer = await client.answer()
        assert (answer.status, answer["connection"]) == (status, "")
    await in_two(edge, client, head + body + head + body, len(head) + 1)
    for _ in range(2):  # the rest of the first body is not read as a request
        assert (await client.answer()).status == 429


@pytest.mark.parametrize(
    ("fields", "sent", "rest", "stays"),
    [
        pytest.param(["Content-Length: 60000"], b"", b"x" * 60_000, True, id="little"),
        pytest.param(["Content-Length: 60000"], b"x" * 100, b"x" * 59_900, True, id="little more"),
        pytest.param(["Content-Length: 20"], b"", b"GET / HTTP/1.1\r\n\r\n\r\n", True, id="like a request"),
        pytest.param(["Content-Length: 70000"], b"", b"x" * 70_000, False, id="much"),
        pytest.param(["Transfer-Encoding: chunked"], b"", b"1\r\nx\r\n0\r\n\r\n", False, id="chunked"),
        pytest.param(
            ["Content-Length: 5", "Expect: 100-continue"], b"", b"12345", False, id="never asked for"
        ),
        pytest.param(["Content-Length: 5", "Connection: close"], b"", b"12345", False, id="said close"),
    ],
)
@pytest.mark.parametrize("times", [1, 3])
async def test_of_a_body_that_nobody_wants_a_little_is_read_and_ignored(
    fields: list[str], sent: bytes, rest: bytes, stays: bool, times: int, edge: Running
) -> None:
    client = await edge.client()
    head = "\r\n".join(["POST /no HTTP/1.1", "Host: a.example", *fields, "", ""]).encode()
    for _ in range(times if stays else 1):
        client.send(head + sent)
        assert (await client.answer()).status == 403
        client.send(rest)
    ask, body = post(b"abcde")
    client.send(ask + body)
    if stays:
        assert (await client.answer()).body == b"POST abcde"
    else:
        assert await client.closed() == b""


async def test_a_body_that_nobody_wants_and_that_does_not_come_ends_the_connection(edge: Running) -> None:
    client = await edge.client()
    client.send(b"POST /no HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\n12")
    assert (await client.answer()).status == 403
    (connection,) = edge.worker.hall.connections
    connection.deadline = 0.0
    edge.worker.hall.sweep()
    assert await client.closed() == b""  # no second answer, to nothing


async def test_a_body_over_the_limit_of_its_route_is_never_known(edge: Running) -> None:
    head, body = post(b"x" * 11, "/small")
    for _ in range(2):
        client = await edge.client()
        client.send(head + body)
        assert (await client.answer()).status == 413
    assert edge.worker.hall.known_heads.with_body("127.0.0.1", "http", head) is None


async def test_the_last_request_of_a_connection_says_so(edge: Running) -> None:
    client = await edge.client()
    head, body = post(b"abcde")
    for number in range(1, 41):
        client.send(head + body)
        assert ((await client.answer())["connection"] == "close") == (number == 40)
    assert await client.closed() == b""


async def test_a_reload_is_in_force_for_them_too(edge: Running, tmp_path: Path) -> None:
    head, body = post(b"abcde")
    client = await warm(edge, head, body)
    text = (tmp_path / "edge.yaml").read_text().replace("name: a,", "name: a, match: {host: b.example},")
    edge.worker.shared.publish(text.encode())
    before = edge.worker.hall.edge
    edge.worker.reload()
    while edge.worker.hall.edge is before:
        await edge.turn()
    client.send(head + body)
    assert (await client.answer()).status == 404


async def test_an_origin_is_sent_the_same_head_each_time(edge: Running, origin: ScriptedOrigin) -> None:
    head, body = post(b"abcde")
    client = await warm(edge, head, body)
    for _ in range(3):
        client.send(head + body)
        await client.answer()
    assert len(origin.heads) == 4
    assert len(set(origin.heads)) == 1
    assert b"Content-Length: 5\r\n" in origin.heads[0]


def test_what_is_remembered_is_bounded_and_belongs_to_one_client() -> None:
    known, visit = KnownHeads(), SimpleNamespace()
    for number in range(3 * HEADS):
        known.keep_with_body("192.0.2.1", "http", b"%d" % number, visit, 1)  # type: ignore[arg-type]
        assert len(known._with_body) <= HEADS
    known.keep_with_body("192.0.2.1", "http", b"last", visit, 1)  # type: ignore[arg-type]
    assert known.with_body("192.0.2.1", "http", b"last") == (visit, 1)
    assert known.with_body("192.0.2.2", "http", b"last") is None
    assert known.with_body("192.0.2.1", "https", b"last") is None
    known.clear()
    assert known.with_body("192.0.2.1", "http", b"last") is None


async def a_turn(edge: Running) -> None:
    for _ in range(5):
        await edge.turn()


@pytest.mark.parametrize("size", [5, 26, 5_000])
async def test_a_body_behind_an_upgrade_that_is_not_spoken_arrives(size: int, edge: Running) -> None:
    """Else what the origin was promised would be filled with the next client's request."""
    client = await edge.client()
    head, body = post(b"b" * size, "/x", "Connection: Upgrade", "Upgrade: foo")
    await in_two(edge, client, head + body, len(head))
    assert (await client.answer()).body == b"POST " + body
    assert await client.closed() == b""
    other = await edge.client()
    other.send(b"GET /victim HTTP/1.1\r\nHost: a.example\r\n\r\n")
    assert (await other.answer()).body == b"GET "


async def test_a_chunked_body_with_an_upgrade_is_refused(edge: Running, origin: ScriptedOrigin) -> None:
    client = await edge.client()
    client.send(
        b"POST /x HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nConnection: Upgrade\r\n"
        b"Upgrade: foo\r\n\r\n1\r\nx\r\n0\r\n\r\n"
    )
    assert (await client.answer()).status == 400
    assert not origin.heads


async def test_a_known_head_whose_body_does_not_come_has_a_deadline(edge: Running) -> None:
    head, body = post(b"abcde")
    client = await warm(edge, head, body)
    client.send(head)
    await a_turn(edge)
    (connection,) = edge.worker.hall.connections
    assert connection.receiving is not None  # type: ignore[attr-defined]
    assert connection.deadline <= steady() + 20


async def test_a_body_that_is_here_holds_its_client_to_no_deadline(tmp_path: Path) -> None:
    """However long the origin thinks."""
    gate = asyncio.Event()

    async def slow(peer: Peer) -> None:
        await peer.request()
        await gate.wait()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with (
        ScriptedOrigin(slow) as origin,
        running(CONFIG.format(origin=origin.url), tmp_path, "native") as edge,
    ):
        client = await edge.client()
        head, _ = post(b"abcde")
        for piece in (head, b"ab", b"cde"):
            client.send(piece)
            await a_turn(edge)
        (connection,) = edge.worker.hall.connections
        assert connection.deadline == float("inf")
        gate.set()
        assert (await client.answer()).body == b"ok"


async def test_behind_an_ignored_body_a_connection_is_idle_like_any_other(edge: Running) -> None:
    client = await edge.client()
    head, body = post(b"abcde", "/no")
    client.send(head + body)
    assert (await client.answer()).status == 403
    (connection,) = edge.worker.hall.connections
    assert steady() + 50 < connection.deadline <= steady() + 60
