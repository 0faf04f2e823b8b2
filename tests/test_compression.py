"""Compression by the edge, from both doors: what clients get, what is stored, and what stays as it is."""

from __future__ import annotations

import asyncio
import gzip
import os
import zlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import brotli
import pytest
import zstandard

from edgeproxy.cache.body import Body
from edgeproxy.compress import SLICE, Brake, Press, PressedBody
from edgeproxy.http.coders import CODERS
from edgeproxy.observe.cells import Cells
from edgeproxy.observe.compression import CodingMeters
from edgeproxy.observe.metrics import render
from tests.helpers.edge import PATIENCE, Answer, Running, running
from tests.helpers.scripted_origin import Peer, Script, ScriptedOrigin, always

CONFIG = """
edge: {{id: edge-1, pop: ams}}
server: {{listen: ["127.0.0.1:8080"], workers: 1, access_log: {{path: "off"}}}}
admin: {{listen: null}}
origins: {{main: {{servers: ["{origin}"], timeouts: {{connect: 20s, first_byte: 20s}}}}}}
routes:
  - {{name: off, match: {{path: "/off"}}, origin: main}}
  - {{name: direct, match: {{path: "/direct"}}, cache: false, compress: true, origin: main}}
  - name: events
    match: {{path: "/events"}}
    cache: false
    compress: {{types: [text/event-stream], codings: gzip}}
    origin: main
  - {{name: cached, cache: {{ttl: 60s}}, compress: true, origin: main}}
"""
TEXT = b"all work and no play makes jack a dull boy. " * 100
UNPACK = {
    "": lambda data: data,
    "gzip": gzip.decompress,
    "br": brotli.decompress,
    "zstd": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
}


