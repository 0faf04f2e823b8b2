"""The scenarios: which fault, on how many of three servers, and how much of it clients may notice."""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.scenarios.edge import running_edge
from tests.scenarios.load import QUICK, Load, Seen, percentile
from tests.scenarios.origins import FaultyOrigin

CALM = 1.0  # seconds of load before the fault
SAVED_UP = 60  # retries that the budget has in store when a fault begins
WAIT = 6.0  # seconds at most until a healed server is asked again


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
    quick: bool = False  # errors after `settled` take QUICK at most, at the median
    path: str = "/"
    distinct: int = 0
    amplification: float | None = None
    breaker: int = 10
    recover: float = WAIT


SCENARIOS = [
    Scenario("1 of 3 dies", "refuse", seconds=10.0, errors=0.001, recover=3.0),
    Scenario("1 of 3 resets", "reset", errors=0.001),
    Scenario("1 of 3 black-holes", "hang", seconds=4.0, errors=0.05, late=0.002),
    Scenario("1 of 3 answers after 1 s", "slow", errors=0.05, late=0.002),
    Scenario("1 of 3 sends 1 byte/s", "drip", seconds=4.0, errors=0.05, settled=2.0, late=0.002),
    Scenario("1 of 3 truncates", "truncate", errors=0.05, late=0.002),
    Scenario("1 of 3 sends too much", "lie", errors=0.0),
    Scenario("1 of 3 answers 500", "errors", errors=0.05, late=0.002),
    Scenario("1 of 3 flaps", "flap", seconds=6.0, errors=0.005, late=None),
    Scenario("all refuse", "refuse", broken=3, late=None, quick=True),
    Scenario("all black-hole", "hang", broken=3, seconds=4.0, settled=2.0, late=None, quick=True),
    Scenario("all refuse, stored", "refuse", broken=3, errors=0.0, path="/stored/", distinct=20),
    Scenario("all answer 500, stored", "errors", broken=3, errors=0.0, path="/stored/", distinct=20),
    Scenario("all reset: amplification", "one-then-reset", broken=3, late=None, amplification=1.2, breaker=0),
    Scenario("DNS fails", "dns", errors=0.0),
    Scenario("DNS moves", "move", seconds=5.0, errors=0.001, late=0.0, settled=4.0),
]


@dataclass
class Row:
    """What became of one scenario. Times in seconds; None: never."""

    name: str
    requests: int
    errors: int
    detect: float | None
    recover: float | None
    p50: float
    p99: float
    asked: int  # requests that reached the origins
    missed: list[str]


async def play(scenario: Scenario, folder: Path) -> Row:
    """Run one scenario and judge it."""
    origins = [FaultyOrigin() for _ in range(3)]
    for origin in origins:
        await origin.listen()
    names = {f"server-{number}.example": ["127.0.0.1"] for number in range(3)}
    (folder / "names.json").write_text(json.dumps(names))
    servers = [f"http://server-{number}.example:{origin.port}" for number, origin in enumerate(origins)]
    aged = "1s" if scenario.fault in ("dns", "move") else "0s"  # so that new connections are made
    with running_edge(folder, servers, breaker=scenario.breaker, max_age=aged) as port:
        await _ready(port)
        load = Load(port, scenario.path, distinct=scenario.distinct)
        asking = asyncio.create_task(load.run())
        await asyncio.sleep(CALM)
        calm = [one for one in load.seen if one.failed]
        before, asked = len(load.seen), sum(origin.requests for origin in origins)
        began = time.monotonic()
        await _break(scenario, origins[: scenario.broken], folder, names)
        ended = time.monotonic()
        during = load.seen[before:]
        asked = sum(origin.requests for origin in origins) - asked
        await _heal(scenario, origins, folder, names)
        recover = await _recovered(scenario, origins, load, ended)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    for origin in origins:
        origin.stop()
    row = _judge(scenario, during, began, recover, asked)
    if calm:
        row.missed.append(f"{len(calm)} errors before the fault")
    return row


async def _ready(port: int) -> None:
    async with asyncio.timeout(15):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            writer.close()
            return


async def _break(
    scenario: Scenario, broken: list[FaultyOrigin], folder: Path, names: dict[str, list[str]]
) -> None:
    """Cause the fault and let it last."""
    if scenario.fault == "flap":
        for _ in range(int(scenario.seconds / 1.0)):
            for origin in broken:
                await origin.fail("refuse")
            await asyncio.sleep(0.5)
            for origin in broken:
                await origin.heal()
            await asyncio.sleep(0.5)
        return
    if scenario.fault == "dns":
        (folder / "names.json").write_text("{}")
    elif scenario.fault == "move":
        # The name goes to an address where nobody listens, then to none of the old ones at all.
        moved = {**names, "server-0.example": ["127.0.0.1", "127.0.0.9"]}
        (folder / "names.json").write_text(json.dumps(moved))
    else:
        for origin in broken:
            await origin.fail(scenario.fault)
    await asyncio.sleep(scenario.seconds)


