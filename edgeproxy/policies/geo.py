"""`geo`: where a client is, who may come, who is sent elsewhere, and what the origin learns of it.

Rule: whatever the origin is told becomes part of the cache key, so nobody gets another place's answer.
What a rule says about a place is worked out once per country (or what else it tells), not per request.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import attrgetter

from edgeproxy.context import NOWHERE, Context, Edit, Op, Place, Verdict
from edgeproxy.countries import PlaceSet
from edgeproxy.http.message import Request, Response
from edgeproxy.http.replies import problem, redirect
from edgeproxy.policies.geo_facts import ASSERTED, field_value, fields_of
from edgeproxy.policies.geo_locate import Database, Locator, shown
from edgeproxy.policies.geo_rule import GeoRule, Override
from edgeproxy.policies.redirect_target import Target
from edgeproxy.policies.rewriter import Rewriter
from edgeproxy.record import record

_MAX_OUTCOMES = 4096  # per policy: different facts that are remembered


@record
class _Outcome:
    """What the rule says about places that do not differ in what it looks at or tells."""

    refused: str  # why, or empty
    target: Target | None
    rewriter: Rewriter | None
    edits: tuple[Edit, ...]
    key_parts: tuple[bytes, ...]


class Geo:
    """The policy. Looks the client up, then refuses, redirects, or carries on."""

    name = "geo"
    reasons = ("geo-denied", "redirected")
    repeatable = True

    def __init__(
        self,
        rule: GeoRule,
        groups: Mapping[str, Iterable[str]],
        database: Database,
        override: Override | None = None,
    ) -> None:
        """`groups` are those of the `geo:` section. Raises ValueError for an unknown place."""
        denies = rule.unknown == "deny" or rule.private == "deny"
        self.fails_open = not (rule.deny or rule.allow or denies)
        self._rule = rule
        self._locator = Locator(database, override)
        self._allow = PlaceSet(rule.allow, groups)
        self._deny = PlaceSet(rule.deny, groups)
        self._targets = [(PlaceSet([name], groups), Target(each)) for name, each in rule.redirect.items()]
        self._rewrites = [
            (PlaceSet([name], groups), Rewriter(path, None)) for name, path in rule.rewrite.items()
        ]
        self._sets = [(name, PlaceSet([name], groups), _edits(fields)) for name, fields in rule.set.items()]
        self._fields = fields_of(rule.told, groups)
        own = [field.lower().encode() for fields in rule.set.values() for field in fields]
        self.asserted: tuple[bytes, ...] = (*ASSERTED, *dict.fromkeys(own), *self._locator.asserted)
        sets = [self._allow, self._deny, *[each[0] for each in (*self._targets, *self._rewrites)]]
        looked_at = [*sets, *[each[1] for each in self._sets], *self._fields]
        names = [name for each in looked_at for name in each.attributes]
        if rule.private is not None:
            names.append("private")
        self._facts = attrgetter(*dict.fromkeys(["country", "continent", *names]))
        self._outcomes: dict[object, _Outcome] = {}

    def __call__(self, request: Request, ctx: Context, /) -> Response | None:
        """A refusal, a redirect, or None with `ctx.place` set and the origin's fields added."""
        place = ctx.place = self._locator.place(request, ctx)
        outcome = self._outcomes.get(self._facts(place))
        if outcome is None:
            outcome = self._work_out(place)
        if outcome.refused:
            return self._refuse(request, ctx, outcome)
        if outcome.target is not None:
            location = outcome.target.location(request, place.country)
            if location is not None:
                return self._redirect(request, ctx, location)
        if outcome.rewriter is not None:
            rewritten = outcome.rewriter(ctx.rewritten or request)
            if rewritten is not request:
                ctx.rewritten = rewritten
        ctx.to_origin += outcome.edits
        ctx.key_parts += outcome.key_parts
        if ctx.notes is not None:
            ctx.note(self.name, Verdict.ALLOW, f"{shown(place)} may come{_told(outcome)}")
        return None

    def becomes(self, request: Request) -> list[Request]:
        """What it makes of a request from any place."""
        return [rewriter(request) for _, rewriter in self._rewrites]

    def _refuse(self, request: Request, ctx: Context, outcome: _Outcome) -> Response:
        if ctx.notes is not None:
            ctx.note(self.name, Verdict.REFUSE, outcome.refused)
        detail = "This is not available where you are."
        return problem(request, ctx, self._rule.status, "geo-denied", detail)

    def _redirect(self, request: Request, ctx: Context, location: bytes) -> Response:
        if ctx.notes is not None:
            where = shown(ctx.place or NOWHERE)
            ctx.note(self.name, Verdict.ANSWER, f"{where} is redirected to {location.decode('ascii')}")
        ctx.reason = "redirected"
        return redirect(302 if request.method in (b"GET", b"HEAD") else 307, location)

    def _work_out(self, place: Place) -> _Outcome:
        if len(self._outcomes) >= _MAX_OUTCOMES:
            self._outcomes.clear()
        target = next((target for places, target in self._targets if place in places), None)
        rewriter = next((rewriter for places, rewriter in self._rewrites if place in places), None)
        outcome = _Outcome(self._refusal(place), target, rewriter, *self._assertions(place))
        self._outcomes[self._facts(place)] = outcome
        return outcome

    def _refusal(self, place: Place) -> str:
        if place in self._deny:
            return f"{shown(place)} is in deny: {', '.join(self._rule.deny)}"
        if place in self._allow:
            return ""
        if not place.country:
            return self._refusal_of_nowhere(place)
        if self._allow:
            return f"{shown(place)} is not in allow: {', '.join(self._rule.allow)}"
        return ""

    def _refusal_of_nowhere(self, place: Place) -> str:
        if place.private and self._rule.private is not None:
            return "a private network, and private: deny" if self._rule.private == "deny" else ""
        return "country unknown, and unknown: deny" if self._rule.unknown == "deny" else ""

    def _assertions(self, place: Place) -> tuple[tuple[Edit, ...], tuple[bytes, ...]]:
        edits: list[Edit] = []
        key_parts: list[bytes] = []
        for field in self._fields:
            value = field_value(field.value(place))
            key_parts.append(field.word + b":" + value)
            if value:
                edits.append(Edit(Op.SET, field.name, value))
        if self._sets:
            fitting = [(name, added) for name, places, added in self._sets if place in places]
            key_parts.append(b"geo-set:" + ",".join([name for name, _ in fitting]).encode())
            edits += {edit.lower: edit for _, added in fitting for edit in added}.values()
        return tuple(edits), tuple(key_parts)


def _edits(fields: Mapping[str, str]) -> list[Edit]:
    return [Edit(Op.SET, name.encode(), value.encode()) for name, value in fields.items()]


def _told(outcome: _Outcome) -> str:
    said = [f"{edit.name.decode()}: {edit.value.decode()}" for edit in outcome.edits]
    return f"; the origin is told {', '.join(said)}" if said else ""
