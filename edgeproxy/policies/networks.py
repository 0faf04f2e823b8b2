"""Lists of networks: is an address in one of them? Sorted intervals, and a bisection."""

from __future__ import annotations

import ipaddress
from bisect import bisect_right
from collections.abc import Iterable
from functools import lru_cache

from edgeproxy.units import Network

_IPV6 = 1 << 32  # IPv6 comes after all of IPv4, so that one list holds both
_MAPPED = 0xFFFF << 32  # ::ffff:0:0/96 is IPv4 (RFC 4291 §2.5.5.2)
_REMEMBERED = 16_384
_FIRST, _SECOND, _THIRD, _FOURTH = (
    {str(number): number << shift for number in range(256)} for shift in (24, 16, 8, 0)
)


def address_number(address: str) -> int:
    """Where an address stands among all of both families; -1 when it is none. A zone is ignored."""
    parts = address.split(".")
    if len(parts) == 4:  # nearly all are these, and quicker read than remembered
        first, second, third, fourth = parts
        try:
            return _FIRST[first] + _SECOND[second] + _THIRD[third] + _FOURTH[fourth]
        except KeyError:
            if ":" not in address:
                return -1
    return _other_number(address)


@lru_cache(_REMEMBERED)
def _other_number(address: str) -> int:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return -1
    number = int(parsed)
    if parsed.version == 4:
        return number
    return number & 0xFFFFFFFF if number >> 32 == 0xFFFF else number + _IPV6


class NetworkSet:
    """`address in networks`. Overlapping and adjacent networks become one interval."""

    __slots__ = ("_ends", "_starts")

    def __init__(self, networks: Iterable[Network]) -> None:
        spans = sorted(_span(network) for network in networks)
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in spans:
            if self._ends and start <= self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], end)
            else:
                self._starts.append(start)
                self._ends.append(end)

    def __contains__(self, address: str) -> bool:
        number = address_number(address)
        at = bisect_right(self._starts, number) - 1
        return at >= 0 and number < self._ends[at]

    def __len__(self) -> int:
        return len(self._starts)


def _span(network: Network) -> tuple[int, int]:
    first = int(network.network_address)
    size = network.num_addresses
    if network.version == 6:
        if first >= _MAPPED and first + size <= _MAPPED + _IPV6:
            first -= _MAPPED
        else:
            first += _IPV6
    return first, first + size
