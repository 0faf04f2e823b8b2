"""Where visitors are sent, what may stand in a field, what an experiment believes (A39, A41, A42, A62)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from edgeproxy.demo.geo_demo import write
from tests.helpers.edge import Answer, Running, running
from tests.helpers.scripted_origin import Peer, ScriptedOrigin
from tests.poisoning.support import reply

CONFIG = """
edge: {{id: edge-1, pop: ams}}
server: {{listen: ["127.0.0.1:8080"], workers: 1, access_log: {{path: "off"}}}}
admin: {{listen: null}}
origins: {{main: {{servers: ["{origin}"]}}}}
geo: {{database: "{folder}/geo.mmdb", override: {{header: X-Where, networks: ["127.0.0.0/8"]}}}}
experiments: {{exp: {{variants: {{a: 1, b: 1}}, cookie: {{name: seat}}}}}}
routes:
  - name: old
    match: {{path: "/old/**"}}
    policies: [{{redirect: {{path: "/old/**", to: "/new/{{rest}}", status: {status}}}}}]
    origin: main
  - name: drawn
    match: {{path: "/drawn/**"}}
    policies: [{{ab: exp}}]
    cache: {{ttl: 60s, vary_on: [variant]}}
    origin: main
  - name: all
    policies: [{{geo: {{redirect: {{DE: "/de{{path}}{{query}}", FR: "https://fr.example{{path}}"}}}}}}]
    cache: {{ttl: 60s, vary_on: [country]}}
    origin: main
"""
EVIL = [
    "//evil.test",
    "/\\evil.test",
    "/%2f%2fevil.test",
    "/%5cevil.test",
    "/%0d%0aX-Evil:1",
    "/%09//evil.test",
]
CLEAN = reply("Cache-Control: max-age=60", "X-Fine: 1")


@asynccontextmanager
async def edge_of(
    folder: Path, door: str, answer: bytes = CLEAN, status: int = 308
) -> AsyncGenerator[tuple[Running, ScriptedOrigin]]:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(answer)

    write(folder / "geo.mmdb")
    async with (
        ScriptedOrigin(script) as origin,
        running(CONFIG.format(origin=origin.url, status=status, folder=folder), folder, door) as edge,
    ):
        yield edge, origin


def names(answer: Answer) -> set[str]:
    return {name for name, _ in answer.fields}


@pytest.mark.parametrize("value", [b"a\r\n\tX-Evil: 1", b"a\rX-Evil: 1", b"a\x00b", b"a\x0bb"])
async def test_a39_no_value_of_an_origin_ends_its_line(tmp_path: Path, door: str, value: bytes) -> None:
    answer = CLEAN.replace(b"X-Fine: 1", b"X-Fine: " + value)
    async with edge_of(tmp_path, door, answer) as (edge, _):
        for _ in range(2):  # the second one might have been stored
            client = await edge.client()
            client.send(b"GET /a HTTP/1.1\r\nHost: example.com\r\n\r\n")
            said = await client.answer()
            assert "x-evil" not in names(said)
            assert said.status == 502 or not set(said["x-fine"]) & set("\r\n\0\x0b")
        assert (await edge.ask("/new")).status in (200, 502), "the worker goes on"


@pytest.mark.parametrize("path", EVIL)
@pytest.mark.parametrize(
    ("before", "where", "site"),
    [("/old", "-", ""), ("", "DE", ""), ("", "FR", "fr.example")],
    ids=["redirect", "geo within the site", "geo to another site"],
)
async def test_a41_no_path_chooses_where_a_redirect_leads(
    tmp_path: Path, door: str, path: str, before: str, where: str, site: str
) -> None:
    async with edge_of(tmp_path, door) as (edge, _):
        answer = await edge.ask(before + path, f"X-Where: {where}")
    assert answer.status in (302, 308, 400)
    assert "x-evil" not in names(answer)
    location = answer["location"]
    assert bool(location) is (answer.status != 400)
    assert urlsplit(location).netloc == (site if location else "")
    assert not location.startswith(("//", "/\\"))
    assert location.isascii()
    assert not set(location) & set("\\ \t\r\n")


@pytest.mark.parametrize(
    ("method", "status", "expected"),
    [
        ("GET", 301, 301), ("HEAD", 302, 302), ("POST", 301, 308), ("PUT", 302, 307),
        ("DELETE", 308, 308), ("POST", 303, 303), ("PATCH", 307, 307),
    ],
)  # fmt: skip
async def test_a42_a_redirect_does_not_make_a_get_of_an_unsafe_request(
    tmp_path: Path, door: str, method: str, status: int, expected: int
) -> None:
    """303 is for those who want just that."""
    async with edge_of(tmp_path, door, status=status) as (edge, _):
        assert (await edge.ask("/old/a", method=method)).status == expected
        there = (await edge.ask("/a", "X-Where: DE", method=method)).status
        assert there == (302 if method in ("GET", "HEAD") else 307)


async def test_a42_a_place_sends_its_visitors_on_once_and_nobody_else(tmp_path: Path, door: str) -> None:
    async with edge_of(tmp_path, door) as (edge, origin):
        sent = await edge.ask("/a?q=1", "X-Where: DE")
        assert (sent.status, sent["location"], sent["cache-control"]) == (302, "/de/a?q=1", "no-store")
        for query in ("", "?q=1", "?no_geo=1"):
            assert (await edge.ask("/de/a" + query, "X-Where: DE")).status == 200
            assert (await edge.ask("/a" + query, "X-Where: US")).status == 200
        assert origin.heads


UNIT = "A" * 22


@pytest.mark.parametrize(
    "cookie",
    [
        "seat=evil", "seat=a", "seat=", f"seat={UNIT}; seat={UNIT}", f"seat={UNIT}; seat={'B' * 22}",
        f"seat={UNIT}!", f'seat="{UNIT}"', f"SEAT={UNIT}", "seat=%0d%0aX-Evil:1", f"xseat={UNIT}",
    ],
)  # fmt: skip
async def test_a62_a_cookie_that_is_not_ours_is_as_absent(tmp_path: Path, door: str, cookie: str) -> None:
    async with edge_of(tmp_path, door) as (edge, origin):
        known = await edge.ask("/drawn/a", f"Cookie: seat={UNIT}")
        assert "set-cookie" not in names(known), "ours is taken"
        answer = await edge.ask("/drawn/a", f"Cookie: {cookie}")
        assert answer["set-cookie"].startswith("seat="), "a visitor nobody knows"
        assert not answer["set-cookie"].startswith(f"seat={UNIT}")
        assert "x-evil" not in names(answer)
        for head in origin.heads:
            told = [line for line in head.split(b"\r\n") if line.lower().startswith(b"x-variant-exp:")]
            assert told in ([b"X-Variant-exp: a"], [b"X-Variant-exp: b"])
        for entry in edge.worker.parts.store:
            assert any(b"variant:exp=" + one in entry.key for one in (b"a", b"b"))
            assert b"seat" not in entry.key
