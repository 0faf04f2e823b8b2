"""The scenarios: which fault, on how many of three servers, and how much of it clients may notice."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from tests.scenarios.load import QUICK


@dataclass(frozen=True)
class Scenario:
    """`errors`: share of the requests during the fault that may fail. `late`: the same, of those after
    the first `settled` seconds. Bounds of None are not judged."""

    name: str
    fault: str
    broken: int = 1
    seconds: float = 3.0
    settled: float = 1.5
    errors: float | None = None
    late: float | None = 0.0
    late_p99: float | None = None  # seconds, of the requests after `settled`
    quick: bool = False  # errors after `settled` take `refusal` at most, at the median
    refusal: float = QUICK  # seconds
    path: str = "/"
    distinct: int = 0  # so many different paths; 0 for a new one each time
    amplification: float | None = None  # requests to the origins per request of a client, over all of it
    breaker: int = 10
    recover: float = 6.0  # seconds at most until each healed server is asked again
    warm: float = 0.5  # seconds of load that do not count: connections are opened
    calm: float = 1.0  # seconds of load before the fault

    def short(self) -> Scenario:
        """The same in a few seconds, on a machine that nothing is known about: what takes how long is
        printed and not judged."""
        moving = self.fault == "move"  # it takes two looks at the name, and connections that end
        return replace(
            self,
            seconds=2.5 if moving else 1.5,
            settled=2.0 if moving else 1.0,
            warm=0.3,
            calm=0.5,
            late_p99=None,
            refusal=math.inf,
        )


SCENARIOS = [
    Scenario("1 of 3 dies", "refuse", seconds=10.0, errors=0.001, recover=3.0),
    Scenario("1 of 3 resets", "reset", errors=0.001),
    Scenario("1 of 3 black-holes", "black-hole", seconds=4.0, errors=0.05, settled=2.0, late=0.002),
    Scenario("1 of 3 never answers", "hang", seconds=4.0, errors=0.05, late=0.002),
    Scenario("1 of 3 answers after 30 s", "answer after 30 s", errors=0.05, late=0.002),
    Scenario("1 of 3 answers after 0.3 s", "slow", seconds=4.0, errors=0.0, late_p99=0.1),
    Scenario("1 of 3 sends 1 byte/s", "drip", seconds=4.0, errors=0.05, settled=2.0, late=0.002),
    Scenario("1 of 3 truncates", "truncate", errors=0.05, late=0.002),
    Scenario("1 of 3 sends too much", "send too much", errors=0.0),
    Scenario("1 of 3 promises too much", "promise too much", seconds=4.0, errors=0.05, late=0.002),
    Scenario("1 of 3 answers 500", "answer 500", errors=0.05, late=0.002),
    Scenario("1 of 3 flaps", "flap", seconds=6.0, errors=0.005, late=None),
    Scenario("all refuse", "refuse", broken=3, late=None, quick=True),
    Scenario("all never answer", "hang", broken=3, seconds=4.0, settled=2.0, late=None, quick=True),
    Scenario("all answer 500", "answer 500", broken=3, late=None, amplification=1.01),
    Scenario("all refuse, stored", "refuse", broken=3, errors=0.0, path="/stored/", distinct=20),
    Scenario("all answer 500, stored", "answer 500", broken=3, errors=0.0, path="/stored/", distinct=20),
    Scenario("all reset, no breaker", "reset", broken=3, late=None, amplification=1.2, breaker=0),
    Scenario("DNS fails", "dns", errors=0.0),
    Scenario("DNS moves", "move", seconds=5.0, errors=0.001, late=0.0, settled=4.0),
]
SLOW_READERS = "1,000 slow readers"
NAMES = [*(one.name for one in SCENARIOS), SLOW_READERS]
