"""Which variant a unit draws: a pure function of experiment and unit, remembered for units that come again.

Nothing of the request but the unit goes in, so the answer is the same at every edge, after every restart.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from edgeproxy.policies.ab_hash import (
    Range,
    bucket_ranges,
    choose_variation,
    fraction,
    in_namespace,
    position,
)
from edgeproxy.policies.ab_murmur import choose_weighted, in_rollout
from edgeproxy.policies.ab_rule import Experiment, Filter, Holdout

_REMEMBERED = 8_192  # units per experiment whose variant is kept
_NOWHERE: Range = (-1.0, -1.0)

Draw = Callable[[str], int]
"""Unit -> index of its variant, or -1."""


def drawer(name: str, config: Experiment) -> Draw:
    """The draw of an experiment: by weights, coverage and ranges alone."""
    seed = name if config.seed is None else config.seed
    weights = [variant.weight for variant in config.arms.values()]
    if config.hash == "unleash":
        return lru_cache(_REMEMBERED)(_unleash(seed, config.coverage, [int(weight) for weight in weights]))
    if len(weights) < 2:  # GrowthBook: one variant is no experiment
        return lambda _unit: -1
    if config.ranges is not None:
        ranges = [config.ranges.get(variant, _NOWHERE) for variant in config.variants]
    else:
        total = sum(weights)
        ranges = bucket_ranges(len(weights), config.coverage, [weight / total for weight in weights])
    return lru_cache(_REMEMBERED)(_growthbook(seed, ranges, 2 if config.hash == "growthbook" else 1))


def _growthbook(seed: str, ranges: list[Range], version: int) -> Draw:
    if version == 2:
        return lambda unit: choose_variation(position(seed, unit), ranges)
    return lambda unit: choose_variation(fraction(seed, unit, version) or 0.0, ranges)


def _unleash(group: str, coverage: float, weights: list[int]) -> Draw:
    percent = coverage * 100

    def draw(unit: str) -> int:
        if percent < 100 and not in_rollout(group, unit, percent):
            return -1
        return choose_weighted(group, unit, weights)

    return draw


def gate(config: Experiment) -> Callable[[str], bool] | None:
    """May the unit take part at all, as far as the unit alone says it: filters, namespace, holdout."""
    tests = [_filter(one) for one in config.filters if one.by in (None, config.by)]
    space = config.namespace
    if space is not None and not config.filters:
        name, (low, high) = space.name, space.range
        tests.append(lambda unit: in_namespace(unit, name, low, high))
    if config.holdout is not None:
        tests.append(_holdout(config.holdout))
    if not tests:
        return None

    def passes(unit: str) -> bool:
        return all(test(unit) for test in tests)

    return lru_cache(_REMEMBERED)(passes)


def filter_by_another(one: Filter) -> Callable[[str], bool]:
    """A filter whose unit is not the experiment's."""
    return lru_cache(_REMEMBERED)(_filter(one))


def _filter(one: Filter) -> Callable[[str], bool]:
    seed, ranges = one.seed, one.ranges
    return lambda unit: choose_variation(position(seed, unit), ranges) >= 0


def _holdout(holdout: Holdout) -> Callable[[str], bool]:
    seed = f"holdout:{holdout.name}"
    return lambda unit: position(seed, unit) >= holdout.share
