"""Which responses are read whole, and whether the connection may be used again (A16, A18, A19, A26)."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.scripted_origin import ScriptedOrigin, answers
from tests.origin.support import GET, HEAD, OK, ask, kept, read, upstream

H = b"HTTP/1.1 200 OK\r\n"
CHUNKED = H + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "response", "body", "length", "stays"),
    [
        pytest.param(GET, OK, b"ok", 2, True, id="content-length"),
        pytest.param(GET, H + b"Content-Length: 0\r\n\r\n", b"", 0, True, id="empty"),
        pytest.param(GET, CHUNKED + b"2\r\nok\r\n0\r\n\r\n", b"ok", None, True, id="chunked"),
        pytest.param(GET, CHUNKED + b"2;x=y\r\nok\r\n0\r\n\r\n", b"ok", None, True, id="chunk extension"),
        pytest.param(
            GET, H + b"Connection: close\r\nContent-Length: 2\r\n\r\nok", b"ok", 2, False, id="close"
        ),
        pytest.param(
            GET,
            H + b"Connection: keep-alive, Close\r\nContent-Length: 2\r\n\r\nok",
            b"ok",
            2,
            False,
            id="close in list",
        ),
        pytest.param(GET, b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok", 2, False, id="1.0"),
        pytest.param(
            GET,
            b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
            b"ok",
            2,
            True,
            id="1.0 keep-alive",
        ),
        pytest.param(GET, b"HTTP/1.1 204 No Content\r\n\r\n", b"", None, True, id="204"),
        pytest.param(
            GET, b"HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\n", b"", 2, False, id="204 with length"
        ),
        pytest.param(
            GET, b"HTTP/1.1 304 Not\r\nContent-Length: 99\r\n\r\n", b"", 99, True, id="304 with length"
        ),
        pytest.param(HEAD, H + b"Content-Length: 99\r\n\r\n", b"", 99, True, id="HEAD with length"),
        pytest.param(HEAD, CHUNKED, b"", None, True, id="HEAD chunked"),
        pytest.param(HEAD, H + b"\r\n", b"", None, True, id="HEAD without length"),
        pytest.param(HEAD, H + b"Connection: close\r\n\r\n", b"", None, False, id="HEAD with close"),
        pytest.param(HEAD, H + b"Content-Length: 0\r\n\r\n", b"", 0, True, id="HEAD with length 0"),
        pytest.param(HEAD, b"HTTP/1.1 304 Not\r\n\r\n", b"", None, True, id="HEAD 304"),
        pytest.param(GET, b"HTTP/1.1 205 Reset\r\nContent-Length: 0\r\n\r\n", b"", 0, True, id="205"),
        # What follows a response belongs to nobody: used, but never kept (A16, A19, A26).
        pytest.param(GET, OK + b"x", b"ok", 2, False, id="a byte too many"),
        pytest.param(GET, OK + b"\r\n", b"ok", 2, False, id="a line end too many"),
        pytest.param(
            GET, H + b"Content-Length: 4\r\n\r\n" + b"\r\n" * 3, b"\r\n\r\n", 4, False, id="line ends alone"
        ),
        pytest.param(GET, OK + OK, b"ok", 2, False, id="a response too many"),
        pytest.param(GET, OK + b"HTTP/1.1 2", b"ok", 2, False, id="part of a response too many"),
        pytest.param(GET, H + b"Content-Length: 0\r\n\r\n\r\n", b"", 0, False, id="empty and a line end"),
        pytest.param(
            GET, CHUNKED + b"2\r\nok\r\n0\r\n\r\n\r\n", b"ok", None, False, id="chunked and a line end"
        ),
        pytest.param(GET, CHUNKED + b"2\r\nok\r\n0\r\n\r\nx", b"ok", None, False, id="chunked and a byte"),
        pytest.param(GET, b"HTTP/1.1 204 No\r\n\r\nbody", b"", None, False, id="204 with body"),
        pytest.param(
            GET, b"HTTP/1.1 304 Not\r\nContent-Length: 2\r\n\r\nok", b"", 2, False, id="304 with body"
        ),
        pytest.param(HEAD, OK, b"", 2, False, id="HEAD with body"),
        pytest.param(HEAD, CHUNKED + b"2\r\nok\r\n0\r\n\r\n", b"", None, False, id="HEAD with chunks"),
        pytest.param(HEAD, CHUNKED + b"0\r\n\r\n", b"", None, False, id="HEAD with last chunk"),
        pytest.param(HEAD, CHUNKED + b"5\r\n", b"", None, False, id="HEAD with chunk size"),
        pytest.param(HEAD, H + b"\r\nbody", b"", None, False, id="HEAD with unframed body"),
    ],
)
async def test_a_response_is_read_whole_and_the_connection_kept_only_when_clean(
    head: bytes, response: bytes, body: bytes, length: int | None, stays: bool
) -> None:
    async with ScriptedOrigin(answers(response)) as origin, upstream(origin.url) as made:
        connection, sink = await ask(made, head)
        assert sink.outcome == "end"
        assert (sink.body, sink.length, sink.trailers) == (body, length, [])
        assert connection.closed is not stays
        assert kept(made) == stays
        assert made.open == stays
        assert made.servers[0].in_flight == 0


RESPONSES = [
    (False, OK),
    (False, H + b"Content-Length: 0\r\n\r\n"),
    (False, CHUNKED + b"2\r\nok\r\n3;x=y\r\nyes\r\n0\r\nX-T: 1\r\n\r\n"),
    (False, b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK),
    (False, b"HTTP/1.1 204 No Content\r\n\r\n"),
    (True, H + b"Content-Length: 99\r\n\r\n"),
    (True, CHUNKED),
]

PLACES = st.lists(st.integers(0, 500), max_size=6)  # where the reads end


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted({place % len(data) for place in places} - {0}), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(RESPONSES), PLACES)
def test_a_response_is_the_same_whatever_the_reads(case: tuple[bool, bytes], places: list[int]) -> None:
    for_head, response = case
    _, whole, outcome = read([response], for_head=for_head)
    assert outcome == "complete"
    reader, cut_up, outcome = read(cut(response, places), for_head=for_head)
    assert outcome == "complete"
    assert (cut_up.body, cut_up.headers.raw, cut_up.interims) == (
        whole.body,
        whole.headers.raw,
        whole.interims,
    )
    assert reader.keep


def test_a_byte_behind_an_end_that_came_in_two_reads_is_noticed() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert read([head[:-1], b"\n"], for_head=True)[2] == "complete"
    assert read([head[:-1], b"\n0"], for_head=True)[2] == "unclean"


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(RESPONSES), PLACES, st.binary(min_size=1, max_size=9))
def test_a_response_with_something_behind_it_is_never_clean(
    case: tuple[bool, bytes], places: list[int], extra: bytes
) -> None:
    for_head, response = case
    pieces = cut(response, places)
    pieces[-1] += extra
    _, _, outcome = read(pieces, for_head=for_head)
    if extra.strip(b"\r\n") or len(pieces) == 1:  # empty lines llhttp may skip: they cannot be a response
        assert outcome == "unclean"


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.sampled_from([b"", H, H + b"Content-Length: 5\r\n\r\n", CHUNKED]))
def test_whatever_is_sent_there_is_an_outcome(noise: bytes, start: bytes) -> None:
    _, sink, outcome = read([start + noise] if start + noise else [])
    assert outcome in (
        "complete",
        "unclean",
        "incomplete",
        "http_protocol_error",
        "http_response_header_section_size",
    )
    assert len(sink.body) <= 60


def test_bytes_behind_a_long_body_are_noticed() -> None:
    reader, sink, outcome = read([H + b"Content-Length: 6\r\n\r\nab", b"cd", b"efgh"])
    assert (outcome, sink.body) == ("unclean", b"abcdef")
    assert sink.pieces == [2, 2, 2]
    assert reader.complete


def test_a_body_until_eof_is_passed_on_as_it_was_read() -> None:
    reader, sink, outcome = read([H + b"\r\nab", b"cd", b"HTTP/1.1 200 OK\r\n\r\n"], at_eof=True)
    assert (outcome, sink.body, sink.length) == ("complete", b"abcdHTTP/1.1 200 OK\r\n\r\n", None)
    assert not reader.keep
