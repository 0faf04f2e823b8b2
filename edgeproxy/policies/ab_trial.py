"""One experiment made ready: for each request an arm, and whether its unit was exposed to it.

The order of the questions is GrowthBook's: overrides first, then whether it runs, the unit, what the unit
keeps, who takes part, the draw, and last whether everybody is given one variant.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from edgeproxy.context import Context, Edit, Exposure, Op
from edgeproxy.http.message import Request
from edgeproxy.policies.ab_acts import Variant
from edgeproxy.policies.ab_draw import drawer, filter_by_another, gate
from edgeproxy.policies.ab_hash import as_index, query_value
from edgeproxy.policies.ab_rule import NAME, Experiment, VariantCookie
from edgeproxy.policies.ab_sticky import NOTHING, StickyVariants, tag
from edgeproxy.policies.condition import condition
from edgeproxy.policies.identify import Source, cookie_reader, source
from edgeproxy.policies.networks import NetworkSet
from edgeproxy.policies.redirect_target import Target
from edgeproxy.policies.rewriter import Rewriter
from edgeproxy.record import record

_LONGEST_UNIT = 256  # longer ones are as absent: hashing is paid per character
_UNIT = re.compile(r"[A-Za-z0-9_-]{22}")  # 128 random bits in URL-safe base64
_SEEN = 32_768  # units per experiment and worker that are known to be counted


@record
class Arm:
    """What one variant does to a request. The arm of those outside has no variant and no edit."""

    variant: str
    key_part: bytes
    edits: tuple[Edit, ...] = ()
    acts: bool = False  # more than fields
    target: Target | None = None
    rewrite: Rewriter | None = None
    origin: str = ""


@record
class Choice:
    """The arm of a request, and how it came to that: a word of `_WHY`."""

    arm: Arm
    how: str
    exposure: Exposure | None = None


_WHY = {
    "override": "{variant}, forced by the query parameter {parameter}",
    "forced": "{variant}, forced: its unit is listed for it",
    "force": "{variant}, which everybody gets who takes part",
    "sticky": "{variant}, kept from an earlier visit",
    "drawn": "{variant}, drawn by {by}",
    "no unit": "takes no part: no unit by {by}",
    "off": "takes no part: it is not running",
    "testing": "takes no part: only testers do",
    "blocked": "takes no part: it had a variant of an earlier version",
    "when": "takes no part: its condition does not hold",
    "outside": "takes no part: outside coverage, ranges, namespace, filters or holdout",
}


class VisitorCookie:
    """Reads the random unit from a request, or makes one and the Set-Cookie for it."""

    __slots__ = ("_new_id", "_plain", "_prefix", "_read", "_secure", "_secured")

    def __init__(self, config: VariantCookie, new_id: Callable[[], str]) -> None:
        age = f"; Max-Age={int(config.max_age)}" if config.max_age else ""
        self._read = cookie_reader(config.name)
        self._new_id = new_id
        self._prefix = config.name.encode() + b"="
        self._secure = config.secure
        self._plain = f"; Path=/{age}; HttpOnly; SameSite={config.same_site.capitalize()}".encode()
        self._secured = self._plain + b"; Secure"

    def known(self, request: Request, ctx: Context) -> str | None:
        """The unit that the request brings, or that an earlier experiment of this request has drawn."""
        unit = self._read(request)
        if unit is not None and _UNIT.fullmatch(unit):
            return unit
        for edit in ctx.to_client:
            if edit.name == b"Set-Cookie" and edit.value.startswith(self._prefix):
                return edit.value[len(self._prefix) :].partition(b";")[0].decode()
        return None

    def draw(self, request: Request, ctx: Context) -> str:
        """A new unit, which the client is told to keep."""
        unit = self._new_id()
        secure = request.secure if self._secure == "auto" else self._secure
        value = self._prefix + unit.encode() + (self._secured if secure else self._plain)
        ctx.to_client.append(Edit(Op.ADD, b"Set-Cookie", value))
        if ctx.recorder is not None:
            ctx.recorder.spoil()
        return unit


class Trial:
    """One experiment, for all requests."""

    def __init__(
        self, name: str, config: Experiment, new_id: Callable[[], str], groups: Mapping[str, Iterable[str]]
    ) -> None:
        if not NAME.fullmatch(name):
            raise ValueError(f"the experiment {name!r} needs another name: letters, digits and ._- only")
        self.name, self.config, self.by = name, config, config.by
        self.header = (config.header or f"X-Variant-{name}").encode()
        self.parameter = config.override_parameter or f"ab_{name}"
        self.arms = [self._arm(variant, what) for variant, what in config.arms.items()]
        self.by_name = {arm.variant: arm for arm in self.arms}
        self.outside = Arm("", b"variant:%b=" % name.encode())
        self.seen: set[str] = set()
        self._needle = None if config.override is False else self.parameter.encode() + b"="
        self._networks = NetworkSet(config.override) if isinstance(config.override, tuple) else None
        self._cookie = (
            VisitorCookie(config.cookie, new_id) if "cookie" in (config.by, config.fallback) else None
        )
        self._read: Source = self._reader(config.by)
        self._fallback = None if config.fallback is None else self._reader(config.fallback)
        self._draw, self._gate = drawer(name, config), gate(config)
        self._filters = [
            (source(one.by), filter_by_another(one))
            for one in config.filters
            if one.by not in (None, config.by)
        ]
        self._when = condition(config.when, groups) if config.when else None
        self.reads = frozenset[str]() if self._when is None else self._when.kinds
        self._sticky = StickyVariants(name, config) if config.sticky is not None else None
        self._forced = {
            unit: self.by_name[variant] for variant, units in config.forced.items() for unit in units
        }
        self._start = float("-inf") if config.start is None else config.start.timestamp()
        self._stop = float("inf") if config.stop is None else config.stop.timestamp()
        self._timed = config.start is not None or config.stop is not None
        self._drawn = [Choice(arm, "drawn") for arm in self.arms]
        self._out = Choice(self.outside, "outside")
        simple = (self._gate, self._when, self._sticky, self._fallback, config.force)
        self._simple = config.status == "running" and not (
            self._timed or self._filters or self._forced or any(each is not None for each in simple)
        )
        self._identity = f"{name}\0{config.seed or name}\0{config.by}"

    def _reader(self, by: str) -> Source:
        return source(by) if by != "cookie" or self._cookie is None else self._cookie.known

    def _arm(self, variant: str, what: Variant) -> Arm:
        edits = [Edit(Op.SET, field.encode(), value.encode()) for field, value in what.headers.items()]
        edits.append(Edit(Op.SET, self.header, variant.encode()))
        rewrites = what.path is not None or what.host is not None
        return Arm(
            variant,
            f"variant:{self.name}={variant}".encode(),
            tuple(edits),
            rewrites or what.origin is not None or what.redirect is not None,
            None if what.redirect is None else Target(what.redirect),
            Rewriter(what.path, what.host) if rewrites else None,
            what.origin or "",
        )

    def choose(self, request: Request, ctx: Context) -> Choice:
        """The arm of a request. `ctx` gets the cookies that keep it."""
        if self._simple and (self._needle is None or self._needle not in request.query):
            unit = self._read(request, ctx)
            if unit in self.seen:  # only the draw is left of all the questions
                index = self._draw(unit)
                return self._drawn[index] if index >= 0 else self._out
        if self.config.status == "off":
            return Choice(self.outside, "off")
        if self._needle is not None and self._needle in request.query:
            asked = self._asked_for(request, ctx)
            if asked is not None:
                return Choice(asked, "override")
        unit, by = self._known(request, ctx)
        if unit is not None and unit in self._forced:
            return Choice(self._forced[unit], "forced")
        if not self._runs(ctx):
            return Choice(self.outside, "off")
        return self._assigned(request, ctx, unit, by)

    def _asked_for(self, request: Request, ctx: Context) -> Arm | None:
        """The arm that a tester asks for in the query, if it exists and the client may."""
        if self._networks is not None and ctx.client not in self._networks:
            return None
        value = query_value(self.parameter, request.query.decode("latin-1"))
        if value is None:
            return None
        index = as_index(value, len(self.arms))
        return self.by_name.get(value) or (None if index is None else self.arms[index])

    def _known(self, request: Request, ctx: Context) -> tuple[str | None, str]:
        """The unit that the request brings, and by what."""
        unit, by = self._read(request, ctx), self.by
        if unit is None and self._fallback is not None:
            unit, by = self._fallback(request, ctx), self.config.fallback or ""
        return (unit, by) if unit is None or len(unit) <= _LONGEST_UNIT else (None, "")

    def _runs(self, ctx: Context) -> bool:
        if self._timed:
            if ctx.recorder is not None:
                edges = [edge for edge in (self._start, self._stop) if edge > ctx.wall]
                ctx.recorder.within(float("-inf"), min(edges, default=float("inf")))
            if not self._start <= ctx.wall < self._stop:
                return False
        return self.config.status != "paused"

    def _assigned(self, request: Request, ctx: Context, unit: str | None, by: str) -> Choice:
        tags, kept = (), NOTHING
        if unit is not None and self._sticky is not None:
            tags = self._tags(request, ctx, unit, by)
            kept = self._sticky.find(request, tags)
        arm = self.by_name.get(kept.variant)
        if arm is None:
            refused = self._kept_out(request, ctx, unit)
            if refused:
                return Choice(self.outside, refused)
        if unit is None:
            if self._cookie is None or by == "":
                return Choice(self.outside, "no unit")
            unit, by = self._cookie.draw(request, ctx), "cookie"
            tags = (tag(by, unit),) if self._sticky is not None else ()
            if self._gate is not None and not self._gate(unit):
                return Choice(self.outside, "outside")
        how = "drawn" if arm is None else "sticky"
        if arm is None:
            index = self._draw(unit)
            arm = self.outside if index < 0 else self.arms[index]
        return self._settled(request, ctx, arm, how, unit, tags, kept.blocked, own=kept.own)

    def _settled(
        self, request: Request, ctx: Context, arm: Arm, how: str, unit: str, tags: tuple[str, ...],
        blocked: bool, *, own: bool,
    ) -> Choice:  # fmt: skip
        if blocked:
            return Choice(self.outside, "blocked")
        if arm is self.outside:
            return Choice(arm, "outside")
        if self.config.force is not None:
            return Choice(self.by_name[self.config.force], "force")
        if self.config.status == "testing":
            return Choice(self.outside, "testing")
        if self._sticky is not None and not own:
            self._sticky.keep(request, ctx, tags[0], arm.variant)
        if unit in self.seen:
            return Choice(arm, how)
        return Choice(arm, how, Exposure(self.name, arm.variant, self._identity, unit, self._count))

    def _tags(self, request: Request, ctx: Context, unit: str, by: str) -> tuple[str, ...]:
        """Of the unit, and of the one that it had before it logged in."""
        tags = (tag(by, unit),)
        if self._fallback is not None and by == self.by:
            before = self._fallback(request, ctx)
            if before is not None and len(before) <= _LONGEST_UNIT:
                tags += (tag(self.config.fallback or "", before),)
        return tags

    def _kept_out(self, request: Request, ctx: Context, unit: str | None) -> str:
        """Why this request takes no part, or empty."""
        if unit is not None and self._gate is not None and not self._gate(unit):
            return "outside"
        for read, passes in self._filters:
            other = read(request, ctx)
            if other is None or len(other) > _LONGEST_UNIT or not passes(other):
                return "outside"
        return "when" if self._when is not None and not self._when.holds(request, ctx) else ""

    def _count(self, unit: str) -> None:
        """The unit was exposed: it need not be looked at again."""
        if len(self.seen) >= _SEEN:
            self.seen.clear()
        self.seen.add(unit)

    def why(self, choice: Choice) -> str:
        """A sentence for `explain`."""
        said = _WHY[choice.how].format(variant=choice.arm.variant, parameter=self.parameter, by=self.by)
        return f"{self.name}: {said}"
