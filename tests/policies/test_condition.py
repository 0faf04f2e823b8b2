"""Conditions: what they read, what they refuse, and that no text of a client makes them slow."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeproxy.context import Context, Place
from edgeproxy.http.message import Request
from edgeproxy.policies.condition import ConditionError, condition
from edgeproxy.policies.patterns import path_pattern, text_pattern
from tests.helpers.requests import context, request

GROUPS = {"dach": ["DE", "AT", "CH"]}


def asked() -> tuple[Request, Context]:
    one = request(
        "/api/v1/items;x=1",
        {"X-Debug": "on", "Cookie": "plan=gold; sid=s3cret", "Authorization": "Bearer s3cret"},
        method="POST",
        query="page=2&q=&%61dmin=1+%32",
    )
    ctx = context()
    ctx.place = Place(country="DE", continent="EU")
    ctx.claims = {"sub": "42", "scope": "read write", "realm": {"roles": ["admin", 7]}, "ok": True}
    ctx.variants = {"checkout": "fast"}
    return one, ctx


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("path matches '/api/**'", True),
        ("path == /api/v1/items", True),  # without parameters, as routes see it
        ("path matches /api/*/items", True),
        ("path matches /api/*", False),
        ("method in [GET, POST]", True),
        ("method not in [GET, POST]", False),
        ("host == EXAMPLE.com", True),
        ("scheme == https", False),
        ("country in [DE, FR]", True),
        ("country in [dach]", True),
        ("country in [europe]", True),
        ("country not in [EU]", False),
        ("country", True),
        ("client in [192.0.2.0/24, 2001:db8::/32]", True),
        ("client == 192.0.2.1", True),
        ("client in [10.0.0.0/8]", False),
        ("header:X-Debug", True),
        ("header:x-debug == on", True),
        ("header:X-Debug matches 'o*'", True),
        ("not header:X-Debug", False),
        ("header:X-Absent != on", True),  # absent equals nothing
        ("header:X-Absent == ''", False),
        ("cookie:plan == gold", True),
        ("cookie:plan in [silver, gold]", True),
        ("query:page == 2", True),
        ("query:q", True),
        ("query:z", False),
        ("query:admin == '1 2'", True),  # `%61dmin=1+%32`, as the origin reads it
        ("claim:sub == 42", True),
        ("claim:scope has write", True),
        ("claim:scope has writ", False),
        ("claim:realm.roles has admin", True),
        ("claim:realm.roles has 7", True),
        ("claim:ok == true", True),
        ("claim:none has x", False),
        ("variant:checkout == fast", True),
        ("variant:other", False),
        ("country in [DE, FR] and path matches '/api/**' and not header:X-Debug", False),
        ("method == GET or method == POST and country == DE", True),  # and binds tighter
        ("(method == GET or method == POST) and country == FR", False),
        ("not (method == GET or country == FR)", True),
        ("not not method == POST", True),
        ("header:X-Debug == 'and'", False),
    ],
)
def test_a_condition_holds_or_not(text: str, expected: bool) -> None:
    assert condition(text, GROUPS).holds(*asked()) is expected


@pytest.mark.parametrize(
    ("text", "caret", "said"),
    [
        ("country in [DE, FX]", "FX", "expected a country, continent or group"),
        ("county in [DE]", "county", "expected a fact: path, method"),
        ("path", None, "a test of path"),
        ("path ==", None, "expected a value"),
        ("path matches api", "api", "write /exact"),
        ("path matches /a/**/b", "/a/**/b", "** in the middle"),
        ("method == get", "get", "upper case"),
        ("client in [10.0.0.1/8]", "10.0.0.1/8", "expected a network"),
        ("client matches 10.*", "10.*", "after `in`"),
        ("header: == x", "header:", "expected a fact"),
        ("header:a b", "b", "`and`, `or` or the end"),
        ("header:a and", None, "expected a fact"),
        ("(header:a", None, "expected `)`"),
        ("country in DE", "DE", "expected a list"),
        ("country in [DE FR]", "FR", "`,` or `]`"),
        ("country not DE", "DE", "`in` after `not`"),
        ("header:a == and", "and", "in quotes"),
        ("header:a has x", "x", "after a claim only"),
        ("header:a == 'x", "'x", "a quote that ends"),
        ("header:a = x", "=", "expected a fact, a value"),
        ("not " * 40 + "header:a", None, "inside each other"),
        ("(" * 40, None, "inside each other"),
        (" or ".join(["header:a"] * 65), None, "at most 64 tests"),
        (f"country in [{', '.join(['DE'] * 300)}]", None, "at most 256 values"),
        ("x" * 2001, None, "2000 or fewer"),
        ("", None, "expected a fact"),
    ],
)
def test_what_is_wrong_is_said_with_a_caret_under_it(text: str, caret: str | None, said: str) -> None:
    with pytest.raises(ConditionError) as raised:
        condition(text, GROUPS)
    message, shown, ruler = str(raised.value).split("\n")
    assert said in message
    assert ruler.strip() == "^"
    if caret is not None:
        assert shown[ruler.index("^") :].startswith(caret)


@given(st.text(max_size=60))
def test_no_text_breaks_the_parser(text: str) -> None:
    try:
        made = condition(text, GROUPS)
    except ConditionError:
        return
    made.holds(*asked())


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("host == shop.example", "shop.example"),
        ("host == shop.example", "shop.example:8443"),
        ("host == '[::1]'", "[::1]"),
        ("host == '[::1]'", "[::1]:8443"),
    ],
)
def test_a_port_gets_nobody_around_a_rule_about_hosts(text: str, host: str) -> None:
    assert condition(text).holds(request(host=host), context())


def test_values_are_told_without_credentials() -> None:
    made = condition("cookie:sid or header:Authorization or header:X-Debug == on or country == DE", GROUPS)
    assert made.values(*asked()) == (
        ("cookie:sid", "***"),
        ("header:Authorization", "***"),
        ("header:X-Debug", "on"),
        ("country", "DE"),
    )
    assert made.kinds == {"cookie", "header", "country"}


@given(st.text("ab*", max_size=8), st.text("ab", max_size=12))
def test_a_text_pattern_is_what_a_regular_expression_would_be(pattern: str, text: str) -> None:
    import re

    expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text) is not None
    assert text_pattern(pattern)(text) is expected


@given(st.lists(st.text("ab*", max_size=3), max_size=4), st.text("ab/", max_size=12), st.booleans())
def test_a_path_pattern_is_what_routes_match(parts: list[str], path: str, deep: bool) -> None:
    from edgeproxy.routes import compile_path

    pattern = "/" + "/".join(part.replace("**", "*") for part in parts) + ("/**" if deep else "")
    pattern = pattern.replace("**/", "*/") if "**" in pattern.removesuffix("/**") else pattern
    if "**" in pattern.removesuffix("/**"):
        return
    assert path_pattern(pattern)("/" + path) == bool(compile_path(pattern)(("/" + path).encode()))


def test_a_hostile_path_costs_linear_time() -> None:
    made = condition("path matches '/*a*a*a*a*a*a*a*a*b'", GROUPS)
    ctx = context()
    took: list[float] = []
    for size in (2_000, 8_000):
        one = request("/" + "a" * size)
        start = time.perf_counter()
        for _ in range(50):
            made.holds(one, ctx)
        took.append((time.perf_counter() - start) / 50)
    assert took[1] < 0.005
