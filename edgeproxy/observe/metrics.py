"""`/metrics`: the cells of all processes as Prometheus families, rendered by prometheus-client.

Rule: families come in the order of `families.FAMILIES`, each once, and a series that never happened is
left out unless its family has no labels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from math import inf

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from edgeproxy.observe.cells import Cells, decode_series
from edgeproxy.observe.families import FAMILIES, Family, Kind

Labels = tuple[str, ...]
Read = dict[Labels, tuple[float, ...]]  # label values -> what each slot holds


def render(cells: Cells, now: float, accept: str = "") -> tuple[str, bytes]:
    """(content type, page) in the format that `accept` asks for: Prometheus text or OpenMetrics.

    `now` is wall-clock seconds, for ages.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(CellsCollector(cells, now))
    encode, content_type = choose_encoder(accept)
    return content_type, encode(registry)


class CellsCollector(Collector):
    """The cells as they are when collected."""

    def __init__(self, cells: Cells, now: float) -> None:
        self._cells = cells
        self._now = now

    def collect(self) -> Iterator[Metric]:
        read = _read(self._cells)
        for name, family in FAMILIES.items():
            series = read.get(name, {})
            if not series and family.base:
                series = {(): (0.0,)}
            metric = self._metric(name, family, series, read.get(f"{name}_sum", {}))
            if metric.samples:
                yield metric

    def _metric(self, name: str, family: Family, series: Read, sums: Read) -> Metric:
        if family.kind is Kind.HISTOGRAM:
            return _histogram(name, family, series, sums)
        if family.kind is Kind.COUNTER:
            counter = CounterMetricFamily(name, family.help, labels=family.labels)
            for labels, values in series.items():
                if (total := sum(values)) or family.base:
                    counter.add_metric(labels, total)
            return counter
        gauge = GaugeMetricFamily(name, family.help, labels=family.labels)
        for labels, values in series.items():
            if family.kind is not Kind.AGE:
                gauge.add_metric(labels, sum(values) if family.kind is Kind.SUM else max(values))
            elif set_at := [value for value in values if value]:
                gauge.add_metric(labels, max(0.0, self._now - min(set_at)))
        return gauge


def _histogram(name: str, family: Family, series: Read, sums: Read) -> Metric:
    """Buckets cumulated, per set of labels. A bucket's labels end with its edge."""
    metric = HistogramMetricFamily(name, family.help, labels=family.labels)
    groups: defaultdict[Labels, list[tuple[float, float]]] = defaultdict(list)
    for (*labels, edge), values in series.items():
        groups[tuple(labels)].append((float(edge), sum(values)))
    for labels, buckets in groups.items():
        cumulated: list[tuple[str, float]] = []
        count = 0.0
        for edge, value in sorted(buckets):
            count += value
            cumulated.append(("+Inf" if edge == inf else str(edge), count))
        if count:
            metric.add_metric(labels, cumulated, sum(sums.get(labels, (0.0,))))
    return metric


def _read(cells: Cells) -> dict[str, Read]:
    """Name -> labels -> a value per slot, labels in the order of the family."""
    names = cells.names()
    read: defaultdict[str, Read] = defaultdict(dict)
    for text, values in zip(names, zip(*cells.snapshot(len(names)), strict=True), strict=False):
        series = decode_series(text)
        family = FAMILIES.get(series.name) or FAMILIES.get(series.name.removesuffix("_sum"))
        if family is None:
            continue
        labels = dict(series.labels)
        order = (*family.labels, "le") if "le" in labels else family.labels
        read[series.name][tuple([labels[label] for label in order])] = values
    return read
