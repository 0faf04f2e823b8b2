"""Responses case by case, a table per section of RFC 9112: bytes of an origin in, what is made of them out.

Each is read by a connection of the pool, at once and byte by byte: its body, or the word of RFC 9209 for what
is wrong with it, and whether the connection may be used again. `tests/origin/test_reading.py` and
`test_refusals.py` have more of both, `test_bodies_of_responses.py` what clients get.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from tests.helpers.scripted_origin import Peer, ScriptedOrigin
from tests.origin.support import GET, HEAD, ask, eventually, kept, upstream

H = b"HTTP/1.1 200 OK\r\n"
IN_CHUNKS = H + b"Transfer-Encoding: chunked\r\n\r\n"
FIVE = b"Content-Length: 5\r\n\r\nhello"
PROTOCOL, SIZE = "http_protocol_error", "http_response_header_section_size"
CUT, NONE = "http_response_incomplete", "connection_terminated"
KEPT, CLOSED = True, False


def with_status(line: bytes) -> bytes:
    return line + b"\r\n" + FIVE


def with_field(*lines: bytes) -> bytes:
    return H + b"".join([line + b"\r\n" for line in lines]) + FIVE


def chunked(body: bytes) -> bytes:
    return IN_CHUNKS + body


Case = tuple[bytes, "bytes | str", bool]  # the body, or the error
WHOLE = b"hello"

SECTION_2 = {
    "2.2 bare LF behind the status line": (b"HTTP/1.1 200 OK\n" + FIVE, PROTOCOL, CLOSED),
    "2.2 bare CR behind the status line": (b"HTTP/1.1 200 OK\rA: b\r\n" + FIVE, PROTOCOL, CLOSED),
    "2.2 bare LF behind a field": (with_field(b"A: b\nC: d"), PROTOCOL, CLOSED),
    "2.2 bare LF at the end of the head": (H + b"Content-Length: 5\r\n\nhello", PROTOCOL, CLOSED),
    "2.2 two CRs": (with_field(b"A: b\r"), PROTOCOL, CLOSED),
    "2.2 space before the first field": (with_field(b" A: b"), PROTOCOL, CLOSED),
    "2.2 an 8-bit value": (with_field(b"A: \xff"), WHOLE, KEPT),
    "2.3 HTTP/1.0": (with_status(b"HTTP/1.0 200 OK"), WHOLE, CLOSED),
    "2.3 HTTP/1.2": (with_status(b"HTTP/1.2 200 OK"), PROTOCOL, CLOSED),
    "2.3 HTTP/1.10": (with_status(b"HTTP/1.10 200 OK"), PROTOCOL, CLOSED),
    "2.3 HTTP/3.0": (with_status(b"HTTP/3.0 200 OK"), PROTOCOL, CLOSED),
    "2.3 lower case": (with_status(b"http/1.1 200 OK"), PROTOCOL, CLOSED),
    "2.3 ICY": (with_status(b"ICY 200 OK"), PROTOCOL, CLOSED),
    "2.3 frames of HTTP/2": (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + b"\0" * 18, PROTOCOL, CLOSED),
    "2.3 an alert of TLS": (b"\x15\x03\x01\x00\x02\x02\x46", PROTOCOL, CLOSED),
}

SECTION_4 = {
    "4 no reason": (with_status(b"HTTP/1.1 200 "), WHOLE, KEPT),
    "4 no reason and no space": (with_status(b"HTTP/1.1 200"), WHOLE, KEPT),
    "4 an 8-bit reason": (with_status(b"HTTP/1.1 200 \xc3\x9cber"), WHOLE, KEPT),
    "4 a tab in the reason": (with_status(b"HTTP/1.1 200 O\tK"), WHOLE, KEPT),
    "4 a bare CR in the reason": (with_status(b"HTTP/1.1 200 O\rK"), PROTOCOL, CLOSED),
    "4 a bare LF in the reason": (with_status(b"HTTP/1.1 200 O\nK"), PROTOCOL, CLOSED),
    "4 two digits": (with_status(b"HTTP/1.1 20 OK"), PROTOCOL, CLOSED),
    "4 four digits": (with_status(b"HTTP/1.1 2000 OK"), PROTOCOL, CLOSED),
    "4 a sign": (with_status(b"HTTP/1.1 +20 OK"), PROTOCOL, CLOSED),
    "4 no space behind the version": (with_status(b"HTTP/1.1200 OK"), PROTOCOL, CLOSED),
    "4 a status of 000": (with_status(b"HTTP/1.1 000 OK"), PROTOCOL, CLOSED),
    "4 a status of 099": (with_status(b"HTTP/1.1 099 OK"), PROTOCOL, CLOSED),
    "4 a status of 600": (with_status(b"HTTP/1.1 600 OK"), PROTOCOL, CLOSED),
    "4 a status of 599": (with_status(b"HTTP/1.1 599 Odd"), WHOLE, KEPT),
    "4 a reason without end": (b"HTTP/1.1 200 " + b"x" * 600_000, SIZE, CLOSED),
}

SECTION_5 = {
    "5.1 a space before the colon": (with_field(b"A : b"), PROTOCOL, CLOSED),
    "5.1 a tab before the colon": (with_field(b"A\t: b"), PROTOCOL, CLOSED),
    "5.1 no colon": (with_field(b"A b"), PROTOCOL, CLOSED),
    "5.1 no name": (with_field(b": b"), PROTOCOL, CLOSED),
    "5.1 an 8-bit name": (with_field(b"\xc4: b"), PROTOCOL, CLOSED),
    "5.1 no value": (with_field(b"A:"), WHOLE, KEPT),
    "5.2 folded with a space": (with_field(b"A: b\r\n c"), PROTOCOL, CLOSED),
    "5.2 folded with a tab": (with_field(b"A: b\r\n\tc"), PROTOCOL, CLOSED),
    "5.2 folded Content-Length": (H + b"Content-Length: 5\r\n 0\r\n\r\nhello", PROTOCOL, CLOSED),
    "5.2 folded Transfer-Encoding": (
        H + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        PROTOCOL,
        CLOSED,
    ),
    "5.5 NUL": (with_field(b"A: b\0"), PROTOCOL, CLOSED),
    "5.5 DEL": (with_field(b"A: b\x7f"), PROTOCOL, CLOSED),
}

SECTION_6 = {
    **{
        f"6.1 Transfer-Encoding: {value.decode('latin-1')!r}": (
            H + b"Transfer-Encoding: " + value + b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n", PROTOCOL, CLOSED,
        )
        for value in (
            b"identity", b"gzip", b"gzip, chunked", b"chunked, gzip", b"chunked, chunked", b"chunked,",
            b",chunked", b"chunked;q=1", b'"chunked"', b"chunke", b"chunkedx", b"", b"\x0bchunked",
            b"chunk\xe9d", b"identity, chunked",
        )
    },
    "6.1 in two lines": (
        H + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", PROTOCOL, CLOSED,
    ),
    "6.1 in capitals": (H + b"Transfer-Encoding: CHUNKED\r\n\r\n5\r\nhello\r\n0\r\n\r\n", WHOLE, KEPT),
    "6.1 in HTTP/1.0": (
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", PROTOCOL, CLOSED,
    ),
    "6.1 in HTTP/1.0 with keep-alive": (
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        PROTOCOL, CLOSED,
    ),
    "6.1 and a length before": (
        H + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", PROTOCOL, CLOSED,
    ),
    "6.1 and a length behind": (
        H + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", PROTOCOL, CLOSED,
    ),
    "6.1 and a length of 0": (
        H + b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n", PROTOCOL, CLOSED,
    ),
    "6.1 with 204": (
        b"HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n", b"", CLOSED,
    ),
    "6.1 with 1xx": (
        b"HTTP/1.1 103 Hints\r\nTransfer-Encoding: chunked\r\n\r\n" + H + FIVE, WHOLE, KEPT,
    ),
    **{
        f"6.2 Content-Length: {value.decode('latin-1')!r}": (
            H + b"Content-Length: " + value + b"\r\n\r\nhello", PROTOCOL, CLOSED,
        )
        for value in (
            b"", b"-5", b"+5", b"5,5", b"5, 5", b"5,", b",5", b"5;", b"5 5", b"0x5", b"5h", b"5.0", b'"5"',
            b"\xb2", b"five", b"18446744073709551621", b"9" * 30,
        )
    },
    "6.2 zeros before": (H + b"Content-Length: 0005\r\n\r\nhello", WHOLE, KEPT),
    "6.2 space around": (H + b"Content-Length: \t5  \r\n\r\nhello", WHOLE, KEPT),
    "6.2 twice": (H + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", PROTOCOL, CLOSED),
    "6.2 two lengths": (H + b"Content-Length: 5\r\nContent-Length: 4\r\n\r\nhello", PROTOCOL, CLOSED),
    "6.2 with 1xx": (b"HTTP/1.1 103 Hints\r\nContent-Length: 0\r\n\r\n" + H + FIVE, WHOLE, KEPT),
    "6.2 with 204": (b"HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n", b"", CLOSED),
    "6.3 204 with a body": (b"HTTP/1.1 204 No\r\n\r\nhello", b"", CLOSED),
    "6.3 304 with a length": (b"HTTP/1.1 304 Not\r\nContent-Length: 5\r\n\r\n", b"", KEPT),
    "6.3 304 with its body": (b"HTTP/1.1 304 Not\r\n" + FIVE, b"", CLOSED),
    "6.3 304 with a coding": (b"HTTP/1.1 304 Not\r\nTransfer-Encoding: chunked\r\n\r\n", b"", KEPT),
    "6.3 304 with chunks": (
        b"HTTP/1.1 304 Not\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", b"", CLOSED,
    ),
    "6.3 205 with a length of 0": (b"HTTP/1.1 205 Reset\r\nContent-Length: 0\r\n\r\n", b"", KEPT),
    "6.3 205 with chunks": (
        b"HTTP/1.1 205 Reset\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"", KEPT,
    ),
    "6.3 205 with a body is read as framed": (b"HTTP/1.1 205 Reset\r\n" + FIVE, WHOLE, KEPT),
    "6.3 1xx with a body": (b"HTTP/1.1 103 Hints\r\n\r\nhello" + H + FIVE, PROTOCOL, CLOSED),
    "6.3 until the close": (H + b"\r\nhello", WHOLE, CLOSED),
    "6.3 until the close, in HTTP/1.0": (b"HTTP/1.0 200 OK\r\n\r\nhello", WHOLE, CLOSED),
    "6.3 until the close, whatever keep-alive says": (
        H + b"Connection: keep-alive\r\n\r\nhello", WHOLE, CLOSED,
    ),
    "6.3 HEAD with a length": (b"HEAD" + H + b"Content-Length: 5\r\n\r\n", b"", KEPT),
    "6.3 HEAD with its body": (b"HEAD" + H + FIVE, b"", CLOSED),
    "6.3 HEAD with a coding": (b"HEAD" + IN_CHUNKS, b"", KEPT),
    "6.3 HEAD with chunks": (b"HEAD" + IN_CHUNKS + b"5\r\nhello\r\n0\r\n\r\n", b"", CLOSED),
    "6.3 HEAD with two lengths": (
        b"HEAD" + H + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n", PROTOCOL, CLOSED,
    ),
}  # fmt: skip

SECTION_7 = {
    **{
        f"7.1 a size of {size.decode('latin-1')!r}": (
            chunked(size + b"\r\nhello\r\n0\r\n\r\n"), PROTOCOL, CLOSED,
        )
        for size in (
            b"", b" 5", b"5 ", b"\t5", b"+5", b"-5", b"0x5", b"5h", b"g", b"5.0", b"FFFFFFFFFFFFFFFF5",
            b"10000000000000005", b"\xb25", b"5\x00",
        )
    },
    "7.1 zeros before a size": (chunked(b"00000005\r\nhello\r\n0\r\n\r\n"), WHOLE, KEPT),
    "7.1 a last chunk of zeros": (chunked(b"5\r\nhello\r\n0000\r\n\r\n"), WHOLE, KEPT),
    "7.1 bare LF behind the size": (chunked(b"5\nhello\r\n0\r\n\r\n"), PROTOCOL, CLOSED),
    "7.1 bare LF behind the data": (chunked(b"5\r\nhello\n0\r\n\r\n"), PROTOCOL, CLOSED),
    "7.1 no line end behind the data": (chunked(b"5\r\nhello0\r\n\r\n"), PROTOCOL, CLOSED),
    "7.1 more data than its size": (chunked(b"4\r\nhello\r\n0\r\n\r\n"), PROTOCOL, CLOSED),
    "7.1 bare LF at the end": (chunked(b"5\r\nhello\r\n0\r\n\n"), PROTOCOL, CLOSED),
    "7.1.1 extensions": (chunked(b'5;a;b="c;d"\r\nhello\r\n0;e=f\r\n\r\n'), WHOLE, KEPT),
    "7.1.1 a quoted line end": (chunked(b'5;a="\r\nhello\r\n0\r\n\r\n'), PROTOCOL, CLOSED),
    "7.1.1 bare LF within": (chunked(b"5;a\nhello\r\n0\r\n\r\n"), PROTOCOL, CLOSED),
    "7.1.1 without end": (chunked(b"5;" + b"a" * 600_000), SIZE, CLOSED),
    "7.1.2 fields behind the body": (chunked(b"5\r\nhello\r\n0\r\nA: b\r\n\r\n"), WHOLE, KEPT),
    "7.1.2 a length among them": (chunked(b"5\r\nhello\r\n0\r\nContent-Length: 9\r\n\r\n"), PROTOCOL, CLOSED),
    "7.1.2 a folded one": (chunked(b"5\r\nhello\r\n0\r\nA: b\r\n c\r\n\r\n"), PROTOCOL, CLOSED),
    "7.1.2 one without a colon": (chunked(b"5\r\nhello\r\n0\r\nA b\r\n\r\n"), PROTOCOL, CLOSED),
    "7.1.2 bare LF behind one": (chunked(b"5\r\nhello\r\n0\r\nA: b\n\r\n"), PROTOCOL, CLOSED),
    "7.1.2 too many": (chunked(b"5\r\nhello\r\n0\r\n" + b"A: b\r\n" * 300 + b"\r\n"), SIZE, CLOSED),
    "7.1.2 without end": (chunked(b"5\r\nhello\r\n0\r\n" + b"A: b\r\n" * 100_000), SIZE, CLOSED),
}  # fmt: skip

SECTION_8 = {
    "8 before anything": (b"", NONE, CLOSED),
    "8 in the status line": (b"HTTP/1.1 20", CUT, CLOSED),
    "8 in a field": (H + b"A: b", CUT, CLOSED),
    "8 before the end of the head": (H + b"Content-Length: 0\r\n", CUT, CLOSED),
    "8 behind an interim answer": (b"HTTP/1.1 103 Hints\r\n\r\n", CUT, CLOSED),
    "8 behind the head": (H + b"Content-Length: 5\r\n\r\n", CUT, CLOSED),
    "8 in a counted body": (H + b"Content-Length: 5\r\n\r\nhell", CUT, CLOSED),
    "8 before the first size": (IN_CHUNKS, CUT, CLOSED),
    "8 in a size": (chunked(b"5"), CUT, CLOSED),
    "8 behind a size": (chunked(b"5\r\n"), CUT, CLOSED),
    "8 in a chunk": (chunked(b"5\r\nhel"), CUT, CLOSED),
    "8 behind a chunk": (chunked(b"5\r\nhello"), CUT, CLOSED),
    "8 before the last size": (chunked(b"5\r\nhello\r\n"), CUT, CLOSED),
    "8 in the last size": (chunked(b"5\r\nhello\r\n0"), CUT, CLOSED),
    "8 behind the last size": (chunked(b"5\r\nhello\r\n0\r\n"), CUT, CLOSED),
    "8 in the trailers": (chunked(b"5\r\nhello\r\n0\r\nA: b\r\n"), CUT, CLOSED),
    "8 in the last line end": (chunked(b"5\r\nhello\r\n0\r\n\r"), CUT, CLOSED),
}

SECTION_9 = {
    "9.3 HTTP/1.1": (with_field(), WHOLE, KEPT),
    "9.3 close": (with_field(b"Connection: close"), WHOLE, CLOSED),
    "9.3 close in capitals, in a list": (with_field(b"Connection: x ,CLOSE"), WHOLE, CLOSED),
    "9.3 close in a second line": (with_field(b"Connection: x", b"Connection: close"), WHOLE, CLOSED),
    "9.3 close and keep-alive": (with_field(b"Connection: keep-alive, close"), WHOLE, CLOSED),
    "9.3 what only looks like close": (with_field(b"Connection: closed"), WHOLE, KEPT),
    "9.3 HTTP/1.0 with keep-alive": (
        b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n" + FIVE, WHOLE, KEPT,
    ),
    "9.3 HTTP/1.0 with close and keep-alive": (
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive, close\r\n" + FIVE, WHOLE, CLOSED,
    ),
    "9.3 HTTP/1.0 with Proxy-Connection": (
        b"HTTP/1.0 200 OK\r\nProxy-Connection: keep-alive\r\n" + FIVE, WHOLE, CLOSED,
    ),
    "9.3 close with HEAD": (b"HEAD" + H + b"Connection: close\r\nContent-Length: 5\r\n\r\n", b"", CLOSED),
    "9.3 close and keep-alive with HEAD": (
        b"HEAD" + H + b"Connection: keep-alive, close\r\nContent-Length: 5\r\n\r\n", b"", CLOSED,
    ),
    "9.3 close with 204": (b"HTTP/1.1 204 No\r\nConnection: close\r\n\r\n", b"", CLOSED),
    "9.2 a byte too many": (H + FIVE + b"x", WHOLE, CLOSED),
    "9.2 a line end too many": (H + FIVE + b"\r\n", WHOLE, CLOSED),
    "9.2 a response too many": (H + FIVE + H + FIVE, WHOLE, CLOSED),
    "9.2 an interim answer too many": (H + FIVE + b"HTTP/1.1 100 Go\r\n\r\n", WHOLE, CLOSED),
    "9.2 interim answers before it": (b"HTTP/1.1 102 Wait\r\n\r\n" * 10 + H + FIVE, WHOLE, KEPT),
    "9.2 a flood of them": (b"HTTP/1.1 102 Wait\r\n\r\n" * 11 + H + FIVE, PROTOCOL, CLOSED),
    "9.9 a switch that nobody asked for": (
        b"HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", PROTOCOL, CLOSED,
    ),
}  # fmt: skip

SECTIONS: list[Mapping[str, Case]] = [
    SECTION_2, SECTION_4, SECTION_5, SECTION_6, SECTION_7, SECTION_8, SECTION_9,
]  # fmt: skip
LONGEST_IN_BYTES = 2000
CASES = [pytest.param(name, *case, id=f"§{name}") for each in SECTIONS for name, case in each.items()]


@pytest.mark.parametrize(("name", "response", "then", "stays"), CASES)
@pytest.mark.parametrize("cut", [False, True], ids=["at once", "byte by byte"])
async def test_a_response_is_read_as_one_or_refused(
    name: str, response: bytes, then: bytes | str, stays: bool, cut: bool
) -> None:
    asked = HEAD if response.startswith(b"HEAD") else GET
    response = response.removeprefix(b"HEAD")
    if cut and len(response) > LONGEST_IN_BYTES:
        pytest.skip("as good as at once")

    async def script(peer: Peer) -> None:
        await peer.head()
        await (peer.drip(response) if cut else peer.send(response))
        if then in (CUT, NONE) or "until the close" in name:
            peer.half_close()
        await peer.eof()

    async with ScriptedOrigin(script) as origin, upstream(origin.url) as made:
        connection, sink = await ask(made, asked)
        await eventually(lambda: stays or connection.closed)
        assert kept(made) == stays
        if isinstance(then, str):
            assert sink.outcome == then
            assert made.open == 0
        else:
            assert (sink.outcome, sink.body) == ("end", then)
        assert made.servers[0].in_flight == 0


async def test_what_comes_while_nobody_asks_costs_the_connection() -> None:
    """§9.2: a 408, or an answer before its question, belongs to no request."""
    gate = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(H + FIVE)
        await gate.wait()
        await peer.send(b"HTTP/1.1 408 Timeout\r\nContent-Length: 0\r\n\r\n")
        await peer.eof()

    async with ScriptedOrigin(script) as origin, upstream(origin.url) as made:
        connection, _ = await ask(made, GET)
        assert kept(made)
        gate.set()
        await eventually(lambda: connection.closed)
        assert made.open == 0
