"""An answer that is relayed as one was before is, for everybody who looks, what a trip brings."""

from __future__ import annotations

from math import inf
from pathlib import Path
from typing import Any

import pytest

from edgeproxy.purge_log import PurgeKind
from edgeproxy.server.relay import Relay
from tests.helpers.builds import STANDS_IN
from tests.helpers.relay_stage import OK, STORABLE, Scene, Scenes, Stage, compare, configured, played, said
from tests.origin.support import upstream

SCENES = Scenes()
PART = OK[:30]


# --- the answer is as it was, or another


ANSWERS = {
    "no content": (1, said("200 OK", b"Content-Length: 0\r\n")),
    "204": (1, said("204 No Content")),
    "205": (1, said("205 Reset Content", b"Content-Length: 2\r\n", b"ok")),
    "304": (1, said("304 Not Modified", b'ETag: "1"\r\n')),
    "304 with a length": (1, said("304 Not Modified", b"Content-Length: 9\r\n")),
    "404": (1, said("404 Not Found", b"Content-Length: 2\r\n", b"no")),
    "500": (1, said("500 Oh", b"Content-Length: 2\r\n", b"no")),
    "fields twice and for one hop": (
        1,
        said(
            "200 OK",
            b"Set-Cookie: a\r\nset-cookie: b\r\nX: y\r\nConnection: X\r\nContent-Length: 1\r\n",
            b"1",
        ),
    ),
    "no date": (1, b"HTTP/1.1 200 OK\r\nCache-Control: private\r\nContent-Length: 2\r\n\r\nok"),
    "10 KB": (1, said("200 OK", b"Content-Length: 10000\r\n", b"x" * 10_000)),
    "the last on its connection": (3, said("200 OK", b"Connection: close\r\nContent-Length: 2\r\n", b"ok")),
    "HTTP/1.0, kept alive": (
        1,
        said("200 OK", b"Connection: keep-alive\r\nContent-Length: 2\r\n", b"ok", version="1.0"),
    ),
    "chunks": (3, said("200 OK", b"Transfer-Encoding: chunked\r\n", b"2\r\nok\r\n0\r\nX-End: 1\r\n\r\n")),
    "hints before it": (3, b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK + b"ok"),
}


