"""Names of origins to addresses: kept as long as the records say, looked up once however many ask, and
never fatal twice.

When a look-up fails the last good answer is used. Names that resolve to addresses of this machine,
of this link or of a cloud's metadata service are refused unless allowed (reliability A119).
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from functools import partial

from edgeproxy.context import Clock
from edgeproxy.errors import origin_error
from edgeproxy.origin.names import Found, Lookup
from edgeproxy.origin.servers import is_address
from edgeproxy.origin.sweeper import NEVER

RETRY_AFTER = 5.0  # seconds between look-ups while they fail
FAILED_FOR = 1.0  # and where there is no answer from before: name servers are not asked once per request
MAX_ADDRESSES = 16

_log = logging.getLogger(__name__)
_METADATA = frozenset(["100.100.100.200", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"])


def is_prohibited(address: str) -> bool:
    """Is it loopback, link-local, unspecified, multicast or a metadata service?"""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return True
    if isinstance(parsed, ipaddress.IPv6Address):
        parsed = parsed.ipv4_mapped or parsed.sixtofour or parsed
    return (
        parsed.is_loopback
        or parsed.is_link_local
        or parsed.is_unspecified
        or parsed.is_multicast
        or (parsed.version == 4 and int(parsed) >> 24 == 0)  # 0.0.0.0/8 reaches this machine
        or str(parsed) in _METADATA
    )


class _Answer:
    """What is known about one name."""

    __slots__ = ("addresses", "before", "failing", "flight", "until")

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self.before: list[str] = []  # the addresses of the answer before it
        self.until = -NEVER
        self.failing = False
        self.flight: asyncio.Task[Found] | None = None


class Resolver:
    """One per worker. Bounded by the names in the configuration: nobody else may ask. `failures` counts
    look-ups without an answer."""

    __slots__ = ("_answers", "_clock", "_lookup", "failures")

    def __init__(self, clock: Clock, lookup: Lookup | None = None) -> None:
        self._clock = clock
        self._lookup = lookup
        self._answers: dict[str, _Answer] = {}
        self.failures = 0

    async def resolve(self, host: str, timeout: float, *, allow_private: bool = False) -> list[str]:  # noqa: ASYNC109 - the look-up itself must go on for the others
        """Addresses of `host`, at least one. `timeout` in seconds.

        Raises OriginError: dns_error, dns_timeout, destination_ip_prohibited.
        """
        if is_address(host):
            return [host]
        addresses = await self._addresses(host, timeout)
        if not allow_private:
            addresses = [address for address in addresses if not is_prohibited(address)]
            if not addresses:
                raise origin_error(
                    "destination_ip_prohibited",
                    f"{host} is on loopback, link-local or metadata: `allow_private` is off",
                )
        return addresses

    async def _addresses(self, host: str, timeout: float) -> list[str]:  # noqa: ASYNC109
        answer = self._answers.setdefault(host, _Answer())
        if self._clock() < answer.until:
            if not answer.addresses:
                raise origin_error("dns_error", f"{host} could not be resolved a moment ago")
            return answer.addresses
        done, _ = await asyncio.wait([self._flight(host, answer)], timeout=timeout)
        if answer.addresses:  # new ones, or the last good ones
            if not done:
                answer.until = self._clock() + RETRY_AFTER
            return answer.addresses
        if not done:
            raise origin_error("dns_timeout", f"looking up {host} takes too long")
        raise origin_error("dns_error", f"{host} cannot be resolved")

    def outdated(self, host: str, address: object) -> bool:
        """Has `host` moved away from this address? Two answers without it say so: some name servers give
        a part of the addresses at a time. Looks up anew, behind the back, when it is time to."""
        answer = self._answers.get(host)
        if answer is None:
            return False
        if self._clock() >= answer.until:
            self._flight(host, answer)
        return bool(answer.before) and address not in answer.addresses and address not in answer.before

    def _flight(self, host: str, answer: _Answer) -> asyncio.Task[Found]:
        """The look-up that is under way; started when none is."""
        flight = answer.flight
        if flight is None:
            flight = answer.flight = asyncio.get_running_loop().create_task(self._look_up(host))
            flight.add_done_callback(partial(self._landed, host, answer))
        return flight

    async def _look_up(self, host: str) -> Found:
        if self._lookup is None:
            from edgeproxy.origin.name_servers import NameServers  # not every edge has origins with names

            self._lookup = NameServers()
        return await self._lookup(host)

    def _landed(self, host: str, answer: _Answer, flight: asyncio.Task[Found]) -> None:
        answer.flight = None
        if flight.cancelled():
            return
        error = flight.exception()
        if error is None and flight.result().addresses:
            addresses, ttl = flight.result()
            answer.before, answer.addresses = answer.addresses, addresses[:MAX_ADDRESSES]
            answer.until = self._clock() + ttl
            if answer.failing:
                answer.failing = False
                _log.info("%s is found again", host)
            return
        self.failures += 1
        answer.until = self._clock() + (RETRY_AFTER if answer.addresses else FAILED_FOR)
        if not answer.failing:  # once, however long it lasts
            answer.failing = True
            so = "the last good addresses stay" if answer.addresses else "requests for it fail"
            _log.warning("%s cannot be looked up (%s); %s", host, error or "no addresses", so)
