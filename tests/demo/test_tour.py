"""The tour works exactly as printed, with one worker and with two, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeproxy.demo.run import config_file
from edgeproxy.demo.tour import Step, steps

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="the tour is made of curl lines")


class Demo:
    """A running demo: its process, and where what it prints can be read."""

    def __init__(self, workers: int, folder: Path) -> None:
        self._output = folder / "demo.txt"
        temporary = folder / "tmp"
        temporary.mkdir()
        self.temporary = temporary
        with self._output.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "edgeproxy", "demo", "--workers", str(workers)],
                stdout=file,
                stderr=file,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "TMPDIR": str(temporary)},
                start_new_session=True,
            )

    def printed(self) -> str:
        return self._output.read_text()

    def address(self, pattern: str) -> str:
        return re.findall(r"(http://[\d.:]+)" + pattern, self.printed())[0]

    def tour(self) -> list[Step]:
        """The steps for the addresses that the demo printed."""
        places = (r"/ in a browser", r"/metrics'", r"/_control", r"/forged'")
        edge, admin, origin, issuer = [self.address(place) for place in places]
        return steps(edge, admin, origin, issuer, str(config_file("demo-geo.mmdb")))

    def wait_until_ready(self) -> None:
        for _ in range(300):
            assert self.process.poll() is None, self.printed()
            if "serving" in self.printed():
                ready = self.address("/metrics'") + "/readyz"
                if subprocess.run(["curl", "-sf", ready], capture_output=True, check=False).returncode == 0:
                    return
            time.sleep(0.1)
        pytest.fail(f"not ready\n{self.printed()}")

    def end(self, number: signal.Signals) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout=40)


@pytest.fixture(params=[1, 2], ids=["one worker", "two workers"])
def demo(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Demo]:
    demo = Demo(request.param, tmp_path)
    try:
        yield demo
    finally:
        demo.end(signal.SIGTERM)


def after(shown: str, text: str) -> str | None:
    """What follows the first `text` in `shown`; None when it is not there."""
    _, found, rest = shown.partition(text)
    return rest if found else None


def listens(address: str) -> bool:
    host, _, port = address.removeprefix("http://").partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def test_every_line_of_the_tour_works_as_printed(demo: Demo) -> None:
    demo.wait_until_ready()
    variants: list[str] = []
    for step in demo.tour():
        for line in step.lines:
            assert f"     {line.command}\n" in demo.printed(), f"not printed: {line.command}"
            done = subprocess.run(
                ["bash", "-c", line.command], capture_output=True, text=True, timeout=60, check=False
            )
            rest: str | None = done.stdout
            for text in line.expect:
                rest = after(rest, text)
                assert rest is not None, f"{step.title}: {text!r} is not there, in this order\n{done.stdout}"
            if "-jar" in line.command:
                variants += re.findall(r"variant <b>([a-z]+)", done.stdout)
    assert len(variants) == 2, "two visits with the cookie"
    assert variants[0] == variants[1], "sticky"
    addresses = [demo.address(place) for place in (r"/ in", r"/metrics'", r"/_control", r"/forged'")]
    assert all(listens(address) for address in addresses)
    assert demo.end(signal.SIGINT) == 0, "Ctrl-C ends the demo cleanly"
    assert "Traceback" not in demo.printed()
    assert not any(listens(address) for address in addresses), "a helper is left"
    assert not list(demo.temporary.iterdir()), "a file is left"


def test_a_demo_that_is_killed_takes_its_helpers_along(tmp_path: Path) -> None:
    demo = Demo(1, tmp_path)
    try:
        demo.wait_until_ready()
        places = (r"/ in", r"/metrics'", r"/_control", r"/forged'")
        addresses = [demo.address(place) for place in places]
    finally:
        demo.end(signal.SIGKILL)
    for _ in range(300):
        if not any(listens(address) for address in addresses):
            return
        time.sleep(0.05)
    pytest.fail("somebody is left")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_demo_that_is_ended_while_it_starts_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    demo = Demo(1, tmp_path)
    try:
        for _ in range(400):  # the folder is the first thing it makes, the tour the last before it serves
            if list(demo.temporary.glob("edgeproxy-demo-*")) or demo.process.poll() is not None:
                break
            time.sleep(0.02)
        assert demo.end(number) == 0
    finally:
        demo.end(signal.SIGTERM)
    assert "Traceback" not in demo.printed()
    assert not list(demo.temporary.iterdir())
