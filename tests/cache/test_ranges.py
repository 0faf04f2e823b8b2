"""Ranges of a stored response (RFC 9110 §14), against a model that counts bytes one by one."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeproxy.cache.conditional import answer
from edgeproxy.cache.entry import Entry
from edgeproxy.cache.ranges import joined, parse_range
from edgeproxy.http.wire import response
from tests.helpers.requests import NOW, fields, request, whole_body

BODY = bytes(range(256)) * 4
SIZE = len(BODY)
LM = "Fri, 01 Jan 2027 08:00:00 GMT"


def entry(body: bytes = BODY, status: int = 200, **more: str) -> Entry:
    values = {"Content-Type": "text/plain", "ETag": '"v1"', "Last-Modified": LM, **more}
    return Entry(
        b"k", (), b"", response(status, fields(values), body), NOW, NOW + 60, NOW, NOW,
        must_validate=False, never_stale=False, location=(b"h", b"/a", b""), position=0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("value", "status", "part"),
    [
        pytest.param("bytes=0-4", 206, (0, 5), id="§14.1.2 first bytes"),
        pytest.param("bytes=1000-", 206, (1000, SIZE), id="to the end"),
        pytest.param("bytes=1000-9999", 206, (1000, SIZE), id="beyond the end is cut"),
        pytest.param("bytes=-10", 206, (SIZE - 10, SIZE), id="suffix"),
        pytest.param("bytes=-9999", 206, (0, SIZE), id="suffix longer than all"),
        pytest.param("BYTES=0-0", 206, (0, 1), id="units in any case"),
        pytest.param("bytes=0-4, 3-9", 206, (0, 10), id="A71 overlapping are one"),
        pytest.param("bytes=0-4,6-9", 206, (0, 10), id="nearly touching are one"),
        pytest.param("bytes=1024-", 416, None, id="§15.5.17 behind the end"),
        pytest.param("bytes=-0", 416, None, id="an empty suffix"),
        pytest.param("bytes=9-4", 200, None, id="§14.1.1 last before first is invalid"),
        pytest.param("bytes=a-4", 200, None, id="no number"),
        pytest.param("bytes=", 200, None, id="nothing"),
        pytest.param("bytes=-", 200, None, id="a dash alone"),
        pytest.param("bytes=+1-2", 200, None, id="a sign"),
        pytest.param("lines=0-4", 200, None, id="§14.2 unknown units"),
        pytest.param("bytes 0-4", 200, None, id="no equals sign"),
        pytest.param("bytes=" + ",".join("0-0" for _ in range(40)), 200, None, id="A71 too many"),
        pytest.param("bytes=0-499,600-1023", 200, None, id="A71 the whole is smaller"),
        pytest.param(
            "bytes=" + ",".join(f"{at}-{at}" for at in range(0, 1000, 120)), 200, None, id="A71 many parts"
        ),
    ],
)
def test_one_range(value: str, status: int, part: tuple[int, int] | None) -> None:
    got = answer(request("/a", {"Range": value}), entry())
    index = {name.lower(): field for name, field in got.fields}
    assert got.status == status
    if part is not None:
        assert got.body == BODY[slice(*part)]
        assert index[b"content-range"] == b"bytes %d-%d/%d" % (part[0], part[1] - 1, SIZE)
        assert index[b"content-length"] == b"%d" % len(got.body)
        assert index[b"etag"] == b'"v1"'
    elif status == 416:
        assert index[b"content-range"] == b"bytes */%d" % SIZE


def test_several_ranges_are_a_multipart() -> None:
    """RFC 9110 §14.6, §15.3.7.2."""
    got = answer(request("/a", {"Range": "bytes=0-1,500-501,-2"}), entry())
    kind = dict(got.fields)[b"Content-Type"]
    boundary = kind.removeprefix(b"multipart/byteranges; boundary=")
    parts = whole_body(got).split(b"\r\n--" + boundary)[1:]
    assert parts.pop() == b"--\r\n"
    ranges = [re.search(rb"Content-Range: bytes (\d+)-(\d+)/1024", part) for part in parts]
    for part, found in zip(parts, ranges, strict=True):
        assert found is not None
        assert part.endswith(b"\r\n\r\n" + BODY[int(found[1]) : int(found[2]) + 1])
        assert b"Content-Type: text/plain\r\n" in part


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        pytest.param('"v1"', 206, id="§13.1.5 the same"),
        pytest.param('"v2"', 200, id="another"),
        pytest.param('W/"v1"', 200, id="weak"),
        pytest.param(LM, 206, id="the same date"),
        pytest.param("Sat, 02 Jan 2027 08:00:00 GMT", 200, id="a later date"),
        pytest.param("yesterday", 200, id="no date"),
    ],
)
def test_if_range(condition: str, status: int) -> None:
    assert answer(request("/a", {"Range": "bytes=0-4", "If-Range": condition}), entry()).status == status


def test_a_precondition_goes_first_and_other_answers_have_no_parts() -> None:
    values = {"Range": "bytes=0-4", "If-None-Match": '"v1"'}
    assert answer(request("/a", values), entry()).status == 304
    assert answer(request("/a", {"Range": "bytes=0-4"}), entry(status=404)).status == 404
    assert answer(request("/a", {"Range": "bytes=0-4"}, method="HEAD"), entry()).status == 200


SPEC = st.one_of(
    st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda pair: f"{pair[0]}-{pair[1]}"),
    st.integers(0, 60).map(lambda first: f"{first}-"),
    st.integers(0, 60).map(lambda last: f"-{last}"),
)


def model(specs: list[str], size: int) -> set[int] | None:
    """The bytes asked for; None when the field is invalid."""
    wanted: set[int] = set()
    for spec in specs:
        first, _, last = spec.partition("-")
        if not first:
            wanted |= set(range(size)[-int(last) :]) if int(last) else set()
        elif not last:
            wanted |= set(range(int(first), size))
        elif int(last) < int(first):
            return None
        else:
            wanted |= set(range(int(first), min(int(last) + 1, size)))
    return wanted


@given(st.lists(SPEC, min_size=1, max_size=6), st.integers(1, 50))
def test_the_parts_are_the_bytes_asked_for(specs: list[str], size: int) -> None:
    parts = parse_range(f"bytes={','.join(specs)}".encode(), size)
    wanted = model(specs, size)
    assert (parts is None) == (wanted is None)
    if parts is not None and wanted is not None:
        assert set().union(*[range(*part) for part in parts]) == wanted
        merged = joined(parts)
        assert all(one[1] < other[0] for one, other in pairwise(merged))
        assert wanted <= set().union(*[range(*part) for part in merged])


@given(st.text(alphabet="bytes=-,0123456789 \t", max_size=80), st.integers(1, 3000))
def test_no_field_makes_an_answer_bigger_than_the_whole(value: str, size: int) -> None:
    got = answer(request("/a", {"Range": value}), entry(b"x" * size))
    assert len(got.body) <= size
