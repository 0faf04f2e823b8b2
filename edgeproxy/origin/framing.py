"""How a response is framed, where RFC 9112 says more than llhttp checks (reliability A24 to A26). Pure."""

from __future__ import annotations

import re

from edgeproxy.errors import origin_error
from edgeproxy.http.framing import persists
from edgeproxy.http.message import Headers

_TIMEOUT = re.compile(rb"(?:^|,)\s*timeout\s*=\s*([0-9]{1,9})\b", re.IGNORECASE)
_MARGIN = 0.8  # of the time that an origin says it keeps idle connections


def body_length(headers: Headers) -> tuple[int | None, bool]:
    """(bytes of the body, None when its head does not say; whether it is chunked). Raises OriginError for
    another transfer coding (RFC 9112 §6.3)."""
    coding = headers.get(b"transfer-encoding")
    if coding is None:
        return stated_length(headers), False
    if coding.strip().lower() != b"chunked":
        raise origin_error("http_protocol_error", "a transfer coding other than chunked")
    return None, True


def stated_length(headers: Headers) -> int | None:
    """What Content-Length says; llhttp has seen that it is one number."""
    length = headers.get(b"content-length")
    return None if length is None else int(length)


def stays_open(version: str, headers: Headers, *, keep: bool, for_head: bool) -> bool:
    """Does the connection stay open behind this response (RFC 9112 §9.3)? `keep` is what llhttp says.
    Raises OriginError for versions that do not fit."""
    connection = headers.get(b"connection") or b""
    if version == "1.1":
        # llhttp cannot know that a response to HEAD without Content-Length ends here.
        return keep or (for_head and b"close" not in connection.lower())
    if version != "1.0":
        raise origin_error("http_protocol_error", "the version is neither HTTP/1.1 nor HTTP/1.0")
    if b"transfer-encoding" in headers:
        raise origin_error("http_protocol_error", "HTTP/1.0 has no Transfer-Encoding")
    return keep and persists(connection, http10=True)  # llhttp takes the first option, and Proxy-Connection


def idle_patience(headers: Headers) -> float | None:
    """Seconds of `Keep-Alive: timeout=5`, with a margin: after that the origin closes, perhaps under the next
    request. None when it says nothing."""
    hint = _TIMEOUT.search(headers.get(b"keep-alive") or b"")
    return None if hint is None else int(hint[1]) * _MARGIN


def goes_on(data: bytes, body: bytes | None) -> bool:
    """Do line ends follow a response that is complete? llhttp skips them in silence; we hold them against the
    origin. `data` is the last read, `body` what of a counted body it brought; None where chunks or the head
    end the response."""
    if body is not None:
        # of a body of line ends alone nobody can tell whether more of them follow
        return not body.strip(b"\r\n") or not data.endswith(body)
    if len(data) >= 4:
        return not data.endswith(b"\r\n\r\n") or data.endswith(b"\r\n\r\n\r\n")
    return not data.endswith(b"\n")  # the end's last bytes came alone, perhaps with something behind
