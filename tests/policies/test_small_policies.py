"""`ip`, `respond`, `maintenance` and `cookies`."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edgeproxy.context import Verdict
from edgeproxy.http.wire import apply_edits, edits_as_lines
from edgeproxy.policies.cookies import CookieRule, Cookies
from edgeproxy.policies.ip import IpList, IpRule
from edgeproxy.policies.respond import Maintenance, MaintenanceRule, Respond, RespondRule
from tests.helpers.requests import context, request


def ip(client: str, **rule: Any) -> str:
    ctx = context()
    ctx.client = client
    answer = IpList(IpRule.model_validate(rule))(request(), ctx)
    assert (answer is None) == (not ctx.reason)
    return ctx.reason


@pytest.mark.parametrize(
    ("rule", "client", "reason"),
    [
        ({"deny": ["192.0.2.0/24"]}, "192.0.2.7", "ip-denied"),
        ({"deny": ["192.0.2.0/24"]}, "::ffff:192.0.2.7", "ip-denied"),
        ({"deny": ["192.0.2.0/24"]}, "192.0.3.7", ""),
        ({"allow": ["10.0.0.0/8"], "deny": ["10.1.0.0/16"]}, "10.2.0.1", ""),
        ({"allow": ["10.0.0.0/8"], "deny": ["10.1.0.0/16"]}, "10.1.0.1", "ip-denied"),
        ({"allow": ["10.0.0.0/8", "2001:db8::/32"]}, "2001:db8::1", ""),
        ({"allow": ["10.0.0.0/8"]}, "2001:db8::1", "ip-not-allowed"),
        ({"allow": ["10.0.0.0/8"]}, "unix:", "ip-not-allowed"),
        ({"deny": ["0.0.0.0/0"]}, "unix:", ""),
        (
            {"deny": "# bad\n192.0.2.0/25  192.0.2.128/25 # more\n\n198.51.100.1\n"},
            "198.51.100.1",
            "ip-denied",
        ),
        ({"deny": ["192.0.2.0/25\n203.0.113.9", "198.51.100.1"]}, "203.0.113.9", "ip-denied"),
    ],
)
def test_who_may_come(rule: dict[str, Any], client: str, reason: str) -> None:
    assert ip(client, **rule) == reason


@given(
    st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(20, 32)), min_size=1, max_size=30), st.data()
)
def test_a_long_list_says_what_each_of_its_networks_says(
    nets: list[tuple[int, int]], data: st.DataObject
) -> None:
    networks = [ipaddress.ip_network((number, length), strict=False) for number, length in nets]
    near = st.sampled_from([int(network.network_address) for network in networks])
    number = min(max(data.draw(near) + data.draw(st.integers(-3, 4099)), 0), 2**32 - 1)
    address = ipaddress.ip_address(number)
    expected = any(address in network for network in networks)
    assert (ip(str(address), deny=[str(network) for network in networks]) == "ip-denied") is expected


def test_ten_thousand_networks_are_a_list() -> None:
    networks = "\n".join(f"10.{number // 256}.{number % 256}.0/25" for number in range(10_000))
    assert ip("10.39.15.1", deny=networks) == "ip-denied"
    assert ip("10.39.15.200", deny=networks) == ""


@pytest.mark.parametrize(
    "rule", [{}, {"deny": ["10.0.0.1/8"]}, {"deny": ["here"]}, {"deny": ["::1"], "status": 200}]
)
def test_a_list_that_says_nothing_is_refused(rule: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        IpRule.model_validate(rule)


ROBOTS = {"body": "User-agent: *\n", "max_age": "1h", "headers": {"X-A": "b"}}


def test_an_answer_from_the_configuration() -> None:
    ctx = context()
    answer = Respond(RespondRule.model_validate(ROBOTS))(request(), ctx)
    assert answer is not None
    assert (answer.status, answer.body, ctx.reason) == (200, b"User-agent: *\n", "configured")
    fields = dict(answer.fields)
    assert fields[b"Content-Type"] == b"text/plain; charset=utf-8"
    assert fields[b"Cache-Control"] == b"max-age=3600"
    assert fields[b"X-A"] == b"b"


def test_who_has_it_already_is_told_so() -> None:
    policy = Respond(RespondRule.model_validate(ROBOTS))
    first = policy(request(), context())
    assert first is not None
    tag = dict(first.fields)[b"ETag"].decode()
    for wanted, status in ((tag, 304), (f'"x", W/{tag}', 304), ('"x"', 200)):
        answer = policy(request("/a", [("If-None-Match", wanted)]), context())
        assert answer is not None
        assert answer.status == status


@pytest.mark.parametrize(
    ("status", "method", "expected"), [(200, "POST", 405), (404, "POST", 404), (410, "GET", 410)]
)
def test_what_can_only_be_read_takes_no_other_method(status: int, method: str, expected: int) -> None:
    answer = Respond(RespondRule(status=status))(request(method=method), context())
    assert answer is not None
    assert answer.status == expected


@pytest.mark.parametrize(
    "rule",
    [
        {"status": 204, "body": "x"},
        {"status": 304},
        {"status": 101},
        {"headers": {"Content-Length": "1"}},
        {"headers": {"X": "a\nb"}},
        {"content_type": "a\r\nb"},
    ],
)
def test_an_answer_that_cannot_be_written_is_refused(rule: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RespondRule.model_validate(rule)


def test_maintenance_answers_while_it_is_active() -> None:
    answer = Maintenance(MaintenanceRule())(request(), context())
    assert answer is not None
    assert answer.status == 503
    assert (b"Retry-After", b"300") in answer.fields
    assert Maintenance(MaintenanceRule(active=False))(request(), context()) is None


def cookies(**rule: Any) -> Cookies:
    return Cookies(CookieRule.model_validate(rule))


@pytest.mark.parametrize(
    ("rule", "header", "sent"),
    [
        ({"remove": ["_ga*"]}, "a=1; _ga=2; _gat=3; b", "a=1; b"),
        ({"keep": ["a", "b*"]}, "a=1; c=2;bb=3", "a=1; bb=3"),
        ({"keep": ["*"], "remove": ["a"]}, "a=1", None),
        ({"keep": []}, "a=1; b=2", None),
        ({"remove": ["z"]}, "a=1;  b=2", "same"),
    ],
)
def test_which_cookies_go_on(rule: dict[str, Any], header: str, sent: str | None) -> None:
    ctx = context()
    assert cookies(**rule)(request("/a", [("Cookie", header)]), ctx) is None
    after = dict(apply_edits([(b"Cookie", b"same")], ctx.to_origin)).get(b"Cookie")
    assert after == (None if sent is None else sent.encode())


@pytest.mark.parametrize(
    ("rule", "secure", "value", "expected"),
    [
        ({"keep_out": ["debug*"]}, False, "debug_x=1; Path=/", None),
        ({"http_only": ["s"]}, False, "s=1; Path=/", "s=1; Path=/; HttpOnly"),
        ({"http_only": ["s"]}, False, "s=1; httponly", "s=1; httponly"),
        ({"http_only": ["s"]}, False, "t=1", "t=1"),
        ({"same_site": "lax"}, False, "s=1", "s=1; SameSite=Lax"),
        ({"same_site": "lax"}, False, "s=1; samesite=none; Secure", "s=1; samesite=none; Secure"),
        ({"secure": True}, True, "s=secure", "s=secure; Secure"),
        ({"secure": True}, True, "s=1; SECURE", "s=1; SECURE"),
        ({"secure": True}, False, "s=1", "s=1"),
    ],
)
def test_what_cookies_look_like(rule: dict[str, Any], secure: bool, value: str, expected: str | None) -> None:
    ctx = context()
    asked = request()
    asked = type(asked)(asked.method, asked.host, asked.path, b"", asked.headers, asked.peer, secure, False)
    cookies(**rule)(asked, ctx)
    fields = [
        (b"X", b"1"),
        (b"set-cookie", value.encode()),
        (b"Set-Cookie", b"other=1; HttpOnly; SameSite=Lax; Secure"),
    ]
    after = [value for name, value in apply_edits(fields, ctx.to_client) if name.lower() == b"set-cookie"]
    assert after == [
        *([] if expected is None else [expected.encode()]),
        b"other=1; HttpOnly; SameSite=Lax; Secure",
    ]


def test_a_hostile_set_cookie_costs_no_more_than_its_length() -> None:
    """Would take hours if each of its spaces were looked at from each of them."""
    ctx = context()
    cookies(http_only=["s"])(request(), ctx)
    value = b"s=1" + b" " * 10**6 + b"x"
    assert apply_edits([(b"Set-Cookie", value)], ctx.to_client) == [(b"Set-Cookie", value + b"; HttpOnly")]


def test_an_answer_without_cookies_is_not_rendered_again() -> None:
    ctx = context()
    cookies(same_site="lax")(request(), ctx)
    assert edits_as_lines(ctx.to_client, frozenset({b"content-type"})) == b""
    assert edits_as_lines(ctx.to_client, frozenset({b"set-cookie"})) is None


@pytest.mark.parametrize("rule", [{}, {"keep": ["a b"]}, {"same_site": "Lax"}])
def test_a_cookie_rule_that_does_nothing_is_refused(rule: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CookieRule.model_validate(rule)


def test_all_of_them_explain_themselves() -> None:
    ctx = context()
    ctx.notes = []
    IpList(IpRule.model_validate({"deny": ["192.0.2.0/24"]}))(request(), ctx)
    Respond(RespondRule())(request(), ctx)
    Maintenance(MaintenanceRule(active=False))(request(), ctx)
    cookies(keep=[])(request("/a", [("Cookie", "secret=1")]), ctx)
    assert [(note.policy, note.verdict) for note in ctx.notes] == [
        ("ip", Verdict.REFUSE),
        ("respond", Verdict.ANSWER),
        ("maintenance", Verdict.ALLOW),
        ("cookies", Verdict.ALLOW),
    ]
    assert "secret" not in repr(ctx.notes)
