"""Lists of networks, against the standard library one by one."""

from __future__ import annotations

import ipaddress
import random

from hypothesis import given
from hypothesis import strategies as st

from edgeproxy.policies.networks import NetworkSet, address_number
from edgeproxy.units import Network

V4 = st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address)
V6 = st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address)


def network(address: ipaddress.IPv4Address | ipaddress.IPv6Address, length: int) -> Network:
    return ipaddress.ip_network(f"{address}/{min(length, address.max_prefixlen)}", strict=False)


@given(st.lists(st.builds(network, st.one_of(V4, V6), st.integers(0, 128)), max_size=12), st.one_of(V4, V6))
def test_an_address_is_in_the_set_when_it_is_in_one_network(networks: list[Network], address: object) -> None:
    tried = [str(address), *[str(each.network_address) for each in networks]]
    tried += [str(each.broadcast_address) for each in networks]
    for text in tried:
        plain = ipaddress.ip_address(text)
        mapped = getattr(plain, "ipv4_mapped", None)
        if mapped is not None or any(each.version == 6 and each.prefixlen < 96 for each in networks):
            continue  # said below
        assert (text in NetworkSet(networks)) is any(plain in each for each in networks)


@given(st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,4}){2,4}", fullmatch=True))
def test_what_looks_like_an_address_is_one_when_the_library_says_so(text: str) -> None:
    try:
        expected = int(ipaddress.ip_address(text))
    except ValueError:
        expected = -1
    assert address_number(text) == expected


def test_mapped_addresses_are_ipv4_and_zones_do_not_count() -> None:
    networks = NetworkSet([ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fe80::/10")])
    assert "::ffff:10.1.2.3" in networks
    assert "fe80::1%eth0" in networks
    assert "::ffff:11.1.2.3" not in networks
    assert "unix" not in networks
    assert address_number("unix") == -1
    assert "10.1.1.1" in NetworkSet([ipaddress.ip_network("::ffff:10.0.0.0/104")])
    assert "10.1.1.1" not in NetworkSet([ipaddress.ip_network("2000::/3")])


def test_ten_thousand_networks_become_sorted_intervals() -> None:
    draw = random.Random(1)
    nets = [ipaddress.ip_network((draw.getrandbits(32) & 0xFFFFFF00, 24)) for _ in range(10_000)]
    made = NetworkSet(nets)
    assert len(made) <= 10_000
    for each in nets[:500]:
        assert str(each[7]) in made
