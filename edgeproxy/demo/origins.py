"""A demo origin: one small site, run once per "region".

    python -m edgeproxy.demo.origins --name eu --listen 127.0.0.1:8001

Every answer says which region made it and how often that path was asked, so that a cached answer
is seen to be one. `POST /_control/fail?mode=on` breaks the site, `mode=off` repairs it; the health
check stays well meanwhile, so that what is seen is a failing answer and not a missing server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

EVENT_PAUSE = 0.2  # seconds between two events
SLOWEST = 10.0
"""The longest that /slow waits, in seconds."""

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>edgeproxy demo: {region}</title>
<style>body{{font:17px/1.6 system-ui,sans-serif;max-width:36rem;margin:12vh auto;padding:0 1rem}}
b{{font-size:1.4em}}img{{vertical-align:middle}}</style>
<h1><img src="/image.svg" width="48" alt=""> Hello from <b>{region}</b></h1>
<p>Answer number <b>{number}</b> of this origin for this page, made at {clock}.</p>
<p>The edge said: country <b>{country}</b>, checkout variant <b>{variant}</b>.</p>
<p>A cache may keep this for a minute: load it again, and number and time stay.</p></html>
"""
_IMAGE = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10">
<circle cx="5" cy="5" r="5" fill="{colour}"/></svg>"""
_COLOURS = {"eu": "#1d4ed8", "us": "#b91c1c"}

Endpoint = Callable[[Request], Awaitable[Response]]


class Origin:
    """The endpoints of one region."""

    def __init__(self, region: str) -> None:
        self.region = region
        self.failing = False
        self.asked: Counter[str] = Counter()

    def app(self) -> Starlette:
        """The ASGI app."""
        site: dict[str, Endpoint] = {
            "/": self.page,
            "/api/products": self.products,
            "/api/news": self.news,
            "/image.svg": self.image,
            "/slow": self.slow,
            "/events": self.events,
            "/private": self.private,
            "/account": self.account,
            "/limited": self.limited,
            "/echo": self.echo,
        }
        return Starlette(
            routes=[
                *(Route(path, self._unless_failing(endpoint)) for path, endpoint in site.items()),
                Route("/healthz", self.health),
                Route("/_control/fail", self.control, methods=["POST"]),
            ]
        )

    def _unless_failing(self, endpoint: Endpoint) -> Endpoint:
        async def answer(request: Request) -> Response:
            if self.failing:
                return _json({"region": self.region, "error": "told to fail"}, status=503)
            return await endpoint(request)

        return answer

    def _counted(self, request: Request, cache: str, **more: object) -> Response:
        self.asked[request.url.path] += 1
        number, clock = self.asked[request.url.path], time.strftime("%H:%M:%S")
        return _json({"region": self.region, "answer": number, "at": clock, **more}, cache=cache)

    async def page(self, request: Request) -> Response:
        self.asked["/"] += 1
        page = _PAGE.format(
            region=self.region,
            number=self.asked["/"],
            clock=time.strftime("%H:%M:%S"),
            country=request.headers.get("x-geo-country", "unknown"),
            variant=request.headers.get("x-variant-checkout", "none"),
        )
        return HTMLResponse(page, headers={"Cache-Control": "public, max-age=60"})

    async def products(self, request: Request) -> Response:
        return self._counted(request, "public, max-age=60", products=["hat", "coat"])

    async def news(self, request: Request) -> Response:
        return self._counted(request, "public, max-age=2, stale-while-revalidate=10, stale-if-error=300")

    async def image(self, request: Request) -> Response:
        picture = _IMAGE.format(colour=_COLOURS.get(self.region, "#15803d"))
        return Response(
            picture, media_type="image/svg+xml", headers={"Cache-Control": "public, max-age=3600"}
        )

    async def slow(self, request: Request) -> Response:
        try:
            seconds = float(request.query_params.get("seconds", "1"))
        except ValueError:
            seconds = -1.0
        if not 0.0 <= seconds <= SLOWEST:  # also refuses nan
            return _json({"region": self.region, "error": f"seconds is 0 to {SLOWEST:g}"}, status=400)
        await asyncio.sleep(seconds)
        return self._counted(request, "no-store")

    async def events(self, request: Request) -> Response:
        return StreamingResponse(
            _events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )

    async def private(self, request: Request) -> Response:
        return self._counted(request, "private, no-store", user=request.headers.get("x-user", ""))

    async def account(self, request: Request) -> Response:
        return self._counted(request, "private, max-age=60", owner=request.headers.get("x-user", "you"))

    async def limited(self, request: Request) -> Response:
        return self._counted(request, "no-store")

    async def echo(self, request: Request) -> Response:
        received = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.headers.raw]
        return self._counted(request, "no-store", method=request.method, headers=received)

    async def health(self, request: Request) -> Response:
        return JSONResponse({"region": self.region, "status": "ok"})

    async def control(self, request: Request) -> Response:
        self.failing = request.query_params.get("mode") == "on"
        return _json({"region": self.region, "failing": self.failing})


def _json(body: dict[str, object], *, status: int = 200, cache: str = "no-store") -> Response:
    # a line of its own: answers that follow each other in a terminal stay apart
    text = json.dumps(body, separators=(",", ":")) + "\n"
    return Response(text, status, media_type="application/json", headers={"Cache-Control": cache})


async def _events() -> AsyncIterator[str]:
    for number in range(1, 6):
        yield f"data: event {number}\n\n"
        await asyncio.sleep(EVENT_PAUSE)


def serve(app: Starlette, listen: str, *, end_with_stdin: bool) -> None:
    """Run an app on `host:port` until SIGTERM or SIGINT, or until standard input is closed."""
    if end_with_stdin:
        threading.Thread(target=_wait_for_end_of_stdin, daemon=True).start()
    host, _, port = listen.rpartition(":")
    uvicorn.run(
        app,
        host=host,
        port=int(port),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=2,  # a slow answer must not hold up the end of the demo
    )


def _wait_for_end_of_stdin() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def options_of(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """What the command line says, `--end-with-stdin` for whoever starts us and may be killed included."""
    parser.add_argument("--end-with-stdin", action="store_true", help="end when standard input is closed")
    return parser.parse_args()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", default="eu", help="the region it says it is")
    parser.add_argument("--listen", default="127.0.0.1:8001", help="host:port")
    options = options_of(parser)
    serve(Origin(options.name).app(), options.listen, end_with_stdin=options.end_with_stdin)


if __name__ == "__main__":
    main()
