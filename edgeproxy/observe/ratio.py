"""Sample-ratio mismatch: did the variants get the shares that they were to get? Pearson's chi-square test.

A mismatch means that the comparison is broken (a redirect that loses visitors, a variant that crashes before
it is counted), whatever else was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import erfc, exp, pi, sqrt

from edgeproxy.record import record

FEWEST = 1_000  # exposures before anything is said
ALARM = 0.001  # probability below which it is no accident


@record
class Ratio:
    """The outcome of the test. `probability` is 1 while there are too few exposures to say anything."""

    exposures: int
    statistic: float
    probability: float

    @property
    def mismatch(self) -> bool:
        return self.exposures >= FEWEST and self.probability < ALARM


def ratio(observed: Sequence[float], expected: Sequence[float]) -> Ratio:
    """The test for exposures per variant and how many there should be. Variants that were to get none, and
    got none, do not count."""
    pairs = [(seen, wanted) for seen, wanted in zip(observed, expected, strict=True) if wanted > 0]
    total = int(sum(observed))
    stray = sum(seen for seen, wanted in zip(observed, expected, strict=True) if wanted <= 0)
    statistic = sum((seen - wanted) ** 2 / wanted for seen, wanted in pairs) + stray**2
    if total < FEWEST:
        return Ratio(total, statistic, 1.0)
    return Ratio(total, statistic, survival(statistic, len(pairs) - 1 + bool(stray)))


def survival(statistic: float, freedom: int) -> float:
    """The probability that a chi-square variable of `freedom` degrees is above `statistic`.

    Closed forms: a finite sum for even degrees, the same after the normal tail for odd ones
    (Abramowitz and Stegun, 26.4.4 and 26.4.5).
    """
    if freedom < 1 or statistic <= 0:
        return 1.0
    half = statistic / 2
    if half > 700:  # below the smallest number there is
        return 0.0
    if freedom % 2 == 0:
        term = total = exp(-half)
        for step in range(1, freedom // 2):
            term *= half / step
            total += term
        return min(1.0, total)
    total = erfc(sqrt(half))
    term = exp(-half) * 2 * sqrt(half / pi)
    for step in range(1, (freedom + 1) // 2):
        total += term
        term *= half / (step + 0.5)
    return min(1.0, total)
