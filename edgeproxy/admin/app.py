"""The admin API, on its own listener: metrics, health, purge, explain.

Rule 1: reading numbers and health is open to who can reach the listener; everything else needs
`Authorization: Bearer <token>`, which a browser never sends across sites (reliability A75).
Rule 2: liveness says that this process runs, and depends on nothing else (A170).
"""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from edgeproxy import __version__
from edgeproxy.admin import ADMIN_SERVICE
from edgeproxy.admin.explain import Explanation, Told
from edgeproxy.admin.purge import PurgeError, parse_purge
from edgeproxy.admin.revoke import RevokeError, parse_revoke
from edgeproxy.errors import RequestError
from edgeproxy.observe.cells import Slot
from edgeproxy.observe.metrics import render
from edgeproxy.purge_log import PurgeKind, PurgeLog

MAX_BODY = 64 * 1024
PURGE_WAIT = 0.5  # seconds an answer waits for the workers; then it says how many it did not hear from
PURGE_LOOKS = 50
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_INDEX = """<!doctype html><html lang="en"><meta charset="utf-8"><title>edgeproxy {version}</title>
<style>body{{font:16px/1.6 system-ui,sans-serif;max-width:42rem;margin:10vh auto;padding:0 1rem}}</style>
<h1>edgeproxy {version}</h1><ul>
<li><a href="/metrics">/metrics</a>: numbers for Prometheus
<li><a href="/livez">/livez</a>: this process runs
<li><a href="/readyz">/readyz</a>: the edge takes traffic
<li><code>POST /purge</code>: forget stored responses, by url, prefix, host, tag or all *
<li><code>POST /revoke</code>: refuse a token that has not expired, by jti or sub *
<li><code>/explain</code>: what would happen to a request, and why *
<li><code>/origins</code>: the servers of every origin, and what is believed about them *
<li><code>/experiments</code>: what became of the variants of every experiment *
<li><code>/config</code>: the configuration in use, without its secrets *
</ul><p>* needs <code>Authorization: Bearer &lt;admin.token&gt;</code>
"""

Explain = Callable[[str, str, str, list[tuple[str, str]], Told | None], Awaitable[Explanation]]
Handler = Callable[[Request], Awaitable[Response]]


@dataclass
class AdminState:
    """What the admin API shows and moves. Replace fields on reload; they are read per request."""

    slot: Slot  # of the process that runs this app
    purge_log: PurgeLog
    token: str | None  # None: purge, explain and config are closed
    explain: (
        Explain  # (method, url, client address, headers, answer); RequestError or ValueError: it cannot be
    )
    ready: Callable[[], tuple[bool, Mapping[str, object]]]
    revoke: Callable[[str, Mapping[str, object]], None]  # (provider, line); KeyError, ValueError or OSError
    origins: Callable[[], Mapping[str, object]]  # of every origin: its servers, and what is believed of them
    config: Callable[[], Mapping[str, object]]  # secrets already masked
    workers: Callable[[], int]  # that take traffic, and will hear of a purge
    purged_as: Callable[[bytes], list[bytes]]  # `host/path?query` as keyed, and what it may be rewritten to
    started_at: float  # wall clock, epoch seconds
    experiments: Callable[[], Mapping[str, object]] = dict  # how the variants of each do
    clock: Callable[[], float] = field(default=time.time)