@pytest.mark.parametrize(("trips", "answer"), ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("path", ["/pass/a", "/cached/a"])
async def test_of_an_answer_that_repeats(tmp_path: Path, path: str, trips: int, answer: bytes) -> None:
    async def play(stage: Stage) -> None:
        for _ in range(3):
            peer = await stage.ask(path)
            await peer.send(answer)
            if b" 103 " in answer:
                await stage.client.answer()
            await stage.client.answer()

    await compare(play, tmp_path, trips)


@STANDS_IN
async def test_where_heads_never_repeat_nobody_hopes_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hopes: list[object] = []
    begin = Relay.begin
    monkeypatch.setattr(Relay, "begin", lambda one: (hopes.append(one), begin(one)))  # type: ignore[func-returns-value]

    async def play(stage: Stage) -> None:
        for number in range(2):
            await stage.get(said("200 OK", b"X-Id: %d\r\nContent-Length: 2\r\n" % number, b"ok"))
        assert len(hopes) == 1
        for _ in range(3):
            await stage.get()
        assert len(hopes) == 2, "until they do"

    await played(play, tmp_path)


@SCENES.scene(trips=1)
async def a_body_that_takes_its_time(stage: Stage) -> None:
    await stage.get()
    peer = await stage.ask()
    await peer.send(OK)
    await stage.client.head()  # it has the head before any of the body
    for byte in (b"o", b"k"):
        await peer.send(byte)
        assert await stage.client.reader.readexactly(1) == byte


@SCENES.scene(trips=2)
async def a_head_in_two_reads(stage: Stage) -> None:
    await stage.get()
    peer = await stage.ask()
    await peer.send(PART)
    await stage.until(lambda: stage.busy.began)
    await peer.send(OK[len(PART) :] + b"ok")
    await stage.client.answer()


@SCENES.scene(trips=3)
async def another_head_and_the_first_again(stage: Stage) -> None:
    other = OK.replace(b"200 OK", b"404 No") + b"no"
    for answer in (OK + b"ok", other, OK + b"ok", other):
        await stage.get(answer)


@SCENES.scene(trips=4)
async def another_framing(stage: Stage) -> None:
    await stage.get()
    await stage.get(said("200 OK", b"Transfer-Encoding: chunked\r\n", b"2\r\nok\r\n0\r\n\r\n"))
    await stage.get()
    peer = await stage.ask()
    await peer.send(said("200 OK", b"", b"to its end"))
    peer.close()
    await stage.client.answer()


@SCENES.scene(trips=2)
async def more_than_was_announced(stage: Stage) -> None:
    await stage.get()
    await stage.get(OK + b"ok, and more")
    await stage.get()


@SCENES.scene(trips=2)
async def more_than_was_announced_later(stage: Stage) -> None:
    await stage.get()
    peer = await stage.ask()
    await peer.send(OK)
    await stage.client.head()
    await peer.send(b"ok, and more")
    await stage.client.reader.readexactly(2)
    await stage.get()


@SCENES.scene(trips=4)
async def the_last_on_a_connection(stage: Stage) -> None:
    last = said("200 OK", b"Connection: close\r\nContent-Length: 2\r\n", b"ok")
    await stage.another()
    await stage.get(last)
    await stage.get(last)
    assert not stage.one.peers[0].ended.is_set()


# --- what policies and caches do to it


def _thrice(name: str, path: str, *fields: str, trips: int, answer: bytes = OK + b"ok") -> None:
    async def play(stage: Stage) -> None:
        for _ in range(3):
            await stage.get(answer, path, *fields)

    SCENES.add(name, play, trips=trips)


@SCENES.scene(trips=4)
async def two_routes_say_different_things_of_it(stage: Stage) -> None:
    for path in ("/pass/a", "/cached/a", "/pass/a"):
        for _ in range(2):
            await stage.get(path=path)


_thrice("fields for the client", "/to-client/a", trips=1)
_thrice("fields for the origin", "/to-origin/a", trips=3)
_thrice("another path for the origin", "/rewritten/a", trips=3)
_thrice("one at a time", "/once/a", trips=1)
_thrice("what was sent is charged", "/bytes/a", trips=1)
_thrice(
    "compressed",
    "/pressed/a",
    "Accept-Encoding: gzip",
    trips=3,
    answer=said("200 OK", b"Content-Type: text/css\r\nContent-Length: 2\r\n", b"ok"),
)
_thrice("a part", "/pass/a", "Range: bytes=0-1", trips=3)
_thrice("a condition", "/pass/a", 'If-None-Match: "1"', trips=3)
_thrice("a connection that stays, as the client says", "/pass/a", "Connection: keep-alive", trips=1)
_thrice(
    "for those with credentials alone", "/cached/a", "Authorization: Basic eDp5", trips=3, answer=STORABLE
)


@SCENES.scene(trips=6)
async def a_mirror(stage: Stage) -> None:
    for _ in range(3):
        stage.send("/mirror/a")
        for _ in range(2):
            await (await stage.next()).send(OK + b"ok")
        await stage.client.answer()
        await stage.over()


@SCENES.scene(trips=3)
async def visitors_of_which_some_take_part(stage: Stage) -> None:
    for _ in range(6):
        await stage.get(path="/ab/a")
    assert 0 < len(stage.two.heads) < 6


@SCENES.scene(trips=3)
async def the_nearest_is_down_for_a_while(stage: Stage) -> None:
    breaker = stage.edge.worker.parts.upstreams["o"].breaker
    breaker.next_try = inf
    for breaker.is_open in (False, True, False):
        for _ in range(2):
            await stage.get(path="/near/a")
    assert (len(stage.one.heads), len(stage.two.heads)) == (4, 2)


@SCENES.scene(trips=2)
async def servers_in_turn(stage: Stage) -> None:
    for _ in range(6):
        await stage.get(path="/both/a")
    assert len(stage.one.heads) == len(stage.two.heads) == 3


@SCENES.scene(trips=2)
async def a_server_is_put_aside(stage: Stage) -> None:
    for number in range(6):
        stage.send("/both/a")
        peer = await stage.next()
        bad = peer in stage.two.peers
        await peer.send(said("500 Oh", b"Content-Length: 2\r\n", b"no") if bad else OK + b"ok")
        assert ((await stage.client.answer()).status == 500) == (number in (1, 3))


@SCENES.scene(trips=2)
async def an_answer_that_may_be_shared_again(stage: Stage) -> None:
    for _ in range(3):
        await stage.get(path="/cached/a")
    await stage.get(STORABLE, "/cached/a")
    stage.send("/cached/a")
    assert (await stage.client.answer())["cache-status"].startswith("e; hit")


@SCENES.scene(trips=3)
async def purged_while_it_was_asked_for(stage: Stage) -> None:
    await stage.get(path="/cached/a")
    peer = await stage.ask("/cached/a")
    stage.edge.worker.shared.purge_log.append(PurgeKind.URL, b"example.com/cached/a")
    stage.edge.worker.hall.catch_up(0.0)
    await peer.send(STORABLE)
    await stage.client.answer()
    await stage.get(STORABLE, "/cached/a")  # what came was not stored
    stage.send("/cached/a")
    assert (await stage.client.answer())["cache-status"].startswith("e; hit")


@SCENES.scene(trips=2)
async def nobody_knows_any_more_that_it_is_not_shared(stage: Stage) -> None:
    for _ in range(2):
        await stage.get(path="/cached/a")
    stage.edge.worker.hall.fetcher.flights.passes.clear()
    for _ in range(2):
        await stage.get(path="/cached/a")


@SCENES.scene(trips=2)
async def another_configuration(stage: Stage) -> None:
    await stage.get(path="/moved/a")
    peer = await stage.ask("/moved/a")
    hall = stage.edge.worker.hall
    before = hall.edge
    config = configured(stage.one, stage.two, moved="gone")
    stage.edge.worker.shared.publish(config.encode())
    stage.edge.worker.reload()
    await stage.until(lambda: hall.edge is not before)
    await peer.send(OK + b"ok")
    await stage.client.answer()
    for _ in range(2):
        await stage.get(path="/moved/a")
    assert len(stage.two.heads) == 2


@pytest.mark.parametrize(("play", "trips"), SCENES)
async def test_nobody_sees_whether_it_was_a_trip(tmp_path: Path, play: Scene, trips: int) -> None:
    await compare(play, tmp_path, trips)


@pytest.mark.parametrize(
    ("servers", "options", "uniform"),
    [
        (2, {}, True),
        (1, {"host": "server"}, True),
        (2, {"host": "server"}, False),
        (2, {"host": "a.example"}, True),
        (1, {"balance": "hash:path"}, True),
        (2, {"balance": "hash:path"}, False),
        (2, {"balance": "sticky:srv"}, False),
        (2, {"balance": "least_requests"}, True),
        (2, {"hedge": {"after": "1s"}}, False),
        (1, {"protocol": "h2"}, False),
    ],
)
async def test_it_takes_servers_that_are_all_asked_alike(
    servers: int, options: dict[str, Any], uniform: bool
) -> None:
    urls = [f"http://127.0.0.1:{port}" for port in range(8000, 8000 + servers)]
    async with upstream(*urls, **options) as made:
        assert made.uniform == uniform
