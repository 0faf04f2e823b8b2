"""Stale answers: when, how old, and at what cost for the origin (reliability A80 to A85)."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from tests.helpers.edge import PATIENCE
from tests.poisoning.support import FRESH, Site, reply, same, site

SWR = "Cache-Control: max-age=60, stale-while-revalidate=30"

BOTH = pytest.mark.parametrize("method", ["GET", "HEAD"])


async def settled(edge: Site, asked: int) -> None:
    """Wait until the origin was asked so often and nothing is under way."""
    fetcher = edge.edge.worker.hall.fetcher
    async with asyncio.timeout(PATIENCE):
        while edge.asked < asked or fetcher.flights.flights:
            await asyncio.sleep(0)


@BOTH
async def test_a81_within_its_window_a_stale_answer_comes_at_once_and_is_refreshed_once(
    tmp_path: Path, door: str, method: str
) -> None:
    async with site(tmp_path, door, same(SWR)) as edge:
        await edge.ask()
        edge.age(70)
        asking = [edge.ask(method=method) for _ in range(10)]
        said = [answer["cache-status"] for answer in await asyncio.gather(*asking)]
        assert any("hit; ttl=-10" in one for one in said)
        await settled(edge, 2)
        assert [head[:4] for head in edge.origin.heads] == [b"GET "] * 2
        assert "hit; ttl=" in (await edge.ask())["cache-status"]


@BOTH
async def test_a81_after_its_window_the_origin_is_asked_first(tmp_path: Path, door: str, method: str) -> None:
    async with site(tmp_path, door, same(SWR)) as edge:
        await edge.ask()
        edge.age(91)
        assert "fwd=stale" in (await edge.ask(method=method))["cache-status"]
        assert edge.origin.heads[-1].startswith(method.encode())


@BOTH
async def test_a81_a_refresh_that_fails_is_not_tried_again_at_once(
    tmp_path: Path, door: str, method: str
) -> None:
    async with site(tmp_path, door, same(SWR)) as edge:
        await edge.ask()
        edge.now(same(status="503 No"))
        edge.age(70)
        for _ in range(10):
            assert (await edge.ask(method=method)).status == 200
            await settled(edge, 2)
        assert edge.asked == 2


@BOTH
@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_a82_a_failing_origin_is_stood_in_for(
    tmp_path: Path, door: str, status: int, method: str
) -> None:
    async with site(tmp_path, door, same("Cache-Control: max-age=60, stale-if-error=30")) as edge:
        await edge.ask()
        edge.now(same(status=f"{status} No"))
        edge.age(70)
        ranged = ["Range: bytes=0-4"] if method == "HEAD" else []  # which has no parts (RFC 9110 §14.2)
        answer = await edge.ask("/a", *ranged, method=method)
        assert (answer.status, answer["age"], answer["content-length"]) == (200, "70", "5")
        assert f"fwd=stale; fwd-status={status}" in answer["cache-status"]
        assert "hit" not in answer["cache-status"]
        edge.age(30)
        assert (await edge.ask(method=method)).status == status


@BOTH
@pytest.mark.parametrize(
    ("control", "stale"),
    [
        ("max-age=60, must-revalidate, stale-if-error=30", False),
        ("max-age=60, proxy-revalidate, stale-if-error=30", False),
        ("no-cache, stale-if-error=30", False),
        ("s-maxage=60", False),
        ("s-maxage=60, stale-if-error=30", True),
        ("max-age=60, stale-if-error=30", True),
    ],
)
async def test_a83_some_are_never_served_stale(
    tmp_path: Path, door: str, control: str, stale: bool, method: str
) -> None:
    cache = "stale_if_error: 30s, stale_while_revalidate: 0s"
    async with site(tmp_path, door, same(f"Cache-Control: {control}", 'ETag: "1"'), cache) as edge:
        await edge.ask()
        await edge.origin.stop()
        edge.age(70)
        assert (await edge.ask(method=method)).status == (200 if stale else 502)


@BOTH
async def test_a84_no_cache_cannot_drive_the_origin(tmp_path: Path, door: str, method: str) -> None:
    async with site(tmp_path, door, same(FRESH, 'ETag: "1"')) as edge:
        await edge.ask()
        asking = [edge.ask("/a", "Cache-Control: no-cache", method=method) for _ in range(20)]
        said = [(await one)["cache-status"] for one in asking]
        assert "fwd=request" in said[0], "the first one is heeded"
        assert edge.asked <= 3, "one a second"
        assert "hit" in said[-1]
        assert (await edge.ask("/none", "Cache-Control: only-if-cached")).status == 504


@pytest.mark.parametrize(
    ("fields", "stored"),
    [
        (["CDN-Cache-Control: max-age=60", "Cache-Control: no-store"], True),
        (["CDN-Cache-Control: no-store", FRESH], False),
        (["CDN-Cache-Control: max-age=60, ???", "Cache-Control: no-store"], False),
        (["CDN-Cache-Control: max-age=sixty", FRESH], True),
        (["CDN-Cache-Control:", FRESH], True),
        (["CDN-Cache-Control: max-age=60", "Expires: 0"], True),
    ],
)
async def test_a85_a_valid_targeted_field_wins_and_another_is_absent(
    tmp_path: Path, door: str, fields: list[str], stored: bool
) -> None:
    async with site(tmp_path, door, same(*fields)) as edge:
        await edge.ask()
        assert await edge.is_stored() is stored


async def test_a80_every_answer_has_one_cache_status_without_its_key(tmp_path: Path, door: str) -> None:
    async with site(tmp_path, door, same(FRESH, "Cache-Status: upstream; hit")) as edge:
        answers = [
            await edge.ask(),
            await edge.ask(),
            await edge.ask(method="HEAD"),
            await edge.ask(method="POST", body=b"x"),
            await edge.ask("/admin/x"),
            await edge.ask(method="TRACE"),
            await edge.ask("/b", "Range: bytes=0-1"),
            await edge.ask("/c", "Cache-Control: only-if-cached"),
        ]
        edge.now(lambda _: b"junk\r\n\r\n")
        answers.append(await edge.ask("/d"))
        for answer in answers:
            said = [member for member in answer["cache-status"].split(", ") if member.startswith("edge-1")]
            assert len(said) == 1, answer.status
            assert "key=" not in said[0]
            assert answer["age"] != "" or "hit" not in said[0]


async def test_a82_outside_of_every_window_a_dead_origin_is_a_502(tmp_path: Path, door: str) -> None:
    async with site(tmp_path, door, lambda _: reply(FRESH)) as edge:
        await edge.ask()
        await edge.origin.stop()
        edge.age(70)
        answer = await edge.ask()
        assert (answer.status, answer["proxy-status"]) == (502, "edge-1; error=connection_refused")
        assert answer["cache-status"] == "edge-1; fwd=stale; detail=connection_refused"


@BOTH
async def test_a82_a_dead_origin_that_is_stood_in_for_sent_no_status(
    tmp_path: Path, door: str, method: str
) -> None:
    async with site(tmp_path, door, same("Cache-Control: max-age=60, stale-if-error=30")) as edge:
        await edge.ask()
        await edge.origin.stop()
        edge.age(70)
        answer = await edge.ask(method=method)
        assert answer.status == 200
        assert re.fullmatch(
            "edge-1; fwd=stale; ttl=-1[01]; detail=connection_refused", answer["cache-status"]
        )
