"""A response head that is known by its bytes means exactly what it meant when it was parsed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeproxy.origin.heads import HEADS, LONGEST, Heads
from tests.origin.support import OK, Recorder, read
from tests.origin.test_reading import CHUNKED, PLACES, RESPONSES, H, cut

MORE = [
    (False, b"HTTP/1.1 304 Not\r\nContent-Length: 99\r\n\r\n"),
    (False, b"HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\n"),
    (False, b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    (False, H + b"Connection: close\r\nContent-Length: 2\r\n\r\nok"),
    (False, H + b"Keep-Alive: timeout=5\r\nContent-Length: 5\r\n\r\na\r\n\r\n"),
    (True, OK[:-2]),
]
NOISE = st.one_of(st.just(b""), st.sampled_from([b"\r\n", OK, b"x"]), st.binary(max_size=9))


def told(sink: Recorder) -> tuple[object, ...]:
    return (sink.status, sink.headers.raw, sink.length, sink.body, sink.interims, sink.error)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(RESPONSES + MORE), PLACES, NOISE)
def test_a_known_head_is_read_like_one_that_is_new(
    case: tuple[bool, bytes], places: list[int], noise: bytes
) -> None:
    for_head, response = case
    heads = Heads()
    for known_for_head, known in RESPONSES + MORE:
        read([known], for_head=known_for_head, heads=heads)
    pieces = cut(response, places)
    pieces[-1] += noise
    reader, sink, outcome = read(pieces, for_head=for_head, heads=heads)
    fresh, expected, outcome_expected = read(pieces, for_head=for_head)
    assert (outcome, told(sink)) == (outcome_expected, told(expected))
    assert (reader.keep, reader.patience) == (fresh.keep, fresh.patience)


def test_the_second_time_the_same_fields_are_handed_out() -> None:
    heads = Heads()
    _, first, _ = read([OK], heads=heads)
    _, again, _ = read([OK], heads=heads)
    assert again.headers is first.headers
    assert again.body == b"ok"


@pytest.mark.parametrize(
    ("response", "for_head"),
    [
        pytest.param(CHUNKED + b"0\r\n\r\n", False, id="chunked"),
        pytest.param(H + b"\r\nuntil the end", False, id="until the end of the connection"),
        pytest.param(OK[:-2], True, id="an answer to HEAD"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" + OK, False, id="behind an interim answer"),
        pytest.param(H + b"X: " + b"x" * LONGEST + b"\r\nContent-Length: 0\r\n\r\n", False, id="long"),
        pytest.param(OK + b"more", False, id="with bytes behind it"),
    ],
)
def test_what_cannot_be_known_by_its_head_is_not_kept(response: bytes, for_head: bool) -> None:
    heads = Heads()
    _, first, _ = read([response], for_head=for_head, heads=heads)
    _, again, _ = read([response], for_head=for_head, heads=heads)
    assert again.headers is not first.headers
    assert again.headers.raw == first.headers.raw


def test_only_so_many_heads_are_kept() -> None:
    heads = Heads()
    for number in range(3 * HEADS):
        read([H + b"X-Number: %d\r\nContent-Length: 0\r\n\r\n" % number], heads=heads)
        assert len(heads._known) <= HEADS
