"""Every metric the edge publishes: name, kind, labels and help, in one table.

Rule: a series that is not of this table cannot be made (`Slot.counter` refuses it), so this file is
the documentation of `/metrics`, and label values come from configuration or closed sets only.
"""

from __future__ import annotations

from enum import Enum

from edgeproxy.record import record


class Kind(Enum):
    """What a cell holds, and how the cells of all processes become one number."""

    COUNTER = "counter"  # only grows; summed
    HISTOGRAM = "histogram"  # a counter per bucket and one for the sum; summed
    SUM = "sum"  # gauge; summed
    MAX = "max"  # gauge; the largest
    AGE = "age"  # gauge; holds a wall-clock time, shown as seconds since the oldest one


GAUGES = frozenset({Kind.SUM, Kind.MAX, Kind.AGE})


@record
class Family:
    """One metric name. `base` families are shown even before anything happened."""

    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    base: bool = False


def _counter(text: str, *labels: str) -> Family:
    return Family(Kind.COUNTER, text, labels, base=not labels)


def _histogram(text: str, *labels: str) -> Family:
    return Family(Kind.HISTOGRAM, text, labels)


def _sum(text: str, *labels: str) -> Family:
    return Family(Kind.SUM, text, labels, base=not labels)


def _max(text: str, *labels: str) -> Family:
    return Family(Kind.MAX, text, labels)


def _age(text: str, *labels: str) -> Family:
    return Family(Kind.AGE, text, labels)


