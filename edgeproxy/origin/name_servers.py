"""Names to addresses by c-ares: with the time to live of the records, which getaddrinfo keeps to itself.

It asks what /etc/hosts and /etc/resolv.conf name, as the system's resolver would. What it cannot find the
system is asked for: other sources of names (mDNS, LDAP) are known only there.
"""

from __future__ import annotations

import socket

import aiodns
from pycares import AddrInfoNode

from edgeproxy.origin.names import Found, system_lookup

SHORTEST = 1.0  # seconds an answer is believed at least: also one of /etc/hosts, which has no time to live
LONGEST = 3600.0


class NameServers:
    """Looks names up; one per worker. It starts its thread with the first name."""

    __slots__ = ("_resolver", "_servers")

    def __init__(self, servers: list[str] | None = None) -> None:
        """`servers`: addresses, with port where it is not 53. Default: those of /etc/resolv.conf."""
        self._servers = servers
        self._resolver: aiodns.DNSResolver | None = None

    async def __call__(self, host: str) -> Found:
        """Addresses of `host`, in the order to try them. Raises OSError."""
        if self._resolver is None:
            self._resolver = aiodns.DNSResolver(self._servers)
        try:
            found = await self._resolver.getaddrinfo(host, type=socket.SOCK_STREAM)
        except aiodns.error.DNSError:
            return await system_lookup(host)
        addresses = [_text(node) for node in found.nodes]
        ttl = float(min((node.ttl for node in found.nodes), default=0))
        return Found(list(dict.fromkeys(addresses)), min(max(SHORTEST, ttl), LONGEST))

    async def close(self) -> None:
        """End its thread."""
        if self._resolver is not None:
            await self._resolver.close()
            self._resolver = None


def _text(node: AddrInfoNode) -> str:
    return str(node.addr[0], "ascii")  # pyright: ignore[reportUnknownMemberType,reportUnknownArgumentType]
