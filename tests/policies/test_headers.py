"""`headers`: edits are built once, framing is out of reach, the preset weakens nothing."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from edgeproxy.context import Context, Edit, Op, Verdict
from edgeproxy.http.message import Field, Headers, Request
from edgeproxy.http.wire import apply_edits
from edgeproxy.policies.headers import HeaderEdits, HeadersRule


def run(rule: dict[str, Any], *, secure: bool = False, explain: bool = False) -> Context:
    request = Request(b"GET", b"example.com", b"/", b"", Headers([]), "127.0.0.1", secure)
    ctx = Context(0.0, 0.0, "192.0.2.1", "shop", "req-1")
    ctx.notes = [] if explain else None
    assert HeaderEdits(HeadersRule.model_validate(rule))(request, ctx) is None
    return ctx


def answer(rule: dict[str, Any], *fields: Field, secure: bool = False) -> list[Field]:
    return apply_edits(fields, run(rule, secure=secure).to_client)


def test_fields_are_removed_then_set_then_added_in_both_directions() -> None:
    rules = {"set": {"X-A": "1"}, "add": {"X-B": "2", "X-A": "3"}, "remove": ["X-C"]}
    edits = [
        Edit(Op.REMOVE, b"X-C"),
        Edit(Op.SET, b"X-A", b"1"),
        Edit(Op.ADD, b"X-B", b"2"),
        Edit(Op.ADD, b"X-A", b"3"),
    ]
    ctx = run({"to_origin": rules})
    assert (ctx.to_origin, ctx.to_client) == (edits, [])
    ctx = run({"to_client": rules})
    assert (ctx.to_origin, ctx.to_client) == ([], edits)


def test_a_rule_that_says_nothing_does_nothing() -> None:
    ctx = run({})
    assert (ctx.to_origin, ctx.to_client, ctx.key_parts) == ([], [], ())


def test_edits_of_earlier_policies_stay() -> None:
    policy = HeaderEdits(HeadersRule.model_validate({"to_client": {"set": {"X-A": "1"}}}))
    request = Request(b"GET", b"example.com", b"/", b"", Headers([]), "127.0.0.1")
    first, second = (Context(0.0, 0.0, "192.0.2.1", "shop", "r") for _ in range(2))
    first.to_client.append(Edit(Op.ADD, b"X-0", b"0"))
    policy(request, first)
    policy(request, second)
    assert [edit.name for edit in first.to_client] == [b"X-0", b"X-A"]
    assert [edit.name for edit in second.to_client] == [b"X-A"]


@pytest.mark.parametrize(("setting", "name"), [(True, b"X-Request-Id"), ("X-Trace", b"X-Trace")])
def test_the_request_id_is_told_to_both_sides(setting: bool | str, name: bytes) -> None:
    ctx = run({"request_id": setting})
    assert ctx.to_origin == ctx.to_client == [Edit(Op.SET, name, b"req-1")]
    assert ctx.key_parts == ()


@pytest.mark.parametrize(
    ("rule", "asserted"),
    [
        ({}, ()),
        (
            {"to_origin": {"set": {"X-Internal": "1"}, "add": {"X-More": "1"}, "remove": ["X-Debug"]}},
            {b"x-internal", b"x-debug"},
        ),
        ({"request_id": True}, {b"x-request-id"}),
        ({"to_client": {"set": {"X-Y": "1"}}}, ()),
    ],
)
def test_what_is_set_towards_the_origin_is_asserted(rule: Any, asserted: Any) -> None:
    assert set(HeaderEdits(HeadersRule.model_validate(rule)).asserted) == set(asserted)


def test_the_security_preset_sets_the_usual_fields() -> None:
    assert answer({"security": True}, (b"X-Frame-Options", b"ALLOWALL")) == [
        (b"X-Content-Type-Options", b"nosniff"),
        (b"X-Frame-Options", b"DENY"),
        (b"Referrer-Policy", b"strict-origin-when-cross-origin"),
        (b"Permissions-Policy", b"camera=(), geolocation=(), microphone=()"),
        (b"Content-Security-Policy", b"frame-ancestors 'none'"),
    ]


@pytest.mark.parametrize("secure", [True, False])
def test_transport_security_is_promised_over_tls_only(secure: bool) -> None:
    names = [name for name, _ in answer({"security": True}, secure=secure)]
    assert (b"Strict-Transport-Security" in names) is secure


def test_the_origins_own_content_security_policy_stays_in_force() -> None:
    own = (b"Content-Security-Policy", b"default-src 'self'")
    fields = answer({"security": True}, own)
    assert own in fields
    assert (b"Content-Security-Policy", b"frame-ancestors 'none'") in fields


@pytest.mark.parametrize(
    "name",
    [
        "Strict-Transport-Security",
        "x-frame-options",
        "Content-Security-Policy",
        "Referrer-Policy",
        "Permissions-Policy",
    ],
)
def test_a_field_that_the_rule_itself_decides_is_left_to_it(name: str) -> None:
    kept = answer({"security": True, "to_client": {"set": {name: "mine"}}}, secure=True)
    assert [value for key, value in kept if key.lower() == name.lower().encode()] == [b"mine"]
    gone = answer({"security": True, "to_client": {"remove": [name]}}, secure=True)
    assert name.lower().encode() not in [key.lower() for key, _ in gone]


def test_edits_towards_the_origin_are_part_of_the_key() -> None:
    def key(rules: dict[str, Any]) -> tuple[bytes, ...]:
        return run({"to_origin": rules}).key_parts

    one = key({"set": {"X-Site": "a"}})
    assert len(one) == 1
    assert one[0].startswith(b"headers:")
    assert one == key({"set": {"x-site": "a"}})
    assert (
        len({one, key({"set": {"X-Site": "b"}}), key({"add": {"X-Site": "a"}}), key({"remove": ["X-Site"]})})
        == 4
    )


@pytest.mark.parametrize("direction", ["to_origin", "to_client"])
@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (
            {"set": {"Connection": "close"}},
            "Connection cannot be written by rule: it belongs to one connection",
        ),
        ({"remove": ["Transfer-Encoding"]}, "says where a message ends"),
        ({"add": {"content-length": "0"}}, "says where a message ends"),
        ({"set": {"Content_Length": "0"}}, "says where a message ends"),
        ({"set": {"Host": "internal"}}, "chooses the site"),
        ({"set": {"TE": "trailers"}}, "belongs to one connection"),
        ({"set": {"Keep-Alive": "1"}}, "belongs to one connection"),
        ({"set": {"Upgrade": "h2c"}}, "belongs to one connection"),
        ({"set": {"Expect": "100-continue"}}, "answers it itself"),
        ({"set": {"X A": "1"}}, "not a field name"),
        ({"set": {"": "1"}}, "not a field name"),
        ({"set": {"X-Ä": "1"}}, "not a field name"),
        ({"set": {":path": "1"}}, "not a field name"),
        ({"set": {"X-A": "a\r\nSet-Cookie: b"}}, "control characters"),
        ({"add": {"X-A": "a\x00"}}, "control characters"),
        ({"add": {"X-A": "a\tb"}}, "control characters"),
        ({"set": {"X-A": " a"}}, "spaces around"),
        ({"set": {"X-A": "1", "x-a": "2"}}, "named twice"),
        ({"set": {"X-A": "1"}, "remove": ["x-a"]}, "named twice"),
        ({"add": {"X-A": "1", "x-a": "2"}}, "named twice"),
        ({"replace": {}}, "Extra inputs"),
    ],
)
def test_rules_that_cannot_be_written_are_refused(direction: str, rules: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        HeadersRule.model_validate({direction: rules})


def test_the_field_of_the_request_id_must_be_one_that_can_be_written() -> None:
    with pytest.raises(ValidationError, match="belongs to one connection"):
        HeadersRule.model_validate({"request_id": "Connection"})


def test_explaining_lists_the_edits() -> None:
    ctx = run({"to_origin": {"set": {"X-A": "1"}}, "request_id": True, "security": True}, explain=True)
    assert ctx.notes is not None
    assert (ctx.notes[0].policy, ctx.notes[0].verdict) == ("headers", Verdict.ALLOW)
    assert (
        "request id in X-Request-Id; to origin: set X-A; to client: set X-Content-Type-Options"
        in ctx.notes[0].why
    )
    assert run({}, explain=True).notes[0].why == "nothing to edit"  # type: ignore[index]
