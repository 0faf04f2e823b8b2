"""Clients that ask all the time and write down what they get."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from itertools import count

from tests.scenarios.origins import BODY

PAUSE = 0.004  # seconds between two requests of one client
PATIENCE = 5.0  # seconds a client waits
QUICK = 0.005  # seconds: what an answer may take that asks nobody


@dataclass
class Seen:
    """One request: when it was over, how long it took, and the status; 0 when there was no whole answer."""

    at: float
    seconds: float
    status: int
    poisoned: bool = False

    @property
    def failed(self) -> bool:
        return self.status != 200 or self.poisoned


@dataclass
class Load:
    """`clients` connections to the edge, each asking for one path after the other."""

    port: int
    prefix: str
    clients: int = 16
    distinct: int = 0  # so many different paths; 0 for a new one each time
    seen: list[Seen] = field(default_factory=list[Seen])
    _numbers: count[int] = field(default_factory=count)

    async def run(self) -> None:
        """Ask until cancelled."""
        await asyncio.gather(*[self._client() for _ in range(self.clients)])

    async def _client(self) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                await asyncio.sleep(PAUSE)
                continue
            try:
                while await self._ask(reader, writer):
                    await asyncio.sleep(PAUSE)
            finally:
                writer.close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Ask once; False when the connection is of no more use."""
        number = next(self._numbers)
        path = f"{self.prefix}{number % self.distinct if self.distinct else number}"
        began = time.monotonic()
        status, body, usable = 0, b"", False
        try:
            async with asyncio.timeout(PATIENCE):
                writer.write(f"GET {path} HTTP/1.1\r\nHost: example.com\r\n\r\n".encode())
                head = await reader.readuntil(b"\r\n\r\n")
                fields = head.lower()
                length = int(fields.partition(b"content-length: ")[2].partition(b"\r\n")[0])
                body = await reader.readexactly(length)
                status = int(head[9:12])
                usable = b"connection: close" not in fields
        except (OSError, EOFError, ValueError, TimeoutError, asyncio.LimitOverrunError):
            pass
        now = time.monotonic()
        self.seen.append(Seen(now, now - began, status, poisoned=status == 200 and body != BODY))
        return usable


def percentile(values: list[float], share: float) -> float:
    """The value that `share` of all are not above; 0 of none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
