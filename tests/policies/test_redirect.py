"""`redirect` and `rewrite`: where requests go, and that nobody is sent to another site or in circles."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from edgeproxy.errors import RequestError
from edgeproxy.http.target import normalise_path
from edgeproxy.policies.redirect import Redirect, RedirectRule
from edgeproxy.policies.rewrite import Rewrite, RewriteRule
from tests.helpers.requests import context, request


def sent(path: str, query: str = "", /, **rule: Any) -> str | None:
    answer = Redirect(RedirectRule.model_validate(rule))(request(path, query=query), context())
    return None if answer is None else dict(answer.fields)[b"Location"].decode()


@pytest.mark.parametrize(
    ("rule", "path", "query", "location"),
    [
        ({"path": "/old/**", "to": "/new/{rest}"}, "/old/a/b", "x=1", "/new/a/b?x=1"),
        ({"path": "/old/**", "to": "/new/{rest}"}, "/old", "", "/new/"),
        ({"path": "/old/**", "to": "/new/{rest}"}, "/older", "", None),
        ({"path": "/a/*/c/*", "to": "/{2}/{1}"}, "/a/1/c/2", "", "/2/1"),
        ({"path": "/a/*/**", "to": "/{1}?p={rest}&{query}"}, "/a/1/2/3", "x=1", "/1?p=2/3&x=1"),
        (
            {"path": "/a", "to": "https://www.example.org/b?only=1"},
            "/a",
            "x=1",
            "https://www.example.org/b?only=1",
        ),
        ({"path": "/a", "to": "https://www.example.org"}, "/a", "", "https://www.example.org/"),
        ({"regex": "/p/([0-9]+)(?:-.*)?", "to": "/item/{1}"}, "/p/42-shoe", "", "/item/42"),
        ({"regex": "/p/([0-9]+)", "to": "/item/{1}"}, "/p/x", "", None),
        ({"regex": "/(a)|/(b)", "to": "/x/{1}{2}"}, "/b", "", "/x/b"),
        ({"map": {"/a": "/b", "/c": "https://o.example/{query}"}}, "/a", "x=1", "/b?x=1"),
        ({"map": {"/a": "/b"}}, "/z", "", None),
        ({"path": "/**", "to": "https://{host}{path}"}, "/a", "x=1", "https://example.com/a?x=1"),
        ({"path": "/a", "to": "https://o.example:443/b/../c"}, "/a", "", "https://o.example/c"),
        ({"regex": "/a(.*)", "to": "/b/..{1}"}, "/a/../x", "", None),
    ],
)
def test_where_a_request_is_sent(rule: dict[str, Any], path: str, query: str, location: str | None) -> None:
    assert sent(path, query, **rule) == location


@pytest.mark.parametrize(
    ("rule", "path"),
    [
        ({"path": "/**", "to": "/de{path}"}, "/a"),
        ({"path": "/a", "to": "/a"}, "/a"),
        ({"map": {"/a": "/b", "/b": "/a"}}, "/a"),
        ({"path": "/**", "to": "http://example.com{path}"}, "/a"),
        ({"path": "/a", "to": "http://example.com:80/a"}, "/a"),
        ({"path": "/a", "to": "/a;v=1"}, "/a"),
        ({"path": "/a", "to": "/%61"}, "/a"),
        ({"path": "/a/**", "to": "/b/../a/{rest}"}, "/a/x"),
        ({"map": {"/a": "/b/../%61"}}, "/a"),
    ],
)
def test_who_would_be_sent_away_again_stays(rule: dict[str, Any], path: str) -> None:
    assert sent(path, **rule) is None


@pytest.mark.parametrize("path", ["/old/evil.test", "/old//evil.test", "/old/\\evil.test", "/old/%0d%0aX:1"])
@pytest.mark.parametrize("to", ["/{1}", "/{path}", "{1}"])
def test_no_path_chooses_another_site(path: str, to: str) -> None:
    if not to.startswith("/"):
        with pytest.raises(ValidationError, match="no target"):
            RedirectRule.model_validate({"regex": "/old(.*)", "to": to})
        return
    location = sent(path, regex="/old(.*)", to=to)
    if location is not None:
        assert not location.startswith("//")
        assert not re.search(r"[\s\\]", location)


@given(
    st.text("/.\\%:@a?#\r\n \t", max_size=12),
    st.sampled_from(["/{1}", "/x{1}", "https://o.example/{1}", "https://o.example{1}"]),
)
def test_whatever_the_path_the_site_is_that_of_the_rule(rest: str, to: str) -> None:
    location = sent(f"/old{rest}", regex="/old((?s:.*))", to=to)
    assume(location is not None)
    assert location is not None
    assert location.isascii()
    assert location.isprintable()
    assert " " not in location
    assert urlsplit(location).netloc == ("o.example" if to.startswith("https") else "")


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"to": "/a"}, "none of path"),
        ({"path": "/a"}, "goes with path"),
        ({"path": "/a", "regex": "/b", "to": "/c"}, "path and regex"),
        ({"map": {"/a": "/b"}, "to": "/c"}, "goes with path"),
        ({"map": {"a": "/b"}}, "begins with a slash"),
        ({"path": "/a/**/b", "to": "/c"}, "in the middle"),
        ({"path": "/a", "to": "/c/{rest}"}, r"has \{rest\}"),
        ({"path": "/a", "to": "https://{path}/"}, "no target"),
        ({"path": "/a", "to": "//evil.test/{path}"}, None),
        ({"path": "/a", "to": "javascript:alert(1)"}, "no target"),
        ({"path": "/a", "to": "/x y"}, "visible ASCII"),
        ({"path": "/a", "to": "/x#y"}, "none of #"),
        ({"path": "/a", "to": "/100%"}, "no escape"),
        ({"path": "/a", "to": "https://o.example:99999/"}, "host and port"),
        ({"regex": "(", "to": "/c"}, "no regular expression"),
        ({"regex": r"(a)\1", "to": "/c"}, "no regular expression"),
        ({"regex": "(?=a)", "to": "/c"}, "no regular expression"),
        ({"regex": "()" * 10, "to": "/c"}, "at most 9"),
        ({"regex": "a" * 1001, "to": "/c"}, "at most 1000"),
        ({"path": "/a", "to": "/b", "status": 200}, "301"),
    ],
)
def test_a_rule_that_cannot_be_right_is_refused(rule: dict[str, Any], said: str | None) -> None:
    if said is None:
        assert sent("/a", **rule) == "/evil.test/a"
        return
    with pytest.raises(ValidationError, match=said):
        RedirectRule.model_validate(rule)


def test_an_expression_that_explodes_elsewhere_takes_linear_time() -> None:
    assert sent("/" + "a" * 100_000 + "!", regex="/(a*)*b", to="/x") is None


def rewritten(path: str, query: str = "", /, **rule: Any) -> str | None:
    ctx = context()
    answer = Rewrite(RewriteRule.model_validate(rule))(request(path, query=query), ctx)
    if answer is not None:
        return str(answer.status)
    if ctx.rewritten is None:
        return None
    return (ctx.rewritten.path + (b"?" + ctx.rewritten.query if ctx.rewritten.query else b"")).decode()


@pytest.mark.parametrize(
    ("rule", "path", "query", "expected"),
    [
        ({"path": "/v1/**", "to": "/api/{rest}"}, "/v1/a", "x=1", "/api/a?x=1"),
        ({"path": "/v1/**", "to": "/api/{rest}"}, "/v2/a", "x=1", None),
        ({"regex": "/p/([0-9]+)", "to": "/item?id={1}"}, "/p/7", "x=1", "/item?id=7"),
        ({"path": "/a", "to": "/a"}, "/a", "x=1", None),
        ({"regex": "/x(.*)", "to": "/y/{1}"}, "/x//a", "", "/y/a"),
        ({"regex": "/x/(.*)", "to": "/y/%2e%2e/%2e%2e/{1}"}, "/x/a", "", "400"),
        (
            {"query": {"remove": ["utm_*"], "set": {"edge": "a&b"}}},
            "/a",
            "utm_x=1&b=2&edge=9",
            "/a?b=2&edge=a%26b",
        ),
        ({"query": {"keep": ["b*"]}}, "/a", "a=1&b=2&bb=3&c", "/a?b=2&bb=3"),
        (
            {"query": {"remove": ["debug"], "set": {"tenant": "1"}}},
            "/a",
            "%64ebug=1&tenan%74=2",
            "/a?tenant=1",
        ),
        ({"query": {"keep": ["b"]}}, "/a", "%62=1&%61=2", "/a?%62=1"),
        ({"query": {"keep": []}}, "/a", "a=1", "/a"),
        ({"path": "/b", "query": {"keep": []}}, "/a", "a=1", None),
        ({"path": "/a", "to": "/b?q=1", "query": {"set": {"z": "1"}}}, "/a", "a=1", "/b?q=1&z=1"),
    ],
)
def test_what_the_origin_is_asked_for(
    rule: dict[str, Any], path: str, query: str, expected: str | None
) -> None:
    assert rewritten(path, query, **rule) == expected


def test_one_rewrite_goes_on_from_where_another_ended() -> None:
    ctx = context()
    for rule in ({"path": "/a", "to": "/b"}, {"path": "/b", "to": "/c"}):
        Rewrite(RewriteRule.model_validate(rule))(request("/a"), ctx)
    assert ctx.rewritten is not None
    assert ctx.rewritten.path == b"/c"


@given(st.text("/.%2eaE\\", max_size=14))
def test_a_rewritten_path_is_always_normal(rest: str) -> None:
    ctx = context()
    policy = Rewrite(RewriteRule.model_validate({"regex": "/x((?s:.*))", "to": "/y/{1}"}))
    if policy(request(f"/x{rest}"), ctx) is None and ctx.rewritten is not None:
        path = ctx.rewritten.path
        try:
            assert normalise_path(path) == path
        except RequestError as error:  # pragma: no cover - what it is about
            raise AssertionError(path) from error


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"path": "/a"}, "neither to nor query"),
        ({"path": "/a", "regex": "/b", "to": "/c"}, "path and regex"),
        ({"path": "/a", "to": "https://other.example/"}, "no target"),
        ({"path": "/a", "to": "/{host}"}, r"has \{host\}"),
        ({"query": {"set": {"a*": "1"}}}, "no single parameter"),
        ({"query": {"keep": ["a b"]}}, "name of a parameter"),
    ],
)
def test_a_rewrite_that_cannot_be_right_is_refused(rule: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        RewriteRule.model_validate(rule)
