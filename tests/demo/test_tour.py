"""The tour works exactly as printed, with one worker and with two."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeproxy.demo.tour import Step, steps

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="the tour is made of curl lines")


@pytest.fixture(params=[1, 2], ids=["one worker", "two workers"])
def demo(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A running demo and what it printed."""
    output = tmp_path / "demo.txt"
    with output.open("wb") as file:
        command = [sys.executable, "-m", "edgeproxy", "demo", "--workers", str(request.param)]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)
    try:
        for _ in range(300):
            if "serving" in output.read_text() or process.poll() is not None:
                break
            time.sleep(0.1)
        yield process, output.read_text()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(timeout=40)


def tour_of(printed: str) -> list[Step]:
    """The steps for the addresses that the demo printed."""
    edge = re.findall(r"Open (http://[\d.:]+)/", printed)[0]
    admin = re.findall(r"'(http://[\d.:]+)/metrics'", printed)[0]
    origin = re.findall(r"'(http://[\d.:]+)/_control", printed)[0]
    issuer = re.findall(r"'(http://[\d.:]+)/forged'", printed)[0]
    return steps(edge, admin, origin, issuer)


def wait_until_ready(admin_ready: str) -> None:
    for _ in range(100):
        if subprocess.run(["curl", "-sf", admin_ready], capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.1)


def test_every_line_of_the_tour_works_as_printed(demo: tuple[subprocess.Popen[bytes], str]) -> None:
    process, printed = demo
    assert process.poll() is None, printed
    wait_until_ready(re.findall(r"'(http://[\d.:]+)/metrics'", printed)[0] + "/readyz")
    for step in tour_of(printed):
        shown = ""
        for command in step.commands:
            assert command in printed, f"not printed: {command}"
            done = subprocess.run(
                ["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False
            )
            shown += done.stdout
        missing = [text for text in step.expect if text not in shown]
        assert not missing, f"{step.title}: {missing} not in\n{shown}"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=40) == 0, "Ctrl-C ends the demo cleanly"
