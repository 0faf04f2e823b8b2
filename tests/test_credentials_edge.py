"""`api_key` and `basic` through both doors: files that change while the edge runs, limits by who passed."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from pathlib import Path

import pytest

from edgeproxy.policies.api_key import key_line
from edgeproxy.policies.basic_hash import hash_password
from tests.helpers.edge import PATIENCE, running
from tests.helpers.scripted_origin import ScriptedOrigin, always

CONFIG = """
edge: {{id: edge-1, pop: ams}}
server: {{listen: ["127.0.0.1:8080"], workers: 1, access_log: {{path: "{folder}/access.log"}}}}
admin: {{listen: null}}
origins: {{main: {{servers: ["{origin}"]}}}}
rate_limits: {{few: {{rate: 1/h, burst: 4, by: "claim:sub"}}}}
routes:
  - name: partners
    match: {{path: /partners}}
    policies:
      - api_key: {{file: "{folder}/keys", query: k, name_header: X-Partner}}
      - rate_limit: few
    cache: {{ttl: 1h}}
    origin: main
  - name: office
    match: {{path: /office}}
    policies: [{{basic: {{file: "{folder}/users", name_header: X-User}}}}]
    cache: false
    origin: main
"""
REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.mark.parametrize("door", ["native", "asgi"])
async def test_keys_and_passwords_let_pass_and_go_no_further(tmp_path: Path, door: str) -> None:
    keys = tmp_path / "keys"
    keys.write_text(key_line("alpha", "first-key") + "\n")
    users = tmp_path / "users"
    users.write_text(f"alice {hash_password(b'wonderland', b'0123456789abcdef')}\n")
    async with ScriptedOrigin(always(REPLY)) as origin:
        text = CONFIG.format(folder=tmp_path, origin=origin.url)
        async with running(text, tmp_path, door) as edge:
            client = await edge.client()
            assert (await client.ask("/partners")).status == 401
            assert (await client.ask("/partners", "X-Api-Key: other", "X-Partner: alpha")).status == 401
            for path, *fields in (("/partners?k=first-key",), ("/partners", "X-Api-Key: first-key")):
                assert (await client.ask(path, *fields, "X-Partner: root")).status == 200
            head = origin.heads[0].decode()
            assert "X-Partner: alpha" in head
            for hidden in ("root", "first-key", "Api-Key"):
                assert hidden not in head
            assert len(origin.heads) == 1, "the key is no part of the cache key"

            keys.write_text(key_line("alpha", "second-key") + "\n")
            async with asyncio.timeout(PATIENCE):
                while (await client.ask("/partners", "X-Api-Key: first-key")).status != 401:
                    await asyncio.sleep(0.05)  # the file is looked at twice a second
            assert (await client.ask("/partners", "X-Api-Key: second-key")).status in (200, 429)

            assert (await client.ask("/office")).status == 401
            known = "Authorization: Basic " + b64encode(b"alice:wonderland").decode()
            at_once = await asyncio.gather(*[edge.ask("/office", known) for _ in range(6)])
            assert [answer.status for answer in at_once] == [200] * 6, "they wait for one check"
            for password, status in ((b"alice:wrong", 401), (b"alice:wonderland", 200)):
                fields = ["Authorization: Basic " + b64encode(password).decode(), "X-User: root"]
                for _ in range(3):
                    assert (await client.ask("/office", *fields)).status == status
            head = origin.heads[-1].decode()
            assert "X-User: alice" in head
            assert "authorization" not in head.lower()
            edge.worker.parts.log.flush()  # type: ignore[union-attr]
    log = (tmp_path / "access.log").read_text()
    for secret in ("first-key", "second-key", b64encode(b"alice:wonderland").decode()):
        assert secret not in log
