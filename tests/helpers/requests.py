"""Short ways to make the values that tests are about."""

from __future__ import annotations

from collections.abc import Mapping

from edgeproxy.cache.rule import CacheRule, CacheSection, compile_rule
from edgeproxy.context import Context
from edgeproxy.http.message import Field, Headers, Request, Response
from edgeproxy.http.pieces import pieces_of

NOW = 1_800_000_000.0
DATE = b"Fri, 15 Jan 2027 08:00:00 GMT"  # NOW


def fields(headers: Mapping[str, str] | list[tuple[str, str]] | None = None) -> list[Field]:
    pairs = headers.items() if isinstance(headers, Mapping) else headers or []
    return [(name.encode(), value.encode()) for name, value in pairs]


def headers(values: Mapping[str, str] | list[tuple[str, str]] | None = None) -> Headers:
    return Headers(fields(values))


def request(
    path: str = "/a",
    values: Mapping[str, str] | list[tuple[str, str]] | None = None,
    *,
    method: str = "GET",
    host: str = "example.com",
    query: str = "",
    body: bool = False,
) -> Request:
    return Request(
        method.encode(),
        host.encode(),
        path.encode(),
        query.encode(),
        headers(values),
        "192.0.2.1",
        False,
        body,
    )


def context(now: float = NOW) -> Context:
    return Context(now, now, "192.0.2.1", "route", "id-1")


def rule(**section: object) -> CacheRule:
    return compile_rule(CacheSection.model_validate(section), b"edge", 8 * 2**20)


def whole_body(answer: Response) -> bytes:
    return b"".join(pieces_of(answer.body))
