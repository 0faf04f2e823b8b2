"""`ab`: experiments. A unit (visitor, client, user) is hashed to a variant, before the cache key.

Rule 1: assignment depends on seed and unit only. The cookie holds a random unit, never a variant,
so it needs no signature: whoever forges one gets a variant that exists, and a cached answer for it.
Rule 2: every request that an experiment sees gets a key part, also those outside of it. Only
names of the configuration come into key, header or label; never what a client sent.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping

from edgeproxy.context import Context, Verdict
from edgeproxy.http.message import Request, Response
from edgeproxy.http.replies import redirect
from edgeproxy.policies.ab_rule import Experiment, VariantCookie
from edgeproxy.policies.ab_trial import Arm, Choice, Trial
from edgeproxy.policies.rewriter import Rewriter

Groups = Mapping[str, Iterable[str]]


class AbTest:
    """The policy: one or several experiments. `new_id` makes the random unit of a new visitor."""

    name = "ab"
    reasons = ("redirected",)
    fails_open = False  # without its key part an answer could reach the wrong variant

    def __init__(
        self,
        experiments: Mapping[str, Experiment],
        new_id: Callable[[], str] = lambda: secrets.token_urlsafe(16),
        groups: Groups | None = None,
    ) -> None:
        """`groups` are the words for countries that conditions may use."""
        _agree(experiments)
        self._trials = tuple([Trial(name, each, new_id, groups or {}) for name, each in experiments.items()])
        self._rewrites = [[arm.rewrite for arm in trial.arms if arm.rewrite] for trial in self._trials]
        headers = [trial.header.lower() for trial in self._trials]
        if len(set(headers)) < len(headers):
            raise ValueError("two experiments of one route tell the origin in the same header")
        more = [edit.lower for trial in self._trials for arm in trial.arms for edit in arm.edits]
        self.asserted: tuple[bytes, ...] = tuple(dict.fromkeys([*headers, *more]))
        reads = {kind for trial in self._trials for kind in trial.reads}
        self.needs_place = "country" in reads
        # facts that another policy may set anew in every request
        self.repeatable = reads.isdisjoint(("claim", "variant"))

    def __call__(self, request: Request, ctx: Context, /) -> Response | None:
        """Assigns, adds the key parts, tells the origin; a Response when a variant redirects."""
        answer = None
        for trial in self._trials:
            choice = trial.choose(request, ctx)
            arm = choice.arm
            ctx.key_parts += (arm.key_part,)
            if arm.edits:
                ctx.variants[trial.name] = arm.variant
                ctx.to_origin += arm.edits
                if arm.acts:
                    answer = self._act(trial, arm, request, ctx) or answer
            if choice.exposure is not None:
                ctx.exposures += (choice.exposure,)
            if ctx.notes is not None:
                _explain(self.name, trial, choice, ctx, answered=answer is not None)
        return answer

    def becomes(self, request: Request) -> Iterator[Request]:
        """What it makes of a request in any variants of its experiments."""
        return _become(self._rewrites, request)

    def _act(self, trial: Trial, arm: Arm, request: Request, ctx: Context) -> Response | None:
        if arm.target is not None:
            location = arm.target.location(request, "")
            if location is None:  # there already
                return None
            ctx.reason = "redirected"
            return redirect(302 if request.method in (b"GET", b"HEAD") else 307, location)
        if arm.rewrite is not None:
            rewritten = arm.rewrite(ctx.rewritten or request)
            if rewritten is not request:
                ctx.rewritten = rewritten
        if arm.origin:
            ctx.origin_named = arm.origin
        return None


def _become(rewrites: list[list[Rewriter]], request: Request) -> Iterator[Request]:
    yield request
    for later, several in enumerate(rewrites, 1):
        for rewrite in several:
            yield from _become(rewrites[later:], rewrite(request))


def _explain(policy: str, trial: Trial, choice: Choice, ctx: Context, *, answered: bool) -> None:
    rule = f"experiments.{trial.name}"
    verdict = Verdict.ANSWER if answered else Verdict.ALLOW
    ctx.note(policy, verdict, trial.why(choice), rule)


def _agree(experiments: Mapping[str, Experiment]) -> None:
    """Raises ValueError when two experiments beside each other contradict each other."""
    cookies: dict[str, VariantCookie] = {}
    acts: list[str] = []
    for name, each in experiments.items():
        draws = "cookie" in (each.by, each.fallback)
        if draws and cookies.setdefault(each.cookie.name, each.cookie) != each.cookie:
            raise ValueError(
                f"{name} describes the cookie {each.cookie.name} otherwise than an experiment beside it"
            )
        if any(variant.origin is not None or variant.host is not None for variant in each.arms.values()):
            acts.append(name)
    if len(acts) > 1:
        raise ValueError(f"{acts[0]} and {acts[1]} both choose host or origin; only one beside another can")
