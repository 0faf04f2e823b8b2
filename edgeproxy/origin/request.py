"""What a message looks like on the other side: the head sent to an origin, the fields sent back. Pure.

Rule 1: framing is ours. Content-Length and Transfer-Encoding are never copied (RFC 9112 §6).
Rule 2: what belongs to one hop stays on it (RFC 9110 §7.6.1); what we assert is set after that, so
that no client can talk us out of it by nominating it (reliability A29).
Rule 3: everything else keeps its order, case, duplicates and 8-bit bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgeproxy.context import Edit, Op
from edgeproxy.errors import origin_error
from edgeproxy.http.fields import NEVER_FORWARDED, nominated
from edgeproxy.http.last_hop import LIMITED, max_forwards
from edgeproxy.http.message import Field, Headers, Request
from edgeproxy.http.wire import apply_edits
from edgeproxy.record import record

# Host is set by the origin's mode, Expect by the caller, Trailer by what of it may follow.
_NEVER_SENT = NEVER_FORWARDED | {b"host", b"expect", b"trailer"}

CONDITIONAL = frozenset(
    [b"if-match", b"if-modified-since", b"if-none-match", b"if-range", b"if-unmodified-since"]
)

FILLING = CONDITIONAL | {b"range"}  # not sent when the whole response is wanted for the cache

_USUAL_CONNECTION = frozenset([b"keep-alive", b"close", b"Keep-Alive", b"Close"])
_WITH_CONTENT = frozenset([b"POST", b"PUT", b"PATCH"])  # a body is expected: say when there is none
_NOTHING: frozenset[bytes] = frozenset()
# Lower case, and `.` like `_` read as `-`: some origins do not tell X_User, X.User and X-User apart.
_ALIAS = bytes(ord("-") if chr(byte) in "._" else byte for byte in bytes(range(256)).lower())


@record
class Forwarding:
    """What is the same for every request of one route. Build it with `forwarding`."""

    signature: bytes  # Via, CDN-Loop and Surrogate-Capability lines
    dropped: frozenset[bytes]


def forwarding(edge_id: str, stripped: Iterable[bytes] = ()) -> Forwarding:
    """`edge_id` is a token (RFC 9110 §5.6.2); `stripped` are names that clients may not set."""
    name = edge_id.encode("ascii")
    return Forwarding(
        signature=b'Via: 1.1 %b\r\nCDN-Loop: %b\r\nSurrogate-Capability: %b="Surrogate/1.0"\r\n'
        % (name, name, name),
        dropped=_NEVER_SENT.union([name.translate(_ALIAS) for name in stripped]),
    )


def request_head(
    request: Request,
    target: bytes,
    rule: Forwarding,
    *,
    host: bytes | None = None,
    length: int | None = 0,
    edits: Sequence[Edit] = (),
    drop: frozenset[bytes] = _NOTHING,
    extra: Sequence[Field] = (),
    expect_continue: bool = False,
    websocket: bool = False,
) -> bytes:
    """The head of the request to the origin, its empty line included.

    `target` is in origin form, `host` the server's own name for itself (`Server.host`) or None for
    the client's. `length` frames the body: bytes, None for chunked, 0 for none.
    `edits` are what policies assert, `extra` what we add (forwarding and conditional fields), and
    `drop` are more lower-case names of the client's to leave out. Raises OriginError
    proxy_internal_error when anything holds a line end or NUL (reliability A39).
    """
    index = request.headers.index
    connection = index.get(b"connection")
    if connection is not None and connection not in _USUAL_CONNECTION:
        drop = drop.union(nominated(connection.translate(_ALIAS)))
    if request.method in LIMITED and b"max-forwards" in index:
        extra = [*extra, *_one_hop_less(request)]
        drop = drop | {b"max-forwards"}
    ours: Sequence[Field] = extra
    if edits:
        drop = drop.union([edit.name.translate(_ALIAS) for edit in edits if edit.op is not Op.ADD])
        ours = [field for field in apply_edits(extra, edits) if field[0].lower() not in _NEVER_SENT]
    dropped = rule.dropped
    fields = [
        b": ".join(field)
        for field in request.headers.raw
        if (name := field[0].translate(_ALIAS)) not in dropped and name not in drop and b"_" not in field[0]
    ]
    fields += [b": ".join(field) for field in ours]
    if length is None:
        fields.append(b"Transfer-Encoding: chunked")
        if b"trailer" in index:
            fields += _announced(index[b"trailer"], dropped | drop)
    elif length or request.method in _WITH_CONTENT:
        fields.append(b"Content-Length: %d" % length)
    if expect_continue:
        fields.append(b"Expect: 100-continue")
    if wants_trailers(request):
        fields += [b"Connection: TE", b"TE: trailers"]
    if websocket:
        fields += [b"Connection: Upgrade", b"Upgrade: websocket"]
    fields.append(rule.signature)
    head = b"%b %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (
        request.method,
        target,
        request.host if host is None else host,
        b"\r\n".join(fields),
    )
    _check(head, len(fields) + 5)  # request line, Host, three of the signature, the empty line
    return head


def _check(head: bytes, lines: int) -> None:
    """A line end more than we wrote was smuggled in by a value."""
    if head.count(b"\n") != lines or head.count(b"\r") != lines or b"\0" in head:
        raise origin_error("proxy_internal_error", "a field for the origin holds a control character")


def response_fields(headers: Headers, drop: frozenset[bytes] = _NOTHING) -> list[Field]:
    """The fields of an origin's response that are for the client; `drop` more lower-case names."""
    connection = headers.index.get(b"connection")
    if connection is not None and connection not in _USUAL_CONNECTION:
        drop = drop.union(nominated(connection))
    if not drop:
        if len(headers.index) == len(headers.raw):  # then its keys are the names, in order
            return [
                field
                for field, name in zip(headers.raw, headers.index, strict=True)
                if name not in NEVER_FORWARDED
            ]
        return [field for field in headers.raw if field[0].lower() not in NEVER_FORWARDED]
    return [
        field
        for field in headers.raw
        if (name := field[0].lower()) not in NEVER_FORWARDED and name not in drop
    ]


