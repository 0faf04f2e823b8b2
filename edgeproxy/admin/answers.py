"""How the admin API answers: JSON, and problem+json (RFC 9457) for what went wrong. None of it is stored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, cast

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class ProblemError(Exception):
    """Ends a handler with problem+json."""

    def __init__(self, status: int, kind: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.response = _problem(status, kind, detail, headers)


def as_json(document: Mapping[str, object], status: int = 200) -> Response:
    """A document; what JSON does not know is written as its text."""
    body = json.dumps(document, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace") + b"\n"
    return Response(body, status, HEADERS, "application/json")


def _problem(status: int, kind: str, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    document = {
        "type": f"urn:edgeproxy:problem:{kind}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    response = as_json(document, status)
    response.headers["Content-Type"] = "application/problem+json"
    response.headers.update(headers or {})
    return response


async def _on_problem(_request: Request, error: Exception) -> Response:
    return cast("ProblemError", error).response


async def _on_http_error(_request: Request, error: Exception) -> Response:
    error = cast("HTTPException", error)
    detail = "There is nothing here; / lists what there is." if error.status_code == 404 else error.detail
    return _problem(error.status_code, "not-served", detail, error.headers)


async def _on_disconnect(_request: Request, _error: Exception) -> Response:
    return _problem(400, "incomplete", "The body did not arrive whole.")  # nobody is there to read it


async def _on_crash(_request: Request, _error: Exception) -> Response:
    return _problem(500, "internal", "The admin API failed; its log says why.")


HANDLERS: dict[Any, Any] = {
    ProblemError: _on_problem,
    HTTPException: _on_http_error,
    ClientDisconnect: _on_disconnect,
    Exception: _on_crash,
}
"""What Starlette does with what a handler raises."""
