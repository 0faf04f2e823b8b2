"""Faults on purpose: who is refused, who waits, and that nothing happens while explaining."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import ValidationError

from edgeproxy.context import Late
from edgeproxy.policies.fault import Draw, Fault, FaultRule
from tests.helpers.requests import context, request

DELAY = {"time": "2s", "percent": 10}
ABORT = {"status": 503, "percent": 5}


def drawing(*numbers: float) -> Draw:
    left: Iterator[float] = iter(numbers)
    return lambda: next(left)


def fault(draw: Draw, **rule: object) -> Fault:
    return Fault(FaultRule.model_validate(rule), draw)


@pytest.mark.parametrize(
    ("rule", "numbers", "status", "delay"),
    [
        ({"abort": ABORT}, [0.0499], 503, 0.0),
        ({"abort": ABORT}, [0.05], None, 0.0),
        ({"abort": {"status": 429}}, [0.999], 429, 0.0),
        ({"abort": {"percent": 0}}, [0.0], None, 0.0),
        ({"delay": DELAY}, [0.0999], None, 2.0),
        ({"delay": DELAY}, [0.1], None, 0.0),
        ({"delay": {"time": "300ms"}}, [0.999], None, 0.3),
        ({"delay": DELAY, "abort": ABORT}, [0.01], 503, 0.0),
        ({"delay": DELAY, "abort": ABORT}, [0.5, 0.01], None, 2.0),
        ({"delay": DELAY, "abort": ABORT}, [0.5, 0.5], None, 0.0),
    ],
)
def test_so_many_are_refused_and_so_many_wait(
    rule: dict[str, object], numbers: list[float], status: int | None, delay: float
) -> None:
    ctx = context()
    answer = fault(drawing(*numbers), **rule)(request(), ctx)
    assert (None if answer is None else answer.status) == status
    assert ctx.late == (Late(delay, "fault") if delay else None)
    assert ctx.reason == ("injected" if status else "")


def test_who_has_to_wait_longer_already_waits_no_longer() -> None:
    ctx = context()
    ctx.delay(5.0, "rate_limit")
    fault(drawing(0.0), delay=DELAY)(request(), ctx)
    assert ctx.late == Late(5.0, "rate_limit")


def test_an_explanation_is_neither_late_nor_refused() -> None:
    ctx = context()
    ctx.notes = []
    assert fault(drawing(), delay=DELAY, abort=ABORT)(request(), ctx) is None
    assert [note.why for note in ctx.notes] == ["503 for 5 %, 2 s late for 10 %"]


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"delay": {}},
        {"delay": {"time": "61s"}},
        {"delay": {"time": 0}},
        {"abort": {"status": 200}},
        {"abort": {"percent": 101}},
    ],
)
def test_what_would_do_nothing_or_too_much_is_refused(rule: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        FaultRule.model_validate(rule)