def page(*fields: str, body: bytes = TEXT, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Content-Type: text/plain", *fields]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Stage:
    """An edge, started for an origin's script."""

    def __init__(self, folder: Path, stack: AsyncExitStack, door: str) -> None:
        self._folder, self._stack, self._door = folder, stack, door

    async def __call__(self, *scripts: Script) -> tuple[Running, ScriptedOrigin]:
        origin = await self._stack.enter_async_context(ScriptedOrigin(*scripts))
        text = CONFIG.format(origin=origin.url)
        return await self._stack.enter_async_context(running(text, self._folder, self._door)), origin


@pytest.fixture
async def stage(tmp_path: Path, door: str) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        yield Stage(tmp_path, stack, door)


def plain(answer: Answer) -> bytes:
    return UNPACK[answer["content-encoding"]](answer.body)


@pytest.mark.parametrize("path", ["/a", "/direct"])
@pytest.mark.parametrize(
    ("accepted", "coding"),
    [("gzip, br, zstd", "zstd"), ("gzip, br", "br"), ("gzip", "gzip"), ("deflate", "")],
)
async def test_a_text_comes_in_the_coding_that_the_client_takes(
    stage: Stage, path: str, accepted: str, coding: str
) -> None:
    edge, origin = await stage(always(page('ETag: "v1"', "Content-Digest: d", "Vary: Origin")))
    answer = await edge.ask(path, f"Accept-Encoding: {accepted}")
    assert (answer.status, answer["content-encoding"], plain(answer)) == (200, coding, TEXT)
    assert answer["vary"] == "Origin, Accept-Encoding"
    assert answer["etag"] == ('W/"v1"' if coding else '"v1"')
    assert answer["content-digest"] == ("" if coding else "d")
    assert len(answer.body) < 200 or not coding
    assert f"\r\naccept-encoding: {coding or 'identity'}\r\n".encode() in origin.heads[0].lower()


async def test_each_coding_is_made_and_stored_once(stage: Stage) -> None:
    edge, origin = await stage(always(page('ETag: "v1"')))
    for accepted, stored in [
        ("gzip, br, zstd", False),
        ("zstd;q=0.9, br;q=0.1", True),
        ("br", False),
        ("gzip;q=0.1, br", True),
        ("gzip", False),
        ("", False),
        ("identity", True),
        ("deflate", True),
    ]:
        answer = await edge.ask("/a", *([f"Accept-Encoding: {accepted}"] if accepted else []))
        assert ("; hit" in answer["cache-status"]) is stored, accepted
        assert plain(answer) == TEXT
        if stored:
            assert answer["content-length"] == str(len(answer.body))
    assert len(origin.heads) == 4
    entries = list(edge.worker.hall.edge.store)
    assert [entry.names for entry in entries] == [()] * 4, "a hit compares no fields"


async def test_a_route_that_does_not_compress_leaves_all_as_it_is(stage: Stage) -> None:
    edge, origin = await stage(always(page('ETag: "v1"')))
    answer = await edge.ask("/off", "Accept-Encoding: gzip, br")
    assert (answer["content-encoding"], answer["vary"], answer["etag"], answer.body) == ("", "", '"v1"', TEXT)
    assert b"\r\naccept-encoding: gzip, br\r\n" in origin.heads[0].lower()


@pytest.mark.parametrize(
    "field",
    ["Content-Encoding: gzip", "Cache-Control: max-age=9, no-transform"],
    ids=["coded by the origin", "no-transform"],
)
async def test_what_must_stay_stays(stage: Stage, field: str) -> None:
    edge, _ = await stage(always(page('ETag: "v1"', field)))
    for _ in range(2):
        answer = await edge.ask("/a", "Accept-Encoding: gzip, br")
        assert (answer.body, answer["etag"]) == (TEXT, '"v1"')


async def test_a_client_that_wants_no_transformation_gets_none(stage: Stage) -> None:
    edge, _ = await stage(always(page()))
    await edge.ask("/a", "Accept-Encoding: br")
    answer = await edge.ask("/a", "Accept-Encoding: br", "Cache-Control: no-transform")
    assert (answer["content-encoding"], answer.body) == ("", TEXT)


async def test_ranges_are_of_the_plain_form(stage: Stage) -> None:
    edge, origin = await stage(always(page('ETag: "v1"')))
    await edge.ask("/a", "Accept-Encoding: br")
    for _ in range(2):
        part = await edge.ask("/a", "Accept-Encoding: br", "Range: bytes=0-7", 'If-Range: "v1"')
        assert (part.status, part.body, part["content-encoding"]) == (206, b"all work", "")
        assert part["content-range"] == f"bytes 0-7/{len(TEXT)}"
    whole = await edge.ask("/a", "Accept-Encoding: br", "Range: bytes=0-7", 'If-Range: W/"v1"')
    assert (whole.status, whole.body) == (200, TEXT), "the tag of the compressed form names no plain bytes"
    assert len(origin.heads) == 2


async def test_head_says_what_get_would(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        while head := await peer.head():
            answer = page('ETag: "v1"')
            await peer.send(
                answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if head.startswith(b"HEAD") else answer
            )

    edge, _ = await stage(script)
    missed = await edge.ask("/a", "Accept-Encoding: br", method="HEAD")
    assert (missed["content-encoding"], missed["etag"], missed["content-length"]) == ("br", 'W/"v1"', "")
    got = await edge.ask("/a", "Accept-Encoding: br")
    hit = await edge.ask("/a", "Accept-Encoding: br", method="HEAD")
    assert "; hit" in hit["cache-status"]
    for name in ("content-encoding", "etag", "vary"):
        assert missed[name] == got[name] == hit[name]
    assert hit["content-length"] == str(len(got.body))


async def test_head_updates_what_is_stored_compressed(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        while head := await peer.head():
            answer = page('ETag: "v1"', "Vary: Origin")
            await peer.send(
                answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if head.startswith(b"HEAD") else answer
            )

    edge, origin = await stage(script)
    await edge.ask("/a", "Accept-Encoding: br")
    entry = next(iter(edge.worker.hall.edge.store))
    entry.fresh_until -= 100
    await edge.ask("/a", "Accept-Encoding: br", method="HEAD")
    hit = await edge.ask("/a", "Accept-Encoding: br")
    assert "; hit" in hit["cache-status"]
    assert (plain(hit), hit["etag"], hit["vary"]) == (TEXT, 'W/"v1"', "Origin, Accept-Encoding")
    assert len(origin.heads) == 2


async def test_a_validated_answer_stays_what_it_is(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        while head := await peer.head():
            if b'if-none-match: w/"v1"' in head.lower():
                await peer.send(b'HTTP/1.1 304 Not Modified\r\nETag: "v1"\r\nVary: Origin\r\n\r\n')
            else:
                await peer.send(page('ETag: "v1"', "Vary: Origin"))

    edge, origin = await stage(script)
    await edge.ask("/a", "Accept-Encoding: br")
    validated = await edge.ask("/a", "Accept-Encoding: br", "Cache-Control: no-cache")
    assert "fwd-status=304" in validated["cache-status"]
    hit = await edge.ask("/a", "Accept-Encoding: br")
    for answer in (validated, hit):
        assert (plain(answer), answer["content-encoding"], answer["etag"]) == (TEXT, "br", 'W/"v1"')
        assert answer["vary"] == "Origin, Accept-Encoding"
    assert (await edge.ask("/a", "Accept-Encoding: br", 'If-None-Match: W/"v1"')).status == 304
    relayed = await edge.ask("/direct", "Accept-Encoding: br", 'If-None-Match: W/"v1"')
    assert (relayed.status, relayed["etag"], relayed["vary"]) == (304, 'W/"v1"', "Origin, Accept-Encoding")
    assert len(origin.heads) == 3


async def test_all_who_wait_read_the_same_compressed_body(stage: Stage) -> None:
    gate = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/css\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(3):
            await gate.wait()
            await peer.send(b"%x\r\n%b\r\n" % (len(TEXT), TEXT))
        await peer.send(b"0\r\n\r\n")
        await peer.eof()

    edge, origin = await stage(script)
    asking = [asyncio.create_task(edge.ask("/a", "Accept-Encoding: br")) for _ in range(5)]
    while not origin.heads:
        await asyncio.sleep(0.005)
    gate.set()
    for answer in await asyncio.gather(*asking):
        assert plain(answer) == 3 * TEXT
    assert len(origin.heads) == 1
    assert plain(await edge.ask("/a", "Accept-Encoding: br")) == 3 * TEXT


async def test_each_event_can_be_read_when_it_comes(stage: Stage) -> None:
    gate = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(2):
            await gate.wait()
            gate.clear()
            await peer.send(b"9\r\ndata: 1\n\n\r\n")
        await peer.eof()

    edge, _ = await stage(script)
    client = await edge.client()
    client.send(b"GET /events HTTP/1.1\r\nHost: example.com\r\nAccept-Encoding: gzip\r\n\r\n")
    assert b"content-encoding: gzip" in (await client.head()).lower()
    unpack = zlib.decompressobj(31)
    for _ in range(2):
        gate.set()
        async with asyncio.timeout(PATIENCE):
            event = b""
            while event != b"data: 1\n\n":
                size = int(await client.reader.readuntil(b"\r\n"), 16)
                event += unpack.decompress(await client.reader.readexactly(size))
                await client.reader.readexactly(2)


async def test_an_answer_that_breaks_off_does_not_look_whole(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(page()[:-10])
        peer.close()

    edge, _ = await stage(script)
    for path in ("/a", "/direct"):
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await edge.ask(path, "Accept-Encoding: br")
    assert len(edge.worker.hall.edge.store) == 0


async def test_a_slow_reader_of_a_compressed_answer_pauses_the_origin(stage: Stage) -> None:
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n")
        while sent < 64:
            data = os.urandom(2**20)
            await peer.send(b"%x\r\n%b\r\n" % (len(data), data))
            sent += 1
        await peer.send(b"0\r\n\r\n")
        await peer.eof()

    edge, _ = await stage(script)
    client = await edge.client()
    client.send(b"GET /direct HTTP/1.1\r\nHost: example.com\r\nAccept-Encoding: zstd\r\n\r\n")
    await client.head()
    before = -1
    while before != sent:
        before = sent
        await asyncio.sleep(0.3)
    assert sent < 64
    client.writer.close()


LONG = b"".join(b"%d green bottles hanging on the wall\n" % number for number in range(80_000))


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
@pytest.mark.parametrize("path", ["/a", "/direct"])
@pytest.mark.parametrize("counted", [True, False], ids=["counted", "chunked"])
async def test_a_long_text_comes_whole(stage: Stage, path: str, coding: str, counted: bool) -> None:
    framed = b"%x\r\n%b\r\n0\r\n\r\n" % (len(LONG), LONG)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
    edge, origin = await stage(always(page(body=LONG) if counted else head + framed))
    answers = await asyncio.gather(*[edge.ask(path, f"Accept-Encoding: {coding}") for _ in range(2)])
    client = await edge.client()
    answers += [await client.ask(path, f"Accept-Encoding: {coding}") for _ in range(2)]
    assert [plain(answer) == LONG for answer in answers] == [True] * 4
    assert ("; hit" in answers[-1]["cache-status"]) is (path == "/a")
    assert len(origin.heads) == (1 if path == "/a" else 4)


class Said:
    """What a connection was told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.brake = Brake(lambda: self.said.append("pause"), lambda: self.said.append("resume"))


async def test_a_long_body_is_compressed_in_several_turns_while_the_origin_waits() -> None:
    said, done = Said(), list[object]()
    body = Body(2**30, lambda: None, lambda: None)
    press = Press(CODERS[b"gzip"], len(LONG), CodingMeters(Cells(1).slot(0), "a", "gzip"))
    pressed = PressedBody(body, press, said.brake, done.append)
    half = len(LONG) // 2
    pressed.add(LONG[:half])
    assert (press.taken, said.said) == (SLICE, ["pause"])
    turns = 0
    while press.taken < half:
        before = press.taken
        await asyncio.sleep(0)
        assert press.taken - before <= SLICE
        turns += 1
    assert turns >= half // SLICE
    assert said.said == ["pause", "resume"]
    pressed.add(LONG[half:])
    pressed.end()
    pressed.over(None)
    assert (body.ended, done) == (False, [])
    while not done:
        await asyncio.sleep(0)
    assert (body.ended, done) == (True, [None])
    assert gzip.decompress(body.content()) == LONG
    assert said.said == ["pause", "resume", "pause"], "the connection may be somebody else's by now"


async def test_what_is_left_of_a_body_that_nobody_wants_is_not_compressed() -> None:
    done = list[object]()
    body = Body(1000, lambda: None, lambda: None, stop=lambda: None)
    press = Press(CODERS[b"gzip"], None, CodingMeters(Cells(1).slot(0), "a", "gzip"))
    pressed = PressedBody(body, press, Said().brake, done.append)
    pressed.add(LONG)
    pressed.end()
    pressed.over(None)
    for _ in range(len(LONG) // SLICE + 2):
        await asyncio.sleep(0)
    assert (body.ended, body.broken, done) == (True, True, [])
    assert press.taken < len(LONG)


async def test_what_it_saves_is_counted(stage: Stage) -> None:
    edge, _ = await stage(always(page()))
    answer = await edge.ask("/direct", "Accept-Encoding: gzip")
    metrics = render(edge.worker.shared.cells, 0.0)[1].decode()
    name = 'edgeproxy_compression_bytes_total{coding="gzip",route="direct",side='
    assert f'{name}"before"}} {float(len(TEXT))}' in metrics
    assert f'{name}"after"}} {float(len(answer.body))}' in metrics
