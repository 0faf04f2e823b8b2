"""`/metrics`: what the cells hold, in two formats, read back by prometheus-client's own parsers."""

from __future__ import annotations

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from edgeproxy.observe.cells import Cells
from edgeproxy.observe.families import FAMILIES, Kind
from edgeproxy.observe.metrics import render

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
BOUNDS = (0.001, 0.1, 30.0)
AWKWARD = 'a"b\\c\nd \u00e9'


def samples(cells: Cells, now: float = 0.0) -> dict[tuple[str, ...], float]:
    """(name, values of the labels in alphabetical order...) -> value, read back from the text format."""
    found = {}
    for family in parse_text(render(cells, now)[1].decode()):
        for sample in family.samples:
            found[sample.name, *sample.labels.values()] = sample.value
    return found


def busy() -> Cells:
    """Two workers of which each did something of every kind."""
    cells = Cells(3)
    for number in (1, 2):
        slot = cells.slot(number)
        slot.counter("edgeproxy_requests_total", route=AWKWARD, code="2xx").inc(number)
        slot.gauge("edgeproxy_connections").set(10 * number)
        slot.gauge("edgeproxy_loop_lag_seconds").set(0.5 * number)
        slot.gauge("edgeproxy_jwks_age_seconds", provider="main").set(1000.0 * number)
        histogram = slot.histogram("edgeproxy_request_duration_seconds", BOUNDS, route="a")
        for value in (0.0005, 0.05, 0.05, 60.0):
            histogram.observe(value)
    return cells


def test_counters_and_sums_add_up_over_the_workers():
    read = samples(busy())
    assert read["edgeproxy_requests_total", "2xx", AWKWARD] == 3
    assert read["edgeproxy_connections",] == 30


def test_a_maximum_is_the_worst_worker():
    assert samples(busy())["edgeproxy_loop_lag_seconds",] == 1.0


def test_an_age_is_that_of_the_oldest_worker_and_never_negative():
    assert samples(busy(), now=1600.0)["edgeproxy_jwks_age_seconds", "main"] == 600
    assert samples(busy(), now=0.0)["edgeproxy_jwks_age_seconds", "main"] == 0


def test_buckets_are_cumulated_and_the_count_is_the_last_one():
    read = samples(busy())
    name = "edgeproxy_request_duration_seconds"
    assert [read[f"{name}_bucket", edge, "a"] for edge in ("0.001", "0.1", "30.0", "+Inf")] == [2, 6, 6, 8]
    assert read[f"{name}_count", "a"] == 8
    assert read[f"{name}_sum", "a"] == pytest.approx(120.201)


def test_an_idle_edge_shows_every_family_without_labels_that_counts_and_nothing_else():
    expected = {(name,) for name, family in FAMILIES.items() if family.base}
    assert ("edgeproxy_connections_refused_total",) in expected
    assert set(samples(Cells(2))) == expected


def test_a_series_that_was_interned_but_never_happened_is_left_out():
    cells = Cells(1)
    cells.slot(0).counter("edgeproxy_requests_total", route="a", code="5xx")
    cells.slot(0).histogram("edgeproxy_request_duration_seconds", BOUNDS, route="a")
    assert not any("route" in str(key) or "duration" in key[0] for key in samples(cells))


def test_every_family_has_help_and_a_type_of_its_kind():
    types = {Kind.COUNTER: "counter", Kind.HISTOGRAM: "histogram"}
    for family in parse_text(render(busy(), 0.0)[1].decode()):
        name = family.name + "_total" if family.type == "counter" else family.name
        assert family.documentation == FAMILIES[name].help
        assert family.type == types.get(FAMILIES[name].kind, "gauge")


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "text/plain"),
        ("*/*", "text/plain"),
        (OPENMETRICS, "application/openmetrics-text"),
        (f"{OPENMETRICS};q=0.5,text/plain;q=0.1", "application/openmetrics-text"),
        ("\x00garbage;;q=", "text/plain"),
    ],
    ids=["nothing", "anything", "OpenMetrics", "as Prometheus asks", "garbage"],
)
def test_the_format_is_the_one_that_was_asked_for(accept, kind):
    content_type, page = render(busy(), 0.0, accept)
    assert content_type.startswith(kind)
    assert page.endswith(b"# EOF\n") == (kind != "text/plain")


def test_openmetrics_is_valid_to_its_own_strict_parser():
    page = render(busy(), 0.0, OPENMETRICS)[1].decode()
    families = {family.name: family for family in parse_openmetrics(page)}
    assert families["edgeproxy_requests"].samples[0].labels == {"route": AWKWARD, "code": "2xx"}
    assert families["edgeproxy_request_duration_seconds"].type == "histogram"


@pytest.mark.parametrize("name", FAMILIES, ids=str)
def test_names_follow_the_conventions(name):
    family = FAMILIES[name]
    assert name.startswith("edgeproxy_")
    assert name.endswith("_total") == (family.kind is Kind.COUNTER)
    assert family.help.endswith(".")
    assert not family.base or not family.labels
    assert name.endswith("_total") or f"{name}_total" not in FAMILIES  # one name in OpenMetrics
