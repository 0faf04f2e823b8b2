"""How the origins are, for /metrics and for /origins."""

from __future__ import annotations

import pytest

from edgeproxy.errors import OriginError, origin_error
from edgeproxy.observe.cells import Cells
from edgeproxy.observe.metrics import render
from edgeproxy.origin.settings import Origin
from edgeproxy.origins import origins_report, publish_upstream
from tests.origin.support import upstream

SERVERS = ["http://10.0.0.1:80", {"url": "unix:/run/app.sock", "weight": 3, "priority": 1, "zone": "b"}]


async def test_what_the_workers_believe_is_added_up() -> None:
    cells = Cells(3)
    origin = Origin.model_validate({"servers": SERVERS, "health": {}})
    async with (
        upstream("http://10.0.0.1:80", "unix:/run/app.sock", ejection={"failures": 1, "share": 1}) as one,
        upstream("http://10.0.0.1:80", "unix:/run/app.sock", breaker={"failures": 1}) as two,
    ):
        for made in (one, two):
            made.failed(made.servers[0], origin_error("http_response_timeout"))
        two.failed(two.servers[1], origin_error("http_response_timeout"))
        with pytest.raises(OriginError, match="destination_unavailable"):
            await two.connect()
        publish_upstream(cells.slot(0), one)
        publish_upstream(cells.slot(1), two)
    report = origins_report(cells, {"test": origin}, {"test": memoryview(bytearray([1, 2]))})
    assert report == {
        "test": {
            "balance": "round_robin",
            "connections": 0,
            "idle": 0,
            "waiting": 0,
            "breaker_open": 1,
            "panic": 0,
            "servers": [
                {
                    "server": "http://10.0.0.1:80",
                    "priority": 0,
                    "weight": 1,
                    "zone": None,
                    "health": "healthy",
                    "ejected_by_workers": 1,
                },
                {
                    "server": "unix:/run/app.sock",
                    "priority": 1,
                    "weight": 3,
                    "zone": "b",
                    "health": "unhealthy",
                    "ejected_by_workers": 0,
                },
            ],
        }
    }
    page = render(cells, 0.0, "")[1].decode()
    assert 'edgeproxy_origin_ejections_total{origin="test"} 1.0' in page
    assert 'edgeproxy_origin_server_ejected{origin="test",server="http://10.0.0.1:80"} 1.0' in page
    assert 'edgeproxy_origin_refusals_total{origin="test",reason="breaker"} 1.0' in page


def test_servers_that_nobody_probes_say_so() -> None:
    origin = Origin.model_validate({"servers": ["http://10.0.0.1:80"]})
    report = origins_report(Cells(1), {"test": origin}, {"test": memoryview(bytearray(1))})
    assert report["test"]["servers"][0]["health"] == "not probed"  # type: ignore[index]
