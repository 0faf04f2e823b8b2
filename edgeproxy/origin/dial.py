"""Opens connections to one server: name, TCP, TLS, each failure with its word of RFC 9209.

Several addresses race (happy eyeballs, RFC 8305): the next one is tried while the first still hangs.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from typing import Any, TypeVar, cast

from aiohappyeyeballs import start_connection  # pyright: ignore[reportUnknownVariableType] - half typed

from edgeproxy.errors import OriginError, origin_error
from edgeproxy.origin.connection import OriginConnection
from edgeproxy.origin.resolve import Resolver
from edgeproxy.origin.servers import ServerUrl, is_address
from edgeproxy.origin.tls import ResumingContext, tls_error

HEAD_START = 0.25  # seconds that an address has before the next one is tried beside it

P = TypeVar("P")  # what speaks on the connection; a protocol by what it has, so that it may be compiled


class Dialer:
    """How one server is reached. `timeout` is for name, TCP and TLS together, in seconds."""

    __slots__ = ("_allow_private", "_context", "_resolver", "_server_name", "_timeout", "_url")

    def __init__(
        self,
        url: ServerUrl,
        resolver: Resolver,
        timeout: float,
        *,
        context: ResumingContext | None,
        server_name: str | None,
        allow_private: bool,
    ) -> None:
        self._url = url
        self._resolver = resolver
        self._timeout = timeout
        self._context = context if url.tls else None
        self._server_name = (server_name or url.host) if url.tls else None
        self._allow_private = allow_private

    async def open(self, build: Callable[[], P]) -> P:
        """A new connection made by `build`. Raises OriginError."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._timeout
        try:
            if self._url.socket:
                async with asyncio.timeout_at(until):
                    _, connection = await loop.create_unix_connection(cast(Any, build), self._url.socket)
                    return connection
            # Half the time, so that a resolver that hangs leaves the other half for the last good answer.
            addresses = await self._resolver.resolve(
                self._url.host, self._timeout / 2, allow_private=self._allow_private
            )
            return await self._connect(loop, build, list(addresses), until)
        except (OSError, EOFError, RuntimeError, ValueError) as error:  # TimeoutError, SSLError are OSErrors
            raise connect_error(error) from None

    async def _connect(
        self, loop: asyncio.AbstractEventLoop, build: Callable[[], P], addresses: list[str], until: float
    ) -> P:
        while True:
            async with asyncio.timeout_at(until):
                address, connected = await self._race(addresses)
            try:
                # One that accepts but shakes no hands must leave time for the next.
                async with asyncio.timeout((until - loop.time()) / len(addresses)):
                    _, connection = await loop.create_connection(
                        cast(Any, build), sock=connected, ssl=self._context, server_hostname=self._server_name
                    )
                    return connection
            except (OSError, EOFError):
                connected.close()
                addresses.remove(address)
                if not addresses:
                    raise

    async def _race(self, addresses: list[str]) -> tuple[str, socket.socket]:
        """The address that answered first, and the socket that is connected to it."""
        infos: list[Any] = []
        names: dict[object, str] = {}
        for address in addresses:
            for info in socket.getaddrinfo(
                address, self._url.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
            ):
                infos.append(info)
                names[info[4]] = address
        connected = await start_connection(infos, happy_eyeballs_delay=HEAD_START)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return names.get(connected.getpeername(), addresses[0]), connected

    def remember(self, connection: OriginConnection) -> None:
        """Keep the TLS session of a connection, so that the next handshake is shorter."""
        if self._context is not None:
            self._context.keep(self._server_name, connection._transport.get_extra_info("ssl_object"))

    @property
    def named(self) -> bool:
        """Is the server known by a name, which may move?"""
        return not self._url.socket and not is_address(self._url.host)

    def outdated(self, transport: asyncio.Transport) -> bool:
        """Does the server's name no longer resolve to what this is connected to? May look it up anew."""
        peer = transport.get_extra_info("peername")
        return peer is not None and self._resolver.outdated(self._url.host, peer[0])


def connect_error(error: BaseException) -> OriginError:
    """The OriginError of what connecting raised."""
    if isinstance(error, ssl.SSLError):
        return tls_error(error)
    if isinstance(error, TimeoutError):
        return origin_error("connection_timeout", "the origin does not answer")
    if isinstance(error, ConnectionRefusedError):
        return origin_error("connection_refused", "the origin refuses connections")
    if isinstance(error, ConnectionError | EOFError):
        return origin_error("connection_terminated", "the origin closed the connection while it was opened")
    why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else type(error).__name__
    return origin_error("destination_unavailable", f"the origin cannot be reached: {why}")