async def _heal(
    scenario: Scenario, origins: list[FaultyOrigin], folder: Path, names: dict[str, list[str]]
) -> None:
    (folder / "names.json").write_text(json.dumps(names))
    for origin in origins[: scenario.broken]:
        await origin.heal()


async def _recovered(
    scenario: Scenario, origins: list[FaultyOrigin], load: Load, ended: float
) -> float | None:
    """Seconds until every healed server has given a good answer."""
    while time.monotonic() < ended + scenario.recover:
        firsts = [origin.first_good_at for origin in origins[: scenario.broken]]
        if all(firsts):
            return max(0.0, max(firsts) - ended)
        await asyncio.sleep(0.02)
    return None


def _judge(scenario: Scenario, during: list[Seen], began: float, recover: float | None, asked: int) -> Row:
    failed = [one for one in during if one.failed]
    settled = [one for one in during if one.at > began + scenario.settled]
    late = [one for one in settled if one.failed]
    missed: list[str] = []
    if any(one.poisoned for one in during):
        missed.append("a client got what was not for it")
    if scenario.errors is not None and len(failed) > scenario.errors * len(during):
        missed.append(f"more than {scenario.errors:.1%} errors")
    if scenario.late is not None and len(late) > scenario.late * len(settled):
        missed.append(f"{len(late)} errors after {scenario.settled} s")
    if scenario.quick and percentile([one.seconds for one in late], 0.5) > QUICK:
        missed.append("refusals take too long")
    if scenario.amplification is not None and asked > scenario.amplification * len(during) + SAVED_UP:
        missed.append(f"origins were asked {asked / max(1, len(during)):.2f} times per request")
    if recover is None:
        missed.append(f"not asked again within {scenario.recover} s")
    times = [one.seconds for one in during]
    return Row(
        scenario.name,
        len(during),
        len(failed),
        _detected(scenario, during, began),
        recover,
        percentile(times, 0.5),
        percentile(times, 0.99),
        asked,
        missed,
    )


def _detected(scenario: Scenario, during: list[Seen], began: float) -> float | None:
    """Seconds until clients notice no more: the last error, or with all servers out the first quick one."""
    failed = [one for one in during if one.failed]
    if not failed:
        return 0.0
    if scenario.quick:
        refusals = [one.at for one in failed if one.status == 503 and one.seconds <= 10 * QUICK]
        return refusals[0] - began if refusals else None
    last = failed[-1].at - began
    return last if last < scenario.seconds - 0.3 else None


def table(rows: list[Row]) -> str:
    """The rows as text."""
    lines = [
        f"{'fault':<26}{'requests':>9}{'errors':>8}{'share':>9}{'detect':>9}{'recover':>9}"
        f"{'p50 ms':>9}{'p99 ms':>9}{'asked/req':>11}  bounds"
    ]
    for row in rows:
        share = row.errors / max(1, row.requests)
        lines.append(
            f"{row.name:<26}{row.requests:>9}{row.errors:>8}{share:>9.3%}{_time(row.detect):>9}"
            f"{_time(row.recover):>9}{row.p50 * 1000:>9.1f}{row.p99 * 1000:>9.1f}"
            f"{row.asked / max(1, row.requests):>11.2f}  {'; '.join(row.missed) or 'kept'}"
        )
    return "\n".join(lines)


def _time(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.2f} s"


def main(arguments: list[str]) -> int:
    """Run the scenarios of the command line. Returns the exit code."""
    parser = argparse.ArgumentParser(description="Faults of origins under load, against a real edge.")
    parser.add_argument("--only", default="", help="comma-separated words of names")
    parser.add_argument("--list", action="store_true", help="print the names and end")
    options = parser.parse_args(arguments)
    words = [word for word in options.only.split(",") if word]
    chosen = [one for one in SCENARIOS if not words or any(word in one.name for word in words)]
    if options.list or not chosen:
        print("\n".join(one.name for one in SCENARIOS))
        return 0 if options.list else 2
    rows: list[Row] = []
    for scenario in chosen:
        with tempfile.TemporaryDirectory(prefix="edgeproxy-scenario-") as folder:
            row = asyncio.run(play(scenario, Path(folder)))
            log = (Path(folder) / "edge.log").read_text(errors="replace")
        rows.append(row)
        print(table([row]).splitlines()[-1], flush=True)
        if row.missed and log:
            print(log[-2000:])
    print(f"\n{table(rows)}")
    return 1 if any(row.missed for row in rows) else 0
