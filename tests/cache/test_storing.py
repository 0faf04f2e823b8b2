"""RFC 9111 §3: what may be stored, and for how long it is fresh (§4.2)."""

from __future__ import annotations

import pytest

from edgeproxy.cache.rfc9111 import Assessment, assess
from tests.helpers.requests import NOW, headers, request, rule

DATE = {"Date": "Fri, 15 Jan 2027 08:00:00 GMT"}
FRESH = {"Cache-Control": "max-age=60", **DATE}


def judge(
    values: dict[str, str], *, status: int = 200, asked: dict[str, str] | None = None, **section: object
):
    return assess(rule(**section), request("/a", asked), status, headers(values), NOW, NOW)


@pytest.mark.parametrize(
    ("values", "status", "asked", "word"),
    [
        pytest.param({"Cache-Control": "no-store"}, 200, {}, "no-store", id="§5.2.2.5 no-store"),
        pytest.param(
            {"Cache-Control": "max-age=60, No-Store"}, 200, {}, "no-store", id="§5.2 names ignore case"
        ),
        pytest.param({"Cache-Control": "private"}, 200, {}, "private", id="§5.2.2.7 private"),
        pytest.param(FRESH, 206, {}, "status", id="§3.3 206 is never stored as a whole"),
        pytest.param(FRESH, 304, {}, "status", id="304 is no response to store"),
        pytest.param(FRESH, 429, {}, "status", id="RFC 6585 429 must not be stored"),
        pytest.param(FRESH, 400, {}, "status", id="A52 400 is never stored"),
        pytest.param(FRESH, 200, {"Authorization": "x"}, "authorization", id="§3.5 Authorization"),
        pytest.param(FRESH, 200, {"Cache-Control": "no-store"}, "request-no-store", id="§5.2.1.5"),
        pytest.param({**FRESH, "Set-Cookie": "a=b"}, 200, {}, "set-cookie", id="A59 Set-Cookie"),
        pytest.param({**FRESH, "Vary": "*"}, 200, {}, "vary", id="§4.1 Vary *"),
        pytest.param({**FRESH, "Vary": "a, *"}, 200, {}, "vary", id="§4.1 Vary with * in it"),
        pytest.param({**FRESH, "Vary": "Cookie"}, 200, {}, "vary", id="A64 Vary Cookie has no bound"),
        pytest.param(
            {**FRESH, "Vary": ",".join(f"x{n}" for n in range(99))}, 200, {}, "vary", id="Vary of 99"
        ),
        pytest.param({}, 200, {}, "no-freshness", id="§4.2.2 nothing to go by"),
        pytest.param({}, 500, {}, "no-freshness", id="500 is not heuristically cacheable"),
        pytest.param({"Cache-Control": "no-cache"}, 200, {}, "no-cache", id="no-cache without validator"),
        pytest.param({"Cache-Control": "max-age=0"}, 200, {}, "already-stale", id="stale without validator"),
        pytest.param({"Cache-Control": 'max-age=60, x="y'}, 200, {}, "no-store", id="A60 unbalanced quotes"),
        pytest.param({"Cache-Control": "must-understand, max-age=9"}, 299, {}, "status", id="§5.2.2.3"),
    ],
)
def test_a_response_is_not_stored_when(
    values: dict[str, str], status: int, asked: dict[str, str], word: str
) -> None:
    assert judge(values, status=status, asked=asked) == word


@pytest.mark.parametrize(
    ("values", "lifetime"),
    [
        pytest.param({"Cache-Control": "max-age=60"}, 60, id="§5.2.2.1 max-age"),
        pytest.param({"Cache-Control": "max-age=60, s-maxage=10"}, 10, id="§5.2.2.10 s-maxage wins"),
        pytest.param({"Cache-Control": 'max-age="60"'}, 60, id="§5.2 quoted form"),
        pytest.param({"Cache-Control": "max-age=60, max-age=30"}, 30, id="duplicates: the smaller"),
        pytest.param({"Cache-Control": "max-age=99999999999999"}, 2**31, id="§1.2.2 saturates"),
        pytest.param({"Expires": "Fri, 15 Jan 2027 08:01:40 GMT"}, 100, id="§5.3 Expires"),
        pytest.param(
            {"Cache-Control": "max-age=5", "Expires": "Fri, 15 Jan 2027 09:00:00 GMT"},
            5,
            id="max-age over Expires",
        ),
        pytest.param({"Last-Modified": "Fri, 15 Jan 2027 07:43:20 GMT"}, 100, id="§4.2.2 a tenth of its age"),
        pytest.param({"Last-Modified": "Mon, 15 Jan 2007 07:43:20 GMT"}, 86400, id="§4.2.2 at most a day"),
        pytest.param({"Expires": "0", "ETag": '"a"'}, 0, id="§5.3 invalid Expires is the past"),
        pytest.param({"Cache-Control": "max-age=abc", "ETag": '"a"'}, 0, id="A60 malformed is 0"),
        pytest.param({"ETag": '"a"'}, 0, id="stored to be validated"),
        pytest.param({"Cache-Control": "no-store, must-understand, max-age=7"}, 7, id="§5.2.2.3 understood"),
    ],
)
def test_freshness_lifetime(values: dict[str, str], lifetime: float) -> None:
    verdict = judge({**DATE, **values})
    assert isinstance(verdict, Assessment)
    assert verdict.fresh_until - NOW == lifetime


