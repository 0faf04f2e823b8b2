"""What `Cache-Status` (RFC 9211) and `X-Cache` say of an answer."""

from __future__ import annotations

from edgeproxy.decision import Cause


def x_cache(cause: Cause, fwd_status: int) -> bytes:
    """What X-Cache says of an answer that was had from elsewhere; there is no standard for it."""
    if cause is Cause.HIT:
        return b"HIT"
    if cause is Cause.STALE_ERROR:
        return b"STALE"
    if cause in (Cause.BYPASS, Cause.METHOD):
        return b"BYPASS"
    return b"REVALIDATED" if fwd_status == 304 else b"MISS"


def hit_status(ident: bytes, ttl: int | None = None) -> bytes:
    """The Cache-Status member of an answer that no origin was asked for (RFC 9211 §2.1)."""
    return ident + b"; hit" if ttl is None else b"%b; hit; ttl=%d" % (ident, ttl)


def cache_status(
    ident: bytes,
    cause: Cause,
    fwd_status: int,
    *,
    stored: bool = False,
    collapsed: bool = False,
    ttl: int | None = None,
    detail: str = "",
) -> bytes:
    """The Cache-Status member of an answer to a request that was forwarded (RFC 9211 §2); `fwd_status` is 0
    when nothing came back."""
    value = b"%b; fwd=%b" % (ident, cause.word)
    if fwd_status:
        value += b"; fwd-status=%d" % fwd_status
    if stored:
        value += b"; stored"
    if collapsed:
        value += b"; collapsed"
    if ttl is not None:
        value += b"; ttl=%d" % ttl
    if detail:
        value += b"; detail=" + detail.encode()
    return value