class _ProblemError(Exception):
    """Ends a handler with problem+json."""

    def __init__(self, status: int, kind: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.response = _problem(status, kind, detail, headers)


def admin_app(state: AdminState) -> Starlette:
    """The ASGI app of the admin listener."""
    api = _Api(state)
    return Starlette(
        routes=[
            Route("/", api.index),
            Route("/metrics", api.metrics),
            Route("/livez", api.live),
            Route("/readyz", api.ready),
            Route("/purge", api.guarded(api.purge), methods=["POST"]),
            Route("/revoke", api.guarded(api.revoke), methods=["POST"]),
            Route("/explain", api.guarded(api.explain), methods=["GET", "POST"]),
            Route("/origins", api.guarded(api.origins)),
            Route("/experiments", api.guarded(api.experiments)),
            Route("/config", api.guarded(api.config)),
        ],
        exception_handlers={
            _ProblemError: _on_problem,
            HTTPException: _on_http_error,
            ClientDisconnect: _on_disconnect,
            Exception: _on_crash,
        },
    )


class _Api:
    def __init__(self, state: AdminState) -> None:
        self._state = state

    async def index(self, request: Request) -> Response:
        return HTMLResponse(_INDEX.format(version=__version__), headers=_HEADERS)

    async def metrics(self, request: Request) -> Response:
        accept = request.headers.get("accept", "")
        content_type, page = render(self._state.slot.cells, self._state.clock(), accept)
        return Response(page, headers={**_HEADERS, "Content-Type": content_type})

    async def live(self, request: Request) -> Response:
        uptime = max(0.0, self._state.clock() - self._state.started_at)
        about = {"service": ADMIN_SERVICE, "version": __version__}
        return _json({"status": "alive", **about, "uptime_seconds": round(uptime, 3)})

    async def ready(self, request: Request) -> Response:
        ready, details = self._state.ready()
        return _json({"status": "ready" if ready else "not ready", **details}, 200 if ready else 503)

    async def purge(self, request: Request) -> Response:
        try:
            purge = parse_purge(await _parameters(request))
        except PurgeError as error:
            raise _ProblemError(400, "bad-purge", str(error)) from None
        values = self._state.purged_as(purge.value) if purge.kind is PurgeKind.URL else [purge.value]
        log = self._state.purge_log
        made = [(value, log.append(purge.kind, value, purge.soft)) for value in values]
        self._state.slot.counter("edgeproxy_purges_total", kind=purge.kind.word).inc()
        text, *rewritten = [value.decode("utf-8", "backslashreplace") for value in values]
        done: dict[str, object] = {
            "purged": purge.kind.word, "value": text, "soft": purge.soft, "position": made[-1][1],
        }  # fmt: skip
        if purge.kind is PurgeKind.URL:
            done["rewritten"] = rewritten
        return _json(done | await self._reached(made))

    async def _reached(self, made: list[tuple[bytes, int]]) -> dict[str, object]:
        """How many workers applied it, and how many responses that was. They look every 50 ms."""
        workers = self._state.workers()
        tallies: list[tuple[int, int]] = []
        for _ in range(PURGE_LOOKS):
            tallies = [self._state.purge_log.reached(value, position) for value, position in made]
            if min(tallies)[0] >= workers:
                break
            await asyncio.sleep(PURGE_WAIT / PURGE_LOOKS)
        reached, responses = min(tallies)[0], sum(dropped for _, dropped in tallies)
        return {"workers": {"reached": reached, "running": workers}, "responses": responses}

    async def revoke(self, request: Request) -> Response:
        try:
            provider, line = parse_revoke(await _parameters(request))
            self._state.revoke(provider, line)
        except (RevokeError, ValueError) as error:
            raise _ProblemError(400, "bad-revocation", str(error)) from None
        except KeyError:
            detail = "No provider of that name has a file of revoked tokens: set `revoked` in its section."
            raise _ProblemError(404, "no-such-list", detail) from None
        except OSError as error:
            raise _ProblemError(
                500, "not-written", f"The list cannot be written: {error.strerror}."
            ) from None
        return _json({"revoked": line, "provider": provider})

    async def explain(self, request: Request) -> Response:
        parameters = await _parameters(request, several=("header", "answer"))
        known = {"method", "url", "from", "header", "headers", "answer", "status"}
        if unknown := sorted(set(parameters) - known):
            raise _ProblemError(400, "bad-explain", f"Unknown: {', '.join(unknown)}.")
        words = [parameters.get("method", "GET"), parameters.get("url"), parameters.get("from", "127.0.0.1")]
        if not all(isinstance(word, str) and word for word in words):
            raise _ProblemError(400, "bad-explain", "Give url, and if you like method, from, header.")
        method, url, client = cast("list[str]", words)
        try:
            told = _told(parameters)
            explanation = await self._state.explain(method, url, client, _headers(parameters), told)
        except RequestError as error:
            raise _ProblemError(400, "bad-explain", error.detail) from None
        except ValueError as error:
            raise _ProblemError(400, "bad-explain", str(error)) from None
        if "text/plain" in request.headers.get("accept", ""):
            return PlainTextResponse(explanation.as_tree(), headers=_HEADERS)
        return _json(explanation.as_dict())

    async def origins(self, request: Request) -> Response:
        return _json(self._state.origins())

    async def experiments(self, request: Request) -> Response:
        return _json(self._state.experiments())

    async def config(self, request: Request) -> Response:
        return _json(self._state.config())

    def guarded(self, handler: Handler) -> Handler:
        """The handler, for those who know the token."""

        async def guarded_handler(request: Request) -> Response:
            _check_token(self._state.token, request)
            return await handler(request)

        return guarded_handler


def _check_token(token: str | None, request: Request) -> None:
    if not token:
        advice = 'This needs a token: set admin.token in the YAML, like "${file:/run/secrets/edge_admin}".'
        raise _ProblemError(403, "no-admin-token", advice)
    given = request.headers.getlist("authorization")
    scheme, _, credential = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    known = hmac.compare_digest(credential.strip().encode("latin-1"), token.encode())
    if scheme.lower() != "bearer" or not known:
        raise _ProblemError(
            401,
            "bad-admin-token",
            "Send Authorization: Bearer with the admin token.",
            {"WWW-Authenticate": "Bearer"},
        )


async def _parameters(request: Request, several: tuple[str, ...] = ()) -> dict[str, object]:
    """The query's parameters and the JSON body's members. Those in `several` are lists of texts."""
    found: dict[str, object] = {}
    for name in request.query_params:
        values = request.query_params.getlist(name)
        if len(values) > 1 and name not in several:
            raise _ProblemError(400, "bad-request", f"{name} is given more than once.")
        found[name] = values if name in several else values[0]
    body = await _body(request)
    if not body:
        return found
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise _ProblemError(415, "not-json", "Send the body as application/json.")
    try:
        document: object = json.loads(body)
    except (ValueError, RecursionError):
        raise _ProblemError(400, "not-json", "The body is not valid JSON.") from None
    if not isinstance(document, dict):
        raise _ProblemError(400, "not-json", "The body must be a JSON object.")
    return {**found, **cast("dict[str, object]", document)}


async def _body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise _ProblemError(413, "body-too-large", f"A body may have {MAX_BODY} bytes.")
    return body


def _headers(parameters: Mapping[str, object]) -> list[tuple[str, str]]:
    """Fields of `header` ("Name: value", repeated) and `headers` (an object)."""
    lines = parameters.get("header", [])
    fields = parameters.get("headers", {})
    if not isinstance(lines, list) or not isinstance(fields, dict):
        raise _ProblemError(400, "bad-explain", "header is a list of `Name: value`, headers an object.")
    pairs = [str(line).partition(":")[::2] for line in cast("list[object]", lines)]
    pairs += [(str(name), str(value)) for name, value in cast("dict[str, object]", fields).items()]
    return [(name.strip(), value.strip()) for name, value in pairs]


def _told(parameters: Mapping[str, object]) -> Told | None:
    """The answer to judge: `status`, and `answer` ("Name: value", repeated)."""
    if not parameters.keys() & {"status", "answer"}:
        return None
    status, lines = str(parameters.get("status", "200")), parameters.get("answer", [])
    if not (status.isdecimal() and 200 <= int(status) <= 599) or not isinstance(lines, list):
        raise _ProblemError(400, "bad-explain", "status is 200 to 599, answer a list of `Name: value`.")
    pairs = [str(line).partition(":")[::2] for line in cast("list[object]", lines)]
    return int(status), [(name.strip(), value.strip()) for name, value in pairs]


def _json(document: Mapping[str, object], status: int = 200) -> Response:
    body = json.dumps(document, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace") + b"\n"
    return Response(body, status, _HEADERS, "application/json")


def _problem(status: int, kind: str, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    document = {
        "type": f"urn:edgeproxy:problem:{kind}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    response = _json(document, status)
    response.headers["Content-Type"] = "application/problem+json"
    response.headers.update(headers or {})
    return response


async def _on_problem(_request: Request, error: Exception) -> Response:
    return cast("_ProblemError", error).response


async def _on_http_error(_request: Request, error: Exception) -> Response:
    error = cast("HTTPException", error)
    detail = "There is nothing here; / lists what there is." if error.status_code == 404 else error.detail
    return _problem(error.status_code, "not-served", detail, error.headers)


async def _on_disconnect(_request: Request, _error: Exception) -> Response:
    return _problem(400, "incomplete", "The body did not arrive whole.")  # nobody is there to read it


async def _on_crash(_request: Request, _error: Exception) -> Response:
    return _problem(500, "internal", "The admin API failed; its log says why.")
