"""How many forged tokens of one client are verified within a second.

A signature costs the edge up to 200 µs and whoever forges nothing. Only failures are counted, so a
gateway with many good users never runs out; what is remembered as good passes in any case.
"""

from __future__ import annotations

_CLIENTS = 4096


class FailureBudget:
    """Failed verifications by client and second, in one worker. `refused` counts what was not verified."""

    __slots__ = ("_failed", "_most", "_second", "refused")

    def __init__(self, most: int) -> None:
        """At most `most` failures of one client within a second."""
        self._most = most
        self._second = 0
        self._failed: dict[str, int] = {}
        self.refused = 0

    def is_spent(self, client: str, now: float) -> bool:
        """Whether `client` may have no more tokens verified in this second (steady seconds)."""
        if int(now) != self._second or not self._failed:
            return False
        spent = self._failed.get(_network(client), 0) >= self._most
        self.refused += spent
        return spent

    def charge(self, client: str, now: float) -> None:
        """A token of `client` was verified and is forged."""
        if int(now) != self._second:
            self._second = int(now)
            self._failed.clear()
        network = _network(client)
        # Beyond so many forgers in one second they share what is left.
        name = network if network in self._failed or len(self._failed) < _CLIENTS else ""
        self._failed[name] = self._failed.get(name, 0) + 1


def _network(client: str) -> str:
    """An IPv6 client owns a /64; of an address shorter than that, the whole text."""
    return ":".join(client.split(":")[:4]) if ":" in client else client
