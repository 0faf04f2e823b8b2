"""The PROXY protocol: both versions, byte by byte, and everything that only looks like them."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeproxy.errors import RequestError
from edgeproxy.http.proxy_protocol import Complete, NeedMore, parse

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def v2(command: int, family: int, block: bytes, length: int | None = None) -> bytes:
    return (
        SIGNATURE
        + bytes([command, family])
        + (len(block) if length is None else length).to_bytes(2, "big")
        + block
    )


IPV4 = bytes([192, 0, 2, 1, 10, 0, 0, 1]) + (4711).to_bytes(2, "big") + (443).to_bytes(2, "big")
IPV6 = ip_address("2001:db8::1").packed + ip_address("::1").packed + b"\x00\x50\x01\xbb"
MAPPED = ip_address("::ffff:192.0.2.9").packed + ip_address("::1").packed + b"\x00\x50\x01\xbb"
TLV = b"\x02\x00\x03abc"

HEADERS = {
    "v1-tcp4": (b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 443\r\n", "192.0.2.1", 4711),
    "v1-tcp6": (b"PROXY TCP6 2001:DB8:0::1 ::1 1 65535\r\n", "2001:db8::1", 1),
    "v1-mapped": (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", "192.0.2.1", 1),
    "v1-unknown": (b"PROXY UNKNOWN\r\n", "", 0),
    "v1-unknown-with-addresses": (b"PROXY UNKNOWN ffff::1 ::2 1 2\r\n", "", 0),
    "v1-longest": (b"PROXY UNKNOWN " + b"f" * 91 + b"\r\n", "", 0),
    "v2-tcp4": (v2(0x21, 0x11, IPV4), "192.0.2.1", 4711),
    "v2-udp4": (v2(0x21, 0x12, IPV4), "192.0.2.1", 4711),
    "v2-tcp6": (v2(0x21, 0x21, IPV6), "2001:db8::1", 80),
    "v2-mapped": (v2(0x21, 0x21, MAPPED), "192.0.2.9", 80),
    "v2-with-tlvs": (v2(0x21, 0x11, IPV4 + TLV * 20), "192.0.2.1", 4711),
    "v2-longest": (v2(0x21, 0x11, IPV4.ljust(536, b"\0")), "192.0.2.1", 4711),
    "v2-local": (v2(0x20, 0x00, b""), "", 0),
    "v2-local-ignores-addresses": (v2(0x20, 0x11, IPV4), "", 0),
    "v2-unspecified": (v2(0x21, 0x00, b"whatever"), "", 0),
    "v2-unix": (v2(0x21, 0x31, bytes(216)), "", 0),
}


@pytest.mark.parametrize(("header", "source", "port"), HEADERS.values(), ids=HEADERS.keys())
def test_a_header_names_the_client_and_leaves_the_rest(header: bytes, source: str, port: int) -> None:
    assert parse(header) == Complete(source, port, len(header))
    assert parse(header + b"GET / HTTP/1.1\r\n\r\n") == Complete(source, port, len(header))


@pytest.mark.parametrize("header", [row[0] for row in HEADERS.values()], ids=HEADERS.keys())
def test_every_part_of_a_header_asks_for_more(header: bytes) -> None:
    for end in range(len(header)):
        assert isinstance(parse(header[:end]), NeedMore), end


REFUSED = {
    "http": b"GET / HTTP/1.1\r\n",
    "first-byte": b"G",
    "lower-case": b"proxy TCP4",
    "tls": b"\x16\x03\x01",
    "no-protocol": b"PROXY \r\n",
    "unknown-protocol": b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
    "unknown-glued": b"PROXY UNKNOWNX\r\n",
    "no-addresses": b"PROXY TCP4\r\n",
    "one-address": b"PROXY TCP4 1.2.3.4\r\n",
    "two-spaces": b"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n",
    "trailing-space": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n",
    "bad-address": b"PROXY TCP4 1.2.3.256 1.2.3.4 1 2\r\n",
    "leading-zero-address": b"PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n",
    "bad-destination": b"PROXY TCP4 1.2.3.4 1.2.3 1 2\r\n",
    "family-mismatch": b"PROXY TCP4 ::1 ::1 1 2\r\n",
    "family-mismatch-6": b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
    "zone": b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
    "port-too-large": b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n",
    "destination-port-too-large": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
    "port-leading-zero": b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
    "port-negative": b"PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n",
    "line-feed-alone": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n\r\n",
    "v1-too-long": b"PROXY UNKNOWN " + b"f" * 92 + b"\r\n",
    "v1-never-ends": b"PROXY " + b"x" * 101,
    "v2-version": v2(0x11, 0x11, IPV4),
    "v2-command": v2(0x22, 0x11, IPV4),
    "v2-family": v2(0x21, 0x41, IPV4),
    "v2-transport": v2(0x21, 0x13, IPV4),
    "v2-too-short-for-ipv4": v2(0x21, 0x11, IPV4[:-1]),
    "v2-too-short-for-ipv6": v2(0x21, 0x21, IPV6[:-1]),
    "v2-too-short-for-unix": v2(0x21, 0x31, bytes(215)),
    "v2-too-long-by-its-head": v2(0x21, 0x11, b"", 537),
}


@pytest.mark.parametrize("start", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_header_is_refused_with_400(start: bytes) -> None:
    with pytest.raises(RequestError) as refused:
        parse(start)
    assert (refused.value.status, refused.value.reason) == (400, "bad-proxy-header")


almost = st.one_of(
    st.binary(max_size=700),
    st.binary(max_size=120).map(lambda rest: b"PROXY " + rest),
    st.binary(max_size=600).map(lambda rest: SIGNATURE + rest),
    st.tuples(st.sampled_from([0x20, 0x21]), st.integers(0, 0x32), st.binary(max_size=540)).map(
        lambda row: v2(*row)
    ),
)


@settings(max_examples=300, deadline=None)
@given(almost)
def test_any_bytes_give_a_header_a_wait_or_a_refusal(start: bytes) -> None:
    try:
        parsed = parse(start)
    except RequestError:
        return
    if isinstance(parsed, Complete):
        assert 0 < parsed.consumed <= len(start)
        assert 0 <= parsed.port < 65536
        assert not parsed.source or str(ip_address(parsed.source)) == parsed.source
    else:
        assert len(start) < 552


@settings(max_examples=200, deadline=None)
@given(st.ip_addresses(), st.ip_addresses(), st.integers(0, 65535), st.binary(max_size=100))
def test_what_a_sender_writes_in_version_1_is_read_back(
    source: object, target: object, port: int, rest: bytes
) -> None:
    ours, theirs = ip_address(str(source)), ip_address(str(target))
    if ours.version != theirs.version:
        theirs = ours
    header = f"PROXY TCP{ours.version} {ours} {theirs} {port} 443\r\n".encode()
    parsed = parse(header + rest)
    assert isinstance(parsed, Complete)
    mapped = getattr(ours, "ipv4_mapped", None)
    assert (parsed.source, parsed.port, parsed.consumed) == (str(mapped or ours), port, len(header))
