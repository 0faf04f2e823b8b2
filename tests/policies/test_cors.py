"""`cors`: who may read, what a preflight is told, and that the origin's own words do not leak through."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from edgeproxy.http.message import Response
from edgeproxy.http.wire import apply_edits
from edgeproxy.policies.cors import Cors, CorsRule
from tests.helpers.requests import context, request

SHOP = "https://shop.example.com"
RULE: dict[str, Any] = {
    "origins": [SHOP, "https://*.example.net", "http://localhost:3000"],
    "methods": ["GET", "PUT"],
    "headers": ["Content-Type", "X-Trace"],
    "expose": ["RateLimit"],
    "credentials": True,
    "max_age": "10m",
}


def cors(**rule: Any) -> Cors:
    return Cors(CorsRule.model_validate(rule or RULE))


def fields_of(policy: Cors, origin: str | None) -> dict[bytes, bytes]:
    """What a client gets from an origin server that has an opinion of its own."""
    ctx = context()
    assert policy(request("/a", [] if origin is None else [("Origin", origin)]), ctx) is None
    theirs = [(b"Access-Control-Allow-Origin", b"*"), (b"Access-Control-Allow-Credentials", b"true")]
    return dict(apply_edits(theirs, ctx.to_client))


@pytest.mark.parametrize(
    ("origin", "may"),
    [
        (SHOP, True),
        ("https://a.example.net", True),
        ("https://a.b.example.net", True),
        ("http://localhost:3000", True),
        ("https://example.net", False),
        ("https://evilexample.net", False),
        ("http://a.example.net", False),
        ("https://shop.example.com.evil.test", False),
        ("https://shop.example.com:8443", False),
        ("https://evil.test/.example.net", False),
        ("https://evil.test#.example.net", False),
        ("null", False),
        ("", False),
        (None, False),
    ],
)
def test_only_the_named_sites_may_read(origin: str | None, may: bool) -> None:
    told = fields_of(cors(), origin)
    assert told[b"Vary"] == b"Origin"
    if may and origin is not None:
        assert told[b"Access-Control-Allow-Origin"] == origin.encode()
        assert told[b"Access-Control-Allow-Credentials"] == b"true"
        assert told[b"Access-Control-Expose-Headers"] == b"RateLimit"
    else:
        assert set(told) == {b"Vary"}, "nor does what the origin said get through"


def test_a_site_for_all_needs_no_vary_and_gives_no_credentials() -> None:
    assert fields_of(cors(origins=["*"]), "https://anybody.test") == {b"Access-Control-Allow-Origin": b"*"}


def preflight(policy: Cors, method: str = "PUT", headers: str = "", origin: str = SHOP) -> Response | None:
    values = [("Origin", origin), ("Access-Control-Request-Method", method)]
    values += [("Access-Control-Request-Headers", headers)] if headers else []
    return policy(request("/a", values, method="OPTIONS"), context())


def test_a_preflight_is_answered_with_what_was_asked() -> None:
    answer = preflight(cors(), "PUT", "content-type, X-TRACE")
    assert answer is not None
    assert answer.status == 204
    assert dict(answer.fields) == {
        b"Access-Control-Allow-Origin": SHOP.encode(),
        b"Access-Control-Allow-Methods": b"GET, PUT",
        b"Access-Control-Allow-Headers": b"content-type, x-trace",
        b"Access-Control-Allow-Credentials": b"true",
        b"Access-Control-Max-Age": b"600",
        b"Vary": b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
    }


@pytest.mark.parametrize(
    ("method", "headers", "origin"),
    [("DELETE", "", SHOP), ("put", "", SHOP), ("PUT", "x-other", SHOP), ("PUT", "", "https://evil.test")],
)
def test_a_preflight_for_more_is_refused_and_grants_nothing(method: str, headers: str, origin: str) -> None:
    answer = preflight(cors(), method, headers, origin)
    assert answer is not None
    assert answer.status == 403
    assert not [name for name, _ in answer.fields if name.lower().startswith(b"access-control")]


def test_any_field_may_be_allowed_but_nothing_strange_is_echoed() -> None:
    answer = preflight(cors(origins=["*"], headers=["*"], methods=["PUT"]), "PUT", "x-a, x b, x-c\x80")
    assert answer is not None
    assert dict(answer.fields)[b"Access-Control-Allow-Headers"] == b"x-a"


def test_an_options_that_is_no_preflight_goes_on() -> None:
    assert cors()(request("/a", [("Origin", SHOP)], method="OPTIONS"), context()) is None


def test_sites_below_a_star_do_not_fill_the_memory() -> None:
    policy = cors()
    for number in range(3000):
        fields_of(policy, f"https://s{number}.example.net")
    assert len(policy._granted) <= 1000


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"origins": ["*"]}, "by name"),
        ({"origins": []}, "at least 1"),
        ({"origins": ["shop.example.com"]}, "no origin"),
        ({"origins": ["https://shop.example.com/"]}, "no origin"),
        ({"origins": ["https://*"]}, "no origin"),
        ({"origins": ["https://a.*.com"]}, "no origin"),
        ({"headers": ["X Y"]}, "field name"),
    ],
)
def test_a_rule_that_is_not_safe_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        CorsRule.model_validate({**RULE, **change})