def interim_fields(fields: list[Field]) -> list[Field]:
    """What a 1xx response says to the client (RFC 9110 §15.2): what is not for this hop alone."""
    return response_fields(Headers(fields)) if fields else fields


def wants_trailers(request: Request) -> bool:
    """Did the client say that it takes fields behind the content (RFC 9110 §10.1.4)?"""
    te = request.headers.index.get(b"te")
    return te is not None and any(part.strip() == b"trailers" for part in te.lower().split(b","))


def trailer_fields(trailers: Iterable[Field], edits: Sequence[Edit] = ()) -> list[Field]:
    """Trailers of a response that may be passed on; `edits` are about names that are ours to say."""
    gone = _NOT_IN_TRAILERS.union([edit.lower for edit in edits])
    return [field for field in trailers if field[0].lower() not in gone]


def request_trailers(
    request: Request, trailers: Iterable[Field], rule: Forwarding, edits: Sequence[Edit] = ()
) -> list[Field]:
    """Trailers of a request that may be passed on: what is taken out of its head cannot come behind it."""
    connection = request.headers.index.get(b"connection", b"")
    gone = rule.dropped | nominated(connection.translate(_ALIAS))
    gone |= {edit.name.translate(_ALIAS) for edit in edits}
    return [field for field in trailers if _may_follow(field[0], gone)]


def _announced(trailer: bytes, gone: frozenset[bytes]) -> list[bytes]:
    """The Trailer field of those names in it that may follow (RFC 9110 §6.6.2)."""
    names = [name for each in trailer.split(b",") if (name := each.strip()) and _may_follow(name, gone)]
    return [b"Trailer: " + b", ".join(names)] if names else []


def _may_follow(name: bytes, gone: frozenset[bytes]) -> bool:
    alias = name.translate(_ALIAS)
    return alias not in gone and alias not in _NOT_IN_TRAILERS and b"_" not in name


# What frames, routes, modifies a request, authenticates, controls a response or says how to read the content
# (RFC 9110 §6.5.1).
_NOT_IN_TRAILERS = (
    _NEVER_SENT
    | FILLING
    | frozenset(
        [
            b"age", b"authorization", b"cache-control", b"cdn-loop", b"content-encoding", b"content-location",
            b"content-range", b"content-type", b"cookie", b"date", b"expires", b"location", b"max-forwards",
            b"pragma", b"retry-after", b"set-cookie", b"vary", b"via", b"www-authenticate",
        ]
    )
)  # fmt: skip


def is_loop(headers: Headers, edge_id: bytes) -> bool:
    """Did this request pass this edge before? Then it is answered with 508 (RFC 8586)."""
    via = headers.index.get(b"via")
    if via is not None and edge_id in via:
        for hop in via.split(b","):
            if hop.split()[1:2] == [edge_id]:
                return True
    loop = headers.index.get(b"cdn-loop")
    if loop is not None and edge_id in loop:
        return any(hop.partition(b";")[0].strip() == edge_id for hop in loop.split(b","))
    return False


def _one_hop_less(request: Request) -> list[Field]:
    hops = max_forwards(request.method, request.headers)
    return [] if hops is None else [(b"Max-Forwards", b"%d" % max(0, hops - 1))]
