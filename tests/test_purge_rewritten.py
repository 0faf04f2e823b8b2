"""A purge by URL means the URL that clients ask for: it reaches what policies rewrote it to (both doors)."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from edgeproxy.purge_log import PurgeKind
from edgeproxy.routes import MOST_BECOME
from tests.helpers.edge import Running, running
from tests.helpers.scripted_origin import ScriptedOrigin, always

ROOT = Path(__file__).parent.parent
TOKEN = "0123456789abcdef-purge"
CONFIG = """
edge: {{id: edge-1, pop: ams}}
server: {{listen: ["127.0.0.1:8080"], workers: 1, trusted_proxies: 127.0.0.1, access_log: {{path: "off"}}}}
admin: {{listen: null}}
cache: {{purge_method: {{clients: 127.0.0.1, token: "{token}"}}}}
geo: {{database: "{root}/config/demo-geo.mmdb"}}
origins: {{main: {{servers: ["{origin}"]}}}}
experiments:
  one: {{variants: {{a: {{weight: 1}}, b: {{weight: 1, path: "/b{{path}}"}}}}, by: client_ip}}
  two: {{variants: {{a: {{weight: 1}}, c: {{weight: 1, path: "/c{{path}}"}}}}, by: client_ip}}
routes: [{{name: all, origin: main, policies: [{policies}], cache: {{query: {{sort: true}}}}}}]
"""
REWRITE = "{rewrite: {path: '/old/**', to: '/new/{rest}'}}"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nCache-Control: max-age=60\r\n\r\nok"


@asynccontextmanager
async def edge_of(folder: Path, door: str, policies: str) -> AsyncGenerator[Running]:
    async with ScriptedOrigin(always(ANSWER)) as origin:
        config = CONFIG.format(origin=origin.url, policies=policies, token=TOKEN, root=ROOT)
        async with running(config, folder, door) as edge:
            yield edge


def purge(edge: Running, url: bytes) -> list[bytes]:
    """As the admin API does."""
    values = edge.worker.parts.edge.routes.purged_as(url)
    for value in values:
        edge.worker.shared.purge_log.append(PurgeKind.URL, value)
    return values


@pytest.mark.parametrize(
    ("policies", "url", "values"),
    [
        pytest.param("", "/old/a", ["/old/a"], id="nothing is rewritten"),
        pytest.param(REWRITE, "/old/a?c=1&b=2", ["/old/a?b=2&c=1", "/new/a?b=2&c=1"], id="a path"),
        pytest.param(REWRITE, "/other", ["/other"], id="another path"),
        pytest.param(
            "{rewrite: {query: {keep: [id]}}}", "/a?id=1&x=2", ["/a?id=1&x=2", "/a?id=1"], id="the query"
        ),
        pytest.param(
            f"{REWRITE}, {{rewrite: {{path: '/new/**', to: '/last/{{rest}}'}}}}",
            "/old/a",
            ["/old/a", "/new/a", "/last/a"],
            id="twice",
        ),
        pytest.param(
            "{rewrite: {path: '/old/**', to: '/new/{rest}'}, when: \"header:X-A == '1'\"}",
            "/old/a",
            ["/old/a", "/new/a"],
            id="for some clients",
        ),
        pytest.param(
            "{rewrite: {path: '/old/**', to: '/new/{rest}'}, mode: shadow}",
            "/old/a",
            ["/old/a"],
            id="only a shadow",
        ),
        pytest.param("{ab: one}", "/a", ["/a", "/b/a"], id="a variant"),
        pytest.param(
            "{ab: [one, two]}", "/a", ["/a", "/b/a", "/c/b/a", "/c/a"], id="variants of two experiments"
        ),
        pytest.param(
            "{geo: {rewrite: {DE: '/de{path}', EU: '/eu{path}'}}}",
            "/a",
            ["/a", "/de/a", "/eu/a"],
            id="places",
        ),
    ],
)
async def test_every_url_that_an_answer_may_be_stored_under_is_purged(
    tmp_path: Path, policies: str, url: str, values: list[str]
) -> None:
    async with edge_of(tmp_path, "native", policies) as edge:
        found = edge.worker.parts.edge.routes.purged_as(b"example.com" + url.encode())
        assert [value.decode() for value in found] == [f"example.com{value}" for value in values]


@pytest.mark.parametrize(
    "policies", [REWRITE, "{ab: [one, two]}", "{geo: {rewrite: {DE: '/de{path}', EU: '/eu{path}'}}}"]
)
async def test_what_a_client_gets_for_a_url_is_purged_by_it(tmp_path: Path, door: str, policies: str) -> None:
    async with edge_of(tmp_path, door, policies) as edge:
        clients = [f"X-Forwarded-For: {address}" for address in ("192.0.2.1", "192.0.2.9", "198.51.100.7")]
        for client in clients:
            await edge.ask("/old/a?x=1", client)
            assert "; hit" in (await edge.ask("/old/a?x=1", client))["cache-status"]
        purge(edge, b"example.com/old/a?x=1")
        edge.worker.parts.store.keep_up()
        assert len(edge.worker.parts.store) == 0


async def test_the_purge_method_says_what_it_reached(tmp_path: Path, door: str) -> None:
    async with edge_of(tmp_path, door, REWRITE) as edge:
        await edge.ask("/old/a")
        answer = await edge.ask("/old/a", f"Authorization: Bearer {TOKEN}", method="PURGE")
        document = json.loads(answer.body)
        assert (document["value"], document["rewritten"]) == ("example.com/old/a", ["example.com/new/a"])
        assert "; hit" not in (await edge.ask("/old/a"))["cache-status"]


async def test_what_one_url_may_become_is_bounded(tmp_path: Path) -> None:
    rules = ", ".join([f"{{rewrite: {{path: '/**', to: '/{n}/{{rest}}'}}}}" for n in range(12)])
    async with edge_of(tmp_path, "native", rules) as edge:
        assert len(purge(edge, b"example.com/a")) == MOST_BECOME
