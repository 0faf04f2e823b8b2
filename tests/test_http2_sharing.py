"""Requests that share a connection to an HTTP/2 origin: what happens to one of them is not for the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes

from edgeproxy.origin.http2_link import CANCELLED, STREAM_WINDOW, STREAMS
from tests.helpers.edge import PATIENCE, Answer, Client, Running
from tests.helpers.h2_edge import Stage, hello
from tests.helpers.h2_origin import Stream

GET = b"GET /direct/%b HTTP/1.1\r\nHost: example.com\r\n\r\n"


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        yield Stage(tmp_path, stack)


async def eventually(true: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():
            await asyncio.sleep(0.001)


def at_once(edge: Running, count: int, method: str = "GET") -> list[asyncio.Task[Answer]]:
    loop = asyncio.get_running_loop()
    return [loop.create_task(edge.ask("/direct/a", method=method)) for _ in range(count)]


async def upload(edge: Running, size: int) -> Client:
    client = await edge.client()
    head = b"POST /direct/a HTTP/1.1\r\nHost: example.com\r\nContent-Length: %d\r\n\r\n" % size
    client.send(head + bytes(size))
    return client


class Held:
    """A script that keeps its streams until it is told what becomes of them."""

    def __init__(self) -> None:
        self.streams: list[Stream] = []

    async def __call__(self, stream: Stream) -> None:
        if stream[":path"] == "/direct/quick":
            await hello(stream)
        else:
            self.streams.append(stream)

    async def came(self, count: int) -> None:
        await eventually(lambda: len(self.streams) == count)


async def began(edge: Running, held: Held, path: bytes = b"held") -> tuple[Client, Stream]:
    """A request that the origin has, and does not answer."""
    count = len(held.streams)
    client = await edge.client()
    client.send(GET % path)
    await held.came(count + 1)
    return client, held.streams[-1]


@pytest.mark.parametrize(("said", "connections"), [(2, 3), (5, 1), (1, 5)])
async def test_an_origin_gets_no_more_at_once_than_it_takes(
    stage: Stage, said: int, connections: int
) -> None:
    most = 0

    async def script(stream: Stream) -> None:
        nonlocal most
        most = max(most, stream.peer.h2.open_inbound_streams)
        if len(origin.streams) == 5:
            gate.set()
        await gate.wait()
        await hello(stream)

    gate = asyncio.Event()
    stage.prepare = lambda origin: origin.settings.update({SettingCodes.MAX_CONCURRENT_STREAMS: said})
    edge, origin = await stage(script)
    answers = await asyncio.gather(*at_once(edge, 5))
    assert [answer.body for answer in answers] == [b"hello"] * 5
    assert (len(origin.peers), most) == (connections, said)


async def test_nor_more_than_we_think_is_good(stage: Stage) -> None:
    async def script(stream: Stream) -> None:
        if len(origin.streams) == STREAMS + 1:
            gate.set()
        await gate.wait()
        await hello(stream)

    gate = asyncio.Event()
    stage.prepare = lambda origin: origin.settings.update({SettingCodes.MAX_CONCURRENT_STREAMS: 10_000})
    edge, origin = await stage(script)
    await asyncio.gather(*at_once(edge, STREAMS + 1))
    assert sorted(len(peer.streams) for peer in origin.peers) == [1, STREAMS]


async def test_an_origin_that_takes_fewer_than_before_gets_fewer(stage: Stage) -> None:
    held = Held()
    edge, origin = await stage(held)
    tasks = at_once(edge, 3)
    await held.came(3)
    peer = origin.peers[0]
    peer.h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 1})
    peer.flush()
    for stream in held.streams:
        await hello(stream)
    await asyncio.gather(*tasks)
    tasks = at_once(edge, 2)
    await held.came(5)
    assert [stream.peer for stream in held.streams[3:]].count(peer) == 1
    for stream in held.streams[3:]:
        await hello(stream)
    assert [(await task).status for task in tasks] == [200, 200]


async def test_an_origin_that_takes_none_is_no_origin(stage: Stage) -> None:
    stage.prepare = lambda origin: origin.settings.update({SettingCodes.MAX_CONCURRENT_STREAMS: 0})
    edge, _ = await stage(hello)
    answer = await edge.ask("/direct/a")
    assert (answer.status, answer["proxy-status"]) == (503, "edge-1; error=destination_unavailable")


async def test_one_who_leaves_while_it_is_opened_does_not_take_it_from_the_others(stage: Stage) -> None:
    stage.prepare = lambda origin: setattr(origin, "mute", True)
    edge, origin = await stage(hello, connect="5s")
    first = await edge.client()
    first.send(GET % b"a")
    (second,) = at_once(edge, 1)
    await eventually(lambda: origin.peers)
    first.writer.close()
    await asyncio.sleep(0.01)
    origin.mute = False
    origin.peers[0].speak()
    assert (await second).body == b"hello"
    assert len(origin.streams) == 1


async def test_an_origin_that_says_nothing_at_all_is_given_up(stage: Stage) -> None:
    stage.prepare = lambda origin: setattr(origin, "mute", True)
    edge, origin = await stage(hello, connect="100ms")
    answer = await edge.ask("/direct/a")
    assert (answer.status, answer["proxy-status"]) == (504, "edge-1; error=connection_timeout")
    for peer in origin.peers:
        await asyncio.wait_for(peer.lost.wait(), PATIENCE)


async def test_a_slow_reader_holds_neither_the_others_nor_more_than_a_window(stage: Stage) -> None:
    sent = 0

    async def script(stream: Stream) -> None:
        nonlocal sent
        if stream[":path"] != "/direct/large":
            await hello(stream)
            return
        stream.head()
        with suppress(ProtocolError):  # the test is over
            while True:
                await stream.data(bytes(16_384))
                sent += 16_384

    edge, origin = await stage(script)
    slow = await edge.client()
    slow.send(GET % b"large")
    await eventually(lambda: sent)
    window, number = origin.peers[0].h2.local_flow_control_window, origin.streams[0].number
    before = -1
    while before < sent or window(number) >= 16_384:  # until buffers of both sides and the window are full
        before = sent
        for _ in range(5):
            assert (await edge.ask("/direct/a")).body == b"hello"
        await asyncio.sleep(0.05)
    assert len(origin.peers) == 1
    assert number in origin.peers[0].h2.streams
    async with asyncio.timeout(PATIENCE):
        while sent < before + 2 * STREAM_WINDOW:
            await slow.reader.read(65_536)


async def test_uploads_at_once_arrive_whole(stage: Stage) -> None:
    async def script(stream: Stream) -> None:
        assert await stream.body() == bytes(2_000_000)
        await hello(stream)

    edge, origin = await stage(script)
    clients = [await upload(edge, 2_000_000) for _ in range(3)]
    assert [(await client.answer()).body for client in clients] == [b"hello"] * 3
    assert len(origin.peers) == 1


async def test_uploads_share_the_window_of_their_connection(stage: Stage) -> None:
    stage.prepare = lambda origin: setattr(origin, "reads", False)
    held = Held()
    edge, origin = await stage(held)
    for _ in range(3):
        await upload(edge, 2_000_000)
    await held.came(3)
    await eventually(lambda: sum(len(stream.received) for stream in held.streams) == 65_535)
    first = max(held.streams, key=lambda stream: len(stream.received))
    assert len(first.received) == 65_535  # the one that came first; now its own window is used up too
    origin.peers[0].h2.increment_flow_control_window(4 * 16_384)
    origin.peers[0].flush()
    await eventually(lambda: sum(len(stream.received) for stream in held.streams) == 65_535 + 4 * 16_384)
    second, third = [len(each.received) for each in held.streams if each is not first]
    assert abs(second - third) <= 16_384
    origin.peers[0].transport.abort()  # nothing is left that the end would wait for


@pytest.mark.parametrize("how", ["reset", "malformed", "leaves"])
async def test_a_stream_that_ends_badly_ends_alone(stage: Stage, how: str) -> None:
    held = Held()
    edge, origin = await stage(held)
    other, stays = await began(edge, held)
    client, stream = await began(edge, held)
    if how == "leaves":
        client.writer.close()
        await asyncio.wait_for(stream.reset.wait(), PATIENCE)
        assert stream.peer.resets == [(stream.number, ErrorCodes.CANCEL)]
    elif how == "reset":
        stream.abort(ErrorCodes.INTERNAL_ERROR)
        stream.peer.flush()
    else:
        stream.head(*[(b"x-%d" % number, b"1") for number in range(300)])
        answer = await client.answer()
        assert (answer.status, answer["proxy-status"].rpartition("=")[2]) == (
            502,
            "http_response_header_section_size",
        )
    assert (await edge.ask("/direct/quick")).body == b"hello"
    await hello(stays)
    assert (await other.answer()).body == b"hello"
    assert len(origin.peers) == 1


async def test_an_early_answer_ends_its_upload_and_nothing_of_it_meets_another(stage: Stage) -> None:
    held = Held()
    edge, origin = await stage(held)
    other, stays = await began(edge, held)
    uploading = await edge.client()
    uploading.send(b"POST /direct/quick HTTP/1.1\r\nHost: example.com\r\nContent-Length: 100\r\n\r\nx")
    assert (await uploading.answer()).body == b"hello"
    client = await edge.client()
    client.send(b"POST /direct/b HTTP/1.1\r\nHost: example.com\r\nContent-Length: 3\r\n\r\na")
    await held.came(2)
    uploading.send(b"y" * 99)
    client.send(b"bc")
    assert await held.streams[1].body() == b"abc"
    for stream in (stays, held.streams[1]):
        await hello(stream)
    assert [(await one.answer()).body for one in (client, other)] == [b"hello", b"hello"]
    assert len(origin.peers) == 1


async def test_what_is_newer_than_the_last_of_a_connection_is_asked_again_on_another(stage: Stage) -> None:
    held = Held()
    edge, origin = await stage(held)
    await edge.ask("/direct/quick")
    tasks = at_once(edge, 3, "POST")
    await held.came(3)
    held.streams[2].go_away(held.streams[0].number)
    await held.came(5)
    assert [stream.peer for stream in held.streams] == [origin.peers[0]] * 3 + [origin.peers[1]] * 2
    for stream in (held.streams[0], *held.streams[3:]):
        await hello(stream)
    assert [(await task).body for task in tasks] == [b"hello"] * 3
    await asyncio.wait_for(origin.peers[0].lost.wait(), PATIENCE)
    assert edge.worker.parts.upstreams["main"].servers[0].standing.failures == 0


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("dies", ["connection_terminated", "http_response_incomplete"]),
        ("breaks the protocol", ["http_protocol_error", "http_protocol_error"]),
    ],
)
async def test_a_connection_that_ends_badly_ends_all_that_is_on_it(
    stage: Stage, how: str, words: list[str]
) -> None:
    held = Held()
    edge, origin = await stage(held)
    begun, stream = await began(edge, held)
    tasks = at_once(edge, 3, "POST")
    await held.came(4)
    stream.head((b"content-length", b"10"))
    await begun.head()
    if how == "dies":
        origin.peers[0].transport.abort()
    else:
        origin.peers[0].transport.write(b"\x00\x00\x00\x01\x00\x00\x00\x00\x00")  # HEADERS of no stream
    for task in tasks:
        answer = await task
        assert (answer.status, answer["proxy-status"]) == (502, f"edge-1; error={words[0]}")
    assert await begun.closed() == b""
    meters = edge.worker.parts.upstreams["main"]
    assert (meters.open, meters.servers[0].in_flight) == (0, 0)
    held.streams.clear()
    assert (await edge.ask("/direct/quick")).body == b"hello"
    assert len(origin.peers) == 2


@pytest.mark.parametrize("says", [True, False], ids=["one that says something", "a silent one"])
async def test_a_request_without_an_answer_makes_others_leave_a_silent_connection(
    stage: Stage, says: bool
) -> None:
    held = Held()
    edge, origin = await stage(held, first_byte="150ms")
    other = await edge.client()  # has no deadline: its client is not done
    other.send(b"POST /direct/a HTTP/1.1\r\nHost: example.com\r\nContent-Length: 3\r\n\r\na")
    await held.came(1)
    late, _ = await began(edge, held)
    if says:
        origin.peers[0].h2.ping(b"12345678")
        origin.peers[0].flush()
    assert (await late.answer()).status == 504
    assert (await edge.ask("/direct/quick")).body == b"hello"
    assert len(origin.peers) == (1 if says else 2)


async def test_many_clients_that_leave_do_not_make_us_a_flood(stage: Stage) -> None:
    """A connection on which we broke off so many streams takes no more: origins count them."""
    held = Held()
    edge, origin = await stage(held, first_byte="1m")
    other, stays = await began(edge, held)
    for _ in range(CANCELLED):
        client, stream = await began(edge, held)
        client.writer.close()
        await asyncio.wait_for(stream.reset.wait(), PATIENCE)
    assert len(origin.peers) == 1
    assert (await edge.ask("/direct/quick")).body == b"hello"
    assert len(origin.peers) == 2
    await hello(stays)
    assert (await other.answer()).body == b"hello"


async def test_it_closes_with_the_last_that_is_on_it(stage: Stage) -> None:
    edge, origin = await stage(hello)
    await edge.ask("/direct/a")
    upstream = edge.worker.parts.upstreams["main"]
    for connection in list(upstream.servers[0].idle):
        connection.close_idle()
    await asyncio.wait_for(origin.peers[0].lost.wait(), PATIENCE)
    assert upstream.open == 0
