"""An HTTP/2 origin that means no good: each attack has an end, costs little, and takes nobody else along."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from h2.settings import SettingCodes
from hpack import Encoder

from edgeproxy.origin.http2_bounds import BURST
from edgeproxy.origin.http2_link import Http2Link
from tests.helpers.edge import PATIENCE
from tests.helpers.h2_edge import Stage, hello
from tests.helpers.h2_origin import Stream, frame

PROTOCOL, SIZE = "http_protocol_error", "http_response_header_section_size"
DATA, HEADERS, PRIORITY, RESET, SETTINGS, PROMISE, PING, UPDATE, MORE = 0, 1, 2, 3, 4, 5, 6, 8, 9
END_HEADERS, PADDED = 4, 8
MANY = BURST + 100
OK = Encoder().encode([(":status", "200")])

Attack = Callable[[int], bytes]


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        yield Stage(tmp_path, stack)


def head(number: int) -> bytes:
    return frame(HEADERS, END_HEADERS, number, OK)


def bomb() -> bytes:
    """A head of 100 fields of 3 KB each in a few bytes: one, and references to it."""
    encoder = Encoder()
    block = encoder.encode([(":status", "200"), ("x", "y" * 3000)])
    return block + encoder.encode([("x", "y" * 3000)]) * 100


ATTACKS: list[tuple[str, Attack, str]] = [
    ("pings", lambda _: frame(PING, 0, 0, bytes(8)) * MANY, PROTOCOL),
    ("answers to pings that nobody sent", lambda _: frame(PING, 1, 0, bytes(8)) * MANY, PROTOCOL),
    ("settings", lambda _: frame(SETTINGS, 0, 0, b"") * MANY, PROTOCOL),
    ("settings that change", lambda _: b"".join(
        frame(SETTINGS, 0, 0, b"\x00\x01" + n.to_bytes(4, "big")) for n in range(MANY)), PROTOCOL),
    ("windows", lambda _: frame(UPDATE, 0, 0, b"\0\0\0\1") * MANY, PROTOCOL),
    ("windows of the stream", lambda n: frame(UPDATE, 0, n, b"\0\0\0\1") * MANY, PROTOCOL),
    ("priorities", lambda n: frame(PRIORITY, 0, n, bytes(5)) * MANY, PROTOCOL),
    ("frames of no known kind", lambda _: frame(99, 0, 0, b"x") * MANY, PROTOCOL),
    ("data without data", lambda n: head(n) + frame(DATA, 0, n, b"") * MANY, PROTOCOL),
    ("data of padding", lambda n: head(n) + frame(DATA, PADDED, n, b"\x01\0") * MANY, PROTOCOL),
    ("resets of what is reset", lambda n: frame(RESET, 0, n, bytes(4)) * MANY, "connection_terminated"),
    ("a head in 100 pieces", lambda n: frame(HEADERS, 0, n, OK) + frame(MORE, 0, n, b"") * 100, PROTOCOL),
    ("a head of 300 KB in 100 bytes", lambda n: frame(HEADERS, END_HEADERS, n, bomb()), SIZE),
    ("a head of 300 fields", lambda n: frame(
        HEADERS, END_HEADERS, n, OK + Encoder().encode([("a", "b")] * 300)), SIZE),
    ("interim answers", lambda n: frame(
        HEADERS, END_HEADERS, n, Encoder().encode([(":status", "103")])) * 20, PROTOCOL),
    ("a push", lambda n: frame(PROMISE, END_HEADERS, n, b"\0\0\0\2" + OK), PROTOCOL),
    ("a stream of its own", lambda _: head(2), PROTOCOL),
    ("a stream that was never opened", lambda n: head(n + 100), PROTOCOL),
    ("a frame larger than agreed", lambda n: frame(DATA, 0, n, bytes(16_385)), PROTOCOL),
    ("a window beyond 2^31", lambda _: frame(UPDATE, 0, 0, b"\x7f\xff\xff\xff"), PROTOCOL),
    ("a window of nothing", lambda _: frame(UPDATE, 0, 0, bytes(4)), PROTOCOL),
    ("an initial window beyond 2^31", lambda _: frame(SETTINGS, 0, 0, b"\0\4\xff\xff\xff\xff"), PROTOCOL),
    ("a frame size of 1", lambda _: frame(SETTINGS, 0, 0, b"\0\5\0\0\0\1"), PROTOCOL),
    ("a status of letters", lambda n: frame(
        HEADERS, END_HEADERS, n, Encoder().encode([(":status", "abc")])), PROTOCOL),
    ("no status", lambda n: frame(HEADERS, END_HEADERS, n, Encoder().encode([("a", "b")])), PROTOCOL),
    ("a name in capitals", lambda n: frame(
        HEADERS, END_HEADERS, n, OK + Encoder().encode([("A", "b")])), PROTOCOL),
    ("a line end in a value", lambda n: frame(
        HEADERS, END_HEADERS, n, OK + Encoder().encode([("a", "b\r\nc: d")])), PROTOCOL),
    ("Transfer-Encoding", lambda n: frame(
        HEADERS, END_HEADERS, n, OK + Encoder().encode([("transfer-encoding", "chunked")])), PROTOCOL),
    ("a table entry that is not there", lambda n: frame(HEADERS, END_HEADERS, n, b"\xff\x80\x01"), PROTOCOL),
    ("HTTP/1.1", lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", PROTOCOL),
    ("a frame that never ends", lambda n: frame(DATA, 0, n, bytes(16_384))[:-1], "http_response_timeout"),
]  # fmt: skip


@pytest.mark.parametrize(("attack", "word"), [pytest.param(*row[1:], id=row[0]) for row in ATTACKS])
async def test_an_attack_has_an_end_and_the_next_request_another_connection(
    stage: Stage, attack: Attack, word: str
) -> None:
    async def script(stream: Stream) -> None:
        if len(origin.streams) > 1:
            await hello(stream)
        else:
            stream.peer.transport.write(attack(stream.number))

    edge, origin = await stage(script, first_byte="300ms" if "timeout" in word else "1m")
    client = await edge.client()
    client.send(b"POST /direct/a HTTP/1.1\r\nHost: example.com\r\nContent-Length: 0\r\n\r\n")
    try:
        while (answer := await client.answer()).status == 103:
            pass
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # it broke behind the head
    else:
        assert answer.status in (502, 504)
        assert answer["proxy-status"] == f"edge-1; error={word}"
    await asyncio.wait_for(origin.peers[0].lost.wait(), PATIENCE)
    assert (await edge.ask("/direct/a")).body == b"hello"
    assert edge.worker.parts.upstreams["main"].open == 1


async def test_what_an_honest_origin_says_by_the_way_is_no_attack(stage: Stage) -> None:
    async def script(stream: Stream) -> None:
        for _ in range(10):
            stream.peer.h2.ping(bytes(8))
            stream.peer.h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 100})
            stream.peer.h2.increment_flow_control_window(1)
        await hello(stream)

    edge, origin = await stage(script)
    for _ in range(20):
        assert (await edge.ask("/direct/a")).body == b"hello"
    assert len(origin.peers) == 1


async def test_an_origin_does_not_say_how_much_we_remember(stage: Stage) -> None:
    """HPACK: the table of what we sent is ours, whatever size is offered (RFC 7541 §4.2)."""
    stage.prepare = lambda origin: origin.settings.update({SettingCodes.HEADER_TABLE_SIZE: 2**31})
    edge, _ = await stage(hello)
    for number in range(50):
        assert (await edge.ask("/direct/a", f"X-{number}: {'x' * 1000}")).body == b"hello"
    stream = edge.worker.parts.upstreams["main"].servers[0].idle[0]
    link = stream._link  # type: ignore[attr-defined]
    assert isinstance(link, Http2Link)
    assert link.h2.encoder.header_table_size <= 4096
