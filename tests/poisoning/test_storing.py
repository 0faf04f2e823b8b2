"""What must not be kept, however the origin or a client puts it (reliability A52 to A64, A72, A78, A79)."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeproxy.cache.memory import VARIANTS
from tests.poisoning.support import FRESH, echo, reply, same, site

ERRORS = [
    400, 401, 403, 406, 407, 408, 411, 412, 413, 414, 415, 416, 417, 421, 422, 425, 426, 428, 429, 431,
    500, 502, 503, 504, 511,
]  # fmt: skip


@pytest.mark.parametrize("status", ERRORS)
async def test_a52_errors_are_not_stored(tmp_path: Path, door: str, status: int) -> None:
    async with site(tmp_path, door, same('ETag: "e"', status=f"{status} No"), "ttl: 1m") as edge:
        assert (await edge.ask()).status == status
        edge.now(same(FRESH))
        assert (await edge.ask()).status == 200


@pytest.mark.parametrize("status", [status for status in ERRORS if status < 500 or status == 511])
async def test_a52_errors_that_a_client_provokes_are_not_even_stored_where_the_origin_says_so(
    tmp_path: Path, door: str, status: int
) -> None:
    async with site(tmp_path, door, same(FRESH, status=f"{status} No")) as edge:
        await edge.ask()
        edge.now(same(FRESH))
        assert (await edge.ask()).status == 200


@pytest.mark.parametrize("status", [404, 410])
@pytest.mark.parametrize(
    ("cache", "fields", "stored"),
    [
        ("ttl: 1h", [], False),
        ("", ["Last-Modified: Fri, 01 Jan 2021 08:00:00 GMT"], False),
        ("", [FRESH], True),
        ("negative: {404: 5s, 410: 5s}", [], True),
    ],
)
async def test_a52_not_found_is_stored_where_somebody_says_for_how_long(
    tmp_path: Path, door: str, status: int, cache: str, fields: list[str], stored: bool
) -> None:
    async with site(tmp_path, door, same(*fields, status=f"{status} No"), cache) as edge:
        await edge.ask()
        assert await edge.is_stored() is stored


@pytest.mark.parametrize("status", [400, 403, 429, 500, 502, 503])
@pytest.mark.parametrize("control", [FRESH, "X-Silent: 1"])
async def test_a53_an_error_does_not_take_the_place_of_what_is_stored(
    tmp_path: Path, door: str, status: int, control: str
) -> None:
    async with site(tmp_path, door, same(FRESH, 'ETag: "1"'), "stale_if_error: 0s") as edge:
        await edge.ask()
        edge.now(same(control, status=f"{status} No"))
        edge.age(100)
        assert (await edge.ask()).status == status
        edge.now(
            lambda head: reply(FRESH, status="304 Not Modified") if b'If-None-Match: "1"' in head else reply()
        )
        again = await edge.ask()
        assert (again.status, "fwd-status=304" in again["cache-status"]) == (200, True)


@pytest.mark.parametrize(
    ("control", "stored"),
    [("max-age=60", False), ("private, max-age=60", False), ("public, max-age=60", True),
     ("s-maxage=60", True), ("must-revalidate, max-age=60", True)],
)  # fmt: skip
async def test_a58_an_answer_to_credentials_is_kept_where_the_origin_says_so(
    tmp_path: Path, door: str, control: str, stored: bool
) -> None:
    async with site(tmp_path, door, same(f"Cache-Control: {control}")) as edge:
        await edge.ask("/a", "Authorization: Basic eDp5")
        assert await edge.is_stored("/a", "Authorization: Basic enp6") is stored


@pytest.mark.parametrize(("cache", "stored"), [("", False), ("set_cookie: strip", True)])
async def test_a59_nobody_gets_the_cookie_of_another(
    tmp_path: Path, door: str, cache: str, stored: bool
) -> None:
    async with site(tmp_path, door, same(FRESH, "Set-Cookie: s=a", "Set-cookie: t=b"), cache) as edge:
        first = await edge.ask()
        assert "s=a" in first["set-cookie"]
        edge.now(same(FRESH))
        second = await edge.ask()
        assert ("hit" in second["cache-status"]) is stored
        assert second["set-cookie"] == ""


@pytest.mark.parametrize(
    "control",
    [
        "PRIVATE, max-age=60", "max-age=60,private", "max-age=60 , no-STORE", "no-store;max-age=60",
        "max-age=60\r\nCache-Control: no-store", "max-age=60\r\ncache-control: Private", "max-age=abc",
        "max-age=-1", "max-age=60, max-age=0", 'max-age=60, ext="unbalanced', 'max-age=60, ext="\\"',
        "max-age=6 0",
        "s-maxage=x, max-age=60", "max-age=0060x", "max-age=", "max-age", "x" * 9000 + ", max-age=60",
        'private="x-a", no-store, max-age=60',
    ],
)  # fmt: skip
async def test_a60_the_most_restrictive_reading_counts(tmp_path: Path, door: str, control: str) -> None:
    async with site(tmp_path, door, same(f"Cache-Control: {control}")) as edge:
        await edge.ask()
        assert not await edge.is_stored()


@pytest.mark.parametrize(
    "vary", ["*", "a, *", "\t*", "Accept\r\nVary: *", "Cookie", "user-agent", "Accept, COOKIE",
             "X-Forwarded-For", "accept, forwarded",
             ", ".join(f"x-{number}" for number in range(1000))],
)  # fmt: skip
async def test_a63_a64_what_varies_without_bound_is_not_stored(tmp_path: Path, door: str, vary: str) -> None:
    async with site(tmp_path, door, same(FRESH, f"Vary: {vary}")) as edge:
        await edge.ask()
        assert not await edge.is_stored()


@pytest.mark.parametrize(
    "condition", ['If-Match: "none"', "If-Unmodified-Since: Fri, 01 Jan 2021 08:00:00 GMT"]
)
async def test_a52_a_precondition_that_fails_is_nobody_elses(
    tmp_path: Path, door: str, condition: str
) -> None:
    def answer(head: bytes) -> bytes:
        failed = b"\r\nif-" in head.lower()
        return reply(FRESH, status="412 Precondition Failed" if failed else "200 OK")

    async with site(tmp_path, door, answer) as edge:
        assert (await edge.ask("/a", condition)).status == 412
        assert (await edge.ask()).status == 200
        failed = await edge.ask("/a", condition)
        assert (failed.status, "fwd=request" in failed["cache-status"]) == (412, True), "the origin evaluates"
        assert "hit" in (await edge.ask())["cache-status"]
        kept = await edge.ask("/a", condition, "Cache-Control: only-if-cached")
        assert kept.status == 200, "a cache may ignore it (RFC 9110 §13.1.1)"


async def test_a63_several_vary_lines_are_one(tmp_path: Path, door: str) -> None:
    async with site(tmp_path, door, echo(FRESH, "Vary: X-A", "vary: X-B")) as edge:
        for a in "12":
            for b in "12":
                answer = await edge.ask("/a", f"X-A: {a}", f"X-B: {b}")
                assert f"x-b: {b}".encode() in answer.body.lower()
        assert edge.asked == 4


async def test_a64_the_variants_of_a_url_have_a_bound(tmp_path: Path, door: str) -> None:
    async with site(tmp_path, door, same(FRESH, "Vary: X-V")) as edge:
        client = await edge.edge.client()
        for number in range(3 * VARIANTS):
            await client.ask("/a", f"X-V: {number}")
        assert len(edge.edge.worker.parts.store) == VARIANTS
        assert "hit" in (await client.ask("/a", f"X-V: {3 * VARIANTS - 1}"))["cache-status"]


async def test_a72_a_part_is_never_stored_as_the_whole(tmp_path: Path, door: str) -> None:
    part = same(FRESH, "Content-Range: bytes 0-4/100", status="206 Partial Content")
    async with site(tmp_path, door, part, "ranges: pass") as edge:
        assert (await edge.ask("/a", "Range: bytes=0-4")).status == 206
        edge.now(same(FRESH))
        assert (await edge.ask()).status == 200
    async with site(tmp_path, door, part) as edge:  # nobody asked for a part
        await edge.ask()
        assert not await edge.is_stored()


@pytest.mark.parametrize(
    "condition",
    ['If-None-Match: "1"', "If-None-Match: *", "If-Modified-Since: Fri, 01 Jan 2027 08:00:00 GMT"],
)
async def test_a72_a_clients_condition_stores_no_304(tmp_path: Path, door: str, condition: str) -> None:
    def answers(head: bytes) -> bytes:
        if b"\r\nif-" in head.lower():
            return reply(FRESH, 'ETag: "1"', status="304 Not Modified")
        return reply(FRESH, 'ETag: "1"')

    async with site(tmp_path, door, answers) as edge:
        await edge.ask("/a", condition)
        plain = await edge.ask()
        assert (plain.status, plain.body) == (200, b"hello")


async def test_a72_a_304_for_something_else_freshens_nothing(tmp_path: Path, door: str) -> None:
    async with site(tmp_path, door, same(FRESH, 'ETag: "1"')) as edge:
        await edge.ask()
        edge.age(100)
        edge.now(
            lambda head: (
                reply(FRESH, 'ETag: "2"', status="304 Not Modified")
                if b"If-None-Match" in head
                else reply(FRESH, 'ETag: "2"', body=b"other")
            )
        )
        assert (await edge.ask()).body == b"other"
        assert (await edge.ask()).body == b"other"


@pytest.mark.parametrize(
    ("fields", "age", "stored"),
    [
        ([FRESH], "0", True),
        ([FRESH, "Age: 10"], "10", True),
        ([FRESH, "Age: 9223372036854775808"], "", False),
        (["Cache-Control: max-age=99999999999999999999"], "0", True),
        (["Cache-Control: max-age=-1"], "", False),
        (["Expires: 0"], "", False),
        (["Expires: Thu, 01 Jan 1970 00:00:00 GMT"], "", False),
        (["Expires: Fri, 31 Dec 9999 23:59:59 GMT"], "0", True),
        (["Expires: Fri, 31 Dec 9999 23:59:59 GMT", "Date: Sat, 01 Jan 0000 00:00:00 GMT"], "0", True),
        ([FRESH, "Date: Fri, 31 Dec 9999 23:59:59 GMT"], "0", True),
        ([FRESH, "Age: 1, 2"], "1", True),
        ([FRESH, "Age: x"], "", False),
    ],
)
async def test_a78_ages_and_dates_that_cannot_be(
    tmp_path: Path, door: str, fields: list[str], age: str, stored: bool
) -> None:
    async with site(tmp_path, door, same(*fields)) as edge:
        await edge.ask()
        answer = await edge.ask()
        assert ("hit" in answer["cache-status"]) is stored
        if stored:
            assert answer["age"] == age


async def test_a79_head_agrees_with_get_and_other_methods_are_not_stored(tmp_path: Path, door: str) -> None:
    async with site(tmp_path, door, same(FRESH)) as edge:
        for method in ("OPTIONS", "POST", "PUT", "DELETE", "PATCH"):
            for _ in range(2):
                answer = await edge.ask("/m", method=method, body=b"" if method == "OPTIONS" else b"x")
                assert "fwd=method" in answer["cache-status"]
        get = await edge.ask()
        head = await edge.ask(method="HEAD")
        assert (head.status, head["content-length"], head.body) == (get.status, "5", b"")
        assert "hit" in head["cache-status"]
