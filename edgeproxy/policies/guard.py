"""What every policy can have beside its own settings: `when`, `mode: shadow` and `on_error`.

A policy that has none of them is asked directly; nothing stands before it.

Rule of the shadow: the policy decides, is counted and logged, and leaves no trace in request or answer.
What it found out (place, claims) stays known; what it would have told the origin, the client or the
cache key is dropped, and so is a delay. Fields that it keeps clients from sending stay kept from them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from edgeproxy.context import Context, Note, Policy, Verdict
from edgeproxy.http.message import Request, Response
from edgeproxy.policies.condition import Condition

Mode = Literal["enforce", "shadow"]
OnError = Literal["allow", "deny"]
Count = Callable[[str, str, str], None]
"""(policy, decision, reason): decision is `shadow-allow`, `shadow-refuse` or `shadow-error`."""

NEVER_OPEN = frozenset({"ab", "jwt", "api_key", "basic"})
"""Words of policies that cannot fail open: answers would reach the wrong variant, or anybody."""
_RECALLED = frozenset({"claim", "variant"})  # facts that another policy may set anew in every request


class Guarded:
    """A policy with a condition, a shadow, or another behaviour when it fails."""

    def __init__(
        self,
        policy: Policy,
        condition: Condition | None,
        count: Count,
        *,
        mode: Mode = "enforce",
        on_error: OnError | None = None,
    ) -> None:
        shadow = mode == "shadow"
        self.name = policy.name
        self.inner = policy
        self.condition = condition
        self.fails_open = policy.fails_open if on_error is None else on_error == "allow"
        self.asserted: tuple[bytes, ...] = tuple(getattr(policy, "asserted", ()))
        self.reasons: tuple[str, ...] = tuple(getattr(policy, "reasons", ()))
        self.hidden_query: tuple[bytes, ...] = tuple(getattr(policy, "hidden_query", ()))
        # whether its condition holds depends on the client
        self.becomes = None if shadow else getattr(policy, "becomes", None)
        settled = condition is None or condition.kinds.isdisjoint(_RECALLED)
        self.repeatable: bool = bool(getattr(policy, "repeatable", False)) and settled and not shadow
        self._ask = policy.__call__
        self._act = self._watch if shadow else self._ask
        self._count = count

    def __call__(self, request: Request, ctx: Context, /) -> Response | None:
        """What the policy says, if it is asked."""
        if self.condition is not None and not self.condition.holds(request, ctx):
            if ctx.notes is not None:
                text, values = self.condition.text, self.condition.values(request, ctx)
                ctx.note(self.name, Verdict.SKIP, "not asked: its condition does not hold", text, values)
            return None
        return self._act(request, ctx)

    def _watch(self, request: Request, ctx: Context) -> None:
        """Ask, count, and undo."""
        kept: Any = (
            ctx.key_parts, ctx.variants, ctx.reason, ctx.origin_named, ctx.rewritten,
            ctx.exposures, ctx.late, ctx.pause,
        )  # fmt: skip
        edits = len(ctx.to_origin), len(ctx.to_client)
        ctx.variants = dict(ctx.variants)
        notes = len(ctx.notes) if ctx.notes is not None else 0
        decision, reason = "shadow-allow", "-"
        try:
            answer = self._ask(request, ctx)
            if answer is not None:
                decision, reason = "shadow-refuse", ctx.reason or str(answer.status)
        except Exception as error:  # it must not hurt anybody; that it fails is what a shadow shows
            decision, reason = "shadow-error", type(error).__name__
        (
            ctx.key_parts, ctx.variants, ctx.reason, ctx.origin_named, ctx.rewritten,
            ctx.exposures, ctx.late, ctx.pause,
        ) = kept  # fmt: skip
        del ctx.to_origin[edits[0] :], ctx.to_client[edits[1] :]
        if ctx.notes is not None:
            self._tell(ctx, notes, decision, reason)
            return
        self._count(self.name, decision, reason)
        if decision != "shadow-allow":
            ctx.shadow += (f"{self.name}={reason}",)

    def _tell(self, ctx: Context, first: int, decision: str, reason: str) -> None:
        notes = ctx.notes or []
        notes[first:] = [
            Note(each.policy, each.verdict, each.why, each.rule, each.values, shadow=True)
            for each in notes[first:]
        ]
        if decision != "shadow-allow":
            said = "would fail" if decision == "shadow-error" else "would refuse"
            why = f"{said} ({reason}), but is only a shadow"
            notes.append(Note(self.name, Verdict.ALLOW, why, shadow=True))
