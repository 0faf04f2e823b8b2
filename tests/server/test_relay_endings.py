"""However an answer that is relayed as one was before ends, it ends as one that a trip brings."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from edgeproxy.server.protocol import EdgeProtocol
from tests.helpers.relay_stage import OK, STORABLE, Scene, Scenes, Stage, compare, said
from tests.helpers.scripted_origin import Peer

SCENES = Scenes()
MUCH = 16 * 1024 * 1024  # bytes: more than the kernel holds for a client
LONG = said("200 OK", b"Content-Length: %d\r\n" % MUCH)
BODY = b"\0" * MUCH
PART = OK[:30]


# --- the origin fails


@SCENES.scene(trips=4)
async def a_connection_that_died_while_idle(stage: Stage) -> None:
    def close(peer: Peer) -> None:
        peer.close()

    def reset(peer: Peer) -> None:
        peer.reset()

    def speak(peer: Peer) -> None:
        peer.send_now(b"HTTP/1.1 408 Late\r\n\r\n")

    upstream = stage.edge.worker.parts.upstreams["o"]
    for number, end in enumerate((close, reset, speak)):
        await stage.get()
        end(stage.one.peers[number])
        await stage.until(lambda: not upstream.open)
    await stage.get()


@SCENES.scene(trips=2)
async def a_connection_that_dies_under_the_request(stage: Stage) -> None:
    await stage.get()
    (await stage.ask()).close()
    await (await stage.next()).send(OK + b"ok")  # it was asked again
    assert (await stage.client.answer()).status == 200
    await stage.get()


@SCENES.scene(trips=2)
async def nobody_is_there_any_more(stage: Stage) -> None:
    await stage.get()
    await stage.ask()
    await stage.one.stop()
    assert (await stage.client.answer()).status == 502


def _fails(name: str, begin: bytes, *, late: bool = False, status: int = 502, trips: int = 3) -> None:
    async def play(stage: Stage) -> None:
        other = await stage.another()
        peer = await stage.ask()
        await peer.send(begin)
        if late:
            await stage.until(lambda: stage.busy.began or not begin)
            stage.busy.expire(0.0)
        else:
            peer.close()
        if status:
            assert (await stage.client.answer()).status == status
        else:
            await stage.client.closed()
        await stage.get(client=other)  # the server is as good as before

    SCENES.add(name, play, trips=trips)


_fails("it dies in the head", PART)
_fails("nonsense", b"SSH-2.0-OpenSSH\r\n")
_fails("another protocol", said("101 Switching", b"Upgrade: x\r\nConnection: upgrade\r\n"))
_fails("it says nothing", b"", late=True, status=504)
_fails("it dies in the body", OK + b"o", status=0)
_fails("it dies behind the head", OK, status=0)
_fails("its body stalls", OK + b"o", late=True, status=0)
_fails("another head, and it dies in the body", STORABLE[:-1], status=0, trips=4)


@SCENES.scene(trips=3)
async def a_good_answer_between_failures(stage: Stage) -> None:
    """One answer closes the breaker's count, and one that is whole that of those which broke off."""
    other = await stage.another()
    (await stage.ask()).close()
    (await stage.next()).reset()
    assert (await stage.client.answer()).status == 502
    await stage.get(client=other)


# --- the client leaves


def _leaves(name: str, *answer: bytes, trips: int = 1, path: str = "/pass/a") -> None:
    async def play(stage: Stage) -> None:
        await stage.get(path=path)
        peer = await stage.ask(path)
        for piece in answer:
            heard = len(stage.heard[-1]) + (piece is not PART)
            await peer.send(piece)
            await stage.until(lambda least=heard: stage.busy.began and len(stage.heard[-1]) >= least)
        stage.client.writer.close()
        await stage.until(peer.ended.is_set)
        stage.client = await stage.connect()
        await stage.get(path=path)

    SCENES.add(name, play, trips=trips + 1)


