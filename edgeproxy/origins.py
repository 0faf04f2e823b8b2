"""How the origins are, as numbers for `/metrics` and as JSON for `/origins` of the admin API.

Every worker judges servers for itself; what they publish in their cells is added up here.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgeproxy.observe.cells import Cells, Slot, encode_series
from edgeproxy.observe.outcome import MAX_SERVERS
from edgeproxy.origin.settings import Origin
from edgeproxy.origin.standing import STATES
from edgeproxy.origin.upstream import Upstream

_PER_ORIGIN = {
    "connections": "edgeproxy_origin_connections",
    "idle": "edgeproxy_origin_connections_idle",
    "waiting": "edgeproxy_origin_waiting",
    "breaker_open": "edgeproxy_origin_breaker_open",
    "panic": "edgeproxy_origin_panic",
}


def publish_upstream(slot: Slot, upstream: Upstream) -> None:
    """Write what one worker knows about one origin into its cells. Called once a second."""
    name, gauge = upstream.name, slot.gauge
    gauge("edgeproxy_origin_connections", origin=name).set(upstream.open)
    gauge("edgeproxy_origin_connections_idle", origin=name).set(
        sum(len(server.idle) for server in upstream.servers)
    )
    gauge("edgeproxy_origin_waiting", origin=name).set(upstream.waiting)
    gauge("edgeproxy_origin_breaker_open", origin=name).set(float(upstream.breaker.is_open))
    gauge("edgeproxy_origin_panic", origin=name).set(float(upstream.roster.panic))
    for server in upstream.servers[:MAX_SERVERS]:
        up = upstream.usable(server.index)
        gauge("edgeproxy_origin_server_up", origin=name, server=server.label).set(float(up))
        ejected = upstream.ejected(server.index)
        gauge("edgeproxy_origin_server_ejected", origin=name, server=server.label).set(float(ejected))
    full, late = upstream.refused
    counts = {"breaker": upstream.shed, "queue_full": full, "queue_timeout": late}
    values, column = slot.values, slot.column
    for reason, count in counts.items():
        values[column("edgeproxy_origin_refusals_total", origin=name, reason=reason)] = count
    values[column("edgeproxy_origin_retries_denied_total", origin=name)] = upstream.retry_budget.denied
    values[column("edgeproxy_origin_ejections_total", origin=name)] = upstream.roster.ejected


def origins_report(
    cells: Cells, origins: Mapping[str, Origin], health: Mapping[str, memoryview]
) -> dict[str, object]:
    """Every origin with its servers. Figures are sums over the workers, a second old at most."""

    def total(series: str, **labels: str) -> int:
        return int(cells.total(cells.intern(encode_series(series, **labels))))

    report: dict[str, object] = {}
    for name, origin in origins.items():
        servers = [
            {
                "server": str(url),
                "priority": entry.priority,
                "weight": entry.weight,
                "zone": entry.zone,
                "health": STATES[health[name][index]] if origin.health is not None else "not probed",
                "ejected_by_workers": total("edgeproxy_origin_server_ejected", origin=name, server=str(url)),
            }
            for index, (entry, url) in enumerate(zip(origin.entries, origin.urls, strict=True))
        ]
        figures = {word: total(series, origin=name) for word, series in _PER_ORIGIN.items()}
        report[name] = {"balance": origin.balance, **figures, "servers": servers}
    return report
