"""Names to addresses: remembered, asked for once, survived, and never to this machine by surprise (A119)."""

from __future__ import annotations

import asyncio

import pytest

from edgeproxy.errors import OriginError
from edgeproxy.origin.names import TTL, Found
from edgeproxy.origin.resolve import FAILED_FOR, MAX_ADDRESSES, RETRY_AFTER, Resolver, is_prohibited
from tests.origin.support import SetClock, settle


class Names:
    """A name server: what it says is set by the test."""

    def __init__(self, *addresses: str) -> None:
        self.addresses: list[str] | Exception = list(addresses)
        self.ttl = TTL
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, host: str) -> Found:
        self.asked.append(host)
        await self.gate.wait()
        if isinstance(self.addresses, Exception):
            raise self.addresses
        return Found(self.addresses, self.ttl)


async def test_an_answer_is_remembered_for_its_time() -> None:
    clock, names = SetClock(), Names("192.0.2.1")
    resolver = Resolver(clock, names)
    for _ in range(3):
        assert await resolver.resolve("a.example", 1.0) == ["192.0.2.1"]
    assert names.asked == ["a.example"]
    names.addresses = ["192.0.2.2"]
    clock.now += TTL - 0.1
    assert await resolver.resolve("a.example", 1.0) == ["192.0.2.1"]
    clock.now += 0.2
    assert await resolver.resolve("a.example", 1.0) == ["192.0.2.2"]
    assert len(names.asked) == 2


@pytest.mark.parametrize("literal", ["127.0.0.1", "169.254.169.254", "::1", "192.0.2.9"])
async def test_an_address_is_its_own_answer_and_always_allowed(literal: str) -> None:
    names = Names()
    assert await Resolver(SetClock(), names).resolve(literal, 1.0) == [literal]
    assert names.asked == []


async def test_the_time_to_live_is_that_of_the_last_answer() -> None:
    clock, names = SetClock(), Names("192.0.2.1")
    names.ttl = 5.0
    resolver = Resolver(clock, names)
    for ttl, asked in [(300.0, 1), (300.0, 2), (5.0, 2)]:
        await resolver.resolve("a.example", 1.0)
        assert len(names.asked) == asked
        names.ttl = ttl
        clock.now += 5.0


async def test_many_who_ask_at_once_cause_one_look_up() -> None:
    names = Names("192.0.2.1")
    names.gate.clear()
    resolver = Resolver(SetClock(), names)
    asking = [asyncio.create_task(resolver.resolve("a.example", 5.0)) for _ in range(10)]
    await settle()
    asking[0].cancel()  # the others still get their answer
    await settle()
    names.gate.set()
    assert await asyncio.gather(*asking[1:]) == [["192.0.2.1"]] * 9
    assert names.asked == ["a.example"]


@pytest.mark.parametrize("failure", [OSError("SERVFAIL"), []], ids=["error", "no address"])
async def test_the_last_good_answer_outlives_a_failing_resolver(failure: OSError | list[str]) -> None:
    clock, names = SetClock(), Names("192.0.2.1")
    resolver = Resolver(clock, names)
    await resolver.resolve("a.example", 1.0)
    names.addresses = failure
    clock.now += TTL + 1
    assert await resolver.resolve("a.example", 1.0) == ["192.0.2.1"]
    assert await resolver.resolve("a.example", 1.0) == ["192.0.2.1"]
    assert (len(names.asked), resolver.failures) == (2, 1)  # not at every connect
    clock.now += RETRY_AFTER
    names.addresses = ["192.0.2.2"]
    assert await resolver.resolve("a.example", 1.0) == ["192.0.2.2"]


@pytest.mark.parametrize("failure", [OSError("NXDOMAIN"), []], ids=["error", "no address"])
async def test_a_name_that_never_resolved_is_an_error(failure: OSError | list[str]) -> None:
    names = Names()
    names.addresses = failure
    resolver = Resolver(SetClock(), names)
    with pytest.raises(OriginError) as refused:
        await resolver.resolve("a.example", 1.0)
    assert (refused.value.error, refused.value.status) == ("dns_error", 502)


