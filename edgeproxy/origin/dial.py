"""Opens connections to one server: name, TCP, TLS, each failure with its word of RFC 9209."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from edgeproxy.errors import OriginError, origin_error
from edgeproxy.origin.connection import OriginConnection
from edgeproxy.origin.resolve import Resolver
from edgeproxy.origin.servers import ServerUrl
from edgeproxy.origin.tls import tls_error


class Dialer:
    """How one server is reached. `timeout` is for name, TCP and TLS together, in seconds."""

    __slots__ = ("_allow_private", "_context", "_resolver", "_server_name", "_timeout", "_url")

    def __init__(
        self,
        url: ServerUrl,
        resolver: Resolver,
        timeout: float,
        *,
        context: ssl.SSLContext | None,
        server_name: str | None,
        allow_private: bool,
    ) -> None:
        self._url = url
        self._resolver = resolver
        self._timeout = timeout
        self._context = context if url.tls else None
        self._server_name = (server_name or url.host) if url.tls else None
        self._allow_private = allow_private

    async def open(self, build: Callable[[], OriginConnection]) -> OriginConnection:
        """A new connection made by `build`. Raises OriginError."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._timeout
        # Half the time, so that a resolver that hangs leaves the other half for the last good answer.
        addresses = await self._resolver.resolve(
            self._url.host, self._timeout / 2, allow_private=self._allow_private
        )
        failure = origin_error("destination_unavailable", "there is no address to connect to")
        for position, address in enumerate(addresses):
            # An address that swallows packets must leave time for the next one.
            share = (until - loop.time()) / (len(addresses) - position)
            try:
                async with asyncio.timeout(share):
                    return await self._connect(loop, build, address)
            except (OSError, ssl.SSLError, EOFError) as error:  # TimeoutError is an OSError
                failure = connect_error(error)
        raise failure

    async def _connect(
        self, loop: asyncio.AbstractEventLoop, build: Callable[[], OriginConnection], address: str
    ) -> OriginConnection:
        _, connection = await loop.create_connection(
            build, address, self._url.port, ssl=self._context, server_hostname=self._server_name
        )
        return connection


def connect_error(error: Exception) -> OriginError:
    """The OriginError of what `create_connection` raised."""
    if isinstance(error, ssl.SSLError):
        return tls_error(error)
    if isinstance(error, TimeoutError):
        return origin_error("connection_timeout", "the origin does not answer")
    if isinstance(error, ConnectionRefusedError):
        return origin_error("connection_refused", "the origin refuses connections")
    if isinstance(error, ConnectionError | EOFError):
        return origin_error("connection_terminated", "the origin closed the connection while it was opened")
    return origin_error("destination_unavailable", "the origin cannot be reached")
