"""Purges through a running edge: what is named is forgotten in all variants, nothing else (both doors)."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from edgeproxy.admin.purge import parse_purge
from tests.helpers.edge import PATIENCE, Running, running
from tests.helpers.scripted_origin import Peer, ScriptedOrigin

TOKEN = "0123456789abcdef-purge"
CONFIG = """
edge: {{id: edge-1, pop: ams}}
server: {{listen: ["127.0.0.1:8080"], workers: 1, trusted_proxies: 127.0.0.1, access_log: {{path: "off"}}}}
admin: {{listen: null}}
cache: {{{cache}}}
origins: {{main: {{servers: ["{origin}"]}}}}
routes: [{{name: all, match: {{host: "example.com"}}, origin: main, cache: {{vary_on: ["header:X-V"]}}}}]
"""
METHOD = f'purge_method: {{clients: ["10.0.0.0/8", "127.0.0.1"], token: "{TOKEN}"}}'
URLS: tuple[str, ...] = ("/news", "/news?page=1", "/news/1", "/img/a.png", "/tagged")


async def script(peer: Peer) -> None:
    while True:
        head, _ = await peer.request()
        extra = b"Surrogate-Key: t1 t2\r\n" if b"/tagged" in head else b""
        await peer.send(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nVary: Accept-Language\r\n"
            b'ETag: "1"\r\nCache-Control: max-age=60, stale-while-revalidate=60\r\n' + extra + b"\r\nok"
        )


@asynccontextmanager
async def filled(folder: Path, door: str, cache: str = "") -> AsyncGenerator[Running]:
    """An edge that holds four variants of each URL: two by Vary, two by its key."""
    async with ScriptedOrigin(script) as origin:
        config = CONFIG.format(origin=origin.url, cache=cache)
        async with running(config, folder, door) as edge:
            client = await edge.client()
            for url in URLS:
                for language in "ab":
                    for variant in "12":
                        await client.ask(url, f"Accept-Language: {language}", f"X-V: {variant}")
            assert len(edge.worker.parts.store) == 4 * len(URLS)
            yield edge


def left(edge: Running) -> dict[str, int]:
    """How many fresh variants of each URL the edge holds."""
    edge.worker.parts.store.keep_up()
    count = dict.fromkeys(URLS, 0)
    for entry in edge.worker.parts.store:
        _, path, query = entry.location
        now = edge.worker.hall.fetcher.clock()
        count[(path + (b"?" + query if query else b"")).decode()] += entry.fresh_until > now
    return count


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(
    ("what", "gone"),
    [
        ({"url": "http://example.com/news"}, {"/news"}),
        ({"url": "http://EXAMPLE.com:80/x/../news?page=1"}, {"/news?page=1"}),
        ({"prefix": "http://example.com/news"}, {"/news", "/news?page=1", "/news/1"}),
        ({"prefix": "http://example.com/news/"}, {"/news/1"}),
        ({"host": "example.com"}, set(URLS)),
        ({"host": "other.example"}, set[str]()),
        ({"tag": "t2"}, {"/tagged"}),
        ({"tag": "t"}, set[str]()),
        ({"all": True}, set(URLS)),
    ],
    ids=lambda value: None if isinstance(value, set) else str(value),  # the same in each process
)
async def test_a_purge_reaches_every_variant_of_what_it_names(
    tmp_path: Path, door: str, what: dict[str, object], gone: set[str], soft: bool
) -> None:
    async with filled(tmp_path, door) as edge:
        purge = parse_purge({**what, "soft": soft})
        log = edge.worker.shared.purge_log
        position = log.append(purge.kind, purge.value, purge.soft)
        assert left(edge) == {url: 0 if url in gone else 4 for url in URLS}
        assert log.reached(purge.value, position) == (1, 4 * len(gone))
        assert len(edge.worker.parts.store) == 4 * (len(URLS) - (0 if soft else len(gone)))
        for url in gone:
            said = (await edge.ask(url, "Accept-Language: a", "X-V: 1"))["cache-status"]
            assert re.match(r"edge-1; hit; ttl=(0|-\d)" if soft else "edge-1; fwd=uri-miss", said)


async def test_a_worker_without_requests_hears_of_a_purge(tmp_path: Path, door: str) -> None:
    async with filled(tmp_path, door) as edge:
        purge = parse_purge({"all": True})
        edge.worker.shared.purge_log.append(purge.kind, purge.value)
        async with asyncio.timeout(PATIENCE):
            while len(edge.worker.parts.store):
                await asyncio.sleep(0.01)


KNOWN = f"Authorization: Bearer {TOKEN}"


@pytest.mark.parametrize(
    ("cache", "fields", "status", "fresh"),
    [
        pytest.param("", [KNOWN], 405, 4, id="A75 off by default"),
        pytest.param(METHOD, [KNOWN], 200, 0, id="address and token"),
        pytest.param(METHOD, [KNOWN, "X-Soft-Purge: 1"], 200, 0, id="soft"),
        pytest.param(METHOD, [], 401, 4, id="no token"),
        pytest.param(METHOD, ["Authorization: Bearer wrong"], 401, 4, id="a wrong token"),
        pytest.param(METHOD, [KNOWN, KNOWN], 401, 4, id="two tokens"),
        pytest.param(METHOD, [f"Authorization: Basic {TOKEN}"], 401, 4, id="another scheme"),
        pytest.param(METHOD, [KNOWN, "X-Forwarded-For: 192.0.2.1"], 405, 4, id="another address"),
        pytest.param(METHOD, [KNOWN, "X-Forwarded-For: 10.1.2.3"], 200, 0, id="an address behind a proxy"),
        pytest.param(METHOD.partition(", token")[0] + "}", [KNOWN], 405, 4, id="no token is configured"),
    ],
)
async def test_the_purge_method_is_for_those_with_address_and_token(
    tmp_path: Path, door: str, cache: str, fields: list[str], status: int, fresh: int
) -> None:
    async with filled(tmp_path, door, cache) as edge:
        answer = await edge.ask("/news", *fields, method="PURGE")
        assert answer.status == status
        assert left(edge)["/news"] == fresh
        assert answer["cache-control"] == "no-store"
        assert TOKEN not in answer.body.decode()
        if status == 200:
            soft = "X-Soft-Purge: 1" in fields
            document = json.loads(answer.body)
            assert (document["purged"], document["value"], document["soft"]) == (
                "url",
                "example.com/news",
                soft,
            )
            assert len(edge.worker.parts.store) == 4 * len(URLS) - (0 if soft else 4)