_leaves("it leaves before the head")
_leaves("it leaves before the head of what is not shared", path="/cached/a")
_leaves("it leaves behind half a head", PART)
_leaves("it leaves behind the head", OK)
_leaves("it leaves within the body", OK, b"o")
_leaves("it leaves behind a hint", b"HTTP/1.1 103 Early Hints\r\n\r\n", trips=2)
_leaves("it leaves within another answer", LONG, b"x", trips=2)
_leaves("it leaves a place in line", path="/once/a")


@SCENES.scene(trips=2)
async def it_leaves_while_it_is_asked_again(stage: Stage) -> None:
    await stage.get()
    (await stage.ask()).close()
    peer = await stage.next()
    stage.client.writer.close()
    await stage.until(peer.ended.is_set)


@SCENES.scene(trips=1)
async def it_leaves_with_its_buffers_full(stage: Stage) -> None:
    peer, sending = await _full(stage)
    stage.vague = True
    stage.heard.clear()
    stage.client.writer.transport.abort()
    await stage.until(peer.ended.is_set)
    sending.cancel()


# --- the client is slow, or asks for more


async def _full(stage: Stage) -> tuple[Peer, asyncio.Task[None]]:
    """A client that does not read what is sent to it, until the origin is held back."""
    stage.client = await stage.connect(receives=4096)
    first = await stage.ask()
    await asyncio.gather(first.send(LONG + BODY), stage.client.answer())
    peer = await stage.ask()
    sending = asyncio.create_task(peer.send(LONG + BODY))
    await stage.until(lambda: stage.busy._read_paused)
    return peer, sending


@SCENES.scene(trips=1)
async def a_slow_client_holds_the_origin_back(stage: Stage) -> None:
    _, sending = await _full(stage)
    answer = await stage.client.answer()
    assert answer.body == BODY
    await sending


@SCENES.scene(trips=2)
async def the_origin_gives_up_on_a_slow_client(stage: Stage) -> None:
    _, sending = await _full(stage)
    stage.vague = True
    stage.heard.clear()
    stage.busy.expire(0.0)
    await stage.client.closed()
    sending.cancel()


@SCENES.scene(trips=2)
async def requests_behind_it(stage: Stage) -> None:
    await stage.get()
    peer = await stage.ask()
    stage.send("/pass/b")
    (connection,) = stage.edge.worker.hall.connections
    assert isinstance(connection, EdgeProtocol)
    await stage.until(lambda: bool(connection.waiting))
    await peer.send(OK + b"ok")
    await stage.client.answer()
    await (await stage.next()).send(OK + b"no")
    assert (await stage.client.answer()).body == b"no"
    await stage.get()


@SCENES.scene(trips=1)
async def nonsense_behind_it(stage: Stage) -> None:
    await stage.get()
    peer = await stage.ask()
    stage.client.send(b"nonsense\r\n\r\n")
    (connection,) = stage.edge.worker.hall.connections
    assert isinstance(connection, EdgeProtocol)
    await stage.until(lambda: connection.closing)
    await peer.send(OK + b"ok")
    assert (await stage.client.answer())["connection"] == "close"
    await stage.client.closed()


@SCENES.scene(trips=2)
async def the_last_request_of_a_connection(stage: Stage) -> None:
    for number in range(6):
        assert ((await stage.get())["connection"] == "close") == (number == 5)
    await stage.client.closed()
    stage.client = await stage.connect()
    await stage.get()


@SCENES.scene(trips=1)
async def the_edge_is_drained(stage: Stage) -> None:
    await stage.get()
    peer = await stage.ask()
    stage.edge.worker.hall.drain()
    await peer.send(OK + b"ok")
    assert (await stage.client.answer())["connection"] == "close"
    await stage.client.closed()


@pytest.mark.parametrize(("play", "trips"), SCENES)
async def test_nobody_sees_whether_it_was_a_trip(tmp_path: Path, play: Scene, trips: int) -> None:
    await compare(play, tmp_path, trips)
