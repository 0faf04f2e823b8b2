"""Entries as bytes and back; anything else is nothing."""

from __future__ import annotations

import struct
from zlib import crc32

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgeproxy.cache.codec import MAGIC, HeadFields, decode, encode
from edgeproxy.cache.entry import Entry
from edgeproxy.http.wire import response
from tests.helpers.builds import LOOKS_IN
from tests.helpers.requests import NOW, rule

AHEAD = 7.25
_TOKENS = st.text("abcXYZ019-", min_size=1, max_size=12).map(str.encode)
_VALUES = st.text("abc :;,=\t\"'äß", max_size=30).map(lambda text: text.strip().encode())
_TIMES = st.integers(-(10**6), 2**32).map(lambda seconds: NOW + seconds)
# What only one process knows: places in its store, and what is made from the rest
OF_A_STORE = {"visited", "older", "newer", "stored", "_hit"}


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    return Entry(
        draw(st.binary(min_size=1, max_size=40)),
        tuple(draw(st.lists(_TOKENS, max_size=3))),
        draw(st.binary(max_size=20)),
        response(
            draw(st.integers(200, 599)),
            draw(st.lists(st.tuples(_TOKENS, _VALUES), max_size=6)),
            draw(st.binary(max_size=300)),
        ),
        *[draw(_TIMES) for _ in range(4)],
        must_validate=draw(st.booleans()),
        never_stale=draw(st.booleans()),
        location=(draw(_TOKENS), draw(st.binary(max_size=9)), draw(st.binary(max_size=9))),
        position=draw(st.integers(0, 2**64 - 1)),
        tags=frozenset(draw(st.lists(_TOKENS, max_size=4))),
    )


def known(entry: Entry) -> dict[str, object]:
    return {name: getattr(entry, name) for name in Entry.__slots__ if name not in OF_A_STORE}


def sample() -> Entry:
    return Entry(
        b"key", (b"accept",), b"1:a", response(200, [(b"ETag", b'"a"'), (b"X", b"")], b"body"),
        NOW, NOW + 1, NOW + 2, NOW + 3,
        must_validate=True, never_stale=False, location=(b"h", b"/p", b"q"), position=9,
        tags=frozenset([b"red", b"two words"]),
    )  # fmt: skip


@LOOKS_IN
@settings(deadline=None)
@given(entries())
def test_everything_an_entry_says_comes_back(entry: Entry) -> None:
    again = decode(encode(entry, AHEAD), AHEAD)
    assert again is not None
    assert known(again) == known(entry)


@LOOKS_IN
def test_a_record_is_read_in_place() -> None:
    entry = sample()
    again = decode(memoryview(encode(entry, 0.0)), 0.0)
    assert again is not None
    assert known(again) == known(entry)
    assert isinstance(again.response.body, bytes)


def test_a_plain_hit_reads_no_field_of_what_comes_from_below(monkeypatch: pytest.MonkeyPatch) -> None:
    again = decode(encode(sample(), 0.0), 0.0)
    assert again is not None
    with monkeypatch.context() as patch:
        patch.setattr(HeadFields, "_read", lambda _: pytest.fail("a field was read"))
        serve = again.hit(rule(), NOW)
        assert serve.response.head.startswith(b"HTTP/1.1 200 OK\r\nETag:")
        assert (b"etag" in serve.response.names, again.etag, again.last_modified) == (True, b'"a"', None)
    assert list(serve.response.fields)[1] == serve.response.fields[1] == (b"X", b"")
    assert serve.response.fields[-1:] == ((b"Content-Length", b"4"),)


def test_times_hold_by_the_wall_clock_when_the_steady_one_starts_anew() -> None:
    again = decode(encode(sample(), ahead=5.0), ahead=-95.0)
    assert again is not None
    assert (again.born, again.fresh_until) == (NOW + 100, NOW + 101)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_a76_a_flipped_bit_is_noticed(data: st.DataObject) -> None:
    record = bytearray(encode(sample(), 0.0))
    bit = data.draw(st.integers(0, len(record) * 8 - 1))
    record[bit // 8] ^= 1 << bit % 8
    assert decode(bytes(record), 0.0) is None


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_a76_a_torn_spliced_or_foreign_record_is_nothing(data: st.DataObject) -> None:
    record = encode(sample(), 0.0)
    start = data.draw(st.integers(0, len(record)))
    end = data.draw(st.integers(start, len(record)))
    changed = record[:start] + data.draw(st.binary(max_size=40)) + record[end:]
    if changed != record:
        assert decode(changed, 0.0) is None


@given(st.binary(max_size=200))
@example(b"")
@example(MAGIC)
@example(MAGIC + struct.pack("<I", crc32(b"x" * 90)) + b"x" * 90)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    assert decode(data, 0.0) is None
    assert decode(MAGIC + data, 0.0) is None


def test_a_record_whose_lengths_lie_is_nothing_although_its_checksum_is_right() -> None:
    content = bytearray(encode(sample(), 0.0)[8:])
    content[-1:] = b""
    assert decode(MAGIC + struct.pack("<I", crc32(content)) + content, 0.0) is None


def test_a76_another_version_is_nothing() -> None:
    record = encode(sample(), 0.0)
    assert decode(b"EPE0" + record[4:], 0.0) is None
