"""The load: wrk on its own core and what it says; single requests that check an answer before it is timed."""

from __future__ import annotations

import math
import re
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path

CONNECTIONS = 64
CONNECTIONS_LARGE = 16
UPLOAD = 100 * 1024  # bytes of the body that upload.lua sends


@dataclass(frozen=True)
class Sample:
    """One round of one cell. `errors` counts answers other than 2xx/3xx and broken connections."""

    rate: float  # requests per second
    megabytes: float  # per second
    p50: float  # ms
    p99: float  # ms
    errors: int


class WrkFailedError(Exception):
    """wrk gave no figures."""


def wrk(
    core: str, url: str, fields: list[str], connections: int, seconds: float, script: Path | None = None
) -> Sample:
    """Load `url` for so many seconds. wrk counts in whole ones: a fraction is ended by Ctrl-C, as by hand.

    `script` is one of wrk's, that uploads: megabytes are then those that were sent.
    """
    command = [
        "taskset",
        "-c",
        core,
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{math.ceil(seconds)}s",
        "--latency",
    ]
    for line in fields:
        command += ["-H", line]
    if script is not None:
        command += ["-s", str(script)]
    running = subprocess.Popen([*command, url], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        out, _ = running.communicate(timeout=seconds if seconds % 1 else seconds + 30)
    except subprocess.TimeoutExpired:
        running.send_signal(signal.SIGINT)
        try:
            out, _ = running.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            running.kill()
            raise WrkFailedError("wrk did not end") from None
    sample = read(out)
    return sample if script is None else replace(sample, megabytes=sample.rate * UPLOAD / 1e6)


def read(out: str) -> Sample:
    """The sample in what wrk printed."""
    found = {
        name: re.search(pattern, out)
        for name, pattern in {
            "rate": r"Requests/sec:\s+([\d.]+)",
            "bytes": r"Transfer/sec:\s+(\S+)",
            "p50": r"\n\s+50%\s+(\S+)",  # not the end of a 97.50% in the table above
            "p99": r"\n\s+99%\s+(\S+)",
        }.items()
    }
    if not all(found.values()):
        raise WrkFailedError(f"wrk gave no figures: {out.strip()[-300:]}")
    text = {name: match[1] for name, match in found.items() if match is not None}
    broken = re.search(r"Socket errors: (.+)", out)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    errors = sum(map(int, re.findall(r"\d+", broken[1]))) if broken else 0
    errors += int(refused[1]) if refused else 0
    return Sample(float(text["rate"]), to_mb(text["bytes"]), to_ms(text["p50"]), to_ms(text["p99"]), errors)


def to_ms(text: str) -> float:
    number, unit = split_unit(text)
    return number * {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}[unit]


def to_mb(text: str) -> float:
    number, unit = split_unit(text)
    return number * {"B": 1e-6, "KB": 1e-3, "MB": 1.0, "GB": 1e3}[unit]


def split_unit(text: str) -> tuple[float, str]:
    match = re.fullmatch(r"([\d.]+)([A-Za-z]+)", text)
    if match is None:
        raise WrkFailedError(f"wrk printed {text!r}, expected a number and a unit")
    return float(match[1]), match[2]


def ask(port: int, path: str, fields: list[str], upload: bytes = b"") -> tuple[bytes, bytes]:
    """Head and body of one answer, on a connection of its own. A POST when there is something to upload."""
    if upload:
        fields = [*fields, f"Content-Length: {len(upload)}"]
    line = f"{'POST' if upload else 'GET'} {path} HTTP/1.1"
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall("\r\n".join([line, "Connection: close", *fields, "", ""]).encode() + upload)
        answer = b""
        while data := client.recv(65536):
            answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int, seconds: float = 10.0) -> bool:
    """Whether somebody takes connections on this port, now or soon."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return True
    return False
