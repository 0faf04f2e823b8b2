"""Malformed, contradictory and hostile answers of origins: each has a defined answer, poisons nothing and
stays within bounds (both doors)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.edge import running
from tests.helpers.scripted_origin import Peer, ScriptedOrigin

CONFIG = """
edge: {{id: edge-1, pop: ams}}
server: {{listen: ["127.0.0.1:8080"], workers: 1, access_log: {{path: "off"}}}}
admin: {{listen: null}}
cache: {{memory: 4MiB, object_size: 1MiB}}
origins: {{main: {{servers: ["{origin}"], ejection: null, breaker: {{failures: 0}},
  timeouts: {{connect: 20s, first_byte: 20s, between_bytes: {patience}}}}}}}
routes: [{{name: all, origin: main}}]
"""
OK = b"HTTP/1.1 200 OK\r\n"
FRESH = OK + b"Cache-Control: max-age=60\r\n"
FIVE = b"Content-Length: 5\r\n\r\nwrong"
GOOD = FRESH + b"Content-Length: 4\r\n\r\ngood"
BROKEN = 0  # the answer begins, and breaks off


@dataclass
class Row:
    """What the origin sends to a GET, what a client may get, and whether that may be kept."""

    name: str
    raw: bytes
    expected: tuple[int, ...]
    kept: bool = False
    closes: bool = False
    method: str = "GET"
    stops: bool = False


FRAMING = [
    Row("two lengths that differ", FRESH + b"Content-Length: 5\r\nContent-Length: 4\r\n\r\nwrong", (502,)),
    Row("lengths in a list that differ", FRESH + b"Content-Length: 5, 4\r\n\r\nwrong", (502,)),
    Row(
        "a length and chunks",
        FRESH + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        (502,),
    ),
    Row(
        "chunks and a length",
        FRESH + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        (502,),
    ),
    Row("chunks in HTTP/1.0", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", (502,)),
    Row("chunked twice", FRESH + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", (502,)),
    Row("chunked is not last", FRESH + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", (502,)),
    Row("an unknown coding", FRESH + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", (502,)),
    *[
        Row(f"a length of {value!r}", FRESH + b"Content-Length: " + value + b"\r\n\r\nwrong", (502,))
        for value in (b"-5", b"+5", b"0x5", b"5 5", b"five", b"", b"9" * 40, b"5\x00", b"5;x")
    ],
    Row(
        "a chunk of no number",
        FRESH + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nwrong\r\n0\r\n\r\n",
        (BROKEN, 502),
    ),
    Row(
        "a chunk beyond 2^64",
        FRESH + b"Transfer-Encoding: chunked\r\n\r\n" + b"F" * 17 + b"\r\nx",
        (BROKEN, 502),
    ),
    Row(
        "a chunk without its end",
        FRESH + b"Transfer-Encoding: chunked\r\n\r\n3\r\nwrong\r\n0\r\n\r\n",
        (BROKEN, 502),
    ),
    Row(
        "a chunk extension without end",
        FRESH + b"Transfer-Encoding: chunked\r\n\r\n5;" + b"x" * 10**6 + b"\r\nwrong\r\n0\r\n\r\n",
        (BROKEN, 502),
    ),
    Row(
        "chunks that end early",
        FRESH + b"Transfer-Encoding: chunked\r\n\r\n5\r\nwrong\r\n",
        (BROKEN,),
        closes=True,
    ),
    Row("a body that ends early", FRESH + b"Content-Length: 50\r\n\r\nwrong", (BROKEN,), closes=True),
    Row("a body that stops", FRESH + b"Content-Length: 50\r\n\r\nwrong", (BROKEN,), stops=True),
    Row(
        "trailers without end",
        FRESH + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: y\r\n" * 10**5,
        (200, BROKEN, 502),
    ),
    Row("more than its length", FRESH + FIVE + GOOD, (200,), kept=True),
    Row("a 204 with a body", b"HTTP/1.1 204 No\r\n" + FIVE, (204, 502)),
    Row("a 304 that nobody asked for", b'HTTP/1.1 304 No\r\nETag: "x"\r\n\r\n', (304, 502)),
    Row("a HEAD with a body", FRESH + FIVE, (200, 502), method="HEAD"),
]
HEADS = [
    Row("nothing at all", b"", (502,), closes=True),
    Row("no HTTP", b"SSH-2.0-OpenSSH_9\r\n\r\n", (502,)),
    Row("HTTP/0.9", b"<html>wrong</html>", (502,), closes=True),
    Row("HTTP/9.9", b"HTTP/9.9 200 OK\r\n" + FIVE, (502,)),
    Row("a status of two digits", b"HTTP/1.1 99 OK\r\n" + FIVE, (502,)),
    Row("a status of four digits", b"HTTP/1.1 1000 OK\r\n" + FIVE, (502,)),
    Row("a status of letters", b"HTTP/1.1 abc OK\r\n" + FIVE, (502,)),
    Row("a status of 600 and more", b"HTTP/1.1 777 OK\r\n" + FIVE, (502, 777)),
    Row("no reason", b"HTTP/1.1 200\r\n" + FIVE, (200,)),
    Row("a line without a colon", FRESH + b"wrong\r\n" + FIVE, (502,)),
    Row("a space before the colon", FRESH + b"X-A : b\r\n" + FIVE, (502,)),
    Row("a folded line", FRESH + b"X-A: b\r\n c\r\n" + FIVE, (200, 502)),
    Row("a name that is none", FRESH + b"X(A): b\r\n" + FIVE, (502,)),
    Row("an empty name", FRESH + b": b\r\n" + FIVE, (502,)),
    Row("NUL in a value", FRESH + b"X-A: a\x00b\r\n" + FIVE, (502,)),
    Row("CR in a value", FRESH + b"X-A: a\rb\r\n" + FIVE, (502,)),
    Row(
        "10 MB of fields",
        FRESH + b"".join(b"X-%d: %b\r\n" % (n, b"x" * 1000) for n in range(10_000)) + FIVE,
        (502,),
    ),
    Row("one field of 10 MB", FRESH + b"X-A: " + b"x" * 10**7 + b"\r\n" + FIVE, (502,)),
    Row("a head without end", FRESH + b"X-A: b\r\n" * 10**5, (502,)),
    Row("interim answers without end", b"HTTP/1.1 103 Hints\r\nLink: <x>\r\n\r\n" * 10**4 + GOOD, (502,)),
    Row("a switch that nobody asked for", b"HTTP/1.1 101 Go\r\nUpgrade: x\r\n\r\nwrong", (502,)),
]
CACHING = [
    Row("Age of 2^63", FRESH + b"Age: 9223372036854775808\r\n" + FIVE, (200,)),
    Row("Age of 2^31", FRESH + b"Age: 2147483648\r\n" + FIVE, (200,)),
    Row("Age of 1,000 digits", FRESH + b"Age: " + b"9" * 1000 + b"\r\n" + FIVE, (200,)),
    Row(
        "max-age of 1,000 digits",
        OK + b"Cache-Control: max-age=" + b"9" * 1000 + b"\r\n" + FIVE,
        (200,),
        kept=True,
    ),
    Row("a date in year 0", FRESH + b"Date: Sat, 01 Jan 0000 00:00:00 GMT\r\n" + FIVE, (200,), kept=True),
    Row("a date in 9999", FRESH + b"Date: Fri, 31 Dec 9999 23:59:59 GMT\r\n" + FIVE, (200,), kept=True),
    Row("a date in 1970", FRESH + b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n" + FIVE, (200,)),
    Row("the 31st of February", FRESH + b"Date: Mon, 31 Feb 2026 00:00:00 GMT\r\n" + FIVE, (200,)),
    Row("Expires in year 0", OK + b"Expires: Sat, 01 Jan 0000 00:00:00 GMT\r\n" + FIVE, (200,)),
    Row("Last-Modified in 9999", OK + b"Last-Modified: Fri, 31 Dec 9999 23:59:59 GMT\r\n" + FIVE, (200,)),
    Row(
        "Vary with 1,000 names",
        FRESH + b"Vary: " + b",".join(b"x%d" % n for n in range(1000)) + b"\r\n" + FIVE,
        (200,),
    ),
    Row("Vary of no names", FRESH + b"Vary: ,,\r\n" + FIVE, (200,), kept=True),
    Row("Vary of what is no name", FRESH + b"Vary: a b, (c)\r\n" + FIVE, (200,), kept=True),
    Row(
        "Cache-Control of 64 KiB",
        OK + b"Cache-Control: max-age=60" + b", x" * 20_000 + b"\r\n" + FIVE,
        (200, 502),
    ),
    Row(
        "Cache-Control of 10 KiB", OK + b"Cache-Control: max-age=60" + b", x" * 3000 + b"\r\n" + FIVE, (200,)
    ),
    Row("Cache-Control in 60 lines", OK + b"Cache-Control: max-age=60\r\n" * 60 + FIVE, (200,), kept=True),
    Row(
        "CDN-Cache-Control of 10 KiB",
        FRESH + b"CDN-Cache-Control: no-store" + b", x" * 3000 + b"\r\n" + FIVE,
        (200,),
        kept=True,
    ),
    Row(
        "tags by the thousand",
        FRESH + b"Cache-Tag: " + b",".join(b"t%d" % n for n in range(3000)) + b"\r\n" + FIVE,
        (200,),
    ),
    Row("groups that are no list", FRESH + b'Cache-Groups: "a", (((\r\n' + FIVE, (200,), kept=True),
    Row("an ETag of 8 KB", FRESH + b'ETag: "' + b"x" * 8000 + b'"\r\n' + FIVE, (200,), kept=True),
    Row("an ETag without quotes", FRESH + b"ETag: wrong\r\n" + FIVE, (200,), kept=True),
    Row("two ETags", FRESH + b'ETag: "a"\r\nETag: "b"\r\n' + FIVE, (200,), kept=True),
    Row("50 cookies", FRESH + b"Set-Cookie: a=b\r\n" * 50 + FIVE, (200,)),
    Row(
        "a part that nobody asked for",
        b"HTTP/1.1 206 P\r\nCache-Control: max-age=60\r\nContent-Range: bytes 0-4/9\r\n" + FIVE,
        (206, 502),
    ),
    Row("a 416 that nobody asked for", b"HTTP/1.1 416 No\r\nCache-Control: max-age=60\r\n" + FIVE, (416,)),
    Row("Connection names Cache-Control", FRESH + b"Connection: cache-control\r\n" + FIVE, (200,), kept=True),
    Row(
        "Connection names Content-Length",
        FRESH + b"Connection: content-length\r\n" + FIVE,
        (200, 502),
        kept=True,
    ),
]


@pytest.mark.parametrize("door", ["native", "asgi"])
@pytest.mark.parametrize("row", [*FRAMING, *HEADS, *CACHING], ids=lambda row: row.name)
async def test_an_answer_that_should_not_be(tmp_path: Path, door: str, row: Row) -> None:
    bad = True

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            if not bad:
                await peer.send(GOOD)
                continue
            await peer.send(row.raw)
            if row.closes:
                peer.close()
                return

    patience = "500ms" if row.stops else "20s"
    async with (
        ScriptedOrigin(script) as origin,
        running(CONFIG.format(origin=origin.url, patience=patience), tmp_path, door) as edge,
    ):
        status, body = await _ask(await edge.client(), row.method)
        assert status in row.expected
        assert len(body) <= 2000
        bad = False
        again = await edge.ask()
        stored = "hit" in again["cache-status"]
        assert stored is (row.kept and status == 200)
        assert again.status == 200
        assert again.body == (b"wrong" if stored else b"good")
        assert (await edge.ask("/b")).body == b"good"
        worker = edge.worker
        assert worker.parts.store.bytes < 100_000
        assert not worker.hall.fetcher.flights.flights


async def _ask(client, method: str) -> tuple[int, bytes]:  # type: ignore[no-untyped-def]
    """(status, body); BROKEN when the answer breaks off."""
    client.send(f"{method} /a HTTP/1.1\r\nHost: example.com\r\n\r\n".encode())
    try:
        answer = await client.answer(method)
        while 100 <= answer.status < 200:
            answer = await client.answer(method)
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return BROKEN, b""
    return answer.status, answer.body
