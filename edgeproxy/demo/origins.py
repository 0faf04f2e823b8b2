"""A demo origin: one small site, run once per "region".

    python -m edgeproxy.demo.origins --name eu --listen 127.0.0.1:8001

Every answer says which region made it and how often that path was asked, so that a cached answer
is seen to be one. `POST /_control/fail?mode=on` breaks it, `mode=off` repairs it.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>edgeproxy demo: {region}</title>
<style>body{{font:17px/1.6 system-ui,sans-serif;max-width:36rem;margin:12vh auto;padding:0 1rem}}
b{{font-size:1.4em}}img{{vertical-align:middle}}</style>
<h1><img src="/image.svg" width="48" alt=""> Hello from <b>{region}</b></h1>
<p>Answer number <b>{number}</b> of this origin for this page, made at {clock}.</p>
<p>The edge said: country <b>{country}</b>, checkout variant <b>{variant}</b>.</p></html>
"""
_IMAGE = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10">
<circle cx="5" cy="5" r="5" fill="{colour}"/></svg>"""
_COLOURS = {"eu": "#1d4ed8", "us": "#b91c1c"}


class Origin:
    """The endpoints of one region."""

    def __init__(self, region: str) -> None:
        self.region = region
        self.failing = False
        self.asked: Counter[str] = Counter()

    def app(self) -> Starlette:
        """The ASGI app."""
        return Starlette(
            routes=[
                Route("/", self.page),
                Route("/api/products", self.products),
                Route("/api/news", self.news),
                Route("/image.svg", self.image),
                Route("/slow", self.slow),
                Route("/events", self.events),
                Route("/private", self.private),
                Route("/limited", self.limited),
                Route("/healthz", self.health),
                Route("/_control/fail", self.control, methods=["POST"]),
            ]
        )

    def _answer(self, request: Request, cache: str, **more: object) -> Response:
        if self.failing:
            return JSONResponse({"region": self.region, "error": "told to fail"}, 503)
        path = request.url.path
        self.asked[path] += 1
        body = {"region": self.region, "answer": self.asked[path], "at": time.strftime("%H:%M:%S"), **more}
        return JSONResponse(body, headers={"Cache-Control": cache})

    async def page(self, request: Request) -> Response:
        if self.failing:
            return HTMLResponse("<h1>told to fail</h1>", 503)
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
        return self._answer(request, "public, max-age=60", products=["hat", "coat"])

    async def news(self, request: Request) -> Response:
        control = "public, max-age=2, stale-while-revalidate=10, stale-if-error=300"
        return self._answer(request, control)

    async def image(self, request: Request) -> Response:
        picture = _IMAGE.format(colour=_COLOURS.get(self.region, "#15803d"))
        return Response(
            picture, media_type="image/svg+xml", headers={"Cache-Control": "public, max-age=3600"}
        )

    async def slow(self, request: Request) -> Response:
        await asyncio.sleep(min(float(request.query_params.get("seconds", "1")), 10.0))
        return self._answer(request, "no-store")

    async def events(self, request: Request) -> Response:
        return StreamingResponse(
            _events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )

    async def private(self, request: Request) -> Response:
        return self._answer(request, "private, no-store", user=request.headers.get("x-user", ""))

    async def limited(self, request: Request) -> Response:
        return self._answer(request, "no-store")

    async def health(self, request: Request) -> Response:
        return JSONResponse({"region": self.region, "status": "ok"})

    async def control(self, request: Request) -> Response:
        self.failing = request.query_params.get("mode") == "on"
        return JSONResponse({"region": self.region, "failing": self.failing})


async def _events() -> AsyncIterator[str]:
    for number in range(1, 6):
        yield f"data: event {number}\n\n"
        await asyncio.sleep(0.2)


def serve(app: Starlette, listen: str) -> None:
    """Run an app on `host:port` until SIGTERM or SIGINT."""
    host, _, port = listen.rpartition(":")
    uvicorn.run(app, host=host, port=int(port), log_level="warning", access_log=False)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="eu", help="the region it says it is")
    parser.add_argument("--listen", default="127.0.0.1:8001", help="host:port")
    options = parser.parse_args()
    serve(Origin(options.name).app(), options.listen)


if __name__ == "__main__":
    main()
