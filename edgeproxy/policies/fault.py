"""`fault`: answers that come late, or not at all, for drills and tests. Limit it with `when`.

- fault: {delay: {time: 2s, percent: 10}, abort: {status: 503, percent: 1}}
  when: header:X-Drill
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Annotated

from pydantic import Field, model_validator

from edgeproxy.context import Context, Verdict
from edgeproxy.http.message import Request, Response
from edgeproxy.http.replies import problem
from edgeproxy.units import Above0, Model

Draw = Callable[[], float]
"""A number from 0 to 1, without 1."""


class LateRule(Model):
    """Requests that wait before they are answered."""

    time: Annotated[Above0, Field(le=60)]
    """For how long."""
    percent: float = Field(default=100.0, ge=0, le=100)
    """How many of all requests."""


class AbortRule(Model):
    """Requests that are refused."""

    status: int = Field(default=503, ge=400, le=599)
    """With which status."""
    percent: float = Field(default=100.0, ge=0, le=100)
    """How many of all requests."""


class FaultRule(Model):
    """Faults on purpose. Each is drawn for itself: some requests are late and refused."""

    delay: LateRule | None = None
    """Answers that come late, those of the cache too."""
    abort: AbortRule | None = None
    """Refusals; they do not wait."""

    @model_validator(mode="after")
    def _does_something(self) -> FaultRule:
        if self.delay is None and self.abort is None:
            raise ValueError("found neither delay nor abort, expected at least one: it would do nothing")
        return self


class Fault:
    """The policy. A drill that breaks must not break more than it was asked to."""

    name = "fault"
    reasons = ("injected",)
    fails_open = True

    def __init__(self, rule: FaultRule, draw: Draw = random.random) -> None:
        self._rule = rule
        self._draw = draw

    def __call__(self, request: Request, ctx: Context, /) -> Response | None:
        """A refusal for some, a delay for some."""
        if ctx.notes is not None:
            ctx.note(self.name, Verdict.ALLOW, self._why(), "fault")
            return None
        late, abort = self._rule.delay, self._rule.abort
        if abort is not None and 100 * self._draw() < abort.percent:
            ctx.reason = "injected"
            detail = "This request was refused on purpose: a drill is under way."
            return problem(request, ctx, abort.status, "injected", detail)
        if late is not None and 100 * self._draw() < late.percent:
            ctx.delay(late.time, self.name)
        return None

    def _why(self) -> str:
        late, abort = self._rule.delay, self._rule.abort
        said = [f"{abort.status} for {abort.percent:g} %"] if abort is not None else []
        said += [f"{late.time:g} s late for {late.percent:g} %"] if late is not None else []
        return ", ".join(said)
