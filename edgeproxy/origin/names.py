"""What a look-up of a name is, and the system's own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import NamedTuple

TTL = 30.0  # seconds, of an answer that does not say


class Found(NamedTuple):
    """Addresses of a name, and for how many seconds they hold."""

    addresses: list[str]
    ttl: float = TTL


Lookup = Callable[[str], Awaitable[Found]]
"""Addresses of a host. Raises OSError."""


async def system_lookup(host: str) -> Found:
    """Addresses of `host` by the system's resolver, in a thread. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return Found(list(dict.fromkeys(str(entry[4][0]) for entry in found)))
