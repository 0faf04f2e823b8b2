"""Exposures: each unit once, by real answers, for people; and what became of the requests of a variant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from edgeproxy.context import Context, Exposure
from edgeproxy.experiments import experiments_report
from edgeproxy.observe.cells import Cells
from edgeproxy.observe.seen import SeenUnits
from edgeproxy.observe.trials import TrialMeters, ratio_of, total
from edgeproxy.policies.ab_rule import Experiment
from tests.helpers.requests import context, request

SHARES = {"exp": {"a": 0.5, "b": 0.5}}


class Kept:
    """A sink that only remembers."""

    def __init__(self) -> None:
        self.exposures: list[tuple[str, str]] = []

    def put(self, exposure: Exposure, ctx: Context) -> None:
        self.exposures.append((exposure.unit, exposure.variant))


def forget(unit: str) -> None:
    """What a policy would remember."""


def drawn(
    unit: str, variant: str = "a", experiment: str = "exp", counted: Callable[[str], None] = forget
) -> Context:
    ctx = context()
    ctx.variants[experiment] = variant
    ctx.exposures = (Exposure(experiment, variant, f"{experiment}\0seed", unit, counted),)
    return ctx


@pytest.fixture
def cells() -> Cells:
    return Cells(3)


def meters(cells: Cells, slot: int = 0, seen: SeenUnits | None = None, **options: Any) -> TrialMeters:
    return TrialMeters(cells.slot(slot), options.pop("shares", SHARES), seen or SeenUnits(1024), **options)


def exposures(cells: Cells, variant: str = "a") -> int:
    return int(total(cells, "edgeproxy_experiment_exposures_total", experiment="exp", variant=variant))


def test_a_unit_counts_once_whichever_worker_answers(cells: Cells) -> None:
    seen = SeenUnits(1024)
    kept = Kept()
    workers = [meters(cells, slot, seen, sinks=[kept]) for slot in range(2)]
    for worker in workers:
        for unit in ("u1", "u2", "u1"):
            worker.record(request(), drawn(unit), 200, 0.001, "")
    assert exposures(cells) == 2
    assert kept.exposures == [("u1", "a"), ("u2", "a")]


def test_the_policy_is_told_that_the_unit_was_counted(cells: Cells) -> None:
    told: list[str] = []
    meters(cells).record(request(), drawn("u1", counted=told.append), 200, 0.001, "")
    assert told == ["u1"]


@pytest.mark.parametrize(
    ("policy", "counts"), [("", 1), ("ab", 1), ("rate_limit", 0), ("door", 0), ("cache", 0)]
)
def test_who_was_refused_has_seen_nothing(cells: Cells, policy: str, counts: int) -> None:
    told: list[str] = []
    meters(cells).record(request(), drawn("u1", counted=told.append), 429, 0.001, policy)
    assert (exposures(cells), len(told)) == (counts, counts)


ROBOTS = [
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
    "Mozilla/5.0 (compatible; bingbot/2.0)",
    "Baiduspider+(+http://www.baidu.com/search/spider.htm)",
    "facebookexternalhit/1.1",
    "Mozilla/5.0 HeadlessChrome/120.0",
    "UptimeRobot/2.0",
]
PEOPLE = [
    "",
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0 Safari/537.36",
    "Mozilla/5.0 (Linux; Android 9; CUBOT X19) AppleWebKit/537.36",
]


@pytest.mark.parametrize(("agent", "counts"), [*((one, 0) for one in ROBOTS), *((one, 1) for one in PEOPLE)])
def test_robots_are_not_counted(cells: Cells, agent: str, counts: int) -> None:
    meters(cells).record(request(values={"User-Agent": agent}), drawn("u1"), 200, 0.001, "")
    assert exposures(cells) == counts
    labels = {"experiment": "exp", "variant": "a", "code": "2xx"}
    assert total(cells, "edgeproxy_experiment_requests_total", **labels) == 1, "but what they cost is"


def test_another_draw_counts_the_unit_anew(cells: Cells) -> None:
    trials = meters(cells)
    trials.record(request(), drawn("u1"), 200, 0.001, "")
    again = drawn("u1")
    again.exposures = (Exposure("exp", "b", "exp\0other", "u1", forget),)
    trials.record(request(), again, 200, 0.001, "")
    assert (exposures(cells, "a"), exposures(cells, "b")) == (1, 1)


def test_names_that_are_not_configured_become_no_labels(cells: Cells) -> None:
    meters(cells).record(request(), drawn("u1", experiment="made-up"), 200, 0.001, "")
    meters(cells).record(request(), drawn("u1", variant="made-up"), 200, 0.001, "")
    assert not any("made-up" in name for name in cells.names())


def test_a_mismatch_is_found_over_all_workers_and_a_change_of_weights_is_none(cells: Cells) -> None:
    seen = SeenUnits(8192)
    workers = [meters(cells, slot, seen) for slot in range(2)]
    for number in range(1200):
        workers[number % 2].record(request(), drawn(f"u{number}", "ab"[number % 2]), 200, 0.001, "")
    workers[0].publish()
    gauge = total(cells, "edgeproxy_experiment_mismatch", experiment="exp")
    assert (ratio_of(cells, "exp", ["a", "b"]).mismatch, gauge) == (False, 0)
    other = meters(cells, 0, seen, shares={"exp": {"a": 0.1, "b": 0.9}})
    for number in range(1200, 3200):
        other.record(request(), drawn(f"u{number}", "abbbbbbbbb"[number % 10]), 200, 0.001, "")
    assert not ratio_of(cells, "exp", ["a", "b"]).mismatch
    for number in range(3200, 4200):
        other.record(request(), drawn(f"u{number}", "a"), 200, 0.001, "")
    other.publish()
    assert ratio_of(cells, "exp", ["a", "b"]).mismatch
    assert total(cells, "edgeproxy_experiment_mismatch", experiment="exp") == 1


def test_the_report_has_every_variant_with_its_figures(cells: Cells) -> None:
    experiment = Experiment.model_validate({"variants": {"a": 3, "b": 1}})
    trials = meters(cells, shares={"exp": experiment.shares})
    for status, seconds in ((200, 0.002), (503, 0.2), (200, 0.002), (304, 0.002)):
        trials.record(request(), drawn("u1"), status, seconds, "")
    report: Any = experiments_report(cells, {"exp": experiment})["exp"]
    assert report["exposures"] == 1
    assert report["mismatch"] == {"found": False, "chi_square": 0.333, "probability": 1.0}
    assert report["variants"]["a"] == {
        "share": 0.75, "exposures": 1, "expected": 0.8, "requests": 4, "errors": 1, "error_rate": 0.25,
        "mean_seconds": 0.0515, "p50_seconds": 0.0025, "p95_seconds": 0.25,
    }  # fmt: skip
    assert (report["variants"]["b"]["requests"], report["variants"]["b"]["mean_seconds"]) == (0, None)


def test_the_table_of_units_is_bounded_and_forgets_only_under_pressure() -> None:
    seen = SeenUnits(4096)
    names = [b"%d" % number for number in range(1000)]
    assert all(seen.add(name) for name in names)
    assert not any(seen.add(name) for name in names)
    for number in range(100_000):
        seen.add(b"x%d" % number)
    assert sum(seen.add(name) for name in names) > 500
