"""Who gets which coding, which answers are compressed, and what their fields say then."""

from __future__ import annotations

import gzip
import subprocess
import sys

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from edgeproxy.config.compress import CompressSection
from edgeproxy.http.coders import CODERS
from edgeproxy.http.coding import chosen, coded_fields, varied, weakened
from tests.helpers.requests import headers, request

ALL = (b"zstd", b"br", b"gzip")
RULE = CompressSection().rule
UNPACK = {
    b"gzip": gzip.decompress,
    b"br": brotli.decompress,
    b"zstd": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
}


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        (b"gzip, deflate, br, zstd", b"zstd"),
        (b"gzip, deflate, br", b"br"),
        (b"GZIP", b"gzip"),
        (b"gzip;q=1.0, br;q=0.5", b"gzip"),
        (b"br;q=0, gzip", b"gzip"),
        (b"*", b"zstd"),
        (b"*;q=0.1, gzip", b"gzip"),
        (b"zstd;q=0, *", b"br"),
        (b"identity", b"identity"),
        (b"deflate", b"identity"),
        (b"gzip;q=0", b"identity"),
        (b"*;q=0", b"identity"),
        (b"gzip;q=nonsense", b"identity"),
        (b"gzip;q=nan", b"identity"),
        (b"", b"identity"),
        (b"gzip," + b" " * 500, b"gzip"),
    ],
)
def test_the_client_gets_what_it_likes_best_and_of_that_what_we_like_best(
    accepted: bytes, coding: bytes
) -> None:
    assert chosen(ALL, accepted) == coding


@given(st.binary(max_size=200))
def test_whatever_is_accepted_one_coding_or_none_is_chosen(accepted: bytes) -> None:
    assert chosen(ALL, accepted) in (*ALL, b"identity")


@pytest.mark.parametrize(
    ("fields", "coding"),
    [
        ({"Accept-Encoding": "gzip, br"}, b"br"),
        ({}, b"identity"),
        ({"Accept-Encoding": "br", "Range": "bytes=0-1"}, b"identity"),
        ({"Accept-Encoding": "br", "Cache-Control": "no-transform"}, b"identity"),
    ],
    ids=["usual", "nothing accepted", "a range", "no-transform"],
)
def test_a_request_goes_on_with_one_coding(fields: dict[str, str], coding: bytes) -> None:
    asked = request("/a", {**fields, "X-Other": "1"})
    narrowed = RULE.narrowed(asked)
    assert narrowed.headers.get_all(b"accept-encoding") == [coding]
    assert narrowed.headers.get(b"x-other") == b"1"
    assert RULE.narrowed(narrowed) is narrowed, "the second time nothing is left to do"


HTML = {"Content-Type": "text/html; charset=utf-8", "Content-Length": "5000"}


@pytest.mark.parametrize(
    ("status", "fields", "does"),
    [
        (200, HTML, True),
        (404, HTML, True),
        (200, {**HTML, "Content-Type": "application/problem+json"}, True),
        (200, {**HTML, "Content-Type": "image/svg+xml"}, True),
        (200, {"Content-Type": "Text/Plain"}, True),
        (200, {**HTML, "Content-Type": "image/png"}, False),
        (200, {"Content-Type": "text/event-stream"}, False),
        (200, {"Content-Length": "5000"}, False),
        (200, {**HTML, "Content-Encoding": "br"}, False),
        (200, {**HTML, "Cache-Control": "max-age=1, No-Transform"}, False),
        (200, {**HTML, "Content-Length": "1023"}, False),
        (200, {**HTML, "Content-Length": "8388609"}, False),
        (206, {**HTML, "Content-Range": "bytes 0-4999/9999"}, False),
        (200, {**HTML, "Content-Range": "bytes 0-4999/9999"}, False),
        (204, HTML, False),
        (304, HTML, False),
    ],
)
def test_what_is_compressed(status: int, fields: dict[str, str], does: bool) -> None:
    assert RULE.compresses(status, headers(fields)) is does


def test_a_stream_of_events_is_compressed_when_it_is_named() -> None:
    rule = CompressSection(types=("text/event-stream",)).rule
    assert rule.compresses(200, headers({"Content-Type": "text/event-stream"}))


def test_a_compressed_answer_is_another_representation() -> None:
    fields = coded_fields(
        headers(
            {
                **HTML,
                "ETag": '"x"',
                "Vary": "Origin",
                "Content-Digest": "d",
                "Accept-Ranges": "bytes",
                "X": "1",
            }
        ),
        b"br",
    )
    assert fields.raw == [
        (b"Content-Type", b"text/html; charset=utf-8"),
        (b"ETag", b'W/"x"'),
        (b"Vary", b"Origin"),
        (b"X", b"1"),
        (b"Content-Encoding", b"br"),
        (b"Vary", b"Accept-Encoding"),
    ]


@pytest.mark.parametrize("value", [b"Accept-Encoding", b"origin, ACCEPT-encoding", b"*"])
def test_vary_is_said_once(value: bytes) -> None:
    assert varied([(b"Vary", value)]) == [(b"Vary", value)]


def test_weak_tags_stay_as_they_are() -> None:
    assert weakened((b"ETag", b'W/"x"')) == (b"ETag", b'W/"x"')
    assert weakened((b"X", b'"x"')) == (b"X", b'"x"')


@given(
    st.sampled_from(ALL),
    st.lists(st.binary(min_size=1, max_size=300), max_size=8),
    st.booleans(),
    st.booleans(),
)
def test_everything_fed_can_be_read_at_once_and_the_whole_at_the_end(
    coding: bytes, pieces: list[bytes], known: bool, slim: bool
) -> None:
    coder = CODERS[coding](slim=slim)
    out, fed = b"", 0
    total = sum(map(len, pieces))
    streamed = b""
    reader = zstandard.ZstdDecompressor().decompressobj()
    for piece in pieces:
        fed += len(piece)
        last = known and fed == total
        given_now = coder.feed(piece, more=last)
        out += given_now
        if coding == b"zstd" and not last:
            streamed += reader.decompress(given_now)
            assert len(streamed) == fed
    out += coder.end()
    assert UNPACK[coding](out) == b"".join(pieces)


MEASURE = """
import sys
from edgeproxy.http.coders import CODERS
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
words = [b"%x" % (number * 2654435761 % 2**32) for number in range(4000)]
text = b" ".join(words[number * 7919 % 4000] for number in range(40000))[:300000]
make, coders = CODERS[sys.argv[1].encode()], []
before = resident()
for _ in range(50):
    coder = make(slim=True)
    for at in range(0, len(text), 32768):
        coder.feed(text[at : at + 32768], more=False)
    coders.append(coder)
print((resident() - before) // 50)
"""


@pytest.mark.parametrize("coding", [coding.decode() for coding in ALL])
def test_a_slim_coder_takes_a_quarter_of_a_mib_at_most(coding: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, coding], capture_output=True, timeout=60, check=True, text=True
    )
    assert int(done.stdout) <= 256 * 1024
