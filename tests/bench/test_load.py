"""What wrk prints is read whole: a figure that hides failed requests is worse than none."""

from __future__ import annotations

import pytest

from tests.bench.load import Sample, WrkFailedError, read

FIGURES = """Running 1s test @ http://127.0.0.1:8080/hit
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.30ms    0.97ms  12.09ms   97.50%
    Req/Sec    30.81k     1.41k   32.66k    86.99%
  Latency Distribution
     50%    {p50}
     75%    1.60ms
     90%    2.19ms
     99%    {p99}
  30641 requests in 1.00s, 38.20MB read
{errors}Requests/sec:  30641.50
Transfer/sec:     {transfer}
"""


def printed(p50: str = "1.20ms", p99: str = "8.00ms", transfer: str = "38.20MB", errors: str = "") -> str:
    return FIGURES.format(p50=p50, p99=p99, transfer=transfer, errors=errors)


def test_figures_are_read_in_milliseconds_and_megabytes() -> None:
    assert read(printed()) == Sample(30641.5, 38.2, 1.2, 8.0, 0)


@pytest.mark.parametrize(
    ("p50", "p99", "transfer", "expected"),
    [
        ("900.00us", "1.50s", "1.50GB", (0.9, 1500.0, 1500.0)),
        ("2.00s", "1.00m", "500.00KB", (2000.0, 60_000.0, 0.5)),
    ],
)
def test_units_are_not_taken_for_granted(
    p50: str, p99: str, transfer: str, expected: tuple[float, float, float]
) -> None:
    sample = read(printed(p50, p99, transfer))
    assert (sample.p50, sample.p99, sample.megabytes) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("errors", "count"),
    [
        ("  Socket errors: connect 0, read 3, write 0, timeout 2\n", 5),
        ("  Non-2xx or 3xx responses: 7\n", 7),
        ("  Socket errors: connect 1, read 0, write 0, timeout 0\n  Non-2xx or 3xx responses: 7\n", 8),
    ],
)
def test_failed_requests_are_counted(errors: str, count: int) -> None:
    assert read(printed(errors=errors)).errors == count


@pytest.mark.parametrize("out", ["", "unable to connect to 127.0.0.1:1 Connection refused\n"])
def test_no_figures_are_an_error(out: str) -> None:
    with pytest.raises(WrkFailedError):
        read(out)


def test_figures_in_a_strange_unit_are_an_error() -> None:
    with pytest.raises(WrkFailedError):
        read(printed(p50="many"))
