"""The small policies through both doors: preflights, redirects, rewrites, cookies, answers from here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.helpers.edge import Running, running
from tests.helpers.scripted_origin import ScriptedOrigin, always

CONFIG = """
edge: {{id: edge-1, pop: ams}}
server: {{listen: ["127.0.0.1:8080"], workers: 1, access_log: {{path: "off"}}}}
admin: {{listen: null}}
origins: {{main: {{servers: ["{origin}"]}}}}
jwt_providers:
  p: {{issuer: i, audience: a, algorithms: [HS256], secret: "0123456789abcdef0123456789abcdef"}}
routes:
  - name: api
    match: {{path: /api/**}}
    policies:
      - cors: {{origins: ["https://shop.example.com"], headers: [Authorization]}}
      - jwt: {{provider: p}}
    origin: main
  - name: site
    policies:
      - {{maintenance: {{}}, when: "path == /closed"}}
      - {{respond: {{body: hello, max_age: 1h}}, when: "path == /robots.txt"}}
      - redirect: {{path: "/old/**", to: "/new/{{rest}}"}}
      - rewrite: {{path: "/v1/**", to: "/v2/{{rest}}", query: {{remove: [utm_*]}}}}
      - cookies: {{keep: [session], http_only: ["*"]}}
    cache: {{set_cookie: strip}}
    origin: main
"""
BODY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nCache-Control: max-age=60\r\n\r\nok"
COOKIE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nCache-Control: no-store\r\nSet-Cookie: s=1\r\n\r\nok"
SHOP = "Origin: https://shop.example.com"


@pytest.fixture(params=["native", "asgi"])
async def edge(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[Running, ScriptedOrigin]]:
    async with (
        ScriptedOrigin(always(BODY)) as origin,
        running(CONFIG.format(origin=origin.url), tmp_path, str(request.param)) as edge,
    ):
        yield edge, origin


Pair = tuple[Running, ScriptedOrigin]


async def test_a_preflight_needs_no_token_and_no_origin(edge: Pair) -> None:
    client, origin = edge
    asked = "Access-Control-Request-Method: POST"
    answer = await client.ask(
        "/api/a", SHOP, asked, "Access-Control-Request-Headers: authorization", method="OPTIONS"
    )
    assert answer.status == 204
    assert answer["access-control-allow-headers"] == "authorization"
    assert (await client.ask("/api/a", "Origin: https://evil.test", asked, method="OPTIONS")).status == 403
    assert origin.heads == []


async def test_a_script_may_read_why_it_was_refused(edge: Pair) -> None:
    answer = await edge[0].ask("/api/a", SHOP)
    assert (answer.status, answer["access-control-allow-origin"]) == (401, "https://shop.example.com")
    assert "Origin" in answer["vary"]


async def test_answers_from_here_ask_nobody(edge: Pair) -> None:
    client, origin = edge
    robots = await client.ask("/robots.txt")
    assert (robots.status, robots.body) == (200, b"hello")
    head = await client.ask("/robots.txt", method="HEAD")
    assert (head["content-length"], head.body) == ("5", b"")
    again = await client.ask("/robots.txt", f"If-None-Match: {robots['etag']}")
    assert (again.status, again.body) == (304, b"")
    closed = await client.ask("/closed")
    assert (closed.status, closed["retry-after"]) == (503, "300")
    moved = await client.ask("/old/a?x=1")
    assert (moved.status, moved["location"]) == (308, "/new/a?x=1")
    assert origin.heads == []


async def test_a_rewritten_request_is_one_object_with_what_it_became(edge: Pair) -> None:
    client, origin = edge
    one = await client.client()
    for _ in range(4):  # on one connection: the policies' doing is remembered
        assert (await one.ask("/v1/a?utm_x=1&b=2")).body == b"ok"
    assert "hit" in (await client.ask("/v2/a?b=2"))["cache-status"]
    assert [head.split(b"\r\n")[0] for head in origin.heads] == [b"GET /v2/a?b=2 HTTP/1.1"]


async def test_cookies_are_filtered_on_both_ways(edge: Pair) -> None:
    client, origin = edge
    origin.scripts = (always(COOKIE),)
    answer = await client.ask("/x", "Cookie: session=1; other=2")
    assert answer["set-cookie"] == "s=1; HttpOnly"
    assert b"session=1\r\n" in origin.heads[0]
    assert b"other" not in origin.heads[0]
