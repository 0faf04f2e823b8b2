"""The door for our other processes. Workers ask for a flight by name, and read along; the control process
asks with a body what is stored here.

Only our own come here, over a socket in a folder of ours. What workers ask for has passed their
policies; nothing of it is counted or logged a second time.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from edgeproxy.cache.entry import Entry
from edgeproxy.clock import steady, wall
from edgeproxy.context import Context
from edgeproxy.decision import Cause, Fetch
from edgeproxy.door import Piece, RequestBody
from edgeproxy.holdings import MOST, answered
from edgeproxy.http.answer_head import AnswerHead
from edgeproxy.http.framing import Framing
from edgeproxy.http.message import Request
from edgeproxy.http.pieces import pieces_of
from edgeproxy.job import Job
from edgeproxy.pipeline import Visit
from edgeproxy.server.exchange import Exchange
from edgeproxy.server.protocol import EdgeProtocol
from edgeproxy.server.reading import RequestReader
from edgeproxy.siblings import said_to_siblings


class SiblingExchange(Exchange):
    """One answer to another worker: the fields of the origin, nothing of ours added."""

    __slots__ = ()

    def hand(self, entry: Entry, now: float, *, asked: bool = False) -> None:
        """What is stored here, with its age and the purge position that it is of. `asked`: the origin was,
        just now, whether it is still right."""
        response = entry.response
        fields = [field for field in response.fields if field[0].lower() != b"content-length"]
        file = "" if entry.file is None else entry.file.name
        fields += [(b"Age", b"%d" % entry.age(now)), said_to_siblings(entry.position, file, stored=not asked)]
        self.start(AnswerHead(response.status, fields, len(response.body)))
        for piece in pieces_of(response.body):
            self.write(piece)
        self.end()

    def tell(self, answer: bytes) -> None:
        """The answer to a question."""
        self.start(AnswerHead(200, [], len(answer)))
        self.write(answer)
        self.end()

    def alone(self) -> None:
        """There is nothing to share."""
        if not self.gone and not self.started:
            self.start(AnswerHead(404, [], 0))
            self.end()


class SiblingProtocol(EdgeProtocol):
    """One connection of another worker."""

    def connection_made(self, transport: Any) -> None:
        RequestReader.connection_made(self, transport)
        self.deadline = float("inf")

    def connection_lost(self, exc: Exception | None) -> None:
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.lost()
        RequestReader.connection_lost(self, exc)

    def _arrived(self, request: Request, framing: Framing, *, keep_alive: bool, http10: bool) -> None:
        now = steady()
        exchange = SiblingExchange(self, request, None, keep_alive=keep_alive, http10=http10)
        self._begin(exchange, now)
        hall = self.hall
        hall.catch_up(now)
        visit = exchange.visit = Visit(hall.edge, request)
        exchange.ctx = Context(now, wall(), "", visit.route.name, "")
        if request.has_body:
            self._asked(exchange)
            return
        siblings = hall.fetcher.siblings
        key = siblings.key_of(request.headers) if siblings is not None else None
        if key is None:
            exchange.alone()
        elif not hall.fetcher.join(key, Job(visit, exchange.ctx, Fetch(Cause.MISS, key), exchange, exchange)):
            entry, _ = hall.edge.store.find(key, request.headers)
            if entry is not None and entry.fresh_until > now and not entry.must_validate:
                exchange.hand(entry, now)
            else:
                exchange.alone()

    def _asked(self, exchange: SiblingExchange) -> None:
        body = exchange.body = self.receiving = RequestBody(None, _nothing, _nothing)
        self.body_left = MOST
        question: list[Piece] = []
        body.attach(question.append, lambda: exchange.tell(answered(self.hall, b"".join(question))))

    def _count(self, exchange: Exchange, ending: str, now: float) -> None:
        """It was counted where its client is."""


def _nothing() -> None:
    """It is short: nobody makes it wait."""


async def serve_siblings(config: Any, state: Any, listener: socket.socket) -> asyncio.Server:
    """Answer the other workers on `listener`; `config` and `state` as uvicorn gives them to a protocol."""
    loop = asyncio.get_running_loop()
    return await loop.create_unix_server(lambda: SiblingProtocol(config, state, {}), sock=listener)
