"""Runs the scenarios: an edge, three origins, sixteen clients; a second of calm, the fault, the cure."""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.scenarios.cases import NAMES, SCENARIOS, SLOW_READERS, Scenario
from tests.scenarios.edge import running_edge, until_open
from tests.scenarios.load import Load
from tests.scenarios.origins import FaultyOrigin
from tests.scenarios.slow_readers import play_slow_readers
from tests.scenarios.verdict import HEAD, Observed, Row, judge, line

Names = dict[str, list[str]]


class Scene:
    """One scenario in one folder, with three origins that can be made to fail."""

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self.scenario = scenario
        self.origins = [FaultyOrigin() for _ in range(3)]
        self.broken = self.origins[: scenario.broken]
        self.names: Names = {f"server-{number}.example": ["127.0.0.1"] for number in range(3)}
        self._file = folder / "names.json"

    async def open(self) -> list[str]:
        """Listen. Returns the URLs of the origins."""
        self._say(self.names)
        for origin in self.origins:
            await origin.listen()
        return [f"http://{name}:{origin.port}" for name, origin in zip(self.names, self.origins, strict=True)]

    def _say(self, names: Names) -> None:
        self._file.write_text(json.dumps(names))

    @property
    def asked(self) -> int:
        """How many requests have reached the origins."""
        return sum(origin.requests for origin in self.origins)

    async def fail(self) -> None:
        """Cause the fault."""
        if self.scenario.fault == "dns":
            self._say({})
        elif self.scenario.fault == "move":  # to an address where it is, and one where nobody listens
            self._say({**self.names, "server-0.example": ["127.0.0.9", "127.0.0.1"]})
        elif self.scenario.fault != "flap":
            for origin in self.broken:
                await origin.fail(self.scenario.fault)

    async def last(self, seconds: float) -> None:
        """Let the fault last."""
        if self.scenario.fault != "flap":
            await asyncio.sleep(seconds)
            return
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for origin in self.broken:
                await origin.fail("refuse")
            await asyncio.sleep(0.5)
            for origin in self.broken:
                await origin.heal()
            await asyncio.sleep(0.5)

    async def heal(self) -> None:
        """End the fault."""
        self._say(self.names)
        for origin in self.broken:
            await origin.heal()

    async def recovered(self) -> float | None:
        """Seconds until every healed server has given a good answer."""
        began = time.monotonic()
        while time.monotonic() < began + self.scenario.recover:
            firsts = [origin.first_good_at for origin in self.broken]
            if all(firsts):
                return max(0.0, max(firsts) - began)
            await asyncio.sleep(0.02)
        return None

    def close(self) -> None:
        """Stop the origins."""
        for origin in self.origins:
            origin.stop()


async def play(scenario: Scenario, folder: Path) -> Row:
    """Run one scenario and judge it."""
    scene = Scene(scenario, folder)
    servers = await scene.open()
    aged = "1s" if scenario.fault in ("dns", "move") else "0s"  # so that new connections are made
    with running_edge(folder, servers, breaker=scenario.breaker, max_age=aged) as edge:
        await until_open(edge.port)
        load = Load(edge.port, scenario.path, distinct=scenario.distinct)
        asking = asyncio.create_task(load.run())
        while not load.seen:  # the port is open before the worker is ready
            await asyncio.sleep(0.02)
        await asyncio.sleep(scenario.warm)
        warm = len(load.seen)
        await asyncio.sleep(scenario.calm)
        before, asked, began = len(load.seen), scene.asked, time.monotonic()
        await scene.fail()
        await scene.last(scenario.seconds)
        during, asked_all = load.seen[before:], scene.asked
        await scene.heal()
        recover = await scene.recovered()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    scene.close()
    calm = load.seen[warm:before]
    return judge(scenario, Observed(calm, during, began, recover, asked_all - asked))


def _short(names: list[str]) -> Iterator[tuple[Row, str]]:
    """Two at a time: most of a scenario is waiting."""
    with ProcessPoolExecutor(2) as pool:
        yield from pool.map(_run_short, names)


def _run_short(name: str) -> tuple[Row, str]:
    """What is missed once is tried again: a busy machine stalls for seconds now and then."""
    row, log = run(name, quick=True)
    return run(name, quick=True) if row.missed else (row, log)


def run(name: str, *, quick: bool = False) -> tuple[Row, str]:
    """The row of one scenario, and the edge's log. `quick`: its short form."""
    with tempfile.TemporaryDirectory(prefix="edgeproxy-scenario-") as folder:
        path = Path(folder)
        if name == SLOW_READERS:
            row = asyncio.run(play_slow_readers(path, 200, 1.0) if quick else play_slow_readers(path))
        else:
            scenario = next(one for one in SCENARIOS if one.name == name)
            row = asyncio.run(play(scenario.short() if quick else scenario, path))
        return row, (path / "edge.log").read_text(errors="replace")


def main(arguments: list[str]) -> int:
    """Run the scenarios of the command line. Returns the exit code."""
    parser = argparse.ArgumentParser(description="Faults of origins under load, against a real edge.")
    parser.add_argument("--only", default="", help="comma-separated words of names")
    parser.add_argument(
        "--quick", action="store_true", help="their short forms; what fails is tried once more"
    )
    parser.add_argument("--list", action="store_true", help="print the names and end")
    options = parser.parse_args(arguments)
    words = [word for word in options.only.split(",") if word]
    chosen = [name for name in NAMES if not words or any(word in name for word in words)]
    if options.list or not chosen:
        print("\n".join(NAMES))
        return 0 if options.list else 2
    print(HEAD)
    missed = 0
    for row, log in _short(chosen) if options.quick else map(run, chosen):
        print(line(row), flush=True)
        if row.missed:
            missed += 1
            print(log[-2000:])
    print(f"{len(chosen) - missed} of {len(chosen)} kept their bounds")
    return 1 if missed else 0
