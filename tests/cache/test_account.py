"""The sentences of `explain` about what is stored and what would be."""

from __future__ import annotations

import pytest

from edgeproxy.cache.account import filled, held
from edgeproxy.cache.settle import Keep, build_entry, settle
from edgeproxy.decision import Cause, Fetch
from tests.helpers.requests import NOW, headers, request, rule

DATE = {"Date": "Fri, 15 Jan 2027 08:00:00 GMT"}


@pytest.mark.parametrize(
    ("control", "at", "said"),
    [
        ("max-age=60", 10, "age 10 s, fresh for 50 s more (max-age)"),
        ("max-age=60", 70, "age 70 s, stale for 10 s (max-age)"),
        (
            "max-age=60, stale-while-revalidate=30, stale-if-error=90",
            70,
            "age 70 s, stale for 10 s (max-age), served while it is revalidated for 20 s more, "
            "served if the origin fails for 80 s more",
        ),
        ("max-age=60, must-revalidate", 70, "age 70 s, stale for 10 s (max-age)"),
        ("no-cache", 1, "age 1 s, validated before each use"),
    ],
)
def test_what_is_held(control: str, at: float, said: str) -> None:
    answer = headers({**DATE, "Cache-Control": control, "ETag": '"a"', "Vary": "B, A"})
    verdict = settle(rule(), request(), Fetch(Cause.URI_MISS, b"h1:h2:/a0:"), 200, answer, NOW, NOW)
    assert isinstance(verdict, Keep)
    assert held(rule(), build_entry(verdict, b"", 0), NOW + at) == f"{said}, chosen by a, b"


@pytest.mark.parametrize(
    ("values", "status", "section", "said"),
    [
        ({"Cache-Control": "max-age=60"}, 200, {}, "stored, fresh for 60 s (max-age)"),
        ({"Vary": "A"}, 200, {"ttl": "5s"}, "stored, fresh for 5 s (cache.ttl of the route), chosen by a"),
        ({"Cache-Control": "no-cache", "ETag": '"a"'}, 200, {}, "stored, validated before each use, never"),
        (
            {"Cache-Control": "max-age=1, stale-while-revalidate=2, stale-if-error=3"}, 200, {},
            "stored, fresh for 1 s (max-age), then stale for 2 s while revalidated, then stale for 3 s",
        ),
        ({"Cache-Control": "private"}, 200, {}, "not stored: it is private"),
        ({}, 200, {}, "not stored: nothing says"),
        ({"Cache-Control": "max-age=60"}, 429, {}, "not stored: answers with this status"),
        ({"Content-Type": "text/html"}, 200, {"ttl": "5s"}, "stored, fresh for 5 s"),
    ],
)  # fmt: skip
def test_what_would_be_stored(
    values: dict[str, str], status: int, section: dict[str, object], said: str
) -> None:
    assert filled(rule(**section), request(), status, headers({**DATE, **values}), NOW).startswith(said)


def test_only_a_get_fills_the_cache() -> None:
    assert filled(rule(), request(method="POST"), 200, headers(DATE), NOW).startswith("not stored: only")


def test_every_refusal_has_its_sentence() -> None:
    """Nobody reads a bare word of the code."""
    for values, asked in (
        ({"Cache-Control": "no-store"}, {}),
        ({"Cache-Control": "max-age=0"}, {}),
        ({"Cache-Control": "no-cache"}, {}),
        ({"Cache-Control": "max-age=9", "Vary": "*"}, {}),
        ({"Cache-Control": "max-age=9", "Set-Cookie": "a=b"}, {}),
        ({"Cache-Control": "max-age=9"}, {"Authorization": "x"}),
        ({"Cache-Control": "max-age=9"}, {"Cache-Control": "no-store"}),
    ):
        said = filled(rule(), request("/a", asked), 200, headers({**DATE, **values}), NOW)
        assert said.startswith("not stored: ")
        assert said.count(" ") > 4
