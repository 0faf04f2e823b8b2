"""Reads responses of one connection: bytes in, calls on a sink out. No transport, no clock.

Rule 1: what llhttp lets pass but RFC 9112 does not is refused: see `framing` (reliability A24-A26).
Rule 2: nothing after a response may be read as the next one: leftovers make it `unclean`.

llhttp only frames heads and chunks. The rest of a counted or EOF-delimited body goes to the sink as
it was read from the socket, without another copy. A head that is known by its bytes is not parsed again.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import httptools

from edgeproxy.errors import origin_error
from edgeproxy.http.message import Field, Headers, index_fields
from edgeproxy.origin.framing import body_length, goes_on, idle_patience, stated_length, stays_open
from edgeproxy.origin.heads import Head, Heads
from edgeproxy.origin.sink import NOBODY, ResponseSink

MAX_HEAD = 64 * 1024  # bytes of a head, or of a trailer section
MAX_FIELDS = 256
MAX_INTERIM = 10  # 1xx responses before the final one

_EMPTY_LINE = b"\r\n\r\n"
_UNTIL_EOF = -1
_FRAMED = 0  # llhttp sees every byte
_NO_TRAILERS: list[Field] = []


class _LeftoverError(Exception):
    """Bytes follow a complete response."""


class ResponseReader:
    """State of the response being read. `expect` starts one; `feed` until `complete`.

    `keep` is what the origin agreed to, `unclean` that bytes were left over.
    """

    __deletable__ = ("_parser",)  # in what is compiled; the other kind of class needs no word for it
    __slots__ = (
        "_begins",
        "_body",
        "_chunked",
        "_fields",
        "_final",
        "_for_head",
        "_heads",
        "_interims",
        "_left",
        "_length",
        "_parser",
        "_sink",
        "_spent",
        "_unread",
        "complete",
        "in_head",
        "keep",
        "on_switch",
        "patience",
        "unclean",
    )

    def __init__(self, heads: Heads | None = None) -> None:
        """`heads` are those that the same server is known to send."""
        self._heads = heads or Heads()
        self._sink: ResponseSink | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._spent = False  # the parser waits for bytes that will not come: replace it
        self.patience = math.inf  # seconds that the origin keeps an idle connection, if it said so
        self.expect(for_head=False)

    def expect(self, *, for_head: bool) -> None:
        """Get ready for the response to the next request."""
        if self._spent:
            self._parser = httptools.HttpResponseParser(self)
            self._spent = False
        self._for_head = for_head
        self._begins = not for_head  # no byte of it has come; how a head ends depends on the method
        self.in_head = True
        self.complete = self.unclean = self.keep = False
        self._chunked = False
        self._left = _FRAMED  # bytes of a body that llhttp need not see
        self._length: int | None = 0
        self._unread = 0  # bytes fed since something came of it: bounds what llhttp may hold
        self._interims = 0
        self._fields = _NO_TRAILERS
        self._body: bytes | None = None
        # who takes over when the origin switches protocols, as it was asked to: head, and what follows it
        self.on_switch: Callable[[Headers, bytes], None] | None = None

    @property
    def began(self) -> bool:
        """Has any byte of a response arrived?"""
        return self._unread > 0 or self._interims > 0 or not self.in_head

    @property
    def until_eof(self) -> bool:
        """Is the body delimited by the end of the connection?"""
        return self._left == _UNTIL_EOF

    def feed(self, data: bytes) -> None:
        """Bytes from the socket. Raises OriginError for what is not HTTP, and whatever the sink raises."""
        if self._left:
            self._pass_on(data)
            return
        end = 0
        if self._begins:
            self._begins = False
            end = data.find(_EMPTY_LINE) + len(_EMPTY_LINE)
            head = self._heads.find(data[:end])
            if head is not None:
                self._recognise(head, data, end)
                return
        self._parse(data)
        if self.complete:
            if not self.unclean:
                self._check_end(data)
        elif self.in_head:
            if self._unread > MAX_HEAD:
                raise origin_error("http_response_header_section_size", "the head has no end")
        elif self._length is not None:
            self._left = self._length - len(self._body or b"")
            self._spent = True
            if self._body is None and self._sink is not None:
                self._sink.on_wait()
        elif not self._chunked:
            self._left = _UNTIL_EOF
            if self._body is None and self._sink is not None:
                self._sink.on_wait()
        elif self._body is not None:
            self._unread = 0
        elif self._unread > MAX_HEAD:
            raise origin_error("http_response_header_section_size", "the trailer section has no end")
        elif self._sink is not None:
            self._sink.on_wait()
        if end >= len(_EMPTY_LINE) and not (self.in_head or self._chunked or self.unclean):
            self._learn(data, end)

    def _parse(self, data: bytes) -> None:
        self._body = None
        self._unread += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._spent = True
            if not self.complete:
                raise _cause(error) from None
            self.unclean = True
        except httptools.HttpParserUpgrade as upgrade:
            self._spent = True
            self._switch(data[upgrade.args[0] :])

    def _recognise(self, head: Head, data: bytes, end: int) -> None:
        """The head is one that we read before; what follows `end` is of its body."""
        self.in_head = False
        self.keep = head.keep
        if head.patience != math.inf:
            self.patience = head.patience
        if self._sink is not None:
            self._sink.on_head(head.status, head.headers, head.length)
        if not head.body:
            self.complete = True
            self.unclean = len(data) > end
            return
        self._left = head.body
        if len(data) > end:
            self._pass_on(data[end:])
        elif self._sink is not None:
            self._sink.on_wait()

    def _learn(self, data: bytes, end: int) -> None:
        """Keep a head that came whole in one read, unless it ended elsewhere than it seems."""
        status, headers, length = self._final
        body = 0 if status == 204 or status == 304 else length
        if self._interims or body is None or len(self._body or b"") != min(body, len(data) - end):
            return
        patience = self.patience if b"keep-alive" in headers.index else math.inf
        self._heads.learn(data[:end], Head(status, headers, length, body, self.keep, patience))

    def _switch(self, rest: bytes) -> None:
        if self.on_switch is None:
            raise origin_error("http_protocol_error", "the origin switched protocols unasked")
        self._unread = 0
        self.on_switch(Headers(self._fields), rest)

    def _check_end(self, data: bytes) -> None:
        if len(self._fields) > MAX_FIELDS:
            raise origin_error("http_response_header_section_size", "the trailer section has too many fields")
        counted = self._length and not self._for_head
        self.unclean = goes_on(data, self._body or b"" if counted else None)

    def _pass_on(self, data: bytes) -> None:
        """Body bytes that llhttp need not see."""
        sink = self._sink or NOBODY
        if self._left == _UNTIL_EOF:
            sink.on_data(data)
            return
        self._left -= len(data)
        if self._left <= 0:
            self.complete = True
            if self._left < 0:
                self.unclean = True
                data = data[: self._left]
            self._left = _FRAMED
        sink.on_data(data)

    def take_trailers(self) -> list[Field]:
        """Fields after a chunked body; asked for once, when complete."""
        return self._fields

    # Called by llhttp.

    def on_message_begin(self) -> None:
        if self.complete:
            raise _LeftoverError
        self._fields = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        fields = self._fields
        if len(fields) > MAX_FIELDS or (self._unread > MAX_HEAD and _size(fields) > MAX_HEAD):
            raise origin_error("http_response_header_section_size", "the head is too large")
        if status < 200:
            self._on_interim(status, fields)
            return
        if status > 599:
            raise origin_error("http_protocol_error", "the status is not one of HTTP")
        headers = Headers(fields, index_fields(fields))
        self.keep = self._parser.should_keep_alive()
        if not self.keep or b"connection" in headers.index or b"proxy-connection" in headers.index:
            version = self._parser.get_http_version()
            self.keep = stays_open(version, headers, keep=self.keep, for_head=self._for_head)
        if b"keep-alive" in headers.index:
            patience = idle_patience(headers)
            self.patience = self.patience if patience is None else patience
        if self._for_head or status == 204 or status == 304:
            length = self._without_body(status, headers)
        else:
            length, self._chunked = body_length(headers)
            self._length = length
        self.in_head = False
        self._unread = 0
        self._fields = []
        self._final = (status, headers, length)
        if self._sink is not None:
            self._sink.on_head(status, headers, length)

    def on_body(self, data: bytes) -> None:
        if self.complete:
            raise _LeftoverError  # the response to HEAD has a body (A26)
        self._body = data
        if self._sink is not None:
            self._sink.on_data(data)

    def on_message_complete(self) -> None:
        if self.complete:
            raise _LeftoverError
        self.complete = not self.in_head  # else an interim response ended

    # What the callbacks decide.

    def _on_interim(self, status: int, fields: list[Field]) -> None:
        if status == 101 and self.on_switch is not None:
            return  # llhttp stops behind it, and `feed` hands over
        if status < 100 or status == 101:
            raise origin_error("http_protocol_error", "the origin switched protocols unasked")
        self._interims += 1
        if self._interims > MAX_INTERIM:
            raise origin_error("http_protocol_error", "too many interim responses")
        if self._sink is not None:
            self._sink.on_interim(status, fields)

    def _without_body(self, status: int, headers: Headers) -> int | None:
        """HEAD, 204 and 304 end with their head (RFC 9112 §6.3); returns the length that it says."""
        framed = b"transfer-encoding" in headers
        length = stated_length(headers)
        if status == 204:
            self.keep = self.keep and not framed and not length
        elif status != 304 and (framed or length != 0):
            self.complete = self._spent = True  # llhttp would wait for a body
        return length


def _size(fields: list[Field]) -> int:
    return sum([len(name) + len(value) + 4 for name, value in fields])


def _cause(error: httptools.HttpParserError) -> Exception:
    """What made the parser stop: a refusal of ours, a bug in a sink, or the origin's bytes."""
    if isinstance(error, httptools.HttpParserCallbackError) and isinstance(error.__context__, Exception):
        return error.__context__
    return origin_error("http_protocol_error", str(error))
