"""What is known of requests that clients repeat.

Connections of one client that send the same field lines share it: browsers open several at once.
"""

from __future__ import annotations

from edgeproxy.pipeline import Visit

HEADS = 256  # field lines known to a worker; then all go, but for those that connections hold
VISITS = 16  # request lines remembered with them


class Visits(dict[bytes, Visit]):
    """Those of one client above the same field lines, by request line."""

    __slots__ = ("fields",)

    def __init__(self, fields: bytes = b"") -> None:
        super().__init__()
        self.fields = fields

    def keep(self, line: bytes, visit: Visit) -> None:
        """Remember the visit of a request line, unless another connection did, with all that was found out
        since."""
        known = self.get(line)
        if known is not None and known.edge is visit.edge:
            return
        if len(self) >= VISITS:
            self.clear()
        self[line] = visit


class KnownHeads:
    """The field lines that clients of this worker repeat."""

    __slots__ = ("_visits", "_with_body")

    def __init__(self) -> None:
        self._visits: dict[tuple[str, str | None, bytes], Visits] = {}
        self._with_body: dict[tuple[str, str | None, bytes], tuple[Visit, int]] = {}

    def visits(self, peer: str, scheme: str | None, fields: bytes) -> Visits:
        """What is known of these lines from this client."""
        visits = self._visits.get((peer, scheme, fields))
        if visits is None:
            if len(self._visits) >= HEADS:
                self._visits.clear()
            visits = self._visits[peer, scheme, fields] = Visits(fields)
        return visits

    def with_body(self, peer: str, scheme: str | None, head: bytes) -> tuple[Visit, int] | None:
        """What the head of a request with a body led to, and how many bytes follow it."""
        return self._with_body.get((peer, scheme, head))

    def keep_with_body(self, peer: str, scheme: str | None, head: bytes, visit: Visit, length: int) -> None:
        """Remember a head before `length` bytes of body."""
        if len(self._with_body) >= HEADS:
            self._with_body.clear()
        self._with_body[peer, scheme, head] = (visit, length)

    def clear(self) -> None:
        """Another configuration is in force."""
        self._visits.clear()
        self._with_body.clear()
