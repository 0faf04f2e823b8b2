"""What a request adds to the cells, and that no client can add a series (A125)."""

from __future__ import annotations

import random

import pytest

from edgeproxy.decision import Cause
from edgeproxy.errors import ORIGIN_FAILURES
from edgeproxy.observe.cells import Cells, Slot, decode_series
from edgeproxy.observe.metrics import render
from edgeproxy.observe.outcome import (
    CODES,
    MAX_REASONS,
    MAX_SERVERS,
    DoorMeters,
    OriginMeters,
    RouteMeters,
    code_of,
)

RESULTS = [cause.word for cause in Cause]


def happened(slot: Slot) -> dict[tuple[str, ...], float]:
    """What is not zero in the slot: (name without prefix, label values...) -> value."""
    found = {}
    for column, text in enumerate(slot.cells.names()):
        if slot.values[column]:
            series = decode_series(text)
            values = [value for _, value in series.labels]
            found[series.name.removeprefix("edgeproxy_"), *values] = slot.values[column]
    return found


@pytest.mark.parametrize(
    ("status", "code"),
    [(101, "1xx"), (200, "2xx"), (206, "2xx"), (301, "3xx"), (304, "304"), (404, "4xx"), (429, "429"),
     (499, "499"), (500, "5xx"), (504, "5xx"), (599, "5xx"), (999, "5xx"), (0, "1xx")],
)  # fmt: skip
def test_a_status_has_a_code_of_a_closed_set(status, code):
    assert code_of(status) == code
    assert code in CODES


def test_an_answer_is_counted_by_code_result_duration_and_bytes():
    slot = Cells(1).slot(0)
    RouteMeters(slot, "api", RESULTS).record(200, Cause.HIT.word, 0.0004, 1024)
    assert happened(slot) == {
        ("requests_total", "2xx", "api"): 1,
        ("cache_requests_total", "hit", "api"): 1,
        ("request_duration_seconds", "0.0005", "api"): 1,
        ("request_duration_seconds_sum", "api"): 0.0004,
        ("response_bytes_total", "api"): 1024,
    }


def test_a_refusal_is_counted_by_policy_and_reason():
    slot = Cells(1).slot(0)
    meters = RouteMeters(slot, "api", RESULTS)
    meters.expect("jwt", ["expired"])
    meters.expect("jwt", ["scope"])
    for reason in ("expired", "expired", "scope", "policy-failed"):
        meters.refused("jwt", reason)
    assert happened(slot) == {
        ("policy_refusals_total", "jwt", "expired", "api"): 2,
        ("policy_refusals_total", "jwt", "scope", "api"): 1,
        ("policy_refusals_total", "jwt", "policy-failed", "api"): 1,
    }


def test_a_failure_is_counted_by_policy_and_what_it_meant():
    slot = Cells(1).slot(0)
    meters = RouteMeters(slot, "api", RESULTS)
    for passed in (True, True, False):
        meters.failed("geo", passed=passed)
    assert happened(slot) == {
        ("policy_errors_total", "allow", "geo", "api"): 2,
        ("policy_errors_total", "deny", "geo", "api"): 1,
    }


def test_what_a_policy_did_not_say_it_would_say_is_other():
    slot = Cells(1).slot(0)
    meters = RouteMeters(slot, "api", RESULTS)
    meters.expect("custom", ["closed"])
    for number in range(100):
        meters.refused("custom", f"reason-{number}")
        meters.decided("custom", "shadow-refuse", f"reason-{number}")
        meters.decided("custom", "shadow-error", f"Error{number}")
    meters.decided("custom", "shadow-refuse", "closed")
    meters.decided("custom", "shadow-allow", "-")
    assert happened(slot) == {
        ("policy_refusals_total", "custom", "other", "api"): 100,
        ("policy_shadow_total", "refuse", "custom", "other", "api"): 100,
        ("policy_shadow_total", "error", "custom", "-", "api"): 100,
        ("policy_shadow_total", "refuse", "custom", "closed", "api"): 1,
        ("policy_shadow_total", "allow", "custom", "-", "api"): 1,
    }


def test_an_origin_is_counted_by_server_result_and_error():
    slot = Cells(1).slot(0)
    meters = OriginMeters(slot, "eu")
    meters.answered("10.0.0.1:80", 200, 0.02)
    meters.answered("10.0.0.1:80", 503, 0.02)
    meters.failed("10.0.0.2:80", "connection_refused")
    meters.retries.inc()
    seen = happened(slot)
    assert seen == {
        ("origin_requests_total", "eu", "2xx", "10.0.0.1:80"): 1,
        ("origin_requests_total", "eu", "5xx", "10.0.0.1:80"): 1,
        ("origin_requests_total", "eu", "error", "10.0.0.2:80"): 1,
        ("origin_errors_total", "connection_refused", "eu"): 1,
        ("origin_retries_total", "eu"): 1,
        ("origin_duration_seconds", "0.025", "eu"): 2,
        ("origin_duration_seconds_sum", "eu"): 0.04,
    }


def test_more_servers_than_an_origin_can_have_become_other():
    slot = Cells(1).slot(0)
    meters = OriginMeters(slot, "eu")
    for number in range(MAX_SERVERS + 10):
        meters.failed(f"10.0.0.{number}", "dns_error")
    assert happened(slot)["origin_requests_total", "eu", "error", "other"] == 10


def test_the_door_counts_connections_refusals_and_lag():
    slot = Cells(1).slot(0)
    meters = DoorMeters(slot)
    meters.opened(7, refused=False)
    meters.opened(8, refused=True)
    meters.closed(6)
    meters.failed()
    meters.rejected("bad-framing")
    meters.lag(1.0)
    meters.lag(0.0)
    assert happened(slot) == {
        ("connections",): 6,
        ("connections_accepted_total",): 2,
        ("connections_refused_total",): 1,
        ("unhandled_errors_total",): 1,
        ("bad_requests_total", "bad-framing"): 1,
        ("loop_lag_seconds",): 0.95,
    }


def test_more_reasons_than_the_door_can_have_become_other():
    slot = Cells(1).slot(0)
    meters = DoorMeters(slot)
    for number in range(MAX_REASONS + 5):
        meters.rejected(f"reason-{number}")
    assert happened(slot)["bad_requests_total", "other"] == 5


def test_fifty_routes_stay_below_two_thousand_series_whatever_happens():
    cells = Cells(1)
    slot = cells.slot(0)
    DoorMeters(slot)
    routes = [RouteMeters(slot, f"route-{number}", RESULTS) for number in range(50)]
    origins = [OriginMeters(slot, f"origin-{number}") for number in range(3)]
    for meters in routes:
        for status in range(100, 600):
            for result in RESULTS:
                meters.record(status, result, 0.001, 1)
        meters.refused("rate_limit", "rate-limited")
    for origin in origins:
        for error in ORIGIN_FAILURES:
            origin.failed("10.0.0.1:80", error)
        origin.answered("10.0.0.1:80", 200, 0.1)
    samples = [line for line in render(cells, 0.0)[1].splitlines() if not line.startswith(b"#")]
    assert 50 * 34 < len(samples) <= 2000


def test_random_requests_add_no_series():
    cells = Cells(1)
    meters = RouteMeters(cells.slot(0), "api", RESULTS)
    before = len(cells.names())
    chance = random.Random(7)
    for _ in range(20_000):
        meters.record(chance.randrange(100, 1000), chance.choice(RESULTS), chance.expovariate(1), 1)
    assert len(cells.names()) == before