FAMILIES: dict[str, Family] = {
    # Requests
    "edgeproxy_requests_total": _counter(
        "Answers by class of status; 304, 429 and 499 (the client left) stand alone.", "route", "code"
    ),
    "edgeproxy_cache_requests_total": _counter(
        "Answers by what the cache said, in the words of Cache-Status.", "route", "result"
    ),
    "edgeproxy_request_duration_seconds": _histogram(
        "From the complete request head to the last byte handed to the kernel.", "route"
    ),
    "edgeproxy_response_bytes_total": _counter("Bytes of response bodies sent to clients.", "route"),
    "edgeproxy_policy_refusals_total": _counter(
        "Requests answered by a policy instead of the cache or an origin; all others it let pass.",
        "route",
        "policy",
        "reason",
    ),
    "edgeproxy_policy_shadow_total": _counter(
        "Decisions of policies in shadow mode: allow, refuse or error. Nothing was done about them.",
        "route",
        "policy",
        "decision",
        "reason",
    ),
    "edgeproxy_policy_delays_total": _counter(
        "Requests that a policy let pass, but only after a while.", "route", "policy"
    ),
    "edgeproxy_policy_errors_total": _counter(
        "Exceptions inside a policy: whether the request was let pass (`allow`) or refused (`deny`).",
        "route",
        "policy",
        "decision",
    ),
    "edgeproxy_bad_requests_total": _counter("Requests refused by the door, before any route.", "reason"),
    "edgeproxy_unhandled_errors_total": _counter("Exceptions nobody expected, answered with 500."),
    "edgeproxy_compression_bytes_total": _counter(
        "Bytes of bodies `before` and `after` the edge compressed them.", "route", "coding", "side"
    ),
    # Connections
    "edgeproxy_connections": _sum("Open client connections."),
    "edgeproxy_connections_accepted_total": _counter(
        "Client connections accepted, those refused among them."
    ),
    "edgeproxy_connections_refused_total": _counter("Client connections closed at once: over the cap."),
    "edgeproxy_tunnels": _sum("Open WebSockets."),
    "edgeproxy_tunnels_ended_total": _counter(
        "WebSockets that ended: `closed` by a side, `idle`, `drained` at a stop, or `failed`.",
        "route",
        "ending",
    ),
    "edgeproxy_tunnel_bytes_total": _counter(
        "Bytes of ended WebSockets, `received` from clients and `sent` to them.", "route", "direction"
    ),
    # Cache
    "edgeproxy_cache_bytes": _sum("Bytes held by the memory caches of all workers."),
    "edgeproxy_cache_entries": _sum("Responses held by the memory caches of all workers."),
    "edgeproxy_cache_evictions_total": _counter("Responses dropped to make room."),
    "edgeproxy_purges_total": _counter("Purges accepted.", "kind"),
    # Origins
    "edgeproxy_origin_requests_total": _counter(
        "Requests to origins: class of the answer's status, or `error`.", "origin", "server", "result"
    ),
    "edgeproxy_origin_duration_seconds": _histogram("From asking an origin to its response head.", "origin"),
    "edgeproxy_origin_errors_total": _counter(
        "Failures of origins, by error type of RFC 9209.", "origin", "error"
    ),
    "edgeproxy_origin_retries_total": _counter("Requests sent to an origin a second time.", "origin"),
    "edgeproxy_origin_hedges_total": _counter(
        "Second servers asked because the first said nothing: `won`, `lost`, `failed`, `abandoned` with the "
        "client, or `denied` by a budget.",
        "origin",
        "outcome",
    ),
    "edgeproxy_origin_connections": _sum("Open connections to origins.", "origin"),
    "edgeproxy_origin_connections_idle": _sum("Open connections to origins that nobody uses.", "origin"),
    "edgeproxy_dns_failures_total": _counter("Look-ups of origins' names without an answer."),
    "edgeproxy_origin_waiting": _sum("Requests that wait for a connection to an origin.", "origin"),
    "edgeproxy_origin_refusals_total": _counter(
        "Requests that no server was asked for: `breaker` open, `queue_full`, `queue_timeout`.",
        "origin",
        "reason",
    ),
    "edgeproxy_origin_retries_denied_total": _counter(
        "Requests not tried again because too many others were being.", "origin"
    ),
    "edgeproxy_origin_breaker_open": _sum("Workers that do not ask the origin at all for now.", "origin"),
    "edgeproxy_origin_panic": _sum(
        "Workers that ask every server of the origin, because too few are believed to be well.", "origin"
    ),
    "edgeproxy_origin_ejections_total": _counter(
        "Times a worker put a server aside because it answered badly.", "origin"
    ),
    "edgeproxy_origin_server_ejected": _sum("Workers that put the server aside.", "origin", "server"),
    "edgeproxy_origin_server_up": Family(
        Kind.MAX, "1 while a worker believes the server is well, else 0.", ("origin", "server")
    ),
    # The machine tier
    "edgeproxy_cache_machine_hits_total": _counter("Answers taken from the machine tier into memory."),
    "edgeproxy_cache_files_total": _counter(
        "Bodies for files of their own, by what became of them; lost: somebody changed the length.", "result"
    ),
    "edgeproxy_cache_files_evictions_total": _counter("Such files removed to make room."),
    "edgeproxy_cache_files_bytes": _max("Bytes of all such files."),
    "edgeproxy_cache_machine_entries": _max("Keys under which the machine tier holds answers."),
    "edgeproxy_cache_machine_bytes": _max("Bytes of the machine tier's file in use."),
    "edgeproxy_cache_machine_paused": _sum("Processes that leave the machine tier alone for now."),
    "edgeproxy_cache_machine_evictions_total": _counter("Answers dropped from it to make room."),
    "edgeproxy_cache_machine_dropped_total": _counter(
        "Answers never stored there, because too many were waiting for it."
    ),
    "edgeproxy_cache_machine_errors_total": _counter(
        "Failures: `disk`, `full`, `slow`, `damaged`, or the `folder` at the start.", "kind"
    ),
    "edgeproxy_cache_machine_remade_total": _counter("Times the file was made anew, by why.", "reason"),
    # Policies
    "edgeproxy_geo_lookups_total": _counter("Addresses looked up, by whether the database knew.", "result"),
    "edgeproxy_geo_database_age_seconds": _age("Since the geo database in use was built."),
    "edgeproxy_geo_database_failures_total": _counter(
        "Looks at replaced geo databases that brought none to use: unreadable, damaged, or of no use."
    ),
    "edgeproxy_experiment_requests_total": _counter(
        "Answers to requests with a variant, by class of status.", "experiment", "variant", "code"
    ),
    "edgeproxy_experiment_duration_seconds": _histogram(
        "As edgeproxy_request_duration_seconds, by variant.", "experiment", "variant"
    ),
    "edgeproxy_experiment_exposures_total": _counter(
        "Units that saw the variant, each once; no robots, no forced variants.", "experiment", "variant"
    ),
    "edgeproxy_experiment_expected_total": _counter(
        "Units that the weights would have given the variant.", "experiment", "variant"
    ),
    "edgeproxy_experiment_mismatch": _max(
        "1 when the exposures cannot have come from the weights (chi-square, p < 0.001, 1,000 or more).",
        "experiment",
    ),
    "edgeproxy_exposures_dropped_total": _counter(
        "Exposures that were not written down: no room, or the collector refused them.", "sink"
    ),
    "edgeproxy_exposure_sink_failures_total": _counter("Failed writes of exposures.", "sink"),
    "edgeproxy_jwks_age_seconds": _age("Since the provider's keys were last fetched.", "provider"),
    "edgeproxy_jwks_failures_total": _counter("Failed fetches of a provider's keys.", "provider"),
    "edgeproxy_credential_file_failures_total": _counter(
        "Changes of a file of API keys or passwords that were not taken: it has a mistake.", "file"
    ),
    "edgeproxy_jwt_revocations": _max("Entries of the provider's list of revoked tokens.", "provider"),
    "edgeproxy_jwt_revocation_failures_total": _counter(
        "Changes of the list of revoked tokens that could not be read whole.", "provider"
    ),
    "edgeproxy_in_flight_overflows_total": _counter(
        "Requests that no limit of requests in flight could count, since its table is full: it let them pass."
    ),
    "edgeproxy_rate_limit_table_evictions_total": _counter(
        "Buckets that made room for others: `idle` ones, which were full again, and `early` ones, which "
        "forgot what was spent.",
        "kind",
    ),
    # The edge itself
    "edgeproxy_config_reload_success": _max("1 if the last reload was accepted, else 0."),
    "edgeproxy_config_generation": _max("How many configurations were accepted since the start."),
    "edgeproxy_config_loaded_timestamp_seconds": _max("When the configuration in use was accepted."),
    "edgeproxy_workers": _sum("Workers that accept connections."),
    "edgeproxy_worker_restarts_total": _counter("Workers started again after they died."),
    "edgeproxy_loop_lag_seconds": _max(
        "How late the slowest event loop ran lately; a peak fades in seconds."
    ),
    "edgeproxy_access_log_dropped_total": _counter(
        "Access-log lines lost: `full` buffer, or `sink` that did not take them.", "reason"
    ),
    "edgeproxy_metrics_overflow_total": _counter("Times a series found no room in the table of names."),
    "edgeproxy_build_info": _max(
        "Always 1; the labels say what runs: its version, `compiled` or `interpreted`.", "version", "build"
    ),
}
