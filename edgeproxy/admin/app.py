"""The admin API, on its own listener: metrics, health, purge, explain.

Rule 1: reading numbers and health is open to who can reach the listener; everything else needs
`Authorization: Bearer <token>`, which a browser never sends across sites (reliability A75).
Rule 2: liveness says that this process runs, and depends on nothing else (A170).
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from edgeproxy import __version__
from edgeproxy.admin import ADMIN_SERVICE
from edgeproxy.admin.answers import HANDLERS, HEADERS, ProblemError, as_json
from edgeproxy.admin.explain import Explanation, Question
from edgeproxy.admin.parameters import read_parameters, request_fields, told_answer
from edgeproxy.admin.purge import PurgeError, parse_purge
from edgeproxy.admin.revoke import RevokeError, parse_revoke
from edgeproxy.errors import RequestError
from edgeproxy.observe.cells import Slot
from edgeproxy.observe.metrics import render
from edgeproxy.purge_log import PurgeKind, PurgeLog

PURGE_WAIT = 0.5  # seconds an answer waits for the workers; then it says how many it did not hear from
PURGE_LOOKS = 50
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

Explain = Callable[[Question], Awaitable[Explanation]]
"""RequestError or ValueError: it cannot be asked."""
Handler = Callable[[Request], Awaitable[Response]]


@dataclass
class AdminState:
    """What the admin API shows and moves. Replace fields on reload; they are read per request."""

    slot: Slot  # of the process that runs this app
    purge_log: PurgeLog
    token: str | None  # None: purge, explain and config are closed
    explain: Explain
    ready: Callable[[], tuple[bool, Mapping[str, object]]]
    revoke: Callable[[str, Mapping[str, object]], None]  # (provider, line); KeyError, ValueError or OSError
    origins: Callable[[], Mapping[str, object]]  # of every origin: its servers, and what is believed of them
    config: Callable[[], Mapping[str, object]]  # secrets already masked
    workers: Callable[[], int]  # that take traffic, and will hear of a purge
    purged_as: Callable[[bytes], list[bytes]]  # `host/path?query` as keyed, and what it may be rewritten to
    started_at: float  # wall clock, epoch seconds
    experiments: Callable[[], Mapping[str, object]] = dict  # how the variants of each do
    clock: Callable[[], float] = field(default=time.time)


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
        exception_handlers=HANDLERS,
    )


class _Api:
    def __init__(self, state: AdminState) -> None:
        self._state = state

    async def index(self, request: Request) -> Response:
        return HTMLResponse(_INDEX.format(version=__version__), headers=HEADERS)

    async def metrics(self, request: Request) -> Response:
        accept = request.headers.get("accept", "")
        content_type, page = render(self._state.slot.cells, self._state.clock(), accept)
        return Response(page, headers={**HEADERS, "Content-Type": content_type})

    async def live(self, request: Request) -> Response:
        uptime = max(0.0, self._state.clock() - self._state.started_at)
        about = {"service": ADMIN_SERVICE, "version": __version__}
        return as_json({"status": "alive", **about, "uptime_seconds": round(uptime, 3)})

    async def ready(self, request: Request) -> Response:
        ready, details = self._state.ready()
        return as_json({"status": "ready" if ready else "not ready", **details}, 200 if ready else 503)

    async def purge(self, request: Request) -> Response:
        try:
            purge = parse_purge(await read_parameters(request))
        except PurgeError as error:
            raise ProblemError(400, "bad-purge", str(error)) from None
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
        return as_json(done | await self._reached(made))

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
            provider, line = parse_revoke(await read_parameters(request))
            self._state.revoke(provider, line)
        except (RevokeError, ValueError) as error:
            raise ProblemError(400, "bad-revocation", str(error)) from None
        except KeyError:
            detail = "No provider of that name has a file of revoked tokens: set `revoked` in its section."
            raise ProblemError(404, "no-such-list", detail) from None
        except OSError as error:
            raise ProblemError(500, "not-written", f"The list cannot be written: {error.strerror}.") from None
        return as_json({"revoked": line, "provider": provider})

    async def explain(self, request: Request) -> Response:
        parameters = await read_parameters(request, several=("header", "answer"))
        known = {"method", "url", "from", "header", "headers", "answer", "status"}
        if unknown := sorted(set(parameters) - known):
            raise ProblemError(400, "bad-explain", f"Unknown: {', '.join(unknown)}.")
        words = [parameters.get("method", "GET"), parameters.get("url"), parameters.get("from", "127.0.0.1")]
        if not all(isinstance(word, str) and word for word in words):
            raise ProblemError(400, "bad-explain", "Give url, and if you like method, from, header.")
        method, url, client = cast("list[str]", words)
        try:
            question = Question(method, url, client, request_fields(parameters), told_answer(parameters))
            explanation = await self._state.explain(question)
        except RequestError as error:
            raise ProblemError(400, "bad-explain", error.detail) from None
        except ValueError as error:
            raise ProblemError(400, "bad-explain", str(error)) from None
        if "text/plain" in request.headers.get("accept", ""):
            return PlainTextResponse(explanation.as_tree(), headers=HEADERS)
        return as_json(explanation.as_dict())

    async def origins(self, request: Request) -> Response:
        return as_json(self._state.origins())

    async def experiments(self, request: Request) -> Response:
        return as_json(self._state.experiments())

    async def config(self, request: Request) -> Response:
        return as_json(self._state.config())

    def guarded(self, handler: Handler) -> Handler:
        """The handler, for those who know the token."""

        async def guarded_handler(request: Request) -> Response:
            _check_token(self._state.token, request)
            return await handler(request)

        return guarded_handler


def _check_token(token: str | None, request: Request) -> None:
    if not token:
        advice = 'This needs a token: set admin.token in the YAML, like "${file:/run/secrets/edge_admin}".'
        raise ProblemError(403, "no-admin-token", advice)
    given = request.headers.getlist("authorization")
    scheme, _, credential = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    known = hmac.compare_digest(credential.strip().encode("latin-1"), token.encode())
    if scheme.lower() != "bearer" or not known:
        raise ProblemError(
            401,
            "bad-admin-token",
            "Send Authorization: Bearer with the admin token.",
            {"WWW-Authenticate": "Bearer"},
        )
