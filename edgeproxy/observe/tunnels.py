"""What is counted about WebSockets: how many are open, how they end, what they carry."""

from __future__ import annotations

from edgeproxy.observe.cells import Slot

CLOSED = "closed"  # by one of its sides
IDLE = "idle"  # nothing passed for too long
DRAINED = "drained"  # the worker stopped
FAILED = "failed"  # a connection broke


class TunnelMeters:
    """The cells of one process."""

    __slots__ = ("_open", "_slot")

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self._open = slot.gauge("edgeproxy_tunnels")

    def opened(self, now_open: int) -> None:
        """A WebSocket began."""
        self._open.set(now_open)

    def ended(self, now_open: int, route: str, ending: str, received: int, sent: int) -> None:
        """One ended. `ending` is one of the words above; `received` and `sent` are bytes of the client."""
        counter = self._slot.counter
        self._open.set(now_open)
        counter("edgeproxy_tunnels_ended_total", route=route, ending=ending).inc()
        for direction, size in (("received", received), ("sent", sent)):
            counter("edgeproxy_tunnel_bytes_total", route=route, direction=direction).inc(size)
