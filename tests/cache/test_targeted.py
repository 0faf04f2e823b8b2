"""Which field decides: CDN-Cache-Control (RFC 9213), Surrogate-Control, Cache-Control, or the rule."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeproxy.cache.rfc9111 import assess
from edgeproxy.cache.targeted import parse_cdn_cache_control, response_control
from tests.helpers.requests import NOW, headers, request, rule

DATE = {"Date": "Fri, 15 Jan 2027 08:00:00 GMT"}
VECTORS = Path(__file__).parents[3] / "shared" / "data" / "structured-fields"


def lifetime(values: dict[str, str], status: int = 200, **section: object) -> float | str:
    """Seconds of freshness, or why it is not stored."""
    verdict = assess(rule(**section), request(), status, headers({**DATE, **values}), NOW, NOW)
    return verdict if isinstance(verdict, str) else verdict.fresh_until - NOW


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param({"CDN-Cache-Control": "max-age=60"}, 60, id="RFC 9213 §2.2 alone"),
        pytest.param({"CDN-Cache-Control": "max-age=60", "Cache-Control": "max-age=1"}, 60, id="longer"),
        pytest.param({"CDN-Cache-Control": "max-age=1", "Cache-Control": "max-age=60"}, 1, id="shorter"),
        pytest.param({"CDN-Cache-Control": "max-age=60", "Cache-Control": "no-store"}, 60, id="not ours"),
        pytest.param(
            {"CDN-Cache-Control": "no-store", "Cache-Control": "max-age=9"}, "no-store", id="no-store"
        ),
        pytest.param({"CDN-Cache-Control": "private", "Cache-Control": "max-age=9"}, "private", id="private"),
        pytest.param({"CDN-Cache-Control": "MaX-aGe=60"}, "no-freshness", id="keys are lower case"),
        pytest.param({"CDN-Cache-Control": "foobar, max-age=60"}, 60, id="an extension"),
        pytest.param(
            {"CDN-Cache-Control": "max-age=60", "Expires": "Thu, 14 Jan 2027 08:00:00 GMT"},
            60,
            id="past Expires",
        ),
        pytest.param(
            {"CDN-Cache-Control": "max-age=9, &&&", "Cache-Control": "no-store"},
            "no-store",
            id="A85 unreadable",
        ),
        pytest.param(
            {"CDN-Cache-Control": 'max-age="9"', "Cache-Control": "no-store"}, "no-store", id="A85 wrong type"
        ),
        pytest.param({"CDN-Cache-Control": "max-age = 9", "Cache-Control": "max-age=1"}, 1, id="A85 spaces"),
        pytest.param({"CDN-Cache-Control": "", "Cache-Control": "max-age=1"}, 1, id="A85 empty"),
        pytest.param({"CDN-Cache-Control": "max-age=99999999999"}, 2**31, id="saturates"),
        pytest.param(
            {"CDN-Cache-Control": "x" * 9000, "Cache-Control": "max-age=1"}, 1, id="too long to read"
        ),
        pytest.param({"CDN-Cache-Control": "max-age=-5", "Cache-Control": "max-age=1"}, 1, id="below 0"),
        pytest.param(
            {"CDN-Cache-Control": "max-age=9, no-store=?0", "Cache-Control": "max-age=1"}, 1, id="not so"
        ),
        pytest.param(
            {"CDN-Cache-Control": "max-age=9, private=5", "Cache-Control": "max-age=1"}, 1, id="no names"
        ),
        pytest.param(
            {"CDN-Cache-Control": 'max-age=9, private="set-cookie"', "Cache-Control": "max-age=1"},
            9,
            id="names",
        ),
        pytest.param(
            {"Surrogate-Control": "x" * 9000, "Cache-Control": "max-age=1"}, 1, id="surrogate too long"
        ),
        pytest.param({"Surrogate-Control": "max-age=60", "Cache-Control": "max-age=1"}, 60, id="surrogate"),
        pytest.param({"Surrogate-Control": "max-age=60;edge", "Cache-Control": "no-store"}, 60, id="for us"),
        pytest.param(
            {"Surrogate-Control": "max-age=60;other", "Cache-Control": "max-age=1"}, 1, id="for another"
        ),
        pytest.param({"Surrogate-Control": "max-age=9;edge, max-age=60"}, 9, id="ours before everybody's"),
        pytest.param(
            {"Surrogate-Control": 'content="ESI/1.0"', "Cache-Control": "max-age=1"}, 1, id="content"
        ),
        pytest.param({"Surrogate-Control": "max-age=60+30"}, 60, id="without its extension"),
        pytest.param(
            {"Surrogate-Control": "no-store", "Cache-Control": "max-age=9"}, "no-store", id="forbids"
        ),
        pytest.param(
            {"CDN-Cache-Control": "max-age=5", "Surrogate-Control": "max-age=60"},
            5,
            id="the more specific one",
        ),
    ],
)
def test_the_field_for_caches_like_us_decides(values: dict[str, str], expected: float | str) -> None:
    assert lifetime(values) == expected


@pytest.mark.parametrize(
    ("freshness", "status", "values", "expected"),
    [
        ({"any": {"set": "30s"}}, 200, {"Cache-Control": "max-age=1"}, 30),
        ({"200": {"extend": "30s"}}, 200, {"Cache-Control": "max-age=1"}, 30),
        ({"200": {"extend": "30s"}}, 200, {"Cache-Control": "max-age=99"}, 99),
        ({"2xx": {"cap": "30s"}}, 200, {"Cache-Control": "max-age=99"}, 30),
        ({"2xx": {"cap": "30s"}}, 200, {}, "no-freshness"),
        ({"2xx": {"cap": "1s"}, "200": {"cap": "30s"}}, 200, {"Cache-Control": "max-age=99"}, 30),
        ({"404": {"set": "5s"}}, 200, {"Cache-Control": "max-age=99"}, 99),
        ({"404": {"set": "5s"}}, 404, {}, 5),
        ({"any": {"set": "30s"}}, 200, {"Cache-Control": "no-store"}, "no-store"),
        ({"any": {"ignore": True, "set": "30s"}}, 200, {"Cache-Control": "no-store"}, 30),
        ({"any": {"ignore": True, "set": "30s"}}, 200, {"Cache-Control": "private"}, "private"),
        ({"any": {"ignore": True}}, 200, {"Cache-Control": "max-age=60"}, "no-freshness"),
        ({"any": {"set": "30s"}}, 206, {}, "status"),
    ],
)
def test_a_rule_sets_extends_caps_or_ignores(
    freshness: dict[str, object], status: int, values: dict[str, str], expected: float | str
) -> None:
    assert lifetime(values, status, freshness=freshness) == expected


@pytest.mark.parametrize(
    ("value", "field"),
    [('private="X-Name, X-Other", max-age=60', b"x-name"), ('no-cache="X-Name", max-age=60', b"x-name")],
)
def test_fields_that_a_directive_names_are_left_out(value: str, field: bytes) -> None:
    """RFC 9111 §5.2.2.4, §5.2.2.7: the response is stored, they are not."""
    verdict = assess(rule(), request(), 200, headers({**DATE, "Cache-Control": value}), NOW, NOW)
    assert not isinstance(verdict, str)
    assert field in verdict.left_out
    assert not verdict.must_validate


def test_cookies_keep_an_answer_out_unless_they_are_stripped() -> None:
    """A59."""
    values = {"Cache-Control": "max-age=60", "Set-Cookie": "a=b"}
    assert lifetime(values) == "set-cookie"
    verdict = assess(rule(set_cookie="strip"), request(), 200, headers({**DATE, **values}), NOW, NOW)
    assert not isinstance(verdict, str)
    assert b"set-cookie" in verdict.left_out


def test_the_memo_of_targeted_fields_is_bounded() -> None:
    for number in range(3000):
        response_control(headers({"CDN-Cache-Control": f"max-age={number}"}), b"edge")
    from edgeproxy.cache import targeted

    assert len(targeted._memo) <= 1024  # pyright: ignore[reportPrivateUsage]


@pytest.mark.skipif(not VECTORS.exists(), reason="the structured-field vectors are not here")
@pytest.mark.parametrize("name", ["dictionary", "param-dict", "key-generated", "large-generated"])
def test_what_is_no_dictionary_is_ignored(name: str) -> None:
    for case in json.loads((VECTORS / f"{name}.json").read_text()):
        value = ",".join(case["raw"]).encode("utf-8", "surrogatepass")
        if case["header_type"] == "dictionary" and case.get("must_fail"):
            assert parse_cdn_cache_control(value) is None, case["name"]
