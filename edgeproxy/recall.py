"""What the policies of a route did to a request, so that its repetition need not ask them again.

Only policies that say `repeatable` are left out: given the same request from the same client they do the
same, as long as the snapshots they read and the time they named hold. A limiter is asked every time.
A policy that answers, or draws by chance, spoils the recollection of its request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edgeproxy.context import Context, Edit, Place, Policy
from edgeproxy.http.message import Request, Response
from edgeproxy.record import record

Step = Callable[[Request, Context], Response | None]


@record
class Effects:
    """What repeatable policies in a row added to a context."""

    place: Place | None
    claims: Mapping[str, Any] | None
    variants: dict[str, str]
    key_parts: tuple[bytes, ...]
    to_origin: tuple[Edit, ...]
    to_client: tuple[Edit, ...]
    origin_named: str
    rewritten: Request | None
    keeper: tuple[str, Mapping[str, Edit]] | None

    def apply(self, _request: Request, ctx: Context) -> None:
        """The step that does it again, in the place of those policies."""
        if self.place is not None:
            ctx.place = self.place
        if self.claims is not None:
            ctx.claims = self.claims
        if self.variants:
            ctx.variants = self.variants.copy()  # all there are by then; a later policy may add
        if self.key_parts:
            ctx.key_parts += self.key_parts
        if self.to_origin:
            ctx.to_origin += self.to_origin
        if self.to_client:
            ctx.to_client += self.to_client
        if self.origin_named:
            ctx.origin_named = self.origin_named
        if self.rewritten is not None:
            ctx.rewritten = self.rewritten
        if self.keeper is not None:
            ctx.keeper = self.keeper


@record
class Recollection:
    """What to do in the place of all policies of the route, and when that is good."""

    guards: tuple[tuple[Any, object], ...]  # (snapshot, the value it had)
    begins: float  # wall clock
    ends: float
    steps: tuple[tuple[Step, int], ...]  # effects of some, or a policy to be asked; its position

    def holds(self, wall: float) -> bool:
        """May it be used now?"""
        for snapshot, value in self.guards:
            if snapshot.value is not value:
                return False
        return self.begins <= wall < self.ends


class Recorder:
    """Watches one run of the policies; a context carries it while it does."""

    __slots__ = ("_before", "_steps", "begins", "ends", "guards", "spoilt")

    def __init__(self) -> None:
        self.guards: list[tuple[Any, object]] = []
        self.begins, self.ends = float("-inf"), float("inf")
        self.spoilt = False
        self._steps: list[tuple[Step, int]] = []
        self._before: tuple[int, int, int] | None = None

    # said by policies

    def reads(self, snapshot: Any, value: object) -> None:
        """What was done depends on this snapshot having this value."""
        self.guards.append((snapshot, value))

    def within(self, begins: float, ends: float) -> None:
        """It is good in this window of the wall clock."""
        self.begins, self.ends = max(self.begins, begins), min(self.ends, ends)

    def spoil(self) -> None:
        """It may be different next time."""
        self.spoilt = True

    # said by the pipeline

    def before(self, policy: Policy, step: Step, position: int, ctx: Context) -> None:
        """A policy is about to be asked."""
        if not getattr(policy, "repeatable", False):
            self._close(ctx)
            self._steps.append((step, position))
            self._before = None
        elif self._before is None:
            self._before = (len(ctx.key_parts), len(ctx.to_origin), len(ctx.to_client))

    def finish(self, ctx: Context) -> Recollection | None:
        """All of them let the request pass; None when that cannot be relied on."""
        self._close(ctx)
        if self.spoilt:
            return None
        return Recollection(tuple(self.guards), self.begins, self.ends, tuple(self._steps))

    def _close(self, ctx: Context) -> None:
        if self._before is None:
            return
        key_parts, to_origin, to_client = self._before
        effects = Effects(
            ctx.place,
            ctx.claims,
            dict(ctx.variants),
            ctx.key_parts[key_parts:],
            tuple(ctx.to_origin[to_origin:]),
            tuple(ctx.to_client[to_client:]),
            ctx.origin_named,
            ctx.rewritten,
            ctx.keeper,
        )
        self._steps.append((effects.apply, -1))
        self._before = None
