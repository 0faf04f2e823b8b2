"""A native client connection that switches protocols: the `Wire` of the httptools door."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from edgeproxy.cache.cache_status import cache_status
from edgeproxy.clock import steady
from edgeproxy.http.message import Field
from edgeproxy.http.wire import apply_edits, render_fields

if TYPE_CHECKING:
    from edgeproxy.server.exchange import Exchange
    from edgeproxy.server.protocol import EdgeProtocol

SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"


class ClientWire:
    """Belongs to one exchange, whose answer is the 101 and all that follows it."""

    __slots__ = ("_exchange", "_protocol")

    def __init__(self, protocol: EdgeProtocol, exchange: Exchange) -> None:
        self._protocol = protocol
        self._exchange = exchange

    @property
    def early(self) -> bytes:
        """What the client sent without waiting for the 101."""
        return self._exchange.early

    def switch(self, fields: list[Field], protocol: asyncio.Protocol) -> asyncio.Transport:
        """Write the 101 and hand the connection over."""
        exchange, ours = self._exchange, self._protocol
        exchange.started, exchange.status = True, 101
        exchange.on_drain = exchange.on_gone = None
        cause = exchange.report.cause
        edge = exchange.visit.edge
        fields = [*fields, (b"Cache-Status", cache_status(edge.ident, cause, 101)), *edge.signature]
        transport: asyncio.Transport = ours.transport
        transport.write(b"%b%b\r\n" % (SWITCHING, render_fields(apply_edits(fields, exchange.ctx.to_client))))
        transport.set_protocol(protocol)
        if ours.flow.write_paused:
            protocol.pause_writing()
        ours.flow.resume_reading()
        seconds = steady() - exchange.started_at
        exchange.visit.route.meters.record(101, cause.word, seconds, 0)
        return transport

    def over(self, ending: str, received: int, sent: int) -> None:
        """Log it: the answer has ended."""
        exchange, ours = self._exchange, self._protocol
        exchange.sent = sent
        exchange.gone = True
        ours.exchange = None
        ours.closing = True
        ours.hall.log_tunnel(exchange, ending, received, steady())

    def lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._protocol.connection_lost(exc)
