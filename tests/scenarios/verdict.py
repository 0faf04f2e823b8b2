"""What became of a scenario: the figures of one row, which bounds were missed, and the table."""

from __future__ import annotations

from dataclasses import dataclass

from tests.scenarios.cases import Scenario
from tests.scenarios.load import QUICK, Seen, percentile


@dataclass
class Row:
    """One scenario. Times in seconds; None: never."""

    name: str
    requests: int
    errors: int
    detect: float | None
    recover: float | None
    calm_p99: float  # before the fault
    p50: float
    p99: float
    asked: float  # requests that reached the origins, per request of a client
    missed: list[str]


@dataclass
class Observed:
    """What the clients and the origins saw. `began`: when the fault did, by the same clock as `Seen.at`."""

    calm: list[Seen]
    during: list[Seen]
    began: float
    recover: float | None
    asked: int  # by the edge, during the fault


def judge(scenario: Scenario, seen: Observed) -> Row:
    """The row of a scenario: its figures, and a sentence for each bound that was missed."""
    during = seen.during
    failed = [one for one in during if one.failed]
    times = [one.seconds for one in during]
    return Row(
        scenario.name,
        len(during),
        len(failed),
        _detected(scenario, failed, seen.began),
        seen.recover,
        percentile([one.seconds for one in seen.calm], 0.99),
        percentile(times, 0.5),
        percentile(times, 0.99),
        seen.asked / max(1, len(during)),
        list(_missed(scenario, seen, failed)),
    )


def _missed(scenario: Scenario, seen: Observed, failed: list[Seen]) -> list[str]:
    settled = [one for one in seen.during if one.at > seen.began + scenario.settled]
    late = [one for one in settled if one.failed]
    late_p99 = percentile([one.seconds for one in settled], 0.99)
    refusal = percentile([one.seconds for one in late], 0.5)
    again = seen.asked / max(1, len(seen.during))
    checks = [
        (any(one.failed for one in seen.calm), "errors before the fault"),
        (not settled, "no answers"),
        (any(one.poisoned for one in seen.during), "a client got what was not for it"),
        (
            _more(len(failed), scenario.errors, len(seen.during)),
            f"more than {scenario.errors or 0:.1%} errors",
        ),
        (_more(len(late), scenario.late, len(settled)), f"{len(late)} errors after {scenario.settled} s"),
        (_more(late_p99, scenario.late_p99), f"p99 is {late_p99:.3f} s after {scenario.settled} s"),
        (scenario.quick and refusal > scenario.refusal, f"refusals take {refusal * 1000:.1f} ms"),
        (_more(again, scenario.amplification), f"origins were asked {again:.2f} times per request"),
        (seen.recover is None, f"not asked again within {scenario.recover} s"),
    ]
    return [sentence for wrong, sentence in checks if wrong]


def _more(value: float, bound: float | None, of: float = 1) -> bool:
    return bound is not None and value > bound * of


def _detected(scenario: Scenario, failed: list[Seen], began: float) -> float | None:
    """Seconds until clients notice no more: the last error, or with all servers out the first quick one."""
    if not failed:
        return 0.0
    if scenario.quick:
        refusals = [one.at for one in failed if one.status == 503 and one.seconds <= 10 * QUICK]
        return refusals[0] - began if refusals else None
    last = failed[-1].at - began
    return last if last < scenario.seconds - 0.3 else None


HEAD = (
    f"{'fault':<27}{'requests':>9}{'errors':>8}{'share':>9}{'detect':>9}{'recover':>9}"
    f"{'calm p99':>10}{'p50 ms':>8}{'p99 ms':>8}{'asked':>7}  bounds"
)


def line(row: Row) -> str:
    """One row as text."""
    share = row.errors / max(1, row.requests)
    return (
        f"{row.name:<27}{row.requests:>9}{row.errors:>8}{share:>9.3%}{_time(row.detect):>9}"
        f"{_time(row.recover):>9}{row.calm_p99 * 1000:>10.1f}{row.p50 * 1000:>8.1f}{row.p99 * 1000:>8.1f}"
        f"{row.asked:>7.2f}  {'; '.join(row.missed) or 'kept'}"
    )


def _time(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.2f} s"
