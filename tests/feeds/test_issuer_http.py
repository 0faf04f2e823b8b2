"""What an edge dials when it fetches keys: A101, with real sockets."""

from __future__ import annotations

from ipaddress import ip_network

import httpcore
import pytest

from edgeproxy.feeds.issuer_http import FetchError, IssuerHttp, may_dial
from edgeproxy.origin.names import Found
from edgeproxy.units import Network
from tests.helpers.scripted_origin import Peer, ScriptedOrigin

INSIDE: tuple[Network, ...] = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34", "64:ff9b::5db8:d822"]
)
def test_public_addresses_may_be_dialled(address: str) -> None:
    assert may_dial(address)


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1", "172.16.0.1", "192.168.1.1", "127.0.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
        "100.100.100.200", "192.0.0.192", "198.18.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1",
        "::1", "::", "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "fc00::1", "ff02::1", "::ffff:127.0.0.1",
        "::ffff:169.254.169.254", "64:ff9b::a00:1", "2002:a00:1::", "2002:7f00:1::", "", "id.example.com",
    ],
)  # fmt: skip
def test_addresses_of_this_machine_link_site_or_nobody_are_not(address: str) -> None:
    assert not may_dial(address)


def test_what_is_allowed_is_dialled_and_nothing_beside_it() -> None:
    for address in ("10.1.2.3", "fd00::7", "::ffff:10.1.2.3", "93.184.216.34"):
        assert may_dial(address, INSIDE)
    for address in ("192.168.0.1", "127.0.0.1", "fe80::1"):
        assert not may_dial(address, INSIDE)


class Names:
    """A resolver that answers as told, one answer after the other."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str) -> Found:
        self.asked.append(host)
        if not self.answers:
            raise OSError("no such name")
        return Found(self.answers.pop(0))


def reply(status: str = "200 OK", *fields: str, body: bytes = b"keys") -> bytes:
    return (
        "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields, "", ""]).encode() + body
    )


def script(answer: bytes) -> ScriptedOrigin:
    async def run(peer: Peer) -> None:
        await peer.head()
        await peer.send(answer)
        await peer.eof()

    return ScriptedOrigin(run)


async def word(http: IssuerHttp, most: int = 100) -> str:
    with pytest.raises(FetchError) as failed:
        await http.get(most, 2.0)
    return failed.value.word


async def test_a_name_that_leads_inside_is_not_dialled() -> None:
    async with script(reply()) as origin:
        port = origin.url.rpartition(":")[2]
        for answer in (["127.0.0.1"], ["10.0.0.1", "127.0.0.1"], ["::ffff:127.0.0.1"]):
            names = Names(answer)
            assert await word(IssuerHttp(f"http://id.example.com:{port}/", (), names)) == "address"
            assert names.asked == ["id.example.com"]
        assert await word(IssuerHttp("http://id.example.com/", (), Names())) == "dns"
        assert await word(IssuerHttp("http://id.example.com/", (), Names([]))) == "dns"
        assert origin.heads == []


async def test_the_address_that_was_checked_is_the_one_that_is_dialled() -> None:
    """A name that answers another way the second time (DNS rebinding) is not asked a second time."""
    async with script(reply()) as origin:
        port = origin.url.rpartition(":")[2]
        names = Names(["127.0.0.1"], ["169.254.169.254"])
        http = IssuerHttp(f"http://id.example.com:{port}/a", (ip_network("127.0.0.0/8"),), names)
        assert (await http.get(100, 2.0)).body == b"keys"
        assert names.asked == ["id.example.com"]
        assert b"Host: id.example.com" in origin.heads[0]


async def test_the_next_address_is_tried_when_one_does_not_answer() -> None:
    async with script(reply()) as origin:
        port = origin.url.rpartition(":")[2]
        names = Names(["127.0.0.2", "127.0.0.1"])
        http = IssuerHttp(f"http://id.example.com:{port}/", (ip_network("127.0.0.0/8"),), names)
        assert (await http.get(100, 2.0)).body == b"keys"
    names = Names(["127.0.0.1"])
    with pytest.raises(httpcore.ConnectError):
        await IssuerHttp("http://id.example.com:1/", (ip_network("127.0.0.0/8"),), names).get(100, 2.0)


async def test_loopback_that_was_written_down_is_meant() -> None:
    async with script(reply("200 OK", "Cache-Control: max-age=60", "Age: 7")) as origin:
        fetched = await IssuerHttp(origin.url, ()).get(4, 2.0)
        assert (fetched.body, fetched.fields["cache-control"], fetched.fields["age"]) == (
            b"keys",
            "max-age=60",
            "7",
        )
        assert b"cookie" not in origin.heads[0].lower()
        assert await word(IssuerHttp(origin.url, ()), most=3) == "too-large"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (reply("302 Found", "Location: http://169.254.169.254/"), "redirect"),
        (reply("304 Not Modified", body=b""), "redirect"),
        (reply("500 Oops"), "status"),
        (reply("206 Partial Content"), "status"),
        (reply("200 OK", "Content-Encoding: gzip"), "encoding"),
    ],
)
async def test_anything_but_a_plain_200_brings_nothing(answer: bytes, said: str) -> None:
    async with script(answer) as origin:
        assert await word(IssuerHttp(origin.url, ())) == said
        assert len(origin.heads) == 1
