"""Requests, responses and their fields: ordered byte pairs from wire to wire.

Rule 1: `raw` is what was received: order, case, duplicates and 8-bit bytes are kept.
Rule 2: `index` is for looking up: lower-case name -> value, repeated lines joined as RFC 9110 §5.3
says. Never forward from the index, and never read `Set-Cookie` from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgeproxy.http.pieces import Body
from edgeproxy.record import record

Field = tuple[bytes, bytes]
"""One field line: (name, value), as received or as it will be written."""


SAFE = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"QUERY"})
"""Methods that ask for nothing but an answer (RFC 9110 §9.2.1, RFC 10008)."""
IDEMPOTENT = SAFE | {b"PUT", b"DELETE"}
"""Methods that may be sent again when nobody knows what became of them (RFC 9110 §9.2.2)."""


def index_fields(raw: list[Field]) -> dict[bytes, bytes]:
    """Lower-case name -> value; repeated lines are joined by `, ` (`; ` for Cookie, RFC 6265 §5.4)."""
    index = {name.lower(): value for name, value in raw}
    if len(index) == len(raw):  # nearly always: no line is repeated
        return index
    index.clear()
    for name, value in raw:
        lower = name.lower()
        if lower in index:
            index[lower] += (b"; " if lower == b"cookie" else b", ") + value
        else:
            index[lower] = value
    return index


class Headers:
    """The fields of one message. `get` is a dict look-up; forwarding iterates over `raw`."""

    __slots__ = ("index", "made", "raw")

    def __init__(self, raw: list[Field], index: dict[bytes, bytes] | None = None) -> None:
        self.made: object = None  # of these fields, by whoever sees the same ones again and again
        self.raw = raw
        self.index = index_fields(raw) if index is None else index

    def get(self, name: bytes) -> bytes | None:
        """The combined value of `name` (lower case), or None when absent."""
        return self.index.get(name)

    def get_all(self, name: bytes) -> list[bytes]:
        """Every line of `name` (lower case), in order."""
        if name not in self.index:
            return []
        return [value for key, value in self.raw if key.lower() == name]

    def __contains__(self, name: bytes) -> bool:
        return name in self.index

    def __iter__(self) -> Iterator[Field]:
        return iter(self.raw)

    def __len__(self) -> int:
        return len(self.raw)

    def __repr__(self) -> str:
        return f"Headers({self.raw!r})"


@record
class Request:
    """One request as every part of the edge sees it: parsed and normalised once, at the door.

    `host` is lower case without default port or trailing dot; `path` went through
    `http.target.normalise_path` and is what routes, keys and the origin see; `query` is what
    follows the first `?`, without it. `peer` is the socket's address (or PROXY protocol's),
    not the client's: that is `Context.client`.
    """

    method: bytes
    host: bytes
    path: bytes
    query: bytes
    headers: Headers
    peer: str
    secure: bool = False
    has_body: bool = False

    def with_headers(self, headers: Headers) -> Request:
        """The same request with other fields; itself when they are its own."""
        if headers is self.headers:
            return self
        return Request(
            self.method, self.host, self.path, self.query, headers, self.peer, self.secure, self.has_body
        )


@record
class Response:
    """A complete response in memory: a refusal, a redirect, or what the cache serves.

    `head` is the status line and field lines, rendered once (`http.wire.render_head`), without
    the empty line: the doors append what belongs to one exchange only.
    """

    status: int
    fields: Sequence[Field]
    body: Body
    head: bytes
    names: frozenset[bytes]
