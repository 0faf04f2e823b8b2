"""What became of a request: one `Outcome` for the log, a few cells for the metrics.

Rule: label sets are closed when the configuration is built, so that no client can add a series
(reliability A125). `RouteMeters.record` runs once per request, hits included, and only adds to cells.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass

from edgeproxy.observe.cells import Counter, Slot

CLIENT_LEFT = 499  # nginx's number for a client that did not wait for the answer
_ALONE = (304, 429, CLIENT_LEFT)
CODES = ("1xx", "2xx", "3xx", "4xx", "5xx", *map(str, _ALONE))

# Seconds. Fine below 1 ms, where hits are; coarse where origins are.
DURATION_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0)

_OF_ALL = frozenset({"policy-failed"})  # why a request is refused whose policy raised
MAX_REASONS = 64  # why the door refuses, then `other`
MAX_SERVERS = 64  # servers per origin, then `other`
MAX_CLASSES = 1024  # (server, status) pairs remembered
OTHER = "other"


def code_of(status: int) -> str:
    """The `code` label of a status: its class, or itself where it stands alone."""
    if status in _ALONE:
        return str(status)
    return f"{min(max(status // 100, 1), 5)}xx"


CODE_OF = tuple([code_of(status) for status in range(1000)])


class RouteMeters:
    """The cells of one route. Built with the configuration, in the process that will write.

    `results` is the closed set of cache results: `[cause.word for cause in Cause]`.
    """

    __slots__ = (
        "_buckets",
        "_codes",
        "_delays",
        "_failures",
        "_refusals",
        "_results",
        "_sent",
        "_slot",
        "_sum",
        "_values",
        "_words",
        "route",
    )

    def __init__(self, slot: Slot, route: str, results: Iterable[bytes]) -> None:
        self.route = route
        self._slot = slot
        self._values = slot.values
        codes = {code: slot.column("edgeproxy_requests_total", route=route, code=code) for code in CODES}
        self._codes = tuple([codes[code] for code in CODE_OF])
        self._results = {
            word: slot.column("edgeproxy_cache_requests_total", route=route, result=word.decode())
            for word in results
        }
        durations = slot.histogram("edgeproxy_request_duration_seconds", DURATION_BOUNDS, route=route)
        self._buckets = durations.buckets
        self._sum = durations.sum
        self._sent = slot.column("edgeproxy_response_bytes_total", route=route)
        self._refusals: dict[tuple[str, str], Counter] = {}
        self._failures: dict[tuple[str, str], Counter] = {}
        self._delays: dict[str, Counter] = {}
        self._words: dict[str, set[str]] = {}

    def record(self, status: int, result: bytes, seconds: float, sent: int) -> None:
        """Count one answer. `status` 100-999, `result` one of `results`, `sent` bytes of body."""
        values = self._values
        values[self._codes[status]] += 1.0
        values[self._results[result]] += 1.0
        values[self._buckets[bisect_left(DURATION_BOUNDS, seconds)]] += 1.0
        values[self._sum] += seconds
        values[self._sent] += sent

    def expect(self, policy: str, reasons: Iterable[str]) -> None:
        """`policy` answers for these reasons; whatever else it says is counted as `other`."""
        self._words.setdefault(policy, {*_OF_ALL}).update(reasons)

    def refused(self, policy: str, reason: str) -> None:
        """Count an answer that a policy gave. Called beside `record`."""
        reason = self._expected(policy, reason)
        counter = self._refusals.get((policy, reason))
        if counter is None:
            counter = self._refusals[policy, reason] = self._slot.counter(
                "edgeproxy_policy_refusals_total", route=self.route, policy=policy, reason=reason
            )
        counter.inc()

    def delayed(self, policy: str) -> None:
        """Count a request that a policy made wait."""
        counter = self._delays.get(policy)
        if counter is None:
            counter = self._delays[policy] = self._slot.counter(
                "edgeproxy_policy_delays_total", route=self.route, policy=policy
            )
        counter.inc()

    def failed(self, policy: str, *, passed: bool) -> None:
        """Count an exception inside a policy, which is a name of the configuration."""
        decision = "allow" if passed else "deny"
        counter = self._failures.get((policy, decision))
        if counter is None:
            counter = self._failures[policy, decision] = self._slot.counter(
                "edgeproxy_policy_errors_total", route=self.route, policy=policy, decision=decision
            )
        counter.inc()

    def decided(self, policy: str, decision: str, reason: str) -> None:
        """Count what a policy in shadow mode would have done."""
        reason = self._expected(policy, reason) if decision == "shadow-refuse" else "-"
        word = f"{decision}/{reason}"
        counter = self._refusals.get((policy, word))
        if counter is None:
            counter = self._refusals[policy, word] = self._slot.counter(
                "edgeproxy_policy_shadow_total",
                route=self.route, policy=policy, decision=decision.removeprefix("shadow-"), reason=reason,
            )  # fmt: skip
        counter.inc()

    def _expected(self, policy: str, reason: str) -> str:
        return reason if reason in self._words.get(policy, _OF_ALL) else OTHER


class DoorMeters:
    """The cells of one process's doors: what happens before there is a route, and around it."""

    __slots__ = ("_failed", "_lag", "_open", "_reasons", "_refused", "_slot", "_total", "_worst")

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self._open = slot.gauge("edgeproxy_connections")
        self._total = slot.counter("edgeproxy_connections_accepted_total")
        self._refused = slot.counter("edgeproxy_connections_refused_total")
        self._failed = slot.counter("edgeproxy_unhandled_errors_total")
        self._lag = slot.gauge("edgeproxy_loop_lag_seconds")
        self._worst = 0.0
        self._reasons: dict[str, Counter] = {}

    def opened(self, now_open: int, *, refused: bool) -> None:
        """A connection was made; `refused` when there are too many and it is closed at once."""
        self._open.set(now_open)
        self._total.inc()
        if refused:
            self._refused.inc()

    def closed(self, now_open: int) -> None:
        """A connection ended."""
        self._open.set(now_open)

    def failed(self) -> None:
        """An exception nobody expected."""
        self._failed.inc()

    def rejected(self, reason: str) -> None:
        """A request that never became one; `reason` is `RequestError.reason`."""
        counter = self._reasons.get(reason)
        if counter is None:
            if len(self._reasons) >= MAX_REASONS and reason != OTHER:
                self.rejected(OTHER)
                return
            counter = self._reasons[reason] = self._slot.counter(
                "edgeproxy_bad_requests_total", reason=reason
            )
        counter.inc()

    def lag(self, seconds: float) -> None:
        """How late the loop was, at each look. A peak fades by 5 % a look, so that a scrape sees it."""
        self._worst = max(seconds, self._worst * 0.95)
        self._lag.set(self._worst)


