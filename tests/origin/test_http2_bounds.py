"""Frames taken apart, and counted where they bring nothing."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeproxy.errors import OriginError
from edgeproxy.origin.http2_bounds import BURST, PER_SECOND, Bounds
from tests.helpers.h2_origin import frame
from tests.origin.support import SetClock

PING, SETTINGS, UPDATE = frame(6, 0, 0, bytes(8)), frame(4, 0, 0, b""), frame(8, 0, 0, bytes(4))


def refuses(step: Callable[[], None]) -> bool:
    """Is there an end to it?"""
    try:
        for _ in range(2 * BURST):
            step()
    except OriginError:
        return True
    return False


@given(
    st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=40)), max_size=8),
    st.lists(st.integers(0, 400), max_size=8),
)
def test_frames_are_the_same_whatever_the_reads(sent: list[tuple[int, bytes]], places: list[int]) -> None:
    frames = [frame(kind, 0, 1, payload) for kind, payload in sent]
    data = b"".join(frames)
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    bounds = Bounds(SetClock())
    found = [one for start, end in pairwise(edges) for one in bounds.frames(data[start:end], 40)]
    assert found == frames


def test_a_frame_that_is_too_large_is_refused_by_its_head() -> None:
    bounds = Bounds(SetClock())
    head = frame(0, 0, 1, bytes(41))[:9]
    with pytest.raises(OriginError, match="larger"):
        list(bounds.frames(PING + head, 40))


@pytest.mark.parametrize("taken", [PING, SETTINGS, UPDATE, frame(2, 0, 1, bytes(5)), frame(77, 0, 0, b"x")])
def test_what_brings_nothing_is_bounded_at_once_and_in_time(taken: bytes) -> None:
    clock = SetClock()
    bounds = Bounds(clock)
    for _ in range(BURST):
        bounds.judge(taken, wanted=False)
    with pytest.raises(OriginError, match="http_protocol_error"):
        bounds.judge(taken, wanted=False)
    clock.now += 2
    for _ in range(2 * PER_SECOND):
        bounds.judge(taken, wanted=False)
    with pytest.raises(OriginError):
        bounds.judge(taken, wanted=False)


@pytest.mark.parametrize(
    ("taken", "wanted", "counts"),
    [
        pytest.param(frame(0, 0, 1, b"x"), True, False, id="data"),
        pytest.param(frame(0, 1, 1, b""), True, False, id="an end"),
        pytest.param(frame(0, 0, 1, b""), True, True, id="no data"),
        pytest.param(frame(0, 8, 1, b"\x05" + bytes(5)), True, True, id="padding"),
        pytest.param(frame(0, 8, 1, b"\x05x" + bytes(5)), True, False, id="data and padding"),
        pytest.param(frame(0, 0, 1, b"x"), False, True, id="data for nobody"),
        pytest.param(frame(1, 4, 1, b"\x88"), True, False, id="a head"),
        pytest.param(frame(1, 4, 1, b"\x88"), False, True, id="a head for nobody"),
        pytest.param(frame(9, 4, 1, b""), True, True, id="a continuation"),
        pytest.param(frame(3, 0, 1, bytes(4)), True, True, id="a reset"),
    ],
)
def test_what_a_stream_waits_for_costs_nothing(taken: bytes, wanted: bool, counts: bool) -> None:
    bounds = Bounds(SetClock())
    assert refuses(lambda: bounds.judge(taken, wanted=wanted)) is counts


@pytest.mark.parametrize(("size", "earns"), [(16_384, True), (1, False)])
def test_windows_are_opened_for_what_we_send_and_not_byte_by_byte(size: int, earns: bool) -> None:
    bounds = Bounds(SetClock())

    def send() -> None:
        bounds.sent(size)
        bounds.judge(UPDATE, wanted=False)
        bounds.judge(UPDATE, wanted=True)

    assert refuses(send) is not earns