@pytest.mark.parametrize(
    ("values", "age"),
    [
        pytest.param({}, 0, id="no Date"),
        pytest.param({"Date": "Fri, 15 Jan 2027 07:59:50 GMT"}, 10, id="§4.2.3 apparent age"),
        pytest.param({"Date": "Fri, 15 Jan 2027 09:00:00 GMT"}, 0, id="A78 a Date in the future"),
        pytest.param({"Age": "30", **DATE}, 30, id="§5.1 Age"),
        pytest.param({"Age": "30, 90", **DATE}, 30, id="§5.1 of several the first"),
        pytest.param({"Age": "-5", **DATE}, 2**31, id="negative Age"),
        pytest.param({"Age": "soon", **DATE}, 2**31, id="Age without a number"),
        pytest.param({"Age": "7200;a=1", **DATE}, 2**31, id="Age with a parameter"),
        pytest.param({"Age": "9" * 40, **DATE}, 2**31, id="saturates"),
    ],
)
def test_corrected_initial_age(values: dict[str, str], age: float) -> None:
    verdict = judge({**values, "Cache-Control": "max-age=60", "ETag": '"a"'})
    assert isinstance(verdict, Assessment)
    assert NOW - verdict.born == age


@pytest.mark.parametrize(
    ("control", "swr", "sie", "never"),
    [
        pytest.param("max-age=60", 10, 20, False, id="the rule's windows"),
        pytest.param("max-age=60, stale-while-revalidate=5, stale-if-error=6", 5, 6, False, id="RFC 5861"),
        pytest.param("max-age=60, must-revalidate", 0, 0, True, id="§5.2.2.2 must-revalidate"),
        pytest.param("max-age=60, proxy-revalidate", 0, 0, True, id="§5.2.2.8 proxy-revalidate"),
        pytest.param("s-maxage=60", 0, 0, True, id="§4.2.4 s-maxage"),
        pytest.param(
            "s-maxage=60, stale-while-revalidate=5", 5, 20, False, id="A83 explicit SWR is the exception"
        ),
        pytest.param("max-age=60, no-cache", 0, 0, True, id="§5.2.2.4 no-cache"),
    ],
)
def test_stale_windows(control: str, swr: float, sie: float, never: bool) -> None:
    verdict = judge(
        {**DATE, "Cache-Control": control, "ETag": '"a"'}, stale_while_revalidate="10s", stale_if_error="20s"
    )
    assert isinstance(verdict, Assessment)
    assert (verdict.stale_until - verdict.fresh_until, verdict.error_until - verdict.fresh_until) == (
        swr,
        sie,
    )
    assert verdict.never_stale is never


def test_authorization_is_fine_when_the_origin_says_public() -> None:
    asked = {"Authorization": "Bearer x"}
    assert isinstance(judge({"Cache-Control": "public, max-age=9", **DATE}, asked=asked), Assessment)
    assert isinstance(judge({"Cache-Control": "s-maxage=9", **DATE}, asked=asked), Assessment)


def test_the_rule_gives_freshness_where_the_origin_is_silent() -> None:
    verdict = judge(DATE, ttl="30s")
    assert isinstance(verdict, Assessment)
    assert verdict.fresh_until == NOW + 30
    negative = judge(DATE, status=404, negative={404: "10s"})
    assert isinstance(negative, Assessment)
    assert negative.fresh_until == NOW + 10
    assert judge(DATE, status=404, ttl="30s") == "no-freshness", "ttl is not for errors"
