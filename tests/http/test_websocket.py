"""Opening handshakes, and where frames end, however their bytes are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeproxy.http.websocket import Frames, close_frame, grants_websocket, wants_websocket
from tests.helpers.requests import headers, request

HANDSHAKE = {
    "Connection": "keep-alive, Upgrade",
    "Upgrade": "WebSocket",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}
GRANT = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",  # RFC 6455 §1.3
}


def test_a_handshake_is_one() -> None:
    assert wants_websocket(request("/chat", HANDSHAKE))


@pytest.mark.parametrize(
    "without", ["Connection", "Upgrade", "Sec-WebSocket-Key"], ids=lambda name: f"no {name}"
)
def test_less_than_a_handshake_is_a_plain_request(without: str) -> None:
    left = {name: value for name, value in HANDSHAKE.items() if name != without}
    assert not wants_websocket(request("/chat", left))


@pytest.mark.parametrize(
    ("name", "value"),
    [("Upgrade", "h2c"), ("Connection", "close"), ("Sec-WebSocket-Key", "short")],
)
def test_another_wish_is_a_plain_request(name: str, value: str) -> None:
    assert not wants_websocket(request("/chat", {**HANDSHAKE, name: value}))


def test_only_a_get_without_a_body_asks() -> None:
    assert not wants_websocket(request("/chat", HANDSHAKE, method="POST"))
    assert not wants_websocket(request("/chat", HANDSHAKE, body=True))


def test_the_grant_answers_this_very_handshake() -> None:
    asked = request("/chat", HANDSHAKE)
    assert grants_websocket(asked, headers(GRANT))
    for name, value in (
        ("Sec-WebSocket-Accept", "x" * 28),
        ("Upgrade", "h2c"),
        ("Upgrade", "websocket, h2c"),
        ("Connection", "close"),
    ):
        assert not grants_websocket(asked, headers({**GRANT, name: value}))


def frame(size: int, *, masked: bool) -> bytes:
    mask = 0x80 if masked else 0
    if size < 126:
        head = bytes([0x82, mask | size])
    elif size < 2**16:
        head = bytes([0x82, mask | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([0x82, mask | 127]) + size.to_bytes(8, "big")
    return head + (b"mask" if masked else b"") + b"\xff" * size


@given(
    st.lists(
        st.tuples(st.sampled_from([0, 1, 125, 126, 300, 65535, 65536, 70000]), st.booleans()), max_size=8
    ),
    st.data(),
)
def test_frames_end_where_they_end_however_they_are_cut(
    sizes: list[tuple[int, bool]], data: st.DataObject
) -> None:
    sent = [frame(size, masked=masked) for size, masked in sizes]
    whole = b"".join(sent)
    ends: set[int] = {0}
    for one in sent:
        ends.add(max(ends) + len(one))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)), max_size=12)) | {0, len(whole)})
    frames = Frames()
    assert frames.between
    for start, end in pairwise(cuts):
        ended = frames.feed(whole[start:end])
        within = [one for one in ends if start < one <= end]
        assert ended == (max(within) - start if within else 0)
        assert frames.between == (end in ends)


def test_a_close_frame_says_why() -> None:
    assert close_frame(1001) == b"\x88\x02\x03\xe9"
