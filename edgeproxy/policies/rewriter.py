"""Another path or host for a request, by rule: what cache key and origin see in its place."""

from __future__ import annotations

import re
from dataclasses import replace

from edgeproxy.http.message import Request

_HOST = re.compile(r"(?:[a-z0-9_-]+\.)*[a-z0-9_-]+(?::\d{1,5})?")
_PATH = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,=:@-]+)*(?:\{path\}|/)?")


def check_path(template: str) -> str:
    """`template` itself, `/fast{path}` or `/fast.html`. Raises ValueError when it is no path."""
    if not template or not _PATH.fullmatch(template) or re.search(r"/\.\.?(?:[/{]|$)", template):
        raise ValueError(f"{template!r} is no path; write /fast{{path}} or /fast.html")
    return template


def check_host(name: str) -> str:
    """`name` itself. Raises ValueError when it is no host."""
    if not _HOST.fullmatch(name):
        raise ValueError(f"{name!r} is no host; write it like beta.example.com, in lower case")
    return name


class Rewriter:
    """A path and a host, applied to requests. What is below the path's prefix already stays there."""

    def __init__(self, path: str | None, host: str | None) -> None:
        self._host = None if host is None else host.encode()
        self._before, self._keeps = None, False
        if path is not None:
            self._before, self._keeps = path.removesuffix("{path}").encode(), path.endswith("{path}")

    def __call__(self, request: Request) -> Request:
        """The request as key and origin see it."""
        path, host = request.path, request.host
        if self._before is not None and path.startswith(b"/"):  # not `OPTIONS *`
            path = self._under(path)
        if self._host is not None:
            host = self._host
        return (
            request
            if (path, host) == (request.path, request.host)
            else replace(request, path=path, host=host)
        )

    def _under(self, path: bytes) -> bytes:
        before = self._before or b""
        if not self._keeps:
            return before
        return path if path == before or path.startswith(before + b"/") else before + path
