"""OPTIONS and TRACE that may travel no further: `Max-Forwards: 0` is answered here (RFC 9110 §7.6.2)."""

from __future__ import annotations

from collections.abc import Iterable

from edgeproxy.context import Context, Verdict
from edgeproxy.http.message import Headers, Request, Response
from edgeproxy.http.replies import NO_STORE
from edgeproxy.http.wire import render_fields, response

LIMITED = frozenset({b"OPTIONS", b"TRACE"})
"""The methods that heed Max-Forwards."""

# What a TRACE does not give back, RFC 9110 §9.3.8: whoever reads the answer may not be who sent them
_CREDENTIALS = frozenset({b"authorization", b"proxy-authorization", b"cookie"})


def max_forwards(method: bytes, headers: Headers) -> int | None:
    """How many hops a request may still take; 0 means answer it here. None: no limit."""
    if method not in LIMITED:
        return None
    value = headers.get(b"max-forwards")
    return int(value) if value is not None and value.isdigit() and len(value) <= 9 else None


class LastHop:
    """The last step of a route for such a request: what the final recipient answers."""

    name = "max-forwards"
    reasons = ("last-hop",)
    fails_open = False

    def __init__(self, methods: Iterable[bytes]) -> None:
        """`methods` are what the route takes, in any order."""
        self._options = response(200, [(b"Allow", b", ".join(sorted(methods))), NO_STORE])

    def __call__(self, request: Request, ctx: Context, /) -> Response | None:
        ctx.reason = "last-hop"
        ctx.note(self.name, Verdict.ANSWER, "the request may travel no further")
        return _reflected(request) if request.method == b"TRACE" else self._options


def _reflected(request: Request) -> Response:
    """The request as it came here, without credentials, as the content of the answer."""
    query = b"?" + request.query if request.query else b""
    kept = [field for field in request.headers.raw if field[0].lower() not in _CREDENTIALS]
    line = b"TRACE %b%b HTTP/1.1\r\n" % (request.path, query)
    return response(200, [(b"Content-Type", b"message/http"), NO_STORE], line + render_fields(kept) + b"\r\n")
