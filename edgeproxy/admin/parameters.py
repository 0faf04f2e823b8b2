"""What a request to the admin API asks for: parameters of its query, members of its JSON body, or both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast

from starlette.requests import Request

from edgeproxy.admin.answers import ProblemError
from edgeproxy.admin.explain import Told

MAX_BODY = 64 * 1024  # bytes


async def read_parameters(request: Request, several: tuple[str, ...] = ()) -> dict[str, object]:
    """The query's parameters and the JSON body's members. Those in `several` are lists of texts.

    Raises ProblemError: 400 for what cannot be read, 413 and 415 for bodies that are not taken.
    """
    found: dict[str, object] = {}
    for name in request.query_params:
        values = request.query_params.getlist(name)
        if len(values) > 1 and name not in several:
            raise ProblemError(400, "bad-request", f"{name} is given more than once.")
        found[name] = values if name in several else values[0]
    body = await _body(request)
    if not body:
        return found
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ProblemError(415, "not-json", "Send the body as application/json.")
    try:
        document: object = json.loads(body)
    except (ValueError, RecursionError):
        raise ProblemError(400, "not-json", "The body is not valid JSON.") from None
    if not isinstance(document, dict):
        raise ProblemError(400, "not-json", "The body must be a JSON object.")
    return {**found, **cast("dict[str, object]", document)}


async def _body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise ProblemError(413, "body-too-large", f"A body may have {MAX_BODY} bytes.")
    return body


def request_fields(parameters: Mapping[str, object]) -> list[tuple[str, str]]:
    """Fields of `header` ("Name: value", repeated) and `headers` (an object). Raises ProblemError."""
    lines = parameters.get("header", [])
    fields = parameters.get("headers", {})
    if not isinstance(lines, list) or not isinstance(fields, dict):
        raise ProblemError(400, "bad-explain", "header is a list of `Name: value`, headers an object.")
    named = [(name.strip(), str(value).strip()) for name, value in cast("dict[str, object]", fields).items()]
    return _fields(cast("list[object]", lines)) + named


def told_answer(parameters: Mapping[str, object]) -> Told | None:
    """The answer to judge: `status`, and `answer` ("Name: value", repeated). Raises ProblemError."""
    if not parameters.keys() & {"status", "answer"}:
        return None
    status, lines = str(parameters.get("status", "200")), parameters.get("answer", [])
    if not (status.isdecimal() and 200 <= int(status) <= 599) or not isinstance(lines, list):
        raise ProblemError(400, "bad-explain", "status is 200 to 599, answer a list of `Name: value`.")
    return int(status), _fields(cast("list[object]", lines))


def _fields(lines: list[object]) -> list[tuple[str, str]]:
    pairs = [str(line).partition(":")[::2] for line in lines]
    return [(name.strip(), value.strip()) for name, value in pairs]
