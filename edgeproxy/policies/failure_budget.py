"""How many wrong credentials of one client are looked at within a second.

A signature costs the edge up to 200 µs, a password 40 ms, and whoever forges nothing. Only failures are
counted, so a gateway with many good users never runs out; what is remembered as good passes in any case.
"""

from __future__ import annotations

from ipaddress import IPv6Address

_CLIENTS = 4096
_ALL_CLIENTS = 2000  # failures in a second after which one failure is enough to be refused


class FailureBudget:
    """Failures by client and second, in one worker."""

    __slots__ = ("_failed", "_most", "_second", "_total")

    def __init__(self, most: int) -> None:
        """At most `most` failures of one client within a second."""
        self._most = most
        self._second = 0
        self._failed: dict[str, int] = {}
        self._total = 0

    def is_spent(self, client: str, now: float) -> bool:
        """Whether `client` may have no more looked at in this second (steady seconds)."""
        if int(now) != self._second or not self._failed:
            return False
        failed = self._failed.get(_network(client), 0)
        return failed >= self._most or (failed > 0 and self._total >= _ALL_CLIENTS)

    def charge(self, client: str, now: float) -> None:
        """What `client` sent was looked at and is wrong."""
        if int(now) != self._second:
            self._second = int(now)
            self._total = 0
            self._failed.clear()
        self._total += 1
        network = _network(client)
        if network in self._failed or len(self._failed) < _CLIENTS:
            self._failed[network] = self._failed.get(network, 0) + 1


def _network(client: str) -> str:
    """The /64 of an IPv6 client, who has all of it; else the text as it is."""
    if ":" not in client:
        return client
    try:
        return str(int(IPv6Address(client)) >> 64)
    except ValueError:
        return client
