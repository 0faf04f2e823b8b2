"""An edge in front of an origin that speaks HTTP/2 and does what its script says."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from tests.helpers.edge import Running, running
from tests.helpers.h2_origin import H2Origin, Script, Stream

CONFIG = """
edge: {{id: edge-1, pop: ams}}
server: {{listen: ["127.0.0.1:8080"], workers: 1, access_log: {{path: "off"}}, limits: {{body_size: 64MiB}}}}
admin: {{listen: null}}
origins:
  main:
    servers: ["{origin}"]
    protocol: h2
    timeouts: {{connect: {connect}, first_byte: {first_byte}}}
    tls: {{ca: {ca}}}
routes:
  - {{name: direct, match: {{path: "/direct/**"}}, cache: false, origin: main}}
  - {{name: cached, cache: {{ttl: 60s}}, origin: main}}
"""


class Stage:
    """An edge, started for an origin's script."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.folder, self._stack = folder, stack
        self.prepare: Callable[[H2Origin], None] = lambda _: None

    async def __call__(
        self,
        script: Script,
        *,
        tls: ssl.SSLContext | None = None,
        ca: str = "null",
        connect: str = "1s",
        first_byte: str = "2s",
    ) -> tuple[Running, H2Origin]:
        origin = H2Origin(script, tls)
        self.prepare(origin)
        await self._stack.enter_async_context(origin)
        text = CONFIG.format(
            origin=origin.url.replace("127.0.0.1", "localhost" if tls else "127.0.0.1"),
            ca=ca,
            connect=connect,
            first_byte=first_byte,
        )
        if tls:
            text = text.replace("protocol: h2", "protocol: h2\n    allow_private: true")
        return await self._stack.enter_async_context(running(text, self.folder, "native")), origin


async def hello(stream: Stream) -> None:
    stream.head((b"content-type", b"text/plain"), (b"content-length", b"5"))
    await stream.data(b"hello", end=True)
