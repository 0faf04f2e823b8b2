"""What a successful unsafe request makes doubtful (RFC 9111 §4.4)."""

from __future__ import annotations

from edgeproxy.cache.entry import Location
from edgeproxy.http.message import SAFE, Headers, Request

_SUCCESSFUL = range(200, 400)


def invalidates(request: Request, status: int) -> bool:
    """Does this answer to this request say that something has changed?"""
    return status in _SUCCESSFUL and request.method not in SAFE


def invalidation_targets(request: Request, status: int, headers: Headers) -> list[Location]:
    """The locations that a successful unsafe request makes doubtful (RFC 9111 §4.4)."""
    if not invalidates(request, status):
        return []
    targets = [(request.host, request.path, request.query)]
    for name in (b"location", b"content-location"):
        target = _same_origin(request, headers.get(name))
        if target is not None:
            targets.append(target)
    return targets


def _same_origin(request: Request, reference: bytes | None) -> Location | None:
    """The location of a URI reference when it names this very origin."""
    if not reference:
        return None
    origin = (b"https://" if request.secure else b"http://") + request.host
    if reference[: len(origin)].lower() == origin:
        reference = reference[len(origin) :] or b"/"
    if reference[:1] != b"/" or reference[:2] == b"//":
        return None
    path, _, query = reference.partition(b"#")[0].partition(b"?")
    return (request.host, path, query)
