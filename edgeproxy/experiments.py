"""How experiments are doing, as JSON for `/experiments` of the admin API."""

from __future__ import annotations

from collections.abc import Mapping

from edgeproxy.observe.cells import Cells
from edgeproxy.observe.outcome import CODES, DURATION_BOUNDS
from edgeproxy.observe.trials import ratio_of, total
from edgeproxy.policies.ab_rule import Experiment

_EDGES = (*(format(bound, "g") for bound in DURATION_BOUNDS), "+Inf")


def experiments_report(cells: Cells, experiments: Mapping[str, Experiment]) -> dict[str, object]:
    """Every experiment with its variants. Sums over all workers since the start."""
    return {name: _report(cells, name, experiment) for name, experiment in experiments.items()}


def _report(cells: Cells, name: str, experiment: Experiment) -> dict[str, object]:
    found = ratio_of(cells, name, list(experiment.variants))
    shares = experiment.shares
    return {
        "status": experiment.status,
        "by": experiment.by,
        "coverage": experiment.coverage,
        "exposures": found.exposures,
        "mismatch": {
            "found": found.mismatch,
            "chi_square": round(found.statistic, 3),
            "probability": found.probability,
        },
        "variants": {variant: _variant(cells, name, variant, shares[variant]) for variant in shares},
    }


def _variant(cells: Cells, experiment: str, variant: str, share: float) -> dict[str, object]:
    labels = {"experiment": experiment, "variant": variant}
    codes = {code: total(cells, "edgeproxy_experiment_requests_total", **labels, code=code) for code in CODES}
    series = "edgeproxy_experiment_duration_seconds"
    buckets = [total(cells, series, **labels, le=edge) for edge in _EDGES]
    requests = sum(codes.values())
    seconds = total(cells, f"{series}_sum", **labels)
    return {
        "share": round(share, 6),
        "exposures": int(total(cells, "edgeproxy_experiment_exposures_total", **labels)),
        "expected": round(total(cells, "edgeproxy_experiment_expected_total", **labels), 1),
        "requests": int(requests),
        "errors": int(codes["5xx"]),
        "error_rate": round(codes["5xx"] / requests, 6) if requests else 0.0,
        "mean_seconds": round(seconds / requests, 6) if requests else None,
        "p50_seconds": _quantile(buckets, 0.5),
        "p95_seconds": _quantile(buckets, 0.95),
    }


def _quantile(buckets: list[float], share: float) -> float | None:
    """The upper edge of the bucket in which the quantile lies; None beyond the last, or without any."""
    wanted, reached = sum(buckets) * share, 0.0
    for count, bound in zip(buckets, DURATION_BOUNDS, strict=False):
        reached += count
        if reached and reached >= wanted:
            return bound
    return None
