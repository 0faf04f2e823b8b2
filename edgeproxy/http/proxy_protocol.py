"""The PROXY protocol's header, versions 1 (text) and 2 (binary): whom a load balancer speaks for.

Rule: only the whole header is an answer. Anything that cannot become one is refused at once, so a
stranger never makes us keep more than 552 bytes. TLVs and checksums of version 2 are skipped.
"""

from __future__ import annotations

import ipaddress
import re

from edgeproxy.errors import RequestError
from edgeproxy.record import record

V1_LONGEST = 107  # bytes, CRLF included: what the specification says is always enough
V2_LONGEST = 536  # bytes of addresses and TLVs behind the fixed part

_V1 = b"PROXY "
_V2 = b"\r\n\r\n\0\r\nQUIT\n"
_V2_FIXED = 16
_PORT = rb"(0|[1-9]\d{0,4})"
_V1_LINE = re.compile(rb"PROXY (TCP4|TCP6) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) " + _PORT + b" " + _PORT)
_LOCAL, _PROXY = 0x20, 0x21  # version 2 in the high half, command in the low one
_ADDRESS_BYTES = {1: 4, 2: 16}  # AF_INET, AF_INET6
_UNIX_BYTES = 216  # two paths of 108 bytes


@record
class Complete:
    """The header: the client's address and port, and how many bytes it took.

    `source` is empty where the sender names nobody (LOCAL, UNKNOWN, AF_UNIX): keep the socket's peer.
    """

    source: str
    port: int
    consumed: int


@record
class NeedMore:
    """What came so far may become a header; call again with more."""


_NEED_MORE = NeedMore()


def parse(buffer: bytes) -> Complete | NeedMore:
    """The header a connection starts with. `buffer` holds everything received so far.

    Raises RequestError(400, "bad-proxy-header") for what is no header of either version.
    """
    if buffer.startswith(_V1):
        return _parse_v1(buffer)
    if buffer.startswith(_V2):
        return _parse_v2(buffer)
    if _V1.startswith(buffer) or _V2.startswith(buffer):
        return _NEED_MORE
    raise _bad("The connection does not start with a PROXY protocol header.")


def _parse_v1(buffer: bytes) -> Complete | NeedMore:
    end = buffer.find(b"\r\n", 0, V1_LONGEST)
    if end < 0:
        # Without the line's end in 107 bytes there is none to wait for.
        if len(buffer) >= V1_LONGEST:
            raise _bad("The PROXY protocol line is longer than 107 bytes.")
        return _NEED_MORE
    line = buffer[:end]
    if line == b"PROXY UNKNOWN" or line.startswith(b"PROXY UNKNOWN "):
        return Complete("", 0, end + 2)
    match = _V1_LINE.fullmatch(line)
    if match is None:
        raise _bad("The PROXY protocol line is malformed.")
    version = 4 if match[1] == b"TCP4" else 6
    source = _address(match[2], version)
    _address(match[3], version)
    port = int(match[4])
    if port > 65535 or int(match[5]) > 65535:
        raise _bad("The PROXY protocol line names a port above 65535.")
    return Complete(source, port, end + 2)


def _parse_v2(buffer: bytes) -> Complete | NeedMore:
    if len(buffer) < _V2_FIXED:
        return _NEED_MORE
    command, family = buffer[12], buffer[13]
    length = int.from_bytes(buffer[14:16], "big")
    if command not in (_LOCAL, _PROXY):
        raise _bad("The PROXY protocol header has an unknown version or command.")
    if length > V2_LONGEST:
        raise _bad("The PROXY protocol header is longer than 552 bytes.")
    consumed = _V2_FIXED + length
    if len(buffer) < consumed:
        return _NEED_MORE
    if command == _LOCAL:  # the sender's own health check: its address part means nothing
        return Complete("", 0, consumed)
    return _source_v2(buffer[_V2_FIXED:consumed], family, consumed)


def _source_v2(block: bytes, family: int, consumed: int) -> Complete:
    kind, transport = family >> 4, family & 15
    if kind > 3 or transport > 2:
        raise _bad("The PROXY protocol header has an unknown address family.")
    if kind == 3 and len(block) < _UNIX_BYTES:
        raise _bad("The PROXY protocol header is too short for its addresses.")
    if kind in (0, 3) or transport == 0:
        return Complete("", 0, consumed)
    size = _ADDRESS_BYTES[kind]
    if len(block) < 2 * size + 4:
        raise _bad("The PROXY protocol header is too short for its addresses.")
    port = int.from_bytes(block[2 * size : 2 * size + 2], "big")
    return Complete(_canonical(ipaddress.ip_address(block[:size])), port, consumed)


def _address(text: bytes, version: int) -> str:
    try:
        address = ipaddress.ip_address(text.decode("ascii"))
    except ValueError:
        raise _bad("The PROXY protocol line names no valid address.") from None
    if address.version != version:
        raise _bad("The PROXY protocol line names an address of the other family.")
    return _canonical(address)


def _canonical(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """IPv4 for IPv4-mapped IPv6: rules and limits know one client by one name."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


def _bad(detail: str) -> RequestError:
    return RequestError(400, "bad-proxy-header", detail)
