"""Device class and claims as parts of the key, told to the origin where it could not know them (A61)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from edgeproxy.context import Op
from edgeproxy.policies.keyed import Keyed
from tests.helpers.requests import context, request


def parts_of(claims: Mapping[str, Any] | None, *paths: str) -> tuple[bytes, ...]:
    ctx = context()
    ctx.claims = claims
    assert Keyed(device=False, claims=paths)(request(), ctx) is None
    return ctx.key_parts


def test_claims_of_every_kind_are_told_apart() -> None:
    values: list[Mapping[str, Any] | None] = [
        {"a": "1"}, {"a": 1}, {"a": 1.5}, {"a": True}, {"a": None}, {"a": ["1"]}, {"a": {"b": 1}}, {"a": ""},
        {},
    ]  # fmt: skip
    assert len({parts_of(value, "a") for value in values}) == len(values)
    assert parts_of(None, "a") == parts_of({}, "a"), "no token is as a token without the claim"
    assert parts_of({"a": {"x": 1, "y": 2}}, "a") == parts_of({"a": {"y": 2, "x": 1}}, "a")


@pytest.mark.parametrize(
    ("claims", "path", "like"),
    [
        pytest.param(
            {"realm": {"tier": "gold"}}, "realm.tier", {"realm.tier": "gold"}, id="dots step inside"
        ),
        pytest.param({"a.b": 1, "a": {"b": 2}}, "a.b", {"a.b": 1}, id="the very name comes first"),
        pytest.param({"a": "text"}, "a.b", {}, id="nothing is inside a text"),
    ],
)
def test_a_claim_is_found_by_its_path(claims: dict[str, Any], path: str, like: dict[str, Any]) -> None:
    assert parts_of(claims, path) == parts_of(like, path)


def test_no_claim_forges_another_one() -> None:
    assert parts_of({"a": "x", "b": "y"}, "a", "b") != parts_of({"a": 'x"|b="y'}, "a", "b")
    assert parts_of({"a=1": 1}, "a=1") != parts_of({"a": 1}, "a")


def test_the_device_class_is_in_the_key_and_told_to_the_origin() -> None:
    policy = Keyed(device=True, claims=())
    seen: set[tuple[bytes, ...]] = set()
    for agent in ("x Mobi", "iPad", "x"):
        ctx = context()
        policy(request("/a", {"User-Agent": agent}), ctx)
        (edit,) = ctx.to_origin
        assert (edit.op, edit.name) == (Op.SET, b"X-Device-Class")
        assert ctx.key_parts == (b"device:" + edit.value,)
        seen.add(ctx.key_parts)
    assert len(seen) == 3
    assert policy.asserted == (b"x-device-class",), "a client's own is not passed on"
    assert policy.repeatable
    assert not Keyed(device=True, claims=["sub"]).repeatable


def test_explain_says_what_was_added() -> None:
    ctx = context()
    ctx.notes = []
    Keyed(device=True, claims=["sub"])(request(), ctx)
    assert [note.why for note in ctx.notes] == ["device desktop", "claim sub is absent"]
