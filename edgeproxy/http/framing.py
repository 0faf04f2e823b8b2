"""Is this request framed in one way only? What both doors refuse before anything else happens.

The parser has refused the worst; these are the checks it leaves to us (RFC 9112 §6,
reliability A1-A6, A20, A30).
"""

from __future__ import annotations

from edgeproxy.errors import RequestError
from edgeproxy.record import record

SPACE = b" \t"  # may stand around any value (RFC 9110 §5.5); the parser leaves what is behind it
FRAMING_FIELDS = frozenset({b"content-length", b"transfer-encoding", b"host"})


@record
class Framing:
    """How the request's body is delimited: `length` bytes, chunked (None), or no body (0)."""

    length: int | None
    expects_continue: bool


NO_BODY = Framing(0, expects_continue=False)


def check_framing(index: dict[bytes, bytes], *, http10: bool) -> Framing:
    """The framing of a request with Content-Length, Transfer-Encoding or Expect. Raises RequestError."""
    coding = index.get(b"transfer-encoding")
    length = index.get(b"content-length")
    expects = _expects_continue(index.get(b"expect"))
    if coding is not None:
        if http10 or length is not None:
            raise RequestError(400, "bad-framing", "Transfer-Encoding cannot be used in this request.")
        if coding.strip(SPACE).lower() != b"chunked":
            raise RequestError(501, "bad-framing", "The only transfer coding understood here is chunked.")
        return Framing(None, expects)
    if length is None:
        return Framing(0, expects)
    length = length.strip(SPACE)
    if not (length.isdigit() and len(length) <= 18):
        raise RequestError(400, "bad-framing", "Content-Length must be one decimal number.")
    return Framing(int(length), expects)


def _expects_continue(expect: bytes | None) -> bool:
    if expect is None:
        return False
    if expect.lower() != b"100-continue":
        raise RequestError(417, "bad-expectation", "The only expectation understood here is 100-continue.")
    return True


def check_connection(connection: bytes) -> None:
    """Refuse a Connection field that nominates what frames or routes the message (A30)."""
    for option in connection.lower().split(b","):
        if option.strip() in FRAMING_FIELDS:
            raise RequestError(400, "bad-framing", "Connection must not nominate a framing field.")


def persists(connection: bytes, *, http10: bool) -> bool:
    """Does the connection stay open behind this message? `close` wins over `keep-alive` (RFC 9112 §9.3)."""
    options = [option.strip() for option in connection.lower().split(b",")]
    return b"close" not in options and (not http10 or b"keep-alive" in options)
