"""A repeated request is treated as the first one was, for as long as what it rested on holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeproxy.context import Context, Edit, Op, Place, Policy
from edgeproxy.http.message import Request, Response
from edgeproxy.http.wire import response
from edgeproxy.pipeline import RECORD_EVERY, Edge, Visit, decide
from edgeproxy.routes import Route
from edgeproxy.snapshot import Snapshot
from tests.helpers.requests import NOW, request


class Mark:
    """Leaves its number wherever a policy may leave something; counts how often it was asked."""

    fails_open: bool = False

    def __init__(self, number: int, *, repeatable: bool, does: Callable[[Context], Response | None]) -> None:
        self.name = f"mark{number}"
        self.repeatable = repeatable
        self.asked = 0
        self._number = number
        self._does = does

    def __call__(self, request: Request, ctx: Context, /) -> Response | None:
        self.asked += 1
        word = b"%d" % self._number
        ctx.key_parts += (word,)
        ctx.to_origin.append(Edit(Op.SET, b"O", word))
        ctx.to_client.append(Edit(Op.ADD, b"C", word))
        ctx.variants[self.name] = "v"
        ctx.place = Place(country=self.name)
        ctx.claims = {**(ctx.claims or {}), "n": self._number}
        ctx.origin_named = self.name
        ctx.rewritten = request if ctx.rewritten is None else ctx.rewritten
        return self._does(ctx)


def carry_on(ctx: Context) -> Response | None:
    return None


def visit(*policies: Mark) -> Visit:
    route = Route(
        name="r",
        policies=cast(tuple[Policy, ...], policies),
        steps=tuple([policy.__call__ for policy in policies]),
        rule=None,
        choose_origin=lambda _: "o",
        origin="o",
        intended_origin=lambda _: "o",
        origin_varies=False,
        body_size=0,
        forwarding=cast(Any, None),
        hidden_query=(),
        meters=cast(Any, None),
    )

    class Routes:
        def find(self, _: Request) -> Route:
            return route

    edge = Edge(
        ident=b"e",
        signature=(),
        signature_lines=b"",
        routes=cast(Any, Routes()),
        store=cast(Any, None),
        client_address=lambda peer, _: peer,
        says_https=lambda *_: False,
        on_policy_error=lambda *_: None,
    )
    return Visit(edge, request())


def run(one: Visit, wall: float = NOW) -> tuple[object, ...]:
    ctx = Context(NOW, wall, one.client, "r", "id")
    answer = decide(one, ctx)
    return (
        type(answer), ctx.key_parts, ctx.to_origin, ctx.to_client, ctx.variants, ctx.place,
        dict(ctx.claims or {}), ctx.origin, ctx.rewritten,
    )  # fmt: skip


@given(st.lists(st.booleans(), min_size=1, max_size=6), st.integers(2, 6))
def test_what_it_leaves_behind_is_the_same_every_time(repeatable: list[bool], times: int) -> None:
    marks = [Mark(number, repeatable=each, does=carry_on) for number, each in enumerate(repeatable)]
    one = visit(*marks)
    first = run(one)
    for _ in range(times):
        assert run(one) == first
    for mark, each in zip(marks, repeatable, strict=True):
        assert mark.asked == (2 if each else times + 1)


def test_nothing_done_to_one_request_reaches_the_next() -> None:
    one = visit(Mark(1, repeatable=True, does=carry_on))
    for _ in range(3):
        ctx = Context(NOW, NOW, one.client, "r", "id")
        decide(one, ctx)
        assert len(ctx.to_client) == len(ctx.to_origin) == 1
        assert ctx.key_parts == (b"1", b"origin:mark1")
        ctx.to_client.clear()
        ctx.variants.clear()


def test_a_snapshot_that_changed_asks_again() -> None:
    snapshot: Snapshot[object] = Snapshot(object())

    def reads(ctx: Context) -> Response | None:
        if ctx.recorder is not None:
            ctx.recorder.reads(snapshot, snapshot.value)
        return None

    mark = Mark(1, repeatable=True, does=reads)
    one = visit(mark)
    for _ in range(5):
        run(one)
    assert mark.asked == 2
    snapshot.value = object()
    run(one)
    assert mark.asked == 3


@pytest.mark.parametrize(("wall", "asked"), [(NOW + 9, 2), (NOW + 10, 3), (NOW - 1, 3)])
def test_outside_of_its_window_it_is_asked_again(wall: float, asked: int) -> None:
    def within(ctx: Context) -> Response | None:
        if ctx.recorder is not None:
            ctx.recorder.within(NOW, NOW + 10)
        return None

    mark = Mark(1, repeatable=True, does=within)
    one = visit(mark)
    for _ in range(3):
        run(one)
    run(one, wall)
    assert mark.asked == asked


@pytest.mark.parametrize("how", ["answers", "spoils", "raises", "raises and fails open"])
def test_what_may_be_different_next_time_is_asked_every_time(how: str) -> None:
    def does(ctx: Context) -> Response | None:
        if how == "answers":
            return response(403, [])
        if how.startswith("raises"):
            raise ValueError("broken")
        if ctx.recorder is not None:
            ctx.recorder.spoil()
        return None

    mark = Mark(1, repeatable=True, does=does)
    mark.fails_open = how.endswith("open")
    one = visit(mark)
    for _ in range(RECORD_EVERY * 2):
        run(one)
    assert mark.asked == RECORD_EVERY * 2


def test_while_explaining_every_policy_is_asked() -> None:
    mark = Mark(1, repeatable=True, does=carry_on)
    one = visit(mark)
    for _ in range(3):
        run(one)
    ctx = Context(NOW, NOW, one.client, "r", "id")
    ctx.notes = []
    decide(one, ctx)
    assert mark.asked == 3
