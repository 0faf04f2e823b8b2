"""Names to addresses by c-ares, from a name server that says what the test wants."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import cast

import pytest

from edgeproxy.origin import name_servers
from edgeproxy.origin.name_servers import LONGEST, SHORTEST, NameServers
from edgeproxy.origin.names import TTL, Found, system_lookup

A, AAAA = 1, 28
Records = dict[int, list[tuple[str, int]]]  # type -> addresses with their time to live


class NameServer(asyncio.DatagramProtocol):
    """Answers each question from `records`; a name it does not have is NXDOMAIN."""

    def __init__(self, records: dict[str, Records]) -> None:
        self.records = records
        self.asked: list[tuple[str, int]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        labels: list[str] = []
        at = 12
        while length := data[at]:
            labels.append(data[at + 1 : at + 1 + length].decode())
            at += 1 + length
        kind = struct.unpack("!H", data[at + 1 : at + 3])[0]
        host = ".".join(labels).lower()
        self.asked.append((host, kind))
        found = self.records.get(host)
        answers = [] if found is None else found.get(kind, [])
        head = data[:2] + struct.pack("!HHHHH", 0x8180 | (3 if found is None else 0), 1, len(answers), 0, 0)
        family = socket.AF_INET if kind == A else socket.AF_INET6
        body = b"".join(
            b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, ttl, 4 if kind == A else 16)
            + socket.inet_pton(family, address)
            for address, ttl in answers
        )  # fmt: skip
        self._transport.sendto(head + data[12 : at + 5] + body, addr)


@asynccontextmanager
async def asking(records: dict[str, Records]) -> AsyncGenerator[tuple[NameServers, NameServer]]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(
        lambda: NameServer(records), local_addr=("127.0.0.1", 0)
    )
    port = transport.get_extra_info("sockname")[1]
    made = NameServers([f"127.0.0.1:{port}"])
    try:
        yield made, server
    finally:
        await made.close()
        transport.close()


@pytest.mark.parametrize(
    ("records", "addresses", "ttl"),
    [
        ({A: [("192.0.2.1", 60)]}, {"192.0.2.1"}, 60.0),
        ({A: [("192.0.2.1", 60), ("192.0.2.2", 20)]}, {"192.0.2.1", "192.0.2.2"}, 20.0),
        ({A: [("192.0.2.1", 60)], AAAA: [("2001:db8::1", 30)]}, {"192.0.2.1", "2001:db8::1"}, 30.0),
        ({AAAA: [("2001:db8::1", 30)]}, {"2001:db8::1"}, 30.0),
        ({A: [("192.0.2.1", 0)]}, {"192.0.2.1"}, SHORTEST),
        ({A: [("192.0.2.1", 100_000)]}, {"192.0.2.1"}, LONGEST),
    ],
    ids=["one", "the shortest counts", "both families", "version 6 alone", "not believed at all", "for ever"],
)
async def test_an_answer_has_the_time_to_live_of_its_records(
    records: Records, addresses: set[str], ttl: float
) -> None:
    async with asking({"origin.example": records}) as (look_up, server):
        found = await look_up("origin.example")
        assert (set(found.addresses), found.ttl) == (addresses, ttl)
        assert {kind for _, kind in server.asked} == {A, AAAA}


async def test_what_the_name_servers_do_not_know_the_system_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def system(host: str) -> Found:
        asked.append(host)
        return Found(["192.0.2.7"])

    asked: list[str] = []
    monkeypatch.setattr(name_servers, "system_lookup", system)
    async with asking({}) as (look_up, _):
        assert await look_up("printer.local") == Found(["192.0.2.7"], TTL)
    assert asked == ["printer.local"]


async def test_the_hosts_file_is_read() -> None:
    async with asking({}) as (look_up, server):
        found = await look_up("localhost")
    assert "127.0.0.1" in found.addresses
    assert server.asked == []


async def test_the_system_resolver_knows_this_machine() -> None:
    found = await system_lookup("localhost")
    assert "127.0.0.1" in found.addresses


async def test_a_name_that_nobody_knows_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def system(host: str) -> Found:
        raise socket.gaierror(socket.EAI_NONAME, host)

    monkeypatch.setattr(name_servers, "system_lookup", system)
    async with asking({}) as (look_up, _):
        with pytest.raises(OSError, match=r"nobody\.example"):
            await look_up("nobody.example")
