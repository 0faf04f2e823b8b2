"""Errors answer three questions: whose fault, may we retry, which status.

Expected refusals are values (`http.replies.problem`); these are for what went wrong.
"""

from __future__ import annotations

from enum import Enum


class Retry(Enum):
    """May the request be sent again?"""

    NEVER = "never"
    IDEMPOTENT = "idempotent"  # only when the method is idempotent (RFC 9110 §9.2.2)
    ANY = "any"  # no byte of the request reached the origin


class EdgeError(Exception):
    """Base of everything edgeproxy raises on purpose."""


class ConfigError(EdgeError):
    """The configuration is wrong; the message names file, line, path and the fix."""


REQUEST_FAILURES = frozenset(
    {
        "bad-expectation", "bad-framing", "bad-host", "bad-method", "bad-proxy-header", "bad-request",
        "bad-target", "bad-version", "body-too-large", "head-too-large", "internal", "timeout",
        "too-many-connections", "too-many-fields", "url-too-long",
    }
)  # fmt: skip
"""Why the door refuses a request: the words of RequestError."""


class RequestError(EdgeError):
    """The client's request cannot be accepted: answered with `status`, then the connection closes.

    `reason` is of REQUEST_FAILURES, for metrics and log; `detail` a sentence for the person, free of
    reflected input.
    """

    def __init__(self, status: int, reason: str, detail: str) -> None:
        super().__init__(f"{status} {reason}: {detail}")
        self.status = status
        self.reason = reason
        self.detail = detail


class OriginError(EdgeError):
    """The origin failed. `error` is a type of RFC 9209 §2.3, shared by Proxy-Status, metrics, log; `detail` a
    phrase for the log alone, and `server` the label of the one that could not be connected to."""

    def __init__(self, error: str, status: int, retry: Retry, detail: str = "") -> None:
        super().__init__(f"{error}: {detail}" if detail else error)
        self.error = error
        self.status = status
        self.retry = retry
        self.detail = detail
        self.server = ""


# (RFC 9209 error type, status of our answer, retry) of each way an origin can fail.
ORIGIN_FAILURES: dict[str, tuple[int, Retry]] = {
    "dns_timeout": (504, Retry.ANY),
    "dns_error": (502, Retry.ANY),
    "destination_unavailable": (503, Retry.ANY),
    "destination_ip_prohibited": (502, Retry.NEVER),
    "connection_refused": (502, Retry.ANY),
    "connection_timeout": (504, Retry.ANY),
    "connection_terminated": (502, Retry.IDEMPOTENT),
    "connection_write_timeout": (504, Retry.NEVER),
    "connection_limit_reached": (503, Retry.NEVER),
    "tls_certificate_error": (502, Retry.NEVER),
    "tls_protocol_error": (502, Retry.NEVER),
    "http_response_incomplete": (502, Retry.NEVER),
    "http_response_timeout": (504, Retry.NEVER),
    "http_protocol_error": (502, Retry.NEVER),
    "http_response_header_section_size": (502, Retry.NEVER),
    "http_request_error": (502, Retry.NEVER),
    "proxy_loop_detected": (508, Retry.NEVER),
    "proxy_internal_error": (500, Retry.NEVER),
}


def origin_error(error: str, detail: str = "") -> OriginError:
    """The OriginError of a type in ORIGIN_FAILURES, with its status and retry rule."""
    status, retry = ORIGIN_FAILURES[error]
    return OriginError(error, status, retry, detail)
