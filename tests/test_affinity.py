"""Affinity to an origin end to end: told once, kept over hits, never stored, through both doors."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.edge import running
from tests.helpers.scripted_origin import ScriptedOrigin, always

CONFIG = """
edge: {{location: [50, 8]}}
server: {{listen: ["127.0.0.1:8080"], workers: 1, access_log: {{path: "off"}}}}
admin: {{listen: null}}
geo: {{database: "{database}", override: {{networks: ["127.0.0.0/8"]}}}}
origins:
  eu: {{servers: ["{eu}"], location: [50, 8]}}
  us: {{servers: ["{us}"], location: [39, -77]}}
routes:
  - {{name: fixed, match: {{path: /fixed}}, origin: us}}
  - name: all
    origin: {{by_country: {{US: us}}, otherwise: eu, affinity: {{secret: "0123456789abcdef"}}}}
"""
DATABASE = Path(__file__).parent.parent / "config" / "demo-geo.mmdb"


def body(text: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: %d\r\n\r\n" % len(text)
    return head + text


@pytest.mark.parametrize("door", ["native", "asgi"])
async def test_a_client_is_told_once_and_stays(tmp_path: Path, door: str) -> None:
    async with ScriptedOrigin(always(body(b"eu"))) as eu, ScriptedOrigin(always(body(b"us"))) as us:
        config = CONFIG.format(database=DATABASE, eu=eu.url, us=us.url)
        async with running(config, tmp_path, door) as edge:
            first = await edge.ask("/a")
            kept = first["set-cookie"].partition(";")[0]
            assert (first.body, kept.partition(".")[0]) == (b"eu", "edge_origin=eu")
            second = await edge.ask("/a")
            assert second["set-cookie"].partition(";")[0] == kept, "a hit tells a new client too"
            assert "hit" in second["cache-status"]
            client = await edge.client()
            for _ in range(5):  # the last ones are remembered, not asked again
                moved = await client.ask("/a", f"Cookie: {kept}", "X-Geo-Override: US")
                assert (moved.body, moved["set-cookie"]) == (b"eu", "")
            assert (await edge.ask("/a", "X-Geo-Override: US")).body == b"us"
            forged = await edge.ask("/a", "Cookie: edge_origin=us.00000000000000000000000000000000")
            assert forged.body == b"eu"
            assert (await edge.ask("/fixed", "X-Geo-Override: US")).body == b"us"
            assert not any(b"x-geo-override" in head.lower() for head in [*eu.heads, *us.heads])
