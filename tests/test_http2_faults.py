"""An HTTP/2 origin that breaks the rules on one stream: that request fails, the others do not notice. Where
the connection has to end for it, the others are asked again on another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from h2.errors import ErrorCodes
from hpack import Encoder

from edgeproxy.origin.http2_link import CANCELLED
from tests.helpers.edge import PATIENCE, Client, Running
from tests.helpers.h2_edge import Stage, hello
from tests.helpers.h2_origin import H2Origin, Stream, frame
from tests.origin.support import eventually

PROTOCOL, SIZE = "http_protocol_error", "http_response_header_section_size"
DATA, HEADERS, PRIORITY, SETTINGS, GOAWAY, UPDATE = 0, 1, 2, 4, 7, 8
END, WHOLE = 1, 4  # END_STREAM, END_HEADERS
GO_AWAY = frame(GOAWAY, 0, 0, bytes(8))

Fault = Callable[[int], bytes]


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        yield Stage(tmp_path, stack)


def head(number: int, *fields: tuple[str, str], status: str = "200", flags: int = 0) -> bytes:
    """A head that leaves nothing in the tables, which the library at the origin does not see."""
    names = [(":status", status), *fields] if status else fields
    block = b"".join(
        b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in names
    )
    return frame(HEADERS, WHOLE | flags, number, block)


def bomb() -> bytes:
    """100 fields of 3 KB each in a few bytes."""
    encoder = Encoder()
    field = ("x", "y" * 3000)
    return encoder.encode([(":status", "200"), field]) + encoder.encode([field]) * 100


WHOLE_ALREADY = "nothing"  # a client has all there is to it when the fault comes
FAULTS: list[tuple[str, Fault, str]] = [
    ("no status", lambda n: head(n, ("a", "b"), status=""), PROTOCOL),
    ("two statuses", lambda n: head(n, (":status", "200")), PROTOCOL),
    ("a status behind a field", lambda n: head(n, ("a", "b"), (":status", "200"), status=""), PROTOCOL),
    ("a pseudo-field of requests", lambda n: head(n, (":path", "/")), PROTOCOL),
    ("a name in capitals", lambda n: head(n, ("A", "b")), PROTOCOL),
    ("a line end in a value", lambda n: head(n, ("a", "b\r\nc: d")), PROTOCOL),
    ("Transfer-Encoding", lambda n: head(n, ("transfer-encoding", "chunked")), PROTOCOL),
    ("Connection", lambda n: head(n, ("connection", "close")), PROTOCOL),
    ("a length that is no number", lambda n: head(n, ("content-length", "+5")), PROTOCOL),
    ("two lengths", lambda n: head(n, ("content-length", "5"), ("content-length", "6")), PROTOCOL),
    ("an interim answer that ends", lambda n: head(n, status="103", flags=END), PROTOCOL),
    ("data before the head", lambda n: frame(DATA, 0, n, b"hello"), PROTOCOL),
    ("a window beyond 2^31", lambda n: frame(UPDATE, 0, n, b"\x7f\xff\xff\xff"), PROTOCOL),
    ("a stream that waits for itself", lambda n: frame(
        PRIORITY, 0, n, n.to_bytes(4, "big") + b"\1"), PROTOCOL),
    ("no end, and then trailers", lambda n: head(n, ("content-length", "0")) + head(n), WHOLE_ALREADY),
    ("more than its length", lambda n: head(n, ("content-length", "3")) + frame(DATA, 0, n, b"hello"), ""),
    ("less than its length", lambda n: head(n, ("content-length", "9")) + frame(DATA, END, n, b"hello"), ""),
    ("an end without its length", lambda n: head(n, ("content-length", "9"), flags=END), ""),
    ("trailers before its length", lambda n: head(n, ("content-length", "9")) + frame(DATA, 0, n, b"hello")
        + frame(HEADERS, WHOLE | END, n, b"\x00\x01a\x01b"), ""),
    ("a body behind 304", lambda n: head(n, status="304") + frame(DATA, END, n, b"hello"), WHOLE_ALREADY),
]  # fmt: skip


async def ask(edge: Running, method: str, path: str) -> Client:
    client = await edge.client()
    client.send(
        f"{method} /direct/{path} HTTP/1.1\r\nHost: example.com\r\nContent-Length: 0\r\n\r\n".encode()
    )
    return client


@pytest.mark.parametrize(("fault", "word"), [pytest.param(*row[1:], id=row[0]) for row in FAULTS])
async def test_a_fault_of_one_stream_is_not_for_the_others(stage: Stage, fault: Fault, word: str) -> None:
    waiting: list[Stream] = []

    async def script(stream: Stream) -> None:
        if stream[":path"] == "/direct/bad":
            stream.peer.transport.write(fault(stream.number))
        else:
            waiting.append(stream)

    edge, origin = await stage(script)
    others = [await ask(edge, method, "good") for method in ("GET", "POST")]
    bad = await ask(edge, "POST", "bad")
    if word == PROTOCOL:
        answer = await bad.answer()
        assert (answer.status, answer["proxy-status"]) == (502, f"edge-1; error={word}")
    elif word == WHOLE_ALREADY:
        assert (await bad.answer()).status in (200, 304)
    else:  # the head has gone on: what follows it breaks off
        await bad.closed()
    if word == PROTOCOL:  # it need not tell the origin what has ended on both sides
        bad_one = next(each for each in origin.streams if each not in waiting)
        await asyncio.wait_for(bad_one.reset.wait(), PATIENCE)
    await eventually(lambda: len(waiting) == 2)
    for stream in waiting:
        await hello(stream)
    assert [(await other.answer()).body for other in others] == [b"hello"] * 2
    assert len(origin.peers) == 1


async def test_a_fault_on_a_stream_that_has_ended_is_nobodys(stage: Stage) -> None:
    async def script(stream: Stream) -> None:
        before = range(1, stream.number, 2)
        late = [
            head(each) + frame(DATA, 0, each, b"x") + frame(UPDATE, 0, each, b"\x7f\xff\xff\xff")
            for each in before
        ]
        stream.peer.transport.write(b"".join(late))
        await hello(stream)

    edge, origin = await stage(script)
    for _ in range(5):
        assert (await edge.ask("/direct/a")).body == b"hello"
    assert len(origin.peers) == 1


async def test_what_a_broken_stream_used_up_of_the_window_is_given_back(stage: Stage) -> None:
    """More than the window of the connection comes in bodies that are too long."""

    async def script(stream: Stream) -> None:
        if stream[":path"] == "/direct/bad":
            number = stream.number
            too_long = head(number, ("content-length", "1")) + frame(DATA, 0, number, bytes(16_384))
            stream.peer.transport.write(too_long)

    edge, origin = await stage(script)
    await ask(edge, "GET", "held")
    for _ in range(CANCELLED):
        await (await ask(edge, "GET", "bad")).closed()
    assert len(origin.peers) == 1
    await (await ask(edge, "GET", "bad")).closed()
    assert len(origin.peers) == 2  # and an origin that breaks so many gets a fresh start


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        pytest.param(lambda n: frame(HEADERS, WHOLE, n, b"\xff\x80\x01"), PROTOCOL, id="a broken table"),
        pytest.param(lambda n: frame(HEADERS, WHOLE, n, bomb()), SIZE, id="a bomb"),
    ],
)  # fmt: skip
async def test_a_fault_that_ends_the_connection_has_the_others_asked_again(
    stage: Stage, fault: Fault, word: str
) -> None:
    waiting: list[Stream] = []

    async def script(stream: Stream) -> None:
        if stream[":path"] == "/direct/warm" or stream.peer is not origin.peers[0]:
            await hello(stream)
        elif stream[":path"] == "/direct/begun":
            stream.head((b"content-length", b"9"))
        else:
            waiting.append(stream)

    edge, origin = await stage(script)
    assert (await edge.ask("/direct/warm")).body == b"hello"
    others = [await ask(edge, method, "good") for method in ("GET", "GET", "PUT", "POST")]
    begun = await ask(edge, "GET", "begun")
    await begun.head()
    bad = await ask(edge, "GET", "bad")
    await eventually(lambda: len(waiting) == 5)
    number = next(stream.number for stream in waiting if stream[":path"] == "/direct/bad")
    origin.peers[0].transport.write(fault(number))
    *again, post = [await other.answer() for other in others]
    assert [answer.body for answer in again] == [b"hello"] * 3
    assert [answer["proxy-status"] for answer in (await bad.answer(), post)] == [f"edge-1; error={word}"] * 2
    assert await begun.closed() == b""
    assert len(origin.peers) == 2


@pytest.mark.parametrize("also", [b"", frame(SETTINGS, 0, 0, b"")], ids=["at once", "behind its settings"])
async def test_an_origin_that_goes_away_before_the_first_request_is_not_dialled_for_ever(
    stage: Stage, also: bytes
) -> None:
    def hostile(origin: H2Origin) -> None:
        origin.mute = True
        origin.greeting = also + GO_AWAY

    stage.prepare = hostile
    edge, origin = await stage(hello, connect="60s")
    answer = await edge.ask("/direct/a")
    assert (answer.status, answer["proxy-status"].partition("=")[2]) in (
        (502, "connection_terminated"),
        (503, "destination_unavailable"),
    )
    assert len(origin.peers) <= 3


async def test_an_origin_that_refuses_every_stream_is_asked_three_times(stage: Stage) -> None:
    async def script(stream: Stream) -> None:
        stream.abort(ErrorCodes.REFUSED_STREAM)

    edge, origin = await stage(script)
    answer = await edge.ask("/direct/a", method="POST", body=b"x")
    assert (answer.status, answer["proxy-status"]) == (502, "edge-1; error=connection_terminated")
    assert len(origin.streams) in (1, 2, 3)
