"""The native door: uvicorn's httptools protocol, answering from inside the parser callback.

A hit is decided and written where the reader reports the end of the head: no task, no scope, no
ASGI messages. What takes time becomes an `Exchange` that the fetch writes to. Rules of the place:
1. Answers leave in the order of the requests: while one is under way, later ones queue (bounded).
2. A body nobody read is drained up to a limit, or the connection closes; its bytes are never parsed
   as a request (reliability A17).
"""

from __future__ import annotations

from typing import Any

from edgeproxy.clock import steady, wall
from edgeproxy.context import Context
from edgeproxy.decision import Delay, Fetch, Serve, ServeStale
from edgeproxy.door import TOO_LARGE, RequestBody
from edgeproxy.errors import RequestError
from edgeproxy.http.framing import Framing
from edgeproxy.http.message import Request
from edgeproxy.http.pieces import pieces_of
from edgeproxy.http.wire import JOIN_BELOW, STATUS_LINE, apply_edits, edits_as_lines, render_fields
from edgeproxy.pipeline import Visit
from edgeproxy.server.ending import CLOSE, Ending
from edgeproxy.server.exchange import Exchange
from edgeproxy.server.relay import Relay, ready

PIPELINE_CAP = 256  # requests parsed ahead of their turn on one connection
KEEP_ALIVE = b"Connection: keep-alive\r\n"


