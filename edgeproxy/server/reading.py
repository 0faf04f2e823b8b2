"""The reading half of the native door: what has to be parsed becomes requests.

uvicorn's httptools protocol, with every limit of the door (head, fields, URL, framing, deadlines) and the
checks that llhttp leaves to us. Rules of the place:
1. After anything malformed the connection closes and nothing behind it is answered (reliability A16).
2. Deadlines are absolute and swept, not timers: a byte now and then does not extend them (A133).
"""

from __future__ import annotations

import logging
from typing import Any

import httptools

from edgeproxy.clock import steady
from edgeproxy.door import RequestBody
from edgeproxy.errors import RequestError
from edgeproxy.http.framing import NO_BODY, Framing, check_connection, check_framing, persists
from edgeproxy.http.message import Field, Headers, Request
from edgeproxy.http.target import split_target
from edgeproxy.pipeline import Visit
from edgeproxy.server.intake import Intake
from edgeproxy.server.repeated import learn

logger = logging.getLogger("edgeproxy.door")

CHUNK_OVERHEAD = 4096  # bytes of chunk extensions and trailers per message (A8)


class RequestReader(Intake):
    """What is parsed. `EdgeProtocol` says what goes out."""

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        # per request being parsed
        self.begun = 0  # heads begun in this read
        self.raw: list[Field] = []
        self.index: dict[bytes, bytes] = {}
        self.target = b""
        self.head_bytes = 0  # of a head that is not complete, less those of its first read
        self.fed = 0  # of all reads that it may be in
        self.visit: Visit | None = None  # of a request that may be repeated
        self.overhead = 0  # bytes of chunk framing seen
        self.trailer_bytes = 0

    # --- what the answering half does

    def _arrived(self, request: Request, framing: Framing, *, keep_alive: bool, http10: bool) -> None:
        """The head of a request is complete."""
        raise NotImplementedError

    def _switching(self, rest: bytes) -> bool:
        """Is the answer to it awaited from the origin? Then `rest` is not HTTP."""
        raise NotImplementedError

    def _too_large(self, body: RequestBody) -> None:
        raise NotImplementedError

    def _close_after_answer(self) -> None:
        raise NotImplementedError

    def _parse(self, data: bytes) -> None:
        rested = self.at_rest
        if rested:
            self.at_rest = False
            self.deadline = steady() + self.limits.head_timeout  # the head's time starts with its first byte
        fresh = not self.in_head
        self._take_in(len(data))
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
            return
        if rested and self.visit is not None:
            learn(self, data, self.visit)
        if self.receiving is None:
            self._rest()
            return
        if not self.flow.read_paused:
            self.deadline = steady() + self.limits.body_gap
        if self.overhead > CHUNK_OVERHEAD:
            self._reject(RequestError(400, "bad-framing", "Chunk extensions or trailers are too large."))
        elif not self.counting and self.receiving.length is not None and self.parser.should_keep_alive():
            self._count_rest()

    def _take_in(self, size: int) -> None:
        """That many bytes go to the parser, which calls back."""
        self.fed = self.fed + size if self.in_head else size
        self.begun = 0
        self.visit = None
        self.overhead += size

    def _count_rest(self) -> None:
        """The rest of the body passes by the parser: the old one waits for what it will not see."""
        self.counting = True
        self.parser = httptools.HttpRequestParser(self)

    # --- around requests

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

    def _after_upgrade(self, rest: bytes) -> None:
        """Upgrade was asked. Where it is not spoken, the request was answered as plain HTTP (A21).

        The parser takes a body for the other protocol's bytes: it is counted here, and then the connection
        closes.
        """
        self.visit = None
        rest += self.unread
        self.unread = b""
        if self._switching(rest):
            return
        if self.receiving is not None:
            self._count_rest()
        self.unread = rest  # taken in by `data_received`: many of these must not nest

    # --- parser callbacks

    def on_message_begin(self) -> None:
        self.begun += 1
        self.in_head = True
        self.raw = []
        self.index = {}
        self.target = b""
        self.head_bytes = self.trailer_bytes = 0

    def on_url(self, url: bytes) -> None:
        self.target += url
        if len(self.target) > self.limits.url_size:
            raise RequestError(414, "url-too-long", "The request target is too long.")

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.in_head:
            self._on_trailer(name, value)
            return
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

    def _on_trailer(self, name: bytes, value: bytes) -> None:
        self.trailer_bytes += len(name) + len(value) + 4
        if self.trailer_bytes > CHUNK_OVERHEAD:
            raise RequestError(400, "bad-framing", "Chunk extensions or trailers are too large.")
        if self.receiving is not None:
            self.receiving.trailers.append((name, value))

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
        if not keep_alive or b"connection" in index or b"proxy-connection" in index:
            http10 = self._check_version(index)
            keep_alive = keep_alive and persists(index.get(b"connection", b""), http10=http10)
        if b"content-length" in index or b"transfer-encoding" in index or b"expect" in index:
            framing = check_framing(index, http10=http10)
            if framing.length is None and self.parser.should_upgrade():
                raise RequestError(400, "bad-framing", "A chunked body cannot come with Upgrade.")
        if self.fed > self.limits.head_size and self._head_size() > self.limits.head_size:
            raise RequestError(431, "head-too-large", "The request's head is too large.")
        host = index.get(b"host")
        if host is None and http10:
            host = b"localhost"  # HTTP/1.0 knows no Host: only a route for any host takes it
        headers = Headers(self.raw, index)
        secure = self.scheme == "https" or (
            b"x-forwarded-proto" in index and self.hall.edge.says_https(self.peer, headers)
        )
        method = self.parser.get_method()
        host, path, query = split_target(self.target, host, secure=secure, method=method)
        request = Request(method, host, path, query, headers, self.peer, secure, framing.length != 0)
        self._arrived(request, framing, keep_alive=keep_alive, http10=http10)

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
            self._too_large(receiving)
            return
        receiving.feed(body)

    def on_chunk_header(self) -> None:
        self.overhead -= 12  # the size line and the CRLF after the data; more than that is extensions

    def on_message_complete(self) -> None:
        self.overhead = 0
        if self.receiving is None or self.receiving.length is None or not self.body_left:
            self._received()  # else an upgrade was asked, and the parser never looked at the body
