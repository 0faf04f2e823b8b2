"""What became of experiments: requests, errors and latency per variant, and whose unit was exposed to what.

Rule 1: a unit is counted once per experiment, when an answer for its variant goes out, hits included. Not
counted are robots, forced variants, and requests that another policy refused.
Rule 2: every exposure also adds to what the weights of that moment would have given each variant, so that a
change of weights is no mismatch.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Protocol

from edgeproxy.context import Context, Exposure
from edgeproxy.http.message import Request
from edgeproxy.observe.cells import Cells, Slot, encode_series
from edgeproxy.observe.outcome import CODE_OF, CODES, DURATION_BOUNDS
from edgeproxy.observe.ratio import Ratio, ratio
from edgeproxy.observe.seen import SeenUnits

_ROBOT = re.compile(
    rb"(?<!cu)bot\b|crawl|spider|slurp|archiver|facebookexternalhit|preview|lighthouse|headless|pingdom|uptime|monitor",
    re.IGNORECASE,
)
_COUNTED = frozenset({"", "ab"})  # who may have answered: the cache, an origin, or a variant's redirect
Shares = Mapping[str, Mapping[str, float]]
"""Experiment -> variant -> the share of exposures it should get."""


class Sink(Protocol):
    """Where exposures are written down."""

    def put(self, exposure: Exposure, ctx: Context) -> None: ...


class _ArmCells:
    """The cells of one variant, made when it is first needed."""

    __slots__ = ("buckets", "codes", "expected", "exposures", "seconds")

    def __init__(self, slot: Slot, experiment: str, variant: str) -> None:
        labels = {"experiment": experiment, "variant": variant}
        codes = {
            code: slot.column("edgeproxy_experiment_requests_total", **labels, code=code) for code in CODES
        }
        self.codes = tuple([codes[code] for code in CODE_OF])  # by status
        durations = slot.histogram("edgeproxy_experiment_duration_seconds", DURATION_BOUNDS, **labels)
        self.buckets, self.seconds = durations.buckets, durations.sum
        self.exposures = slot.column("edgeproxy_experiment_exposures_total", **labels)
        self.expected = slot.column("edgeproxy_experiment_expected_total", **labels)


class TrialMeters:
    """Counts for all experiments of one configuration. Only its names become labels."""

    def __init__(self, slot: Slot, shares: Shares, seen: SeenUnits, sinks: Sequence[Sink] = ()) -> None:
        self._slot, self._shares, self._seen, self._sinks = slot, shares, seen, sinks
        self._values = slot.values
        self._arms: dict[tuple[str, str], _ArmCells | None] = {
            (name, variant): None for name, variants in shares.items() for variant in variants
        }
        self._published: dict[str, float] = {}

    def record(self, request: Request, ctx: Context, status: int, seconds: float, policy: str) -> None:
        """Count an answer of a request with variants; `policy` is who gave it, if one did."""
        if policy not in _COUNTED:
            return
        values = self._values
        bucket = bisect_left(DURATION_BOUNDS, seconds)
        for drawn in ctx.variants.items():  # on every hit: one look-up, three cells
            arm = self._arms.get(drawn) or self._arm(*drawn)
            if arm is not None:
                values[arm.codes[status]] += 1.0
                values[arm.buckets[bucket]] += 1.0
                values[arm.seconds] += seconds
        if ctx.exposures and not _ROBOT.search(request.headers.get(b"user-agent") or b""):
            for exposure in ctx.exposures:
                self._expose(exposure, ctx)

    def _arm(self, name: str, variant: str) -> _ArmCells | None:
        arm = self._arms.get((name, variant))
        if arm is None and (name, variant) in self._arms:
            arm = self._arms[name, variant] = _ArmCells(self._slot, name, variant)
        return arm

    def _expose(self, exposure: Exposure, ctx: Context) -> None:
        exposure.counted(exposure.unit)
        name = f"{exposure.identity}\0{exposure.unit}".encode("utf-8", "surrogatepass")
        if exposure.experiment not in self._shares or not self._seen.add(name):
            return
        values = self._slot.values
        arm = self._arm(exposure.experiment, exposure.variant)
        if arm is None:
            return
        values[arm.exposures] += 1.0
        for variant, share in self._shares[exposure.experiment].items():
            wanted = self._arm(exposure.experiment, variant)
            if wanted is not None:
                values[wanted.expected] += share
        for sink in self._sinks:
            sink.put(exposure, ctx)

    def publish(self) -> None:
        """Say which experiments have a mismatch, once for all workers. Called once a second."""
        if self._slot.number:
            return
        for name, variants in self._shares.items():
            found = ratio_of(self._slot.cells, name, list(variants))
            if found.exposures != self._published.get(name, 0):
                self._published[name] = found.exposures
                self._slot.gauge("edgeproxy_experiment_mismatch", experiment=name).set(float(found.mismatch))


def total(cells: Cells, series: str, /, **labels: str) -> float:
    """The sum of a series over all processes."""
    return cells.total(cells.intern(encode_series(series, **labels)))


def ratio_of(cells: Cells, experiment: str, variants: Sequence[str]) -> Ratio:
    """The test of one experiment over all processes."""
    observed, expected = (
        [total(cells, series, experiment=experiment, variant=variant) for variant in variants]
        for series in ("edgeproxy_experiment_exposures_total", "edgeproxy_experiment_expected_total")
    )
    return ratio(observed, expected)
