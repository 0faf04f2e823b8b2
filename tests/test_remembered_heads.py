"""What an origin is sent and a client told is remembered only where nothing else decides on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.edge import running
from tests.helpers.scripted_origin import ScriptedOrigin, always

OK = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 2\r\n\r\nok"
EDGE = """
server: {listen: ["127.0.0.1:8080"], workers: 1, access_log: {path: "off"}}
admin: {listen: null}
"""


async def test_what_is_not_in_the_key_is_told_to_a_mirror_but_never_fills_the_cache(tmp_path: Path) -> None:
    async with ScriptedOrigin(always(OK)) as main, ScriptedOrigin(always(OK)) as shadow:
        config = EDGE + (
            f'origins: {{main: {{servers: ["{main.url}"]}}, shadow: {{servers: ["{shadow.url}"]}}}}\n'
            "routes: [{name: all, origin: main, cache: {unkeyed: drop}, mirror: {origin: shadow}}]\n"
        )
        async with running(config, tmp_path, "native") as edge:
            assert (await edge.ask("/q", "X-Evil: 1")).status == 200
            assert b"x-evil" not in main.heads[0].lower()


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_each_new_client_is_told_its_server(method: str, tmp_path: Path) -> None:
    answer = OK.replace(b"max-age=60", b"no-store")
    async with ScriptedOrigin(always(answer)) as one, ScriptedOrigin(always(answer)) as two:
        config = EDGE + (
            f'origins: {{main: {{servers: ["{one.url}", "{two.url}"], balance: "sticky:srv"}}}}\n'
            "routes: [{name: all, origin: main}]\n"
        )
        body = b"x" if method == "POST" else b""
        async with running(config, tmp_path, "native") as edge:
            kept = (await edge.ask("/a", method=method, body=body))["set-cookie"].partition(";")[0]
            for _ in range(4):
                known = await edge.ask("/a", f"Cookie: {kept}", method=method, body=body)
                assert known["set-cookie"] == ""
                new = await edge.ask("/a", method=method, body=body)
                assert new["set-cookie"].startswith("srv=")
