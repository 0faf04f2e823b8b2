"""The one request that goes to an issuer: from a fixed URL, to an address that was looked at first.

Rule: the addresses that are checked are the ones that are dialled, so a name that resolves another way
a moment later leads nowhere (DNS rebinding). No redirect, no proxy or .netrc of the environment, no
cookie, no compressed or oversized body.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import cast

import httpcore
import httpx

from edgeproxy.errors import EdgeError
from edgeproxy.origin.names import Lookup, system_lookup
from edgeproxy.origin.resolve import is_prohibited
from edgeproxy.record import record
from edgeproxy.units import Network

_FIELDS = [
    (b"Accept", b"application/jwk-set+json, application/json"),
    (b"Accept-Encoding", b"identity"),
    (b"User-Agent", b"edgeproxy"),
    (b"Connection", b"close"),
]
_NAT64 = IPv6Network("64:ff9b::/96")
_LOOPBACK: tuple[Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1"))


class FetchError(EdgeError):
    """A fetch that brought nothing usable. `word` is bounded, for metrics and log."""

    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.word = word


@record
class Fetched:
    """A body, and the field values of the answer by lower-case name."""

    body: bytes
    fields: dict[str, str]


class IssuerHttp:
    """GET of one URL. `allow` are networks beside the public ones that its host may be in."""

    def __init__(self, url: str, allow: Iterable[Network], lookup: Lookup = system_lookup) -> None:
        self._url = url
        host = httpx.URL(url).host
        if host == "localhost" or (_is_address(host) and ip_address(host).is_loopback):
            allow = (*allow, *_LOOPBACK)  # who writes loopback means it
        self._backend = _Backend(tuple(allow), lookup)
        self._tls: ssl.SSLContext = httpx.create_ssl_context()

    async def get(self, most: int, timeout: float) -> Fetched:  # noqa: ASYNC109 - of each step; the caller bounds the whole
        """The answer, when it is a plain 200 of at most `most` bytes. FetchError, httpcore's errors."""
        waits = dict.fromkeys(("connect", "read", "write", "pool"), timeout)
        # A pool per fetch forgets connections; its TLS context is made once.
        async with (
            httpcore.AsyncConnectionPool(ssl_context=self._tls, network_backend=self._backend) as pool,
            pool.stream("GET", self._url, headers=_FIELDS, extensions={"timeout": waits}) as answer,
        ):
            fields = {
                name.decode("latin-1").lower(): value.decode("latin-1") for name, value in answer.headers
            }
            if 300 <= answer.status < 400:
                raise FetchError("redirect")
            if answer.status != 200:
                raise FetchError("status")
            if fields.get("content-encoding", "identity").lower() != "identity":
                raise FetchError("encoding")
            body = bytearray()
            async for chunk in answer.aiter_stream():
                body += chunk
                if len(body) > most:
                    raise FetchError("too-large")
            return Fetched(bytes(body), fields)


def may_dial(address: str, allow: Iterable[Network] = ()) -> bool:
    """Whether an issuer may be at `address`: a public one, or one in a network of `allow`."""
    if not _is_address(address):
        return False
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        found = _inner(found)
    if any(found in network for network in allow):
        return True
    return found.is_global and not found.is_multicast and not is_prohibited(str(found))


def _inner(address: IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that is really meant, in the ways of wrapping one."""
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


class _Backend(httpcore.AsyncNetworkBackend):
    """Looks a name up, and dials only what may be dialled."""

    def __init__(self, allow: tuple[Network, ...], lookup: Lookup) -> None:
        self._allow = allow
        self._lookup = lookup
        self._dial = cast("httpcore.AsyncNetworkBackend", httpcore.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            found = [host] if _is_address(host) else (await self._lookup(host)).addresses
        except OSError:
            raise FetchError("dns") from None
        usable = [address for address in found if may_dial(address, self._allow)]
        if not usable:
            raise FetchError("address" if found else "dns")
        failed: Exception = FetchError("dns")
        for address in usable[:4]:
            try:
                return await self._dial.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        raise failed