class EdgeProtocol(Ending):
    """One client connection."""

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.served = 0

    # --- connection

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.peer = self.client[0] if self.client else ""
        self.deadline = steady() + self.limits.head_timeout
        refused = self.hall.connection_made(self)
        if self.server is not None and self.server[1] in self.hall.proxy_protocol_ports:
            self.proxied = b""
        if refused:
            self._reject(RequestError(503, "too-many-connections", "This edge has no connection to spare."))

    # --- what the reader reports

    def _arrived(self, request: Request, framing: Framing, *, keep_alive: bool, http10: bool) -> None:
        if request.has_body or self._busy() or self.flow.write_paused:
            self._queue(request, framing, keep_alive=keep_alive, http10=http10)
            return
        visit = Visit(self.hall.edge, request)
        if keep_alive and not http10:
            self.visit = visit
        self._answer(visit, keep_alive, http10)

    def _switching(self, rest: bytes) -> bool:
        exchange = self.exchange
        if exchange is None or exchange.visit.route.websocket is None:
            return False
        exchange.early = rest
        if rest:
            exchange.keep_alive = False  # whatever they are, they are not the next request
        self.flow.pause_reading()  # no byte of it is for anybody before the origin's 101 (A22)
        return True

    def _body_complete(self) -> None:
        if not self.flow.write_paused:
            self.deadline = float("inf") if self._busy() else steady() + self.limits.keep_alive
        if self.exchange is None:
            self._next()

    # --- answering

    def _answer(self, visit: Visit, keep_alive: bool, http10: bool) -> None:
        """Decide, and write at once what can be written at once."""
        hall = self.hall
        now = steady()
        ctx, decision = hall.decide(visit, now, wall())
        if isinstance(decision, Serve):
            serve = decision
        elif isinstance(decision, ServeStale):
            serve = decision.serve
            hall.refresh(visit, ctx, decision.refresh)
        else:
            self._fetch(visit, ctx, decision, keep_alive, http10)
            return
        self.served += 1
        lines = KEEP_ALIVE if http10 else b""
        closes = False
        if not keep_alive or hall.draining or self.closing or self.served >= self.limits.keep_alive_requests:
            closes = True
            lines = CLOSE
        sent = self._write_serve(serve, visit.request.method, ctx, lines)
        done = steady()
        hall.observe_serve(visit, ctx, serve, done - now, sent)
        if closes:
            self._close()
        else:
            self.deadline = done + self.limits.keep_alive

    def _fetch(
        self, visit: Visit, ctx: Context, fetch: Fetch | Delay, keep_alive: bool, http10: bool
    ) -> None:
        """What it takes is an answer of the origin."""
        if isinstance(fetch, Fetch) and (known := ready(self.hall.fetcher, visit, ctx, fetch)) is not None:
            relay = Relay(self, visit, ctx, fetch, known, keep_alive=keep_alive, http10=http10)
            self._begin(relay, ctx.now)
            relay.begin()
            return
        exchange = Exchange(self, visit.request, None, keep_alive=keep_alive, http10=http10)
        self._begin(exchange, ctx.now)
        exchange.visit, exchange.ctx = visit, ctx
        self.hall.fetch(visit, ctx, fetch, exchange)

    def _write_serve(self, serve: Serve, method: bytes, ctx: Context, lines: bytes) -> int:
        """Write a complete response, `lines` at the end of its head; the size of its body."""
        hall, response = self.hall, serve.response
        head = response.head
        if ctx.to_client:
            added = edits_as_lines(ctx.to_client, response.names)
            if added is None:
                fields = apply_edits(response.fields, ctx.to_client)
                head = STATUS_LINE[response.status] + render_fields(fields)
            else:
                lines = added + lines
        if b"date" not in response.names:
            lines += hall.date_line(ctx.wall)
        body = b"" if method == b"HEAD" else response.body
        stamp = serve.stamp.lines or hall.refused_stamp(serve)
        signature = hall.edge.signature_lines
        if isinstance(body, bytes) and len(body) < JOIN_BELOW:
            self.transport.write(b"".join((head, stamp, signature, lines, b"\r\n", body)))
        else:
            self.transport.writelines((head, stamp, signature, lines, b"\r\n", *pieces_of(body)))
        return len(body)

    def _queue(self, request: Request, framing: Framing, *, keep_alive: bool, http10: bool) -> None:
        """A request with a body, or one behind an answer still under way."""
        if b"upgrade" in request.headers and Visit(self.hall.edge, request).route.websocket is not None:
            self._close_after_answer()  # only the last request on a connection can switch it
            return
        body = None
        if request.has_body:
            keep_alive = keep_alive and b"upgrade" not in request.headers
            body = RequestBody(framing.length, self._hold_body, self._take_body)
            self.receiving = body
            self.body_left = self.limits.body_size if framing.length is None else framing.length
            self.overhead = 0
        if len(self.waiting) >= PIPELINE_CAP:
            self._close_after_answer()
            return
        exchange = Exchange(self, request, body, keep_alive=keep_alive, http10=http10)
        if framing.expects_continue and body is not None and not http10:
            body.wanted = lambda: exchange.interim(100, [])
        self.waiting.append(exchange)
        if self.exchange is None and not self.flow.write_paused:
            self._next()
            if framing.length and keep_alive and not (http10 or framing.expects_continue):
                self.visit = exchange.visit
        elif body is not None:
            body.pause()  # until somebody wants it
        else:
            self.flow.pause_reading()

    def _hold_body(self) -> None:
        """The origin has enough of it for now: that is no fault of the client's."""
        self.flow.pause_reading()
        self.deadline = float("inf")

    def _take_body(self) -> None:
        self._read_on()
        if self.receiving is not None:
            self.deadline = steady() + self.limits.body_gap

    def _begin(self, exchange: Exchange, now: float) -> None:
        self.exchange = exchange
        self.at_rest = False
        exchange.started_at = now
        exchange.writable = not self.flow.write_paused
        self.deadline = float("inf")  # the fetch has its own deadlines

    def _next(self) -> None:
        """Answer the next queued request, if it is its turn."""
        while self.waiting and self.exchange is None and not (self.closing or self.flow.write_paused):
            exchange = self.waiting.popleft()
            self._take_turn(exchange, Visit(self.hall.edge, exchange.request))
        if not (self.waiting or self.closing or self.flow.write_paused) and self.exchange is None:
            self._read_on()

    def _take_turn(self, exchange: Exchange, visit: Visit) -> None:
        """Decide, and begin to answer."""
        hall = self.hall
        now = steady()
        self._begin(exchange, now)
        exchange.visit = visit
        exchange.ctx, decision = hall.decide(visit, now, wall())
        if exchange.body is None or self._admit_body(exchange, exchange.body):
            hall.act(visit, exchange.ctx, decision, exchange)

    def _receive(self, visit: Visit, length: int, data: bytes, begin: int) -> None:
        body = RequestBody(length, self._hold_body, self._take_body)
        exchange = Exchange(self, visit.request, body, keep_alive=True, http10=False)
        if len(data) - begin == length:
            body.arrived(data[begin:] if length <= JOIN_BELOW else memoryview(data)[begin:])
            self._take_turn(exchange, visit)
            return
        self.receiving = body
        self.body_left = length
        self._take_turn(exchange, visit)
        if not self.closing:
            self.counting = True
            self.unread = data[begin:]
            if not self.flow.read_paused:
                self.deadline = steady() + self.limits.body_gap
            self._take_unread()

    def _admit_body(self, exchange: Exchange, body: RequestBody) -> bool:
        """Refuse a body over the route's limit before reading it (A129)."""
        limit = exchange.visit.route.body_size or self.limits.body_size
        if body.length is None and self.receiving is body:
            self.body_left += limit - self.limits.body_size
        if (body.held if body.length is None else body.length) <= limit:
            return True
        self._too_large(body)
        return False

    def _too_large(self, body: RequestBody) -> None:
        exchange = self.exchange
        if exchange is None or exchange.started or exchange.body is not body:
            self._reject(TOO_LARGE)
            return
        exchange.lost()
        exchange.gone = False
        exchange.keep_alive = False
        exchange.serve(self.hall.problem(exchange.request, exchange.ctx, TOO_LARGE))

    # --- what an exchange asks for

    def write_serve(self, serve: Serve, exchange: Exchange) -> int:
        """Write a complete response for an exchange; the body's size."""
        return self._write_serve(serve, exchange.request.method, exchange.ctx, self.closing_line(exchange))

    def closing_line(self, exchange: Exchange) -> bytes:
        """What happens to the connection after this answer, as a field line."""
        self.served += 1
        body = exchange.body
        if self.closing or self.hall.draining or self.served >= self.limits.keep_alive_requests:
            exchange.keep_alive = False
        if body is not None and not body.complete and (body.wanted is not None or not self._little(body)):
            exchange.keep_alive = False  # it is not read to its end; where 100 was never said, none may come
        if not exchange.keep_alive:
            return CLOSE
        return KEEP_ALIVE if exchange.http10 else b""

    def exchange_over(self, exchange: Exchange) -> None:
        """An answer was written whole."""
        now = steady()
        self.hall.observe(exchange, "", now)
        if self.exchange is not exchange:
            return
        self.exchange = None
        body = exchange.body
        if body is not None and not body.complete:
            self._skip(body, exchange.keep_alive)
        elif not exchange.keep_alive or self.closing:
            self._close()
        else:
            self.deadline = now + self.limits.keep_alive
            if self.waiting or self.flow.read_paused:
                self._next()
                self._rest()
            else:
                self.at_rest = not self.in_head and self.receiving is None

    # --- flow

    def pause_writing(self) -> None:
        super().pause_writing()
        self.flow.pause_reading()
        self.deadline = steady() + self.limits.send_gap
        self.unsent = self.transport.get_write_buffer_size()
        if self.exchange is not None:
            self.exchange.writable = False

    def resume_writing(self) -> None:
        super().resume_writing()
        exchange = self.exchange
        if exchange is None:
            self.deadline = steady() + self.limits.keep_alive
            self._next()
            self._rest()
            return
        self.deadline = float("inf")
        exchange.writable = True
        if exchange.body is not None and not exchange.body.paused:
            self._read_on()
        if exchange.on_drain is not None:
            exchange.on_drain()
