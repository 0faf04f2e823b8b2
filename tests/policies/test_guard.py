"""When, shadow and on_error: around any policy, nothing around one that has none."""

from __future__ import annotations

from typing import Any

import pytest

from edgeproxy.context import Context, Edit, Op, Place, Verdict
from edgeproxy.http.message import Request, Response
from edgeproxy.http.replies import problem
from edgeproxy.policies.condition import condition
from edgeproxy.policies.guard import Guarded
from tests.helpers.requests import context, request


class Busy:
    """Touches everything, then lets pass, refuses or breaks."""

    name = "busy"
    fails_open = True
    repeatable = True
    asserted = (b"x-user",)
    hidden_query = (b"token",)

    def __init__(self, does: str = "allow") -> None:
        self.does = does
        self.asked = 0

    def __call__(self, request: Request, ctx: Context, /) -> Response | None:
        self.asked += 1
        ctx.place = Place(country="DE")
        ctx.claims = {"sub": "1"}
        ctx.variants["x"] = "y"
        ctx.key_parts += (b"busy",)
        ctx.to_origin.append(Edit(Op.SET, b"X-User", b"1"))
        ctx.to_client.append(Edit(Op.SET, b"X-User", b"1"))
        ctx.origin_named = "other"
        ctx.rewritten = request
        ctx.note(self.name, Verdict.ALLOW, "was asked")
        if self.does == "break":
            raise RuntimeError
        return problem(request, ctx, 403, "too-busy", "No.") if self.does == "refuse" else None


class Counted:
    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str]] = []

    def __call__(self, *decision: str) -> None:
        self.seen.append(decision)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("does", "decision", "reason"),
    [
        ("allow", "shadow-allow", "-"),
        ("refuse", "shadow-refuse", "too-busy"),
        ("break", "shadow-error", "RuntimeError"),
    ],
)
def test_a_shadow_decides_counts_logs_and_leaves_no_trace(does: str, decision: str, reason: str) -> None:
    count = Counted()
    inner = Busy(does)
    policy = Guarded(inner, None, count, mode="shadow")
    ctx = context()
    assert policy(request(), ctx) is None
    assert inner.asked == 1
    assert count.seen == [("busy", decision, reason)]
    assert ctx.shadow == (() if does == "allow" else (f"busy={reason}",))
    assert (ctx.key_parts, ctx.to_origin, ctx.to_client, ctx.variants) == ((), [], [], {})
    assert (ctx.reason, ctx.origin_named, ctx.rewritten) == ("", "", None)
    assert ctx.place is not None
    assert ctx.claims == {"sub": "1"}, "what it found out stays known"
    assert policy.asserted == (b"x-user",), "clients still cannot send what it asserts"
    assert policy.hidden_query == (b"token",)
    assert not policy.repeatable, "it must be counted every time"


def test_a_shadow_keeps_what_others_did_before() -> None:
    ctx = context()
    ctx.key_parts = (b"first",)
    ctx.variants = {"a": "b"}
    ctx.to_origin.append(Edit(Op.SET, b"A", b"1"))
    Guarded(Busy("refuse"), None, Counted(), mode="shadow")(request(), ctx)
    assert (ctx.key_parts, ctx.variants, len(ctx.to_origin)) == ((b"first",), {"a": "b"}, 1)


def test_while_explaining_a_shadow_is_told_and_not_counted() -> None:
    count = Counted()
    ctx = context()
    ctx.notes = []
    assert Guarded(Busy("refuse"), None, count, mode="shadow")(request(), ctx) is None
    assert count.seen == []
    assert ctx.shadow == ()
    assert [(note.why, note.shadow) for note in ctx.notes] == [
        ("was asked", True),
        ("would refuse (too-busy), but is only a shadow", True),
    ]


@pytest.mark.parametrize(("method", "asked"), [("POST", 1), ("GET", 0)])
def test_a_policy_is_asked_only_when_its_condition_holds(method: str, asked: int) -> None:
    inner = Busy("refuse")
    policy = Guarded(inner, condition("method == POST", {}), Counted())
    ctx = context()
    answer = policy(request(method=method), ctx)
    assert (inner.asked, answer is not None) == (asked, bool(asked))


def test_a_condition_that_does_not_hold_is_told_with_the_values_it_read() -> None:
    ctx = context()
    ctx.notes = []
    Guarded(Busy(), condition("method == POST or header:X", {}), Counted())(request(), ctx)
    (note,) = ctx.notes
    assert (note.verdict, note.rule) == (Verdict.SKIP, "method == POST or header:X")
    assert note.values == (("method", "GET"), ("header:X", "-"))


@pytest.mark.parametrize(
    ("on_error", "fails_open"), [(None, True), ("allow", True), ("deny", False)]
)  # fmt: skip
def test_on_error_says_what_a_failure_means(on_error: Any, fails_open: bool) -> None:
    policy = Guarded(Busy("break"), None, Counted(), on_error=on_error)
    assert policy.fails_open is fails_open
    with pytest.raises(RuntimeError):  # the pipeline acts on it
        policy(request(), context())


@pytest.mark.parametrize(
    ("when", "repeatable"),
    [
        ("header:X", True),
        ("country == DE", True),
        ("claim:sub", False),
        ("variant:a", False),
    ],
)
def test_what_another_policy_may_change_is_looked_at_every_time(when: str, repeatable: bool) -> None:
    assert Guarded(Busy(), condition(when, {}), Counted()).repeatable is repeatable
