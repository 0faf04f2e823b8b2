"""Compression by the edge: which answers, in which coding, and what their fields say then. Pure.

Rule 1: a client's wish becomes one word, here: origin and cache key see that word and nothing else.
Rule 2: who may not be compressed for (`no-transform`, ranges) asks for the plain form, whatever it takes.
Rule 3: a compressed answer is another representation: its strong tag becomes weak, its digests go, and no
range of it is promised (RFC 9110 §8.8.3, reliability A128).
"""

from __future__ import annotations

from functools import lru_cache

from edgeproxy.http.message import Field, Headers, Request
from edgeproxy.http.quality import qualities
from edgeproxy.record import record

IDENTITY = b"identity"
_WITHOUT_CONTENT = frozenset({204, 205, 206, 304})
_DROPPED = frozenset(
    [
        b"accept-ranges",
        b"content-digest",
        b"content-length",
        b"content-md5",
        b"digest",
        b"repr-digest",
        b"trailer",
    ]
)


@record
class CodingRule:
    """What a route compresses. `codings` in the order of our liking; types are lower-case patterns."""

    codings: tuple[bytes, ...]
    exact: frozenset[bytes]
    prefixes: tuple[bytes, ...]  # of `text/*`
    suffixes: tuple[bytes, ...]  # of `*+json`
    min_size: int
    max_size: int

    def narrowed(self, request: Request) -> Request:
        """The request as it goes on: Accept-Encoding is the one coding that its answer shall have."""
        headers = request.headers
        index = headers.index
        coding = IDENTITY
        if b"range" not in index and not _keeps_form(index.get(b"cache-control")):
            coding = chosen(self.codings, index.get(b"accept-encoding", b""))
        if index.get(b"accept-encoding") == coding:
            return request
        raw = [
            field for field in headers.raw if len(field[0]) != 15 or field[0].lower() != b"accept-encoding"
        ]
        raw.append((b"Accept-Encoding", coding))
        return request.with_headers(Headers(raw, {**index, b"accept-encoding": coding}))

    def compresses(self, status: int, headers: Headers) -> bool:
        """Is an answer with this head one that clients get compressed, if they like?"""
        index = headers.index
        if status in _WITHOUT_CONTENT or b"content-encoding" in index or b"content-range" in index:
            return False
        if not self._is_text(index.get(b"content-type", b"")) or _keeps_form(index.get(b"cache-control")):
            return False
        length = index.get(b"content-length", b"")
        return not length.isdigit() or self.min_size <= int(length) <= self.max_size

    def _is_text(self, content_type: bytes) -> bool:
        kind = content_type.partition(b";")[0].strip().lower()
        return kind in self.exact or (
            kind != b"text/event-stream" and (kind.startswith(self.prefixes) or kind.endswith(self.suffixes))
        )


def _keeps_form(cache_control: bytes | None) -> bool:
    return cache_control is not None and b"no-transform" in cache_control.lower()


def chosen(codings: tuple[bytes, ...], accepted: bytes) -> bytes:
    """The coding that the client likes best, ours first among equals; `identity` when it takes none
    (RFC 9110 §12.5.3)."""
    return _remembered(codings, accepted) if len(accepted) <= _USUAL else _chosen(codings, accepted)


def _chosen(codings: tuple[bytes, ...], accepted: bytes) -> bytes:
    liked = qualities(accepted)
    others = liked.get(b"*", 0.0)
    best = max(codings, key=lambda coding: liked.get(coding, others), default=IDENTITY)
    return best if liked.get(best, others) > 0 else IDENTITY


_USUAL = 128  # bytes of a field worth remembering
_remembered = lru_cache(512)(_chosen)


def coded_fields(headers: Headers, coding: bytes) -> Headers:
    """The fields of an answer once it is compressed."""
    raw = [field for field in headers.raw if field[0].lower() not in _DROPPED]
    raw.append((b"Content-Encoding", coding))
    return Headers([weakened(field) for field in varied(raw)])


def varied(raw: list[Field]) -> list[Field]:
    """Fields that say that the answer depends on what the client takes."""
    for name, value in raw:
        if name.lower() == b"vary":
            names = [part.strip() for part in value.lower().split(b",")]
            if b"accept-encoding" in names or b"*" in names:
                return raw
    return [*raw, (b"Vary", b"Accept-Encoding")]


def weakened(field: Field) -> Field:
    """An ETag that no longer promises the same bytes; any other field as it is."""
    name, value = field
    if name.lower() == b"etag" and not value.startswith(b"W/"):
        return name, b"W/" + value
    return field
