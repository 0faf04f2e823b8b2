"""The ASGI door: the same edge under any ASGI server, in tests, or mounted in another app.

    from edgeproxy.app import EdgeApp
    app = EdgeApp("edge.yaml")              # uvicorn my:app, or Mount("/", app) in Starlette or FastAPI

It differs from the native door only in how it builds a `Request` and how it writes. WebSockets are answered
with 501: ASGI does not hand out the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote_to_bytes

from edgeproxy.asgi_exchange import AsgiExchange, Receive, Send, start_message
from edgeproxy.clock import steady, wall
from edgeproxy.door import TOO_LARGE
from edgeproxy.errors import RequestError
from edgeproxy.http.framing import check_connection, check_framing
from edgeproxy.http.message import Field, Headers, Request, index_fields
from edgeproxy.http.pieces import Body
from edgeproxy.http.replies import render_problem
from edgeproxy.http.target import split_target
from edgeproxy.pipeline import Visit

if TYPE_CHECKING:
    from edgeproxy.hallway import Hallway
    from edgeproxy.server.worker import Worker

Scope = MutableMapping[str, Any]


class EdgeApp:
    """An ASGI application. With a path it loads that configuration at start-up, which is the lifespan event
    or, when mounted without one, the first request. Raises ConfigError then."""

    def __init__(self, config: str | Path | None = None, *, worker: Worker | None = None) -> None:
        self._path = config
        self._worker = worker
        self._starting = asyncio.Lock()

    @property
    def hall(self) -> Hallway:
        """The hallway of the worker; there is one once it has started."""
        if self._worker is None:
            raise RuntimeError("the edge has not started: send it a lifespan event or a request first")
        return self._worker.hall

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            await self._lifespan(receive, send)
        elif kind == "http":
            if self._worker is None:
                await self.start()
            await _handle(self.hall, scope, receive, send)
        else:
            await _refuse_websocket(scope, receive, send)

    async def start(self) -> None:
        """Load the configuration and start the background feeds; once."""
        from edgeproxy.server.worker import Worker

        async with self._starting:
            if self._worker is None and self._path is not None:
                worker = Worker.alone(Path(self._path))
                await worker.start()
                self._worker = worker

    async def stop(self) -> None:
        """End what `start` began."""
        worker, self._worker = self._worker, None
        if worker is not None and self._path is not None:
            await worker.stop()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.start()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.stop()
        await send({"type": "lifespan.shutdown.complete"})


async def _handle(hall: Hallway, scope: Scope, receive: Receive, send: Send) -> None:
    try:
        request, length = build_request(scope, hall)
    except RequestError as error:
        hall.rejected(scope["client"][0] if scope.get("client") else "", error)
        answer = render_problem(error.status, error.reason, error.detail, hall.next_request_id())
        await _send_whole(send, answer.status, [*answer.fields, (b"connection", b"close")], answer.body)
        return
    now = steady()
    trailers = "http.response.trailers" in (scope.get("extensions") or {})
    exchange = AsgiExchange(hall, request, length, trailers=trailers)
    visit = Visit(hall.edge, request)
    ctx, decision = hall.decide(visit, now, wall())
    exchange.visit, exchange.ctx, exchange.started_at = visit, ctx, now
    body = exchange.body
    limit = visit.route.body_size or hall.limits.body_size
    if body is not None:
        exchange.body_left = limit if length is None else length
    if body is not None and (length or 0) > limit:
        exchange.serve(hall.problem(request, ctx, TOO_LARGE))
    else:
        hall.act(visit, ctx, decision, exchange)
    await exchange.run(receive, send)


async def _refuse_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """ASGI hands out messages, not the connection, so that there is nothing to relay: 501, or 403 from
    servers that know no other answer than closing. Serve WebSockets through the native door."""
    await receive()
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close"})
        return
    answer = render_problem(501, "no-websocket", "This way into the edge does not speak WebSocket.", "-")
    await send({**start_message(answer.status, list(answer.fields)), "type": "websocket.http.response.start"})
    await send({"type": "websocket.http.response.body", "body": answer.body})


def build_request(scope: Scope, hall: Hallway) -> tuple[Request, int | None]:
    """(request, body length or None when unknown) of an ASGI scope. Raises RequestError."""
    limits = hall.limits
    raw: list[Field] = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
    if len(raw) > limits.head_fields:
        raise RequestError(431, "too-many-fields", "The request has too many header fields.")
    if sum([len(name) + len(value) + 4 for name, value in raw]) > limits.head_size:
        raise RequestError(431, "head-too-large", "The request's head is too large.")
    if sum([name.lower() == b"host" for name, _ in raw]) > 1:
        raise RequestError(400, "bad-host", "A request has exactly one Host field.")
    index = index_fields(raw)
    version: str = scope.get("http_version", "1.1")
    http10 = version == "1.0"
    framing = check_framing(index, http10=http10)
    if b"connection" in index:
        check_connection(index[b"connection"])
    path: bytes = scope.get("raw_path") or quote(scope["path"], safe="/:@!$&'()*+,;=~-._").encode()
    if root := scope.get("root_path", ""):
        path = _behind(root, path)
    query: bytes = scope.get("query_string", b"")
    target = path + b"?" + query if query else path
    if len(target) > limits.url_size:
        raise RequestError(414, "url-too-long", "The request target is too long.")
    headers = Headers(raw, index)
    peer = scope["client"][0] if scope.get("client") else ""
    secure = scope.get("scheme") == "https" or (
        b"x-forwarded-proto" in index and hall.edge.says_https(peer, headers)
    )
    host = index.get(b"host") or (b"localhost" if http10 else None)
    method: bytes = scope["method"].encode()
    name, path, query = split_target(target, host, secure=secure, method=method)
    length = framing.length
    if (
        length == 0
        and version[0] in "23"
        and b"content-length" not in index
        and method not in (b"GET", b"HEAD")
    ):
        length = None  # HTTP/2 and 3 need neither field for a body
    request = Request(method, name, path, query, headers, peer, secure, length != 0)
    return request, length


def _behind(root: str, path: bytes) -> bytes:
    """The path of an app that is mounted at `root`, which may be written with other escapes in it."""
    depth = root.count("/")
    segments = path.split(b"/")
    mounted = b"/".join(segments[: depth + 1])
    if unquote_to_bytes(mounted) != root.encode():
        return path
    return b"/" + b"/".join(segments[depth + 1 :])


async def _send_whole(send: Send, status: int, fields: list[Field], body: Body) -> None:
    await send(start_message(status, fields))
    await send({"type": "http.response.body", "body": body})
