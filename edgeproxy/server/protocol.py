"""The native door: uvicorn's httptools protocol, answering from inside the parser callback.

A hit is decided and written where the parser reports the end of the head: no task, no scope, no
ASGI messages. What takes time becomes an `Exchange` that the fetch writes to. Rules of the place:
1. Answers leave in the order of the requests: while one is under way, later ones queue (bounded).
2. A body nobody read is drained up to a limit, or the connection closes; its bytes are never parsed
   as a request (reliability A17).
3. After anything malformed the connection closes and nothing behind it is answered (A16).
4. Deadlines are absolute and swept, not timers: a byte now and then does not extend them (A133).
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from edgeproxy.clock import steady, wall
from edgeproxy.decision import Serve, ServeStale
from edgeproxy.door import RequestBody
from edgeproxy.errors import RequestError
from edgeproxy.http.framing import NO_BODY, Framing, check_connection, check_framing
from edgeproxy.http.message import Field, Headers, Request
from edgeproxy.http.proxy_protocol import Complete, parse
from edgeproxy.http.replies import render_problem
from edgeproxy.http.target import split_target
from edgeproxy.http.wire import STATUS_LINE, apply_edits, edits_as_lines, render_fields
from edgeproxy.server.exchange import JOIN_BELOW, Exchange

if TYPE_CHECKING:
    from edgeproxy.hallway import Hallway

logger = logging.getLogger("edgeproxy.door")

PIPELINE_CAP = 32  # requests parsed ahead of their turn on one connection
DRAIN_CAP = 64 * 1024  # unread body bytes swallowed to keep a connection
DRAIN_SECONDS = 1.0
CHUNK_OVERHEAD = 4096  # bytes of chunk extensions and trailers per message (A8)


class EdgeProtocol(HttpToolsProtocol):
    """One client connection."""

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.parser = httptools.HttpRequestParser(self)  # without the base's leniency after close
        self.hall: Hallway = config.loaded_app.hall
        self.limits = self.hall.limits
        # per connection
        self.peer = ""
        self.deadline = 0.0  # steady seconds; the sweeper calls `on_deadline` when it is past
        self.exchange: Exchange | None = None  # whose answer is under way
        self.waiting: deque[Exchange] = deque()
        self.served = 0
        self.closing = False  # nothing more is read: an answer or the drain ends the connection
        self.proxied: bytes | None = None  # PROXY protocol header not yet complete
        # per request being parsed
        self.in_head = False
        self.raw: list[Field] = []
        self.index: dict[bytes, bytes] = {}
        self.target = b""
        self.hosts = 0
        self.head_bytes = 0
        self.receiving: RequestBody | None = None  # the body the parser is in
        self.body_left = 0  # bytes of it that may still come
        self.overhead = 0  # bytes of chunk framing seen
        self.draining = False

    # --- connection

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.peer = self.client[0] if self.client else ""
        self.deadline = steady() + self.limits.head_timeout
        refused = self.hall.connection_made(self)
        if self._speaks_proxy_protocol():
            self.proxied = b""
        if refused:
            self._reject(RequestError(503, "too-many-connections", "This edge has no connection to spare."))

    def _speaks_proxy_protocol(self) -> bool:
        return self.server is not None and self.server[1] in self.hall.proxy_protocol_ports

    def connection_lost(self, exc: Exception | None) -> None:
        self.hall.connection_lost(self)
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.lost()
            self.hall.observe(exchange, "client-gone")
        self.waiting.clear()
        super().connection_lost(exc)

    def eof_received(self) -> None:
        """The client sent its last byte; asyncio closes the transport when this returns None."""

    def data_received(self, data: bytes) -> None:
        if self.closing:
            if self.draining:
                self._drained(len(data))
            return
        if self.proxied is not None:
            data = self._read_proxy_header(data)
            if not data:
                return
        if not self.in_head and self.receiving is None and self.exchange is None:
            self.deadline = steady() + self.limits.head_timeout  # the head's time starts with its first byte
        fresh = not self.in_head
        self.overhead += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._after_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserInvalidMethodError:
            self._reject(RequestError(501, "bad-method", "That method is not known here."))
        except httptools.HttpParserError as error:
            self._parser_failed(error)
        if self.in_head:
            self.head_bytes = 0 if fresh else self.head_bytes + len(data)
            if self.head_bytes > self.limits.head_size:
                self._reject(RequestError(431, "head-too-large", "The request's head is too large."))
        elif self.receiving is not None:
            self.deadline = steady() + self.limits.body_gap
            if self.overhead > CHUNK_OVERHEAD:
                self._reject(RequestError(400, "bad-framing", "Chunk extensions or trailers are too large."))

    def _parser_failed(self, error: httptools.HttpParserError) -> None:
        if self.closing:  # bytes behind a request that said close, or that we refused
            return
        cause = error.__context__
        if isinstance(cause, RequestError):
            self._reject(cause)
        elif isinstance(error, httptools.HttpParserCallbackError) and cause is not None:
            logger.error("unexpected failure at the door", exc_info=cause)
            self._reject(RequestError(500, "internal", "The edge failed on this request."))
        else:
            self._reject(RequestError(400, "bad-request", "The request is not well-formed HTTP/1.1."))

    def _read_proxy_header(self, data: bytes) -> bytes:
        buffer = (self.proxied or b"") + data
        try:
            parsed = parse(buffer)
        except RequestError as error:
            self._reject(error)
            return b""
        if not isinstance(parsed, Complete):
            self.proxied = buffer
            return b""
        self.proxied = None
        if parsed.source:
            self.peer = parsed.source
        return buffer[parsed.consumed :]

    def _after_upgrade(self, rest: bytes) -> None:
        """Upgrade was asked and is not spoken here: the request was answered as plain HTTP (A21).

        The parser takes a body for the other protocol's bytes, so with one the connection closes.
        """
        if self.index.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in self.index:
            self._close_after_answer()
        elif rest and not self.closing:
            self.data_received(rest)

    # --- parser callbacks

    def on_message_begin(self) -> None:
        self.in_head = True
        self.raw = []
        self.index = {}
        self.target = b""
        self.hosts = 0
        self.head_bytes = 0

    def on_url(self, url: bytes) -> None:
        self.target += url
        if len(self.target) > self.limits.url_size:
            raise RequestError(414, "url-too-long", "The request target is too long.")

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.in_head:
            return  # trailers: dropped, and counted by the overhead of the chunked coding
        lower = name.lower()
        index = self.index
        self.raw.append((name, value))
        if lower in index:
            if lower == b"host":
                raise RequestError(400, "bad-host", "A request has exactly one Host field.")
            index[lower] += (b"; " if lower == b"cookie" else b", ") + value
            if len(self.raw) > self.limits.head_fields:
                raise RequestError(431, "too-many-fields", "The request has too many header fields.")
        else:
            index[lower] = value

    def on_headers_complete(self) -> None:
        self.in_head = False
        if self.closing:
            return
        index = self.index
        if len(self.raw) > self.limits.head_fields:
            raise RequestError(431, "too-many-fields", "The request has too many header fields.")
        keep_alive = self.parser.should_keep_alive()
        http10 = False
        framing = NO_BODY
        if not keep_alive or b"connection" in index:
            http10 = self._check_version(index)
        if b"content-length" in index or b"transfer-encoding" in index or b"expect" in index:
            framing = check_framing(index, http10=http10)
        if self.overhead > self.limits.head_size and self._head_size() > self.limits.head_size:
            raise RequestError(431, "head-too-large", "The request's head is too large.")
        host = index.get(b"host")
        if host is None and http10:
            host = b"localhost"  # HTTP/1.0 knows no Host: only a route for any host takes it
        secure = self.scheme == "https"
        host, path, query = split_target(self.target, host, secure=secure)
        method = self.parser.get_method()
        has_body = framing.length != 0
        request = Request(method, host, path, query, Headers(self.raw, index), self.peer, secure, has_body)
        if has_body or self.exchange is not None or self.waiting:
            self._queue(request, framing, keep_alive=keep_alive, http10=http10)
        else:
            self._answer(request, keep_alive=keep_alive, http10=http10)

    def _head_size(self) -> int:
        return len(self.target) + sum([len(name) + len(value) + 4 for name, value in self.raw])

    def _check_version(self, index: dict[bytes, bytes]) -> bool:
        version = self.parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise RequestError(505, "bad-version", "This connection speaks HTTP/1.1.")
        if b"connection" in index:
            check_connection(index[b"connection"])
        return version == "1.0"

    def on_body(self, body: bytes) -> None:
        self.overhead -= len(body)
        receiving = self.receiving
        if receiving is None or self.closing:
            return
        self.body_left -= len(body)
        if self.body_left < 0:
            self._too_large()
            return
        receiving.feed(body)

    def on_chunk_header(self) -> None:
        self.overhead -= 12  # the size line and the CRLF after the data; more than that is extensions

    def on_message_complete(self) -> None:
        self.overhead = 0
        receiving, self.receiving = self.receiving, None
        if receiving is None or self.closing:
            return
        receiving.finish()
        if self.exchange is None:
            self._next()

    # --- answering

    def _answer(self, request: Request, *, keep_alive: bool, http10: bool) -> None:
        """Decide, and write at once what can be written at once."""
        app = self.hall
        now = steady()
        route, ctx, decision = app.decide(request, now, wall())
        if isinstance(decision, Serve):
            serve = decision
        elif isinstance(decision, ServeStale):
            serve = decision.serve
            app.refresh(route, request, ctx, decision.refresh)
        else:
            exchange = Exchange(self, request, None, keep_alive=keep_alive, http10=http10)
            self._begin(exchange, now)
            exchange.route, exchange.ctx = route, ctx
            app.fetch(route, request, ctx, decision, exchange)
            return
        self.served += 1
        closes = (
            not keep_alive or self.closing or self.served >= self.limits.keep_alive_requests or app.draining
        )
        response = serve.response
        edits = ctx.to_client
        lines = edits_as_lines(edits, response.names) if edits else b""
        if lines is None:
            head = STATUS_LINE[response.status] + render_fields(apply_edits(response.fields, edits))
            lines = b""
        else:
            head = response.head
        if closes:
            lines += b"Connection: close\r\n"
        elif http10:
            lines += b"Connection: keep-alive\r\n"
        if b"date" not in response.names:
            lines += app.date_line(ctx.wall)
        body = b"" if request.method == b"HEAD" else response.body
        stamp = serve.stamp.lines or app.refused_stamp(serve)
        parts = (head, stamp, app.edge.signature_lines, lines, b"\r\n", body)
        if len(body) < JOIN_BELOW:
            self.transport.write(b"".join(parts))
        else:
            self.transport.writelines(parts)
        done = steady()
        app.observe_serve(route, request, ctx, serve, done - now, len(body))
        if closes:
            self.closing = True
            self.transport.close()
        else:
            self.deadline = done + self.limits.keep_alive

    def _queue(self, request: Request, framing: Framing, *, keep_alive: bool, http10: bool) -> None:
        """A request with a body, or one behind an answer still under way."""
        body = None
        if request.has_body:
            body = RequestBody(framing.length, self.flow.pause_reading, self.flow.resume_reading)
            self.receiving = body
            self.body_left = self.limits.body_size
            self.overhead = 0
        if len(self.waiting) >= PIPELINE_CAP:
            self._close_after_answer()
            return
        exchange = Exchange(self, request, body, keep_alive=keep_alive, http10=http10)
        if framing.expects_continue and body is not None:
            body.wanted = lambda: exchange.interim(100, [])
        self.waiting.append(exchange)
        if self.exchange is None:
            self._next()
        else:
            self.flow.pause_reading()

    def _begin(self, exchange: Exchange, now: float) -> None:
        self.exchange = exchange
        exchange.started_at = now
        exchange.writable = not self.flow.write_paused
        self.deadline = float("inf")  # the fetch has its own deadlines

    def _next(self) -> None:
        """Answer the next queued request, if it is its turn."""
        while self.waiting and self.exchange is None and not self.closing:
            exchange = self.waiting.popleft()
            now = steady()
            self._begin(exchange, now)
            app = self.hall
            route, ctx, decision = app.decide(exchange.request, now, wall())
            exchange.route, exchange.ctx = route, ctx
            if exchange.body is not None and not self._admit_body(exchange, exchange.body):
                continue
            if isinstance(decision, Serve):
                exchange.serve(decision)
            elif isinstance(decision, ServeStale):
                app.refresh(route, exchange.request, ctx, decision.refresh)
                exchange.serve(decision.serve)
            else:
                app.fetch(route, exchange.request, ctx, decision, exchange)
        if not self.waiting and self.exchange is None and not self.closing:
            self.flow.resume_reading()

    def _admit_body(self, exchange: Exchange, body: RequestBody) -> bool:
        """Refuse a body over the route's limit before reading it (A129)."""
        limit = exchange.route.body_size or self.limits.body_size
        if self.receiving is body:
            self.body_left += limit - self.limits.body_size
        if (body.length or 0) <= limit:
            return True
        self._too_large()
        return False

    def _too_large(self) -> None:
        error = RequestError(413, "body-too-large", "The request's body is larger than this route takes.")
        exchange = self.exchange
        if exchange is None or exchange.started:
            self._reject(error)
            return
        exchange.lost()
        exchange.gone = False
        exchange.keep_alive = False
        exchange.serve(self.hall.problem(exchange.request, exchange.ctx, error))

    def write_serve(self, serve: Serve, exchange: Exchange) -> int:
        """Write a complete response for an exchange; the body's size."""
        app, response, ctx = self.hall, serve.response, exchange.ctx
        fields = apply_edits(response.fields, ctx.to_client) if ctx.to_client else list(response.fields)
        head = STATUS_LINE[response.status] + render_fields(fields)
        body = b"" if exchange.request.method == b"HEAD" else response.body
        stamp = serve.stamp.lines or app.refused_stamp(serve)
        tail = self.closing_lines(exchange, fields)
        self.transport.writelines((head, stamp, app.edge.signature_lines, tail, body))
        return len(body)

    def closing_lines(self, exchange: Exchange, fields: list[Field]) -> bytes:
        """Date where it is missing, what happens to the connection, and the empty line."""
        self.served += 1
        app = self.hall
        body = exchange.body
        if self.closing or app.draining or self.served >= self.limits.keep_alive_requests:
            exchange.keep_alive = False
        if body is not None and body.wanted is not None:
            exchange.keep_alive = False  # 100 was never said: whether a body comes is anybody's guess
        lines = (
            b"" if any(name.lower() == b"date" for name, _ in fields) else app.date_line(exchange.ctx.wall)
        )
        if not exchange.keep_alive:
            lines += b"Connection: close\r\n"
        elif exchange.http10:
            lines += b"Connection: keep-alive\r\n"
        return lines + b"\r\n"

    def exchange_over(self, exchange: Exchange) -> None:
        """An answer was written whole."""
        self.hall.observe(exchange, "")
        if self.exchange is not exchange:
            return
        self.exchange = None
        now = steady()
        body = exchange.body
        if body is not None and not body.complete:
            body.detach()
            self._close_or_drain(exchange)
            return
        if not exchange.keep_alive or self.closing:
            self.closing = True
            self.transport.close()
            return
        self.deadline = now + self.limits.keep_alive
        self._next()

    def _close_or_drain(self, exchange: Exchange) -> None:
        """The answer came before the body ended: swallow a little of it, so that the client can read
        the answer before it sees the connection close (RFC 9112 §9.6)."""
        self.closing = self.draining = True
        self.body_left = DRAIN_CAP
        self.deadline = steady() + DRAIN_SECONDS
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _drained(self, size: int) -> None:
        self.body_left -= size
        if self.body_left < 0:
            self.transport.close()

    def exchange_aborted(self, exchange: Exchange) -> None:
        """An answer broke off: reset, so that nobody takes it for whole."""
        self.hall.observe(exchange, "aborted")
        self.exchange = None
        self.closing = True
        self.transport.abort()

    def _close_after_answer(self) -> None:
        self.closing = True
        if self.exchange is None and not self.waiting:
            self.transport.close()

    def _reject(self, error: RequestError) -> None:
        """Refuse what could not be parsed or admitted, and close; nothing of it is kept."""
        if self.closing:
            return
        self.closing = True
        self.waiting.clear()
        self.hall.rejected(self.peer, error)
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.lost()
            if exchange.started:  # what is under way must not be mixed with ours
                self.transport.abort()
                return
        answer = render_problem(error.status, error.reason, error.detail, self.hall.next_request_id())
        date = self.hall.date_line(wall())
        self.transport.write(
            answer.head + self.hall.edge.signature_lines + date + b"Connection: close\r\n\r\n" + answer.body
        )
        self.transport.close()

    # --- deadlines, flow, shutdown

    def on_deadline(self) -> None:
        """The sweeper found `deadline` in the past."""
        if self.draining or self.closing or not (self.in_head or self.receiving or self.proxied):
            self.transport.close()
        elif self.flow.write_paused:
            self.transport.abort()
        else:
            self._reject(RequestError(408, "timeout", "The request did not arrive in time."))

    def pause_writing(self) -> None:
        super().pause_writing()
        self.flow.pause_reading()
        self.deadline = steady() + self.limits.send_gap
        if self.exchange is not None:
            self.exchange.writable = False

    def resume_writing(self) -> None:
        super().resume_writing()
        exchange = self.exchange
        if exchange is None:
            self.deadline = steady() + self.limits.keep_alive
            self.flow.resume_reading()
            return
        self.deadline = float("inf")
        exchange.writable = True
        if exchange.body is not None:
            self.flow.resume_reading()
        if exchange.on_drain is not None:
            exchange.on_drain()

    def shutdown(self) -> None:
        """Drain: idle connections get a moment for a request already on its way, then close."""
        if self.exchange is None and not self.waiting and not self.in_head:
            self.deadline = min(self.deadline, steady() + self.limits.drain_idle)
