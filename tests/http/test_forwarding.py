"""Who the client is: only trusted peers speak for others, and only as far as they can be believed."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeproxy.http.forwarding import MAX_HOPS, UNTRUSTED_NAMES, TrustedProxies, canonical_address
from edgeproxy.http.message import Field, Headers, Request
from tests.helpers.builds import LOOKS_IN

PROXY, STRANGER = "10.0.0.1", "198.51.100.7"


@pytest.fixture
def proxies() -> TrustedProxies:
    return TrustedProxies([ip_network("10.0.0.0/8"), ip_network("fd00::/8")])


def headers(*lines: tuple[str, str]) -> Headers:
    return Headers([(name.encode(), value.encode("latin-1")) for name, value in lines])


def listed(*values: str) -> Headers:
    return headers(*[("X-Forwarded-For", value) for value in values])


def request(
    fields: Headers, peer: str = PROXY, *, host: bytes = b"shop.example", secure: bool = False
) -> Request:
    return Request(b"GET", host, b"/", b"", fields, peer, secure)


LISTS = {
    "one": (["1.2.3.4"], "1.2.3.4"),
    "right-most": (["6.6.6.6, 1.2.3.4"], "1.2.3.4"),
    "behind-trusted": (["6.6.6.6, 1.2.3.4, 10.9.9.9,10.1.1.1"], "1.2.3.4"),
    "several-lines": (["6.6.6.6", "1.2.3.4", "10.1.1.1"], "1.2.3.4"),
    "all-trusted": (["10.3.3.3, 10.2.2.2"], "10.3.3.3"),
    "tale-of-the-client": (["<script>, 1.2.3.4"], "1.2.3.4"),
    "port": (["1.2.3.4:5678"], "1.2.3.4"),
    "ipv6": (["2001:DB8::0:1"], "2001:db8::1"),
    "ipv6-brackets": (["[2001:db8::1]"], "2001:db8::1"),
    "ipv6-port": (["[2001:db8::1]:443"], "2001:db8::1"),
    "ipv6-zone": (["fe80::1%eth0"], "fe80::1"),
    "mapped": (["::ffff:1.2.3.4"], "1.2.3.4"),
    "mapped-trusted": (["1.2.3.4, ::ffff:10.0.0.9"], "1.2.3.4"),
    "spaces-and-tabs": ([" \t1.2.3.4 \t"], "1.2.3.4"),
    "empty": ([""], PROXY),
    "comma": ([","], PROXY),
    "empty-last": (["1.2.3.4,"], PROXY),
    "empty-between": (["1.2.3.4,,10.0.0.2"], PROXY),
    "unknown": (["unknown"], PROXY),
    "garbage": (["1.2.3.4, localhost"], PROXY),
    "too-large-octet": (["1.2.3.256"], PROXY),
    "leading-zeros": (["01.02.03.04"], PROXY),
    "non-ascii-digits": (["1.2.3.\xb2"], PROXY),
    "nul": (["1.2.3.4\0"], PROXY),
    "very-long": (["1" * 5000], PROXY),
    "32-hops": ([", ".join(["10.0.0.3"] * 31 + ["1.2.3.4"])], "1.2.3.4"),
    "33-hops": ([", ".join(["10.0.0.3"] * 32 + ["1.2.3.4"])], PROXY),
}


@pytest.mark.parametrize(("values", "client"), LISTS.values(), ids=LISTS.keys())
def test_the_right_most_untrusted_hop_of_a_trusted_peer_is_the_client(
    proxies: TrustedProxies, values: list[str], client: str
) -> None:
    for _ in range(2):  # the second time from memory
        assert proxies.client_address(PROXY, listed(*values)) == client


DESCRIPTIONS = {
    "plain": ("for=1.2.3.4", "1.2.3.4"),
    "case": ("FOR=1.2.3.4;Proto=http", "1.2.3.4"),
    "quoted-ipv6": ('for="[2001:db8::1]:4711";by=_edge', "2001:db8::1"),
    "right-most": ('for=6.6.6.6;host="a,b";proto=https, for=1.2.3.4;by=10.0.0.3 , for=10.0.0.2', "1.2.3.4"),
    "quoted-comma-and-escape": (r'for=6.6.6.6, host="x\",for=9.9.9.9";for=1.2.3.4', "1.2.3.4"),
    "obfuscated": ("for=_hidden", PROXY),
    "unknown": ("for=unknown", PROXY),
    "without-for": ("for=1.2.3.4, proto=https", PROXY),
    "for-twice": ("for=6.6.6.6;for=1.2.3.4", PROXY),
    "unquoted-ipv6": ("for=[2001:db8::1]", PROXY),
    "open-quote-of-the-client": ('for="6.6.6.6, for=1.2.3.4', PROXY),
    "quote-closed-by-the-proxy": ('for=6.6.6.6;x=", for="[2001:db8::1]"', PROXY),
    "garbage-behind": ("for=1.2.3.4 garbage", PROXY),
    "empty": ("", PROXY),
    "33-elements": (", ".join(["for=10.0.0.2"] * 32 + ["for=1.2.3.4"]), PROXY),
}


@pytest.mark.parametrize(("value", "client"), DESCRIPTIONS.values(), ids=DESCRIPTIONS.keys())
def test_forwarded_counts_where_there_is_no_list(proxies: TrustedProxies, value: str, client: str) -> None:
    for _ in range(2):
        assert proxies.client_address(PROXY, headers(("Forwarded", value))) == client


def test_forwarded_is_ignored_beside_a_list_even_a_bad_one(proxies: TrustedProxies) -> None:
    lie = ("Forwarded", "for=6.6.6.6")
    assert proxies.client_address(PROXY, headers(lie, ("X-Forwarded-For", "1.2.3.4"))) == "1.2.3.4"
    assert proxies.client_address(PROXY, headers(lie, ("X-Forwarded-For", "?"))) == PROXY


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        (STRANGER, STRANGER),
        ("::ffff:198.51.100.7", STRANGER),
        ("fe80::1%eth0", "fe80::1"),
        ("", ""),
        ("unix:", "unix:"),
    ],
)
def test_a_stranger_speaks_for_itself_alone(proxies: TrustedProxies, peer: str, address: str) -> None:
    lies = headers(("X-Forwarded-For", "1.2.3.4"), ("Forwarded", "for=1.2.3.4"), ("X-Real-IP", "1.2.3.4"))
    assert proxies.client_address(peer, lies) == address
    assert proxies.client_address(peer, lies) == address
    assert not proxies.trusts(peer)


@pytest.mark.parametrize("peer", [PROXY, "::ffff:10.0.0.1", "fd00::1", "fd00::1%eth0"])
def test_a_trusted_peer_is_known_in_every_spelling(proxies: TrustedProxies, peer: str) -> None:
    assert proxies.trusts(peer)
    assert proxies.client_address(peer, listed("1.2.3.4")) == "1.2.3.4"


def test_nobody_is_trusted_by_default() -> None:
    assert TrustedProxies([]).client_address("127.0.0.1", listed("1.2.3.4")) == "127.0.0.1"


@LOOKS_IN
def test_memory_does_not_grow_with_strangers(proxies: TrustedProxies) -> None:
    for number in range(10_000):
        peer = str(ip_address(0x2000_0000 + number))
        assert proxies.client_address(peer, listed("1.2.3.4")) == peer
        assert proxies.client_address(PROXY, listed(peer)) == peer
        proxies.client_address(PROXY, headers(("Forwarded", f"for={peer}")))
    sizes = [len(memo) for memo in vars(proxies).values() if isinstance(memo, dict)]
    assert len(sizes) == 4
    assert max(sizes) <= 4096


def fields_of(proxies: TrustedProxies, asked: Request) -> dict[bytes, bytes]:
    told: list[Field] = proxies.forwarded_fields(asked, proxies.client_address(asked.peer, asked.headers))
    assert len({name for name, _ in told}) == len(told)
    return dict(told)


TOLD = {
    "stranger": (listed("6.6.6.6"), STRANGER, b"198.51.100.7", b"for=198.51.100.7"),
    "trusted": (listed("6.6.6.6, 1.2.3.4"), PROXY, b"6.6.6.6, 1.2.3.4, 10.0.0.1", b"for=1.2.3.4"),
    "trusted-silent": (listed(), PROXY, b"10.0.0.1", b"for=10.0.0.1"),
    "trusted-garbage": (listed("1.2.3.4, ???"), PROXY, b"10.0.0.1", b"for=10.0.0.1"),
    "trusted-forwarded": (headers(("Forwarded", "for=1.2.3.4")), PROXY, b"1.2.3.4, 10.0.0.1", b"for=1.2.3.4"),
    "ipv6": (listed(), "2001:db8::9", b"2001:db8::9", b'for="[2001:db8::9]"'),
    "unix-socket": (listed(), "", b"unknown", b"for=unknown"),
}


@pytest.mark.parametrize(("fields", "peer", "chain", "node"), TOLD.values(), ids=TOLD.keys())
def test_the_origin_is_told_what_we_know(
    proxies: TrustedProxies, fields: Headers, peer: str, chain: bytes, node: bytes
) -> None:
    told = fields_of(proxies, request(fields, peer))
    assert told[b"X-Forwarded-For"] == chain
    assert told[b"Forwarded"] == node + b";host=shop.example;proto=http"


@pytest.mark.parametrize(
    ("host", "said"),
    [
        (b"shop.example:81", b'"shop.example:81"'),
        (b"[::1]", b'"[::1]"'),
        (b'a"b\\', b'"a\\"b\\\\"'),
        (b"", b'""'),
    ],
)
def test_host_and_scheme_are_those_of_the_request(proxies: TrustedProxies, host: bytes, said: bytes) -> None:
    lies = headers(("X-Forwarded-Host", "evil.example"), ("X-Forwarded-Proto", "http"))
    told = fields_of(proxies, request(lies, STRANGER, host=host, secure=True))
    assert told[b"X-Forwarded-Host"] == host
    assert told[b"X-Forwarded-Proto"] == b"https"
    assert told[b"Forwarded"] == b"for=198.51.100.7;host=%b;proto=https" % said


@pytest.mark.parametrize(
    "name",
    [
        "Forwarded",
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "X-Forwarded-Port",
        "X-Forwarded-Prefix",
        "X-Forwarded-Server",
        "X-Real-IP",
        "True-Client-IP",
        "CF-Connecting-IP",
        "X-Original-URL",
        "X-Rewrite-URL",
        "X-HTTP-Method-Override",
        "X-HTTP-Method",
        "X-Method-Override",
        "X-Accel-Redirect",
        "X-Accel-Expires",
    ],
)
def test_names_that_deceive_an_origin_are_listed(name: str) -> None:
    assert name.lower().encode() in UNTRUSTED_NAMES


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=4), st.sampled_from([b"X-Forwarded-For", b"Forwarded"]))
def test_any_list_gives_a_canonical_address(values: list[bytes], name: bytes) -> None:
    proxies = TrustedProxies([ip_network("10.0.0.0/8")])
    client = proxies.client_address(PROXY, Headers([(name, value) for value in values]))
    assert str(ip_address(client)) == client


node = st.one_of(
    st.ip_addresses().map(str),
    st.ip_addresses(v=6).map(lambda each: f"[{each}]:443"),
    st.ip_addresses(v=4, network="10.0.0.0/8").map(str),
    st.sampled_from(["", "unknown", "_x", "1.2.3", "a b"]),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(node, min_size=1, max_size=36))
def test_no_hop_left_of_the_client_matters(nodes: list[str]) -> None:
    proxies = TrustedProxies([ip_network("10.0.0.0/8")])
    expected = PROXY
    for each in reversed(nodes):
        address = canonical_address(each)
        if address is None:
            expected = PROXY
            break
        expected = address
        if not address.startswith("10.") or ":" in address:
            break
    if len(nodes) > MAX_HOPS:
        expected = PROXY
    assert proxies.client_address(PROXY, listed(", ".join(nodes))) == expected