async def test_a_name_that_cannot_be_resolved_is_not_looked_up_for_each_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, names = SetClock(), Names()
    names.addresses = OSError("SERVFAIL")
    resolver = Resolver(clock, names)
    for _ in range(3):
        for _ in range(100):
            with pytest.raises(OriginError, match="dns_error"):
                await resolver.resolve("a.example", 1.0)
        clock.now += FAILED_FOR
    assert (len(names.asked), resolver.failures) == (3, 3)
    names.addresses = ["192.0.2.1"]
    with caplog.at_level("INFO"):
        assert await resolver.resolve("a.example", 1.0) == ["192.0.2.1"]
    assert [record.message for record in caplog.records] == [
        "a.example cannot be looked up (SERVFAIL); requests for it fail",
        "a.example is found again",
    ]


async def test_a_look_up_that_hangs_times_out_and_does_not_hold_up_what_is_known() -> None:
    clock, names = SetClock(), Names("192.0.2.1")
    names.gate.clear()
    resolver = Resolver(clock, names)
    with pytest.raises(OriginError) as late:
        await resolver.resolve("a.example", 0.01)
    assert (late.value.error, late.value.status) == ("dns_timeout", 504)
    names.gate.set()
    assert await resolver.resolve("a.example", 1.0) == ["192.0.2.1"]
    names.gate.clear()
    clock.now += TTL + 1
    assert await resolver.resolve("a.example", 0.01) == ["192.0.2.1"]
    assert await resolver.resolve("a.example", 100.0) == ["192.0.2.1"]  # at once
    names.gate.set()
    await settle()


async def test_a_look_up_that_is_cancelled_leaves_things_as_they_were() -> None:
    names = Names("192.0.2.1")
    names.gate.clear()
    resolver = Resolver(SetClock(), names)
    asking = asyncio.create_task(resolver.resolve("a.example", 5.0))
    await settle()
    flight = resolver._answers["a.example"].flight
    assert flight is not None
    flight.cancel()
    with pytest.raises(OriginError, match="dns_error"):
        await asking


@pytest.mark.parametrize(
    ("address", "prohibited"),
    [
        ("127.0.0.1", True),
        ("127.255.0.9", True),
        ("0.0.0.0", True),
        ("0.1.2.3", True),
        ("::1", True),
        ("::", True),
        ("169.254.169.254", True),
        ("fe80::1", True),
        ("fe80::1%eth0", True),
        ("224.0.0.1", True),
        ("100.100.100.200", True),
        ("192.0.0.192", True),
        ("fd00:ec2::254", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:169.254.169.254", True),
        ("2002:7f00:1::", True),
        ("not an address", True),
        ("10.0.0.1", False),
        ("192.168.1.1", False),
        ("93.184.216.34", False),
        ("2606:2800::1", False),
        ("::ffff:93.184.216.34", False),
    ],
)
def test_addresses_of_this_machine_link_and_cloud_are_prohibited(address: str, prohibited: bool) -> None:
    assert is_prohibited(address) is prohibited


async def test_prohibited_addresses_are_left_out_and_refused_when_alone() -> None:
    names = Names("127.0.0.1", "192.0.2.1")
    resolver = Resolver(SetClock(), names)
    assert await resolver.resolve("mixed.example", 1.0) == ["192.0.2.1"]
    assert await resolver.resolve("mixed.example", 1.0, allow_private=True) == ["127.0.0.1", "192.0.2.1"]
    names.addresses = ["169.254.169.254"]
    with pytest.raises(OriginError) as refused:
        await resolver.resolve("rebound.example", 1.0)
    assert (refused.value.error, refused.value.status) == ("destination_ip_prohibited", 502)


async def test_a_name_with_very_many_addresses_is_cut_short() -> None:
    names = Names(*[f"192.0.2.{number}" for number in range(200)])
    assert len(await Resolver(SetClock(), names).resolve("big.example", 1.0)) == MAX_ADDRESSES
