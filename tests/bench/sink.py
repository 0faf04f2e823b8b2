"""An origin that takes uploads: reads each body whole, then answers 1 KiB. GET tells how many there were.

nginx cannot be it: without a script it answers before it has read.
"""

from __future__ import annotations

import asyncio
import re
import sys
from typing import cast

import uvloop

LENGTH = re.compile(rb"\ncontent-length: *(\d+)", re.IGNORECASE)
THANKS = b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 1024\r\n\r\n" + b"x" * 1024


class Sink(asyncio.Protocol):
    """One connection. Bodies are counted."""

    whole = 0  # uploads, ever

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._head = b""
        self._left = 0

    def data_received(self, data: bytes) -> None:
        if not self._left:
            self._head += data
            head, end, body = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            self._head = b""
            if head.startswith(b"GET "):
                head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
                self._transport.write(head + b"%d" % Sink.whole)
                self._transport.close()
                return
            found = LENGTH.search(head)
            self._left = int(found[1]) if found else 0
            data = body
        self._left -= len(data)
        if self._left <= 0:
            self._left = 0
            Sink.whole += 1
            self._transport.write(THANKS)


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", int(sys.argv[1]), backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