class OriginMeters:
    """The cells of one origin: what its servers answered, how fast, and how they failed."""

    __slots__ = ("_classes", "_durations", "_errors", "_results", "_servers", "_slot", "origin", "retries")

    def __init__(self, slot: Slot, origin: str) -> None:
        self.origin = origin
        self.retries = slot.counter("edgeproxy_origin_retries_total", origin=origin)
        self._slot = slot
        self._durations = slot.histogram("edgeproxy_origin_duration_seconds", DURATION_BOUNDS, origin=origin)
        self._servers: set[str] = set()
        self._results: dict[tuple[str, str], Counter] = {}
        self._classes: dict[tuple[str, int], Counter] = {}  # so that no label is built for an answer
        self._errors: dict[str, Counter] = {}

    def answered(self, server: str, status: int, seconds: float) -> None:
        """A response head came from `server` after `seconds`."""
        counter = self._classes.get((server, status))
        if counter is None:
            counter = self._result(server, f"{min(status // 100, 5)}xx")
            if len(self._classes) < MAX_CLASSES:
                self._classes[server, status] = counter
        durations, values = self._durations, self._slot.values
        values[counter.column] += 1.0
        values[durations.buckets[bisect_left(DURATION_BOUNDS, seconds)]] += 1.0
        values[durations.sum] += seconds

    def failed(self, server: str, error: str) -> None:
        """No usable answer. `error` is a key of `errors.ORIGIN_FAILURES`; server `-` if none was asked."""
        self._result(server, "error").inc()
        self.broke_off(error)

    def hedged(self, outcome: str) -> None:
        """A second server was asked, or should have been; `outcome` is `won`, `lost`, `failed`, `abandoned`
        or `denied`."""
        self._slot.counter("edgeproxy_origin_hedges_total", origin=self.origin, outcome=outcome).inc()

    def broke_off(self, error: str) -> None:
        """An answer that was counted by its status ended before it was whole."""
        counter = self._errors.get(error)
        if counter is None:
            counter = self._errors[error] = self._slot.counter(
                "edgeproxy_origin_errors_total", origin=self.origin, error=error
            )
        counter.inc()

    def _result(self, server: str, result: str) -> Counter:
        counter = self._results.get((server, result))
        if counter is not None:
            return counter
        if server not in self._servers:
            if len(self._servers) >= MAX_SERVERS and server != OTHER:
                return self._result(OTHER, result)
            self._servers.add(server)
        counter = self._results[server, result] = self._slot.counter(
            "edgeproxy_origin_requests_total", origin=self.origin, server=server, result=result
        )
        return counter


@dataclass(slots=True)
class Outcome:
    """Everything the access log says about one request. No header values but the user agent.

    Values are as received: escaping, capping and redacting is the log's work.
    """

    time: float  # wall clock, epoch seconds, when the request head was complete
    client: str
    method: bytes
    host: bytes
    path: bytes
    query: bytes
    status: int
    result: bytes  # Cause.word
    route: str
    request_id: str
    seconds: float
    sent: int  # bytes of the response body
    agent: bytes = b""
    country: str = ""
    variants: str = ""  # `checkout=fast pricing=b`
    policy: str = ""  # who answered instead of the cache, and its word for why
    reason: str = ""
    shadow: str = ""  # `geo=geo-denied`: what policies in shadow mode would have refused for
    origin: str = ""
    server: str = ""
    retries: int = 0
    origin_seconds: float = 0.0
    error: str = ""  # RFC 9209 error type, or a word of the door
    error_detail: str = ""  # what an origin did wrong, in words; said with `error` only
    received: int = 0  # bytes that a WebSocket brought from the client
