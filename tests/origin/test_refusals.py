"""Responses that are not HTTP, or not one thing only: an error, and the connection closed (A24)."""

from __future__ import annotations

import pytest

from edgeproxy.errors import Retry
from tests.helpers.scripted_origin import ScriptedOrigin, answers
from tests.origin.support import GET, OK, ask, upstream

H = b"HTTP/1.1 200 OK\r\n"
CHUNKED = H + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "response", "error"),
    [
        pytest.param(GET, b"SSH-2.0-OpenSSH\r\n", "http_protocol_error", id="another protocol"),
        pytest.param(GET, b"HTTP/1.9 200 OK\r\n\r\n", "http_protocol_error", id="version 1.9"),
        pytest.param(
            GET, b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n", "http_protocol_error", id="version 2.0"
        ),
        pytest.param(
            GET,
            b"HTTP/2.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n",
            "http_protocol_error",
            id="version 2.0 keep-alive",
        ),
        pytest.param(GET, b"HTTP/0.9 200 OK\r\n\r\n", "http_protocol_error", id="version 0.9"),
        pytest.param(
            GET, b"HTTP/1.1 099 X\r\nContent-Length: 0\r\n\r\n", "http_protocol_error", id="status 99"
        ),
        pytest.param(
            GET, b"HTTP/1.1 600 X\r\nContent-Length: 0\r\n\r\n", "http_protocol_error", id="status 600"
        ),
        pytest.param(
            GET,
            b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            "http_protocol_error",
            id="101 unasked",
        ),
        pytest.param(GET, b"HTTP/1.1 101 Switching\r\n\r\n", "http_protocol_error", id="101 without Upgrade"),
        pytest.param(
            GET,
            H + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            "http_protocol_error",
            id="length and chunked",
        ),
        pytest.param(
            GET,
            H + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            "http_protocol_error",
            id="chunked and length",
        ),
        pytest.param(
            GET,
            H + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok",
            "http_protocol_error",
            id="length twice",
        ),
        pytest.param(
            GET,
            H + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok",
            "http_protocol_error",
            id="two lengths",
        ),
        pytest.param(GET, H + b"Content-Length: 2, 2\r\n\r\nok", "http_protocol_error", id="list of lengths"),
        pytest.param(GET, H + b"Content-Length: +2\r\n\r\nok", "http_protocol_error", id="length with sign"),
        pytest.param(GET, H + b"Content-Length: 0x2\r\n\r\nok", "http_protocol_error", id="length in hex"),
        pytest.param(
            GET, H + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n", "http_protocol_error", id="huge length"
        ),
        pytest.param(GET, H + b"Content-Length: \r\n\r\n", "http_protocol_error", id="no length"),
        pytest.param(GET, H + b"Transfer-Encoding: gzip\r\n\r\n", "http_protocol_error", id="coding gzip"),
        pytest.param(
            GET,
            H + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "http_protocol_error",
            id="gzip, chunked",
        ),
        pytest.param(
            GET,
            H + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
            "http_protocol_error",
            id="chunked, gzip",
        ),
        pytest.param(GET, H + b"Transfer-Encoding: xchunked\r\n\r\n", "http_protocol_error", id="xchunked"),
        pytest.param(
            GET,
            H + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "http_protocol_error",
            id="chunked twice",
        ),
        pytest.param(
            GET,
            b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "http_protocol_error",
            id="chunked in 1.0",
        ),
        pytest.param(
            GET,
            b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "http_protocol_error",
            id="chunked in 1.0 keep-alive",
        ),
        pytest.param(GET, CHUNKED + b"zz\r\nok\r\n", "http_protocol_error", id="chunk size not hex"),
        pytest.param(GET, CHUNKED + b"-2\r\nok\r\n", "http_protocol_error", id="negative chunk"),
        pytest.param(GET, CHUNKED + b"2\nok\r\n0\r\n\r\n", "http_protocol_error", id="chunk with bare LF"),
        pytest.param(GET, CHUNKED + b"2\r\nokay\r\n0\r\n\r\n", "http_protocol_error", id="chunk too long"),
        pytest.param(GET, CHUNKED + b"F" * 20 + b"\r\nok", "http_protocol_error", id="chunk size overflows"),
        pytest.param(GET, H + b"A : b\r\n\r\n", "http_protocol_error", id="space before colon"),
        pytest.param(GET, H + b"A: b\r\n c\r\n\r\n", "http_protocol_error", id="folded line"),
        pytest.param(GET, b"HTTP/1.1 200 OK\nA: b\n\n", "http_protocol_error", id="bare LF"),
        pytest.param(
            GET, CHUNKED + b"0\r\nX: a\x01\r\n\r\n", "http_protocol_error", id="control byte in trailer"
        ),
        pytest.param(
            GET,
            H + b"A: " + b"x" * 70_000 + b"\r\nContent-Length: 0\r\n\r\n",
            "http_response_header_section_size",
            id="head of 70 KB",
        ),
        pytest.param(
            GET, H + b"A: " + b"x" * 200_000, "http_response_header_section_size", id="head without end"
        ),
        pytest.param(
            GET,
            H + b"A: b\r\n" * 257 + b"Content-Length: 0\r\n\r\n",
            "http_response_header_section_size",
            id="257 fields",
        ),
        pytest.param(
            GET,
            CHUNKED + b"2\r\nok\r\n0\r\nX: " + b"x" * 400_000,
            "http_response_header_section_size",
            id="trailers without end",
        ),
        pytest.param(
            GET,
            CHUNKED + b"0\r\n" + b"X: y\r\n" * 300 + b"\r\n",
            "http_response_header_section_size",
            id="300 trailers",
        ),
        pytest.param(
            GET,
            b"HTTP/1.1 103 Early Hints\r\n\r\n" * 11 + OK,
            "http_protocol_error",
            id="11 interim responses",
        ),
        pytest.param(
            GET, b"HTTP/1.1 103 Early Hints\r\n\r\n" * 10000, "http_protocol_error", id="only interims"
        ),
    ],
)
async def test_what_is_not_http_is_an_error_and_closes(head: bytes, response: bytes, error: str) -> None:
    async with ScriptedOrigin(answers(response)) as origin, upstream(origin.url) as made:
        connection, sink = await ask(made, head)
        assert sink.outcome == error
        assert sink.error is not None
        assert (sink.error.status, sink.error.retry) == (502, Retry.NEVER)
        assert connection.closed
        assert made.open == 0
        assert made.servers[0].in_flight == 0


@pytest.mark.parametrize("byte", [*range(0x09), *range(0x0A, 0x20), 0x7F])
async def test_a_control_byte_in_a_value_is_an_error(byte: int) -> None:
    response = H + b"A: x" + bytes([byte]) + b"y\r\nContent-Length: 0\r\n\r\n"
    async with ScriptedOrigin(answers(response)) as origin, upstream(origin.url) as made:
        _, sink = await ask(made)
        assert sink.outcome == "http_protocol_error"


@pytest.mark.parametrize("field", [b"x\ty", b"\x80\xff", b"", b"a,b"], ids=["tab", "8-bit", "empty", "list"])
async def test_values_names_and_order_arrive_as_they_were_sent(field: bytes) -> None:
    raw = [(b"x-LOWER", b"1"), (b"Set-Cookie", b"a=1"), (b"A", field), (b"Set-Cookie", b"b=2")]
    lines = b"".join(b"%b: %b\r\n" % pair for pair in raw)
    async with (
        ScriptedOrigin(answers(H + lines + b"Content-Length: 0\r\n\r\n")) as origin,
        upstream(origin.url) as made,
    ):
        _, sink = await ask(made)
        assert sink.headers.raw[:-1] == raw
        assert sink.status == 200
