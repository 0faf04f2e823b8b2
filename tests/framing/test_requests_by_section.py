"""Requests case by case, a table per section of RFC 9112: bytes of a client in, what is at the origin out.

Behind each request stands another one. One that is refused takes it along: nothing of what follows it is
answered or forwarded. One that is taken leaves it alone: it arrives as it is, and only it.
`tests/server/test_protocol.py` has the assertions A1 to A30 beside it, `test_bodies_of_requests.py` how
bodies arrive.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.helpers.edge import PATIENCE, Client, Running, running
from tests.helpers.scripted_origin import Peer, ScriptedOrigin

CONFIG = """
edge: {{id: edge-1}}
server: {{listen: ["127.0.0.1:8080"], access_log: {{path: "off"}}}}
admin: {{listen: null}}
origins: {{main: {{servers: ["{origin}"]}}}}
routes: [{{name: all, cache: false, origin: main}}]
"""
NEXT = b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
AND_NEXT = "GET /next h"
CLOSES = "closes"  # in place of the next one: it is answered, and is the last
HELLO = b"5\r\nhello\r\n0\r\n\r\n"
REFUSED = (400, 501)  # what a transfer coding that we do not speak may be


@dataclass
class Taken:
    """What arrived at the origin: `METHOD target host body` of each whole request."""

    requests: list[str] = field(default_factory=list[str])
    heads: list[bytes] = field(default_factory=list[bytes])

    async def script(self, peer: Peer) -> None:
        while True:
            head, body = await peer.request()
            line, *fields = head.decode("latin-1").split("\r\n")
            host = next(each[6:] for each in fields if each.startswith("Host: "))
            self.requests.append(" ".join([*line.split(" ")[:2], host, body.decode()]).strip())
            self.heads.append(head)
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@pytest.fixture
def taken() -> Taken:
    return Taken()


@pytest.fixture
async def edge(door: str, taken: Taken, tmp_path: Path) -> AsyncIterator[Running]:
    async with (
        ScriptedOrigin(taken.script) as origin,
        running(CONFIG.format(origin=origin.url), tmp_path, door) as edge,
    ):
        yield edge


def get(*fields: bytes, line: bytes = b"GET /a HTTP/1.1", host: bytes = b"Host: h\r\n") -> bytes:
    return line + b"\r\n" + host + b"".join([each + b"\r\n" for each in fields]) + b"\r\n"


def post(*fields: bytes, body: bytes = b"", line: bytes = b"POST /a HTTP/1.1") -> bytes:
    return get(*fields, line=line) + body


def chunked(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", body=body)


SECTION_2 = {
    "2.2 one line end before": (b"\r\n" + get(), ("GET /a h", AND_NEXT)),
    "2.2 several line ends before": (b"\r\n" * 8 + get(), ("GET /a h", AND_NEXT)),
    "2.2 space before the method": (b" " + get(), (400, 501)),
    "2.2 tab before the method": (b"\t" + get(), (400, 501)),
    "2.2 bare LF behind the request line": (get().replace(b"1.1\r\n", b"1.1\n"), 400),
    "2.2 bare CR behind the request line": (get().replace(b"1.1\r\n", b"1.1\r"), 400),
    "2.2 bare LF behind a field": (get(b"A: b\nC: d"), 400),
    "2.2 bare CR behind a field": (get(b"A: b\rC: d"), 400),
    "2.2 bare LF at the end of the head": (get()[:-2] + b"\n", 400),
    "2.2 two CRs": (get(b"A: b\r"), 400),
    "2.2 space before the first field": (get(host=b" Host: h\r\n"), 400),
    "2.2 a line of spaces before the first field": (get(host=b"  \r\nHost: h\r\n"), 400),
    "2.2 no UTF-8 needed": (get(b"A: \xff\xfe"), ("GET /a h", AND_NEXT)),
    "2.3 HTTP/1.2": (get(line=b"GET /a HTTP/1.2"), (400, 505)),
    "2.3 HTTP/1.10": (get(line=b"GET /a HTTP/1.10"), 400),
    "2.3 HTTP/01.1": (get(line=b"GET /a HTTP/01.1"), 400),
    "2.3 HTTP/3.0": (get(line=b"GET /a HTTP/3.0"), (400, 505)),
    "2.3 HTTP/1,1": (get(line=b"GET /a HTTP/1,1"), 400),
    "2.3 HTTP/ 1.1": (get(line=b"GET /a HTTP/ 1.1"), 400),
    "2.3 HTTP/1": (get(line=b"GET /a HTTP/1"), 400),
    "2.3 lower case": (get(line=b"GET /a http/1.1"), 400),
    "2.3 none, as in HTTP/0.9": (b"GET /a\r\n", 400),
    "2.3 the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, 501, 505)),
    "2.3 TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", (400, 501)),
}

SECTION_3 = {
    "3 two spaces behind the method": (get(line=b"GET  /a HTTP/1.1"), ("GET /a h", AND_NEXT)),
    "3 a tab behind the method": (get(line=b"GET\t/a HTTP/1.1"), (400, 501)),
    "3 two spaces behind the target": (get(line=b"GET /a  HTTP/1.1"), ("GET /a h", AND_NEXT)),
    "3 a space within the target": (get(line=b"GET /a b HTTP/1.1"), 400),
    "3 a space behind the version": (get(line=b"GET /a HTTP/1.1 "), 400),
    "3 no target": (get(line=b"GET HTTP/1.1"), 400),
    "3.1 a method in lower case": (get(line=b"get /a HTTP/1.1"), (400, 501)),
    "3.1 a method of no token": (get(line=b"G(T /a HTTP/1.1"), (400, 501)),
    "3.1 an unknown method": (get(line=b"FROB /a HTTP/1.1"), 501),
    "3.1 a method of 10,000 letters": (get(line=b"G" * 10_000 + b" /a HTTP/1.1"), (400, 501)),
    "3.2 no Host": (get(host=b""), 400),
    "3.2 two Hosts": (get(b"Host: i"), 400),
    "3.2 two Hosts that agree": (get(b"hOST: h"), 400),
    "3.2 a list of Hosts": (get(host=b"Host: h, i\r\n"), 400),
    "3.2 an empty Host": (get(host=b"Host:\r\n"), 400),
    "3.2 Host with a user": (get(host=b"Host: u:p@h\r\n"), 400),
    "3.2 Host with a scheme": (get(host=b"Host: http://h\r\n"), 400),
    "3.2 Host with a port of letters": (get(host=b"Host: h:x\r\n"), 400),
    "3.2 Host with no port behind the colon": (get(host=b"Host: h:\r\n"), ("GET /a h", AND_NEXT)),
    "3.2 Host with an 8-bit byte": (get(host=b"Host: h\xff\r\n"), 400),
    "3.2 Host at the end": (get(host=b"A: b\r\nHost: h\r\n"), ("GET /a h", AND_NEXT)),
    "3.2 HTTP/1.0 with two Hosts": (get(b"Host: i", line=b"GET /a HTTP/1.0"), 400),
    "3.2 HTTP/1.0 without one": (
        get(line=b"GET /a HTTP/1.0", host=b""), ("GET /a localhost", CLOSES),
    ),
    "3.2.1 a query only": (get(line=b"GET ?a HTTP/1.1"), 400),
    "3.2.1 a fragment": (get(line=b"GET /a#b HTTP/1.1"), 400),
    "3.2.1 two slashes first": (get(line=b"GET //x/a HTTP/1.1"), ("GET /x/a h", AND_NEXT)),
    "3.2.1 a URI within the path": (
        get(line=b"GET /http://x/a HTTP/1.1"), ("GET /http:/x/a h", AND_NEXT),
    ),
    "3.2.1 an 8-bit byte": (get(line=b"GET /\xe9 HTTP/1.1"), 400),
    "3.2.1 a control byte": (get(line=b"GET /\x01 HTTP/1.1"), 400),
    "3.2.2 the authority wins over Host": (
        get(line=b"GET http://b/x?y HTTP/1.1"), ("GET /x?y b", AND_NEXT),
    ),
    "3.2.2 of https": (get(line=b"GET https://b/x HTTP/1.1"), ("GET /x b", AND_NEXT)),
    "3.2.2 in capitals": (get(line=b"GET HTTP://B/x HTTP/1.1"), ("GET /x b", AND_NEXT)),
    "3.2.2 without a path": (get(line=b"GET http://b HTTP/1.1"), ("GET / b", AND_NEXT)),
    "3.2.2 without a path, with a query": (get(line=b"GET http://b?y HTTP/1.1"), ("GET /?y b", AND_NEXT)),
    "3.2.2 without an authority": (get(line=b"GET http:///x HTTP/1.1"), 400),
    "3.2.2 with a user": (get(line=b"GET http://u@b/x HTTP/1.1"), 400),
    "3.2.2 with a fragment": (get(line=b"GET http://b/x#y HTTP/1.1"), 400),
    "3.2.2 of another scheme": (get(line=b"GET ftp://b/x HTTP/1.1"), 400),
    "3.2.2 Host is needed all the same": (get(line=b"GET http://b/x HTTP/1.1", host=b""), 400),
    "3.2.2 Host is judged all the same": (get(line=b"GET http://b/x HTTP/1.1", host=b"Host: a/b\r\n"), 400),
    "3.2.3 authority-form": (get(line=b"GET h:80 HTTP/1.1"), 400),
    "3.2.3 CONNECT": (get(line=b"CONNECT h:80 HTTP/1.1"), (400, 405, 501)),
    "3.2.4 OPTIONS": (get(line=b"OPTIONS * HTTP/1.1"), ("OPTIONS * h", AND_NEXT)),
    "3.2.4 GET": (get(line=b"GET * HTTP/1.1"), 400),
    "3.2.4 OPTIONS of all of a host": (
        get(line=b"OPTIONS http://b HTTP/1.1"), ("OPTIONS * b", AND_NEXT),
    ),
    "3.2.4 more than an asterisk": (get(line=b"OPTIONS *a HTTP/1.1"), 400),
}  # fmt: skip

SECTION_5 = {
    "5.1 a space before the colon": (get(b"A : b"), 400),
    "5.1 a tab before the colon": (get(b"A\t: b"), 400),
    "5.1 a space before Content-Length's": (post(b"Content-Length : 5", body=b"hello"), 400),
    "5.1 a space before Transfer-Encoding's": (post(b"Transfer-Encoding : chunked", body=HELLO), 400),
    "5.1 a line without a colon": (get(b"A b"), 400),
    "5.1 a line of a colon": (get(b":"), 400),
    "5.1 an empty value": (get(b"A:"), ("GET /a h", AND_NEXT)),
    "5.1 a name of no token": (get(b"A[b]: c"), 400),
    "5.1 a control byte in a name": (get(b"A\x01: c"), 400),
    "5.2 folded with a space": (get(b"A: b\r\n c"), 400),
    "5.2 folded with a tab": (get(b"A: b\r\n\tc"), 400),
    "5.2 folded Host": (get(host=b"Host: h\r\n .x\r\n"), 400),
    "5.2 folded Content-Length": (post(b"Content-Length: 5\r\n 0", body=b"hello"), 400),
    "5.2 folded Transfer-Encoding": (post(b"Transfer-Encoding:\r\n chunked", body=HELLO), 400),
    "5.2 folded with nothing": (get(b"A: b\r\n "), 400),
    "5.5 DEL in a value": (get(b"A: \x7f"), 400),
    "5.5 NUL in a value": (get(b"A: \x00"), 400),
    "5.5 ESC in a value": (get(b"A: \x1b"), 400),
}

SECTION_6 = {
    **{
        f"6.1 Transfer-Encoding: {value.decode('latin-1')!r}": (
            post(b"Transfer-Encoding: " + value, body=HELLO), REFUSED,
        )
        for value in (
            b"identity", b"gzip", b"gzip, chunked", b"chunked, gzip", b"chunked, chunked", b"chunked,",
            b",chunked", b"chunked;q=1", b'"chunked"', b"chunke", b"chunkedx", b"chunked identity", b"",
            b"\x00chunked", b"chunked\x0b", b"chunk\xe9d", b"identity, chunked", b"trailers",
        )
    },
    "6.1 in two lines": (
        post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", body=HELLO), REFUSED,
    ),
    "6.1 in two lines, chunked last": (
        post(b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked", body=HELLO), REFUSED,
    ),
    "6.1 space around": (
        post(b"Transfer-Encoding: \t chunked  ", body=HELLO), ("POST /a h hello", AND_NEXT),
    ),
    "6.1 a tab behind, which llhttp takes for a part of it": (
        post(b"Transfer-Encoding: chunked\t", body=HELLO), 400,
    ),
    "6.1 with a length before": (
        post(b"Content-Length: 15", b"Transfer-Encoding: chunked", body=HELLO), 400,
    ),
    "6.1 with a length behind": (
        post(b"Transfer-Encoding: chunked", b"Content-Length: 15", body=HELLO), 400,
    ),
    "6.1 with a length of 0": (post(b"Transfer-Encoding: chunked", b"Content-Length: 0", body=HELLO), 400),
    "6.1 with a length of nothing": (
        post(b"Transfer-Encoding: chunked", b"Content-Length: ", body=HELLO), 400,
    ),
    "6.1 in HTTP/1.0": (
        post(b"Transfer-Encoding: chunked", body=HELLO, line=b"POST /a HTTP/1.0"), 400,
    ),
    "6.1 in HTTP/1.0 with keep-alive": (
        post(b"Connection: keep-alive", b"Transfer-Encoding: chunked", body=HELLO, line=b"POST /a HTTP/1.0"),
        400,
    ),
    "6.1 in HTTP/1.0 with a length": (
        post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=HELLO, line=b"POST /a HTTP/1.0"), 400,
    ),
    "6.1 with an underscore": (post(b"Transfer_Encoding: chunked"), ("POST /a h", AND_NEXT)),
    "6.1 nominated by Connection": (
        post(b"Connection: Transfer-Encoding", b"Transfer-Encoding: chunked", body=HELLO), 400,
    ),
    **{
        f"6.2 Content-Length: {value.decode('latin-1')!r}": (
            post(b"Content-Length: " + value, body=b"hello"), 400,
        )
        for value in (
            b"", b"-5", b"+5", b"5,5", b"5, 5", b"5,", b",5", b"5, 6", b"5;", b"5 5", b"5\x0b", b"0x5", b"5h",
            b"5.0", b"5e0", b"'5'", b'"5"', b"\xb2", b"five", b"18446744073709551621", b"9223372036854775813",
            b"4294967301" + b"0" * 20,
        )
    },
    "6.2 zeros before": (post(b"Content-Length: 0" + b"5", body=b"hello"), ("POST /a h hello", AND_NEXT)),
    "6.2 twice": (post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"), 400),
    "6.2 twice, and different": (post(b"Content-Length: 5", b"Content-Length: 0", body=b"hello"), 400),
    "6.2 twice, in another case": (post(b"Content-Length: 5", b"CONTENT-LENGTH: 5", body=b"hello"), 400),
    "6.2 with an underscore": (post(b"Content_Length: 5"), ("POST /a h", AND_NEXT)),
    "6.2 nominated by Connection": (
        post(b"Connection: content-length", b"Content-Length: 5", body=b"hello"), 400,
    ),
    "6.3 GET with a length of 0": (get(b"Content-Length: 0"), ("GET /a h", AND_NEXT)),
    "6.3 GET with chunks": (
        get(b"Transfer-Encoding: chunked") + HELLO, ("GET /a h hello", AND_NEXT),
    ),
    "6.3 DELETE with a body": (
        post(b"Content-Length: 5", body=b"hello", line=b"DELETE /a HTTP/1.1"),
        ("DELETE /a h hello", AND_NEXT),
    ),
    "6.3 OPTIONS with a body": (
        post(b"Content-Length: 5", body=b"hello", line=b"OPTIONS /a HTTP/1.1"),
        ("OPTIONS /a h hello", AND_NEXT),
    ),
    "6.3 a body that is a request": (
        post(b"Content-Length: %d" % len(NEXT), body=NEXT), (f"POST /a h {NEXT.decode().strip()}", AND_NEXT),
    ),
    "6.3 chunks that are a request": (
        chunked(b"%x\r\n%b\r\n0\r\n\r\n" % (len(NEXT), NEXT)),
        (f"POST /a h {NEXT.decode().strip()}", AND_NEXT),
    ),
}  # fmt: skip

SECTION_7 = {
    **{
        f"7.1 a size of {size.decode('latin-1')!r}": (chunked(size + b"\r\nhello\r\n0\r\n\r\n"), 400)
        for size in (
            b"", b" 5", b"5 ", b"\t5", b"+5", b"-5", b"0x5", b"5h", b"g", b"5_0", b"5.0", b"5,5",
            b"FFFFFFFFFFFFFFFF5", b"10000000000000005", b"\xb25", b"5\x00", b"\n5",
        )
    },
    "7.1 zeros before a size": (
        chunked(b"0" * 8 + b"5\r\nhello\r\n0\r\n\r\n"), ("POST /a h hello", AND_NEXT),
    ),
    "7.1 a last chunk of many zeros": (
        chunked(b"5\r\nhello\r\n0000\r\n\r\n"), ("POST /a h hello", AND_NEXT),
    ),
    "7.1 bare LF behind the size": (chunked(b"5\nhello\r\n0\r\n\r\n"), 400),
    "7.1 bare CR behind the size": (chunked(b"5\rhello\r\n0\r\n\r\n"), 400),
    "7.1 bare LF behind the data": (chunked(b"5\r\nhello\n0\r\n\r\n"), 400),
    "7.1 no line end behind the data": (chunked(b"5\r\nhello0\r\n\r\n"), 400),
    "7.1 more data than its size": (chunked(b"4\r\nhello\r\n0\r\n\r\n"), 400),
    "7.1 bare LF behind the last size": (chunked(b"5\r\nhello\r\n0\n\r\n"), 400),
    "7.1 bare LF at the end": (chunked(b"5\r\nhello\r\n0\r\n\n"), 400),
    "7.1.1 a name": (chunked(b"5;a\r\nhello\r\n0\r\n\r\n"), ("POST /a h hello", AND_NEXT)),
    "7.1.1 a quoted value": (chunked(b'5;a="b;c"\r\nhello\r\n0\r\n\r\n'), ("POST /a h hello", AND_NEXT)),
    "7.1.1 at the last chunk": (chunked(b"5\r\nhello\r\n0;a=b\r\n\r\n"), ("POST /a h hello", AND_NEXT)),
    "7.1.1 nothing behind the semicolon": (chunked(b"5;\r\nhello\r\n0\r\n\r\n"), 400),
    "7.1.1 bare LF within": (chunked(b"5;a\nhello\r\n0\r\n\r\n"), 400),
    "7.1.1 bare CR within": (chunked(b"5;a\rb\r\nhello\r\n0\r\n\r\n"), 400),
    "7.1.1 a quoted line end": (chunked(b'5;a="\r\nhello\r\n0\r\n\r\n'), 400),
    "7.1.1 NUL within": (chunked(b"5;a=\x00\r\nhello\r\n0\r\n\r\n"), 400),
    "7.1.1 more than one read of it": (
        chunked(b"5;" + b"a" * 600_000 + b"\r\nhello\r\n0\r\n\r\n"), 400,
    ),
    "7.1.1 more than one read of short ones": (
        chunked((b"1;" + b"a" * 60 + b"\r\nx\r\n") * 10_000 + b"0\r\n\r\n"), 400,
    ),
    "7.1.2 fields behind the body": (
        chunked(b"5\r\nhello\r\n0\r\nA: b\r\nC: d\r\n\r\n"), ("POST /a h hello", AND_NEXT),
    ),
    "7.1.2 a length among them": (
        chunked(b"5\r\nhello\r\n0\r\nContent-Length: 50\r\n\r\n"), 400,
    ),
    "7.1.2 a coding among them": (
        chunked(b"5\r\nhello\r\n0\r\nTransfer-Encoding: x\r\n\r\n"), 400,
    ),
    "7.1.2 a Host among them": (
        chunked(b"5\r\nhello\r\n0\r\nHost: evil\r\n\r\n"), ("POST /a h hello", AND_NEXT),
    ),
    "7.1.2 Connection: close among them": (
        chunked(b"5\r\nhello\r\n0\r\nConnection: close\r\n\r\n"), ("POST /a h hello", CLOSES),
    ),
    "7.1.2 a folded one": (chunked(b"5\r\nhello\r\n0\r\nA: b\r\n c\r\n\r\n"), 400),
    "7.1.2 one without a colon": (chunked(b"5\r\nhello\r\n0\r\nA b\r\n\r\n"), 400),
    "7.1.2 a space before the colon": (chunked(b"5\r\nhello\r\n0\r\nA : b\r\n\r\n"), 400),
    "7.1.2 bare LF behind one": (chunked(b"5\r\nhello\r\n0\r\nA: b\n\r\n"), 400),
    "7.1.2 bare LF at their end": (chunked(b"5\r\nhello\r\n0\r\nA: b\r\n\n"), 400),
    "7.1.2 5 KB of them": (chunked(b"5\r\nhello\r\n0\r\n" + b"A: b\r\n" * 900 + b"\r\n"), 400),
    "7.1.2 a request among them": (
        chunked(b"5\r\nhello\r\n0\r\nGET /evil HTTP/1.1\r\nHost: h\r\n\r\n"), 400,
    ),
}  # fmt: skip

SECTION_9 = {
    "9.3 close": (get(b"Connection: close"), ("GET /a h", CLOSES)),
    "9.3 close in capitals": (get(b"Connection: CLOSE"), ("GET /a h", CLOSES)),
    "9.3 close in a list": (get(b"Connection: x, close ,y"), ("GET /a h", CLOSES)),
    "9.3 close in a second line": (get(b"Connection: x", b"Connection: close"), ("GET /a h", CLOSES)),
    "9.3 close and keep-alive": (get(b"Connection: close, keep-alive"), ("GET /a h", CLOSES)),
    "9.3 what only looks like close": (get(b"Connection: closed"), ("GET /a h", AND_NEXT)),
    "9.3 keep-alive": (get(b"Connection: keep-alive"), ("GET /a h", AND_NEXT)),
    "9.3 nothing": (get(b"Connection:"), ("GET /a h", AND_NEXT)),
    "9.3 Proxy-Connection: close, to be on the safe side": (
        get(b"Proxy-Connection: close"), ("GET /a h", CLOSES),
    ),
    "9.3 HTTP/1.0": (get(line=b"GET /a HTTP/1.0"), ("GET /a h", CLOSES)),
    "9.3 HTTP/1.0 with close and keep-alive": (
        get(b"Connection: keep-alive, close", line=b"GET /a HTTP/1.0"), ("GET /a h", CLOSES),
    ),
    "9.3 HTTP/1.0 with Proxy-Connection": (
        get(b"Proxy-Connection: keep-alive", line=b"GET /a HTTP/1.0"), ("GET /a h", CLOSES),
    ),
    "9.6 close behind a body": (
        post(b"Connection: close", b"Content-Length: 5", body=b"hello"), ("POST /a h hello", CLOSES),
    ),
    "9.6 close behind chunks": (
        post(b"Connection: close", b"Transfer-Encoding: chunked", body=HELLO), ("POST /a h hello", CLOSES),
    ),
    "9.6 garbage behind close": (get(b"Connection: close") + b"\x00\xff", ("GET /a h", CLOSES)),
    "9.6 two framings behind close": (
        get(b"Connection: close") + post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=HELLO),
        ("GET /a h", CLOSES),
    ),
}  # fmt: skip

# Decided by the server in front of the ASGI door: what is left of a target, and how much framing it reads.
NATIVE_ONLY = {"3.2.1 a fragment", "3.2.4 OPTIONS of all of a host"}
NATIVE_SECTIONS = ("3.2.2 ", "7.1.1 more", "7.1.2 ")

Case = tuple[bytes, int | tuple[int, ...] | tuple[str, ...]]
SECTIONS: list[Mapping[str, Case]] = [SECTION_2, SECTION_3, SECTION_5, SECTION_6, SECTION_7, SECTION_9]
CASES = [
    pytest.param(name, sent, then, id=f"§{name}") for each in SECTIONS for name, (sent, then) in each.items()
]


@pytest.mark.parametrize(("name", "sent", "then"), CASES)
async def test_a_request_is_taken_as_one_or_refused_with_all_behind_it(
    edge: Running,
    door: str,
    taken: Taken,
    name: str,
    sent: bytes,
    then: int | tuple[int, ...] | tuple[str, ...],
) -> None:
    if door == "asgi" and (name in NATIVE_ONLY or name.startswith(NATIVE_SECTIONS)):
        pytest.skip("the server decides")
    client = await edge.client()
    client.send(sent + NEXT)
    statuses = await _statuses(client)
    expected = (then,) if isinstance(then, int) else then
    numbers = [each for each in expected if isinstance(each, int)]
    if numbers:
        assert taken.requests == []
        assert len(statuses) == 1
        assert statuses[0] in numbers or (door == "asgi" and statuses[0] in (400, 501))
    else:
        arrived = [each for each in expected if each != CLOSES]
        if len(arrived) == len(expected):
            arrived.append("GET /last h")
        assert taken.requests == arrived
        assert statuses == [200] * len(arrived)


async def _statuses(client: Client) -> list[int]:
    """Of all answers until the edge closes; a last request asks for that."""
    client.send(LAST)
    statuses: list[int] = []
    async with asyncio.timeout(PATIENCE):
        try:
            while True:
                statuses.append((await client.answer()).status)
        except (asyncio.IncompleteReadError, ConnectionResetError):
            return statuses


async def test_connect_is_refused_and_is_no_tunnel(edge: Running, door: str, taken: Taken) -> None:
    """RFC 9110 §9.3.6: behind a refusal the connection speaks HTTP as before."""
    if door == "asgi":
        pytest.skip("uvicorn waits for a tunnel")
    client = await edge.client()
    client.send(get(line=b"CONNECT /a HTTP/1.1") + NEXT)
    assert await _statuses(client) == [405, 200, 200]
    assert taken.requests == ["GET /next h", "GET /last h"]
