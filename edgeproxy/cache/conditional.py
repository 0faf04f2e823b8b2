"""A client's preconditions against a stored response (RFC 9110 §13.2.2), and freshening (RFC 9111 §4.3.4)."""

from __future__ import annotations

import re
from functools import lru_cache

from edgeproxy.cache.entry import Entry
from edgeproxy.cache.ranges import partial
from edgeproxy.http.dates import parse_date
from edgeproxy.http.message import Field, Headers, Request, Response

_USUAL = 256  # bytes of an If-None-Match that is remembered
_TAG = re.compile(rb'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")\s*(?:,|$)')
# §3.2 of RFC 9111: what describes the very bytes that are stored is not updated by a 304
_KEPT = frozenset(
    {
        b"content-digest", b"content-encoding", b"content-length", b"content-md5", b"content-range",
        b"transfer-encoding",
    }
)  # fmt: skip


def answer(request: Request, entry: Entry) -> Response:
    """What a stored response is for this request: 304, part of it, or the whole (RFC 9110 §13.2.2)."""
    index = request.headers.index
    if b"if-none-match" in index or b"if-modified-since" in index:
        short = not_modified(request, entry)
        if short is not None:
            return short
    if b"range" in index:
        part = partial(request, entry)
        if part is not None:
            return part
    return entry.response


def not_modified(request: Request, entry: Entry) -> Response | None:
    """The 304 that a client's If-None-Match or If-Modified-Since asks for, else None."""
    wanted = request.headers.get(b"if-none-match")
    if wanted is not None:
        matches = _remembered if len(wanted) <= _USUAL else _matches
        if entry.response.status != 200 or not matches(wanted, entry.etag):
            return None
    else:
        since = request.headers.get(b"if-modified-since")
        if since is None or entry.response.status != 200 or not _unmodified(since, entry):
            return None
    return entry.not_modified()


def _matches(wanted: bytes, etag: bytes | None) -> bool:
    """Weak comparison against a list (§8.8.3.2)."""
    if wanted.strip() == b"*":
        return True
    if etag is None:
        return False
    opaque = etag.removeprefix(b"W/")
    return opaque in _TAG.findall(wanted[:8192])


_remembered = lru_cache(256)(_matches)  # browsers and caches ask again and again


def _unmodified(since: bytes, entry: Entry) -> bool:
    instant = parse_date(since)
    modified = parse_date(entry.last_modified)
    if modified is None:
        modified = parse_date(_date(entry))
    return instant is not None and modified is not None and modified <= instant


def _date(entry: Entry) -> bytes | None:
    return next((value for name, value in entry.response.fields if name.lower() == b"date"), None)


def validates(entry: Entry, headers: Headers) -> bool:
    """Does this 304 speak of the entry? Its validators, where it has any, must be the entry's (§4.3.4)."""
    etag = headers.get(b"etag")
    if etag is not None:
        return entry.etag is not None and etag.removeprefix(b"W/") == entry.etag.removeprefix(b"W/")
    modified = headers.get(b"last-modified")
    return modified is None or entry.last_modified is None or modified == entry.last_modified


def freshened_fields(entry: Entry, fields: list[Field]) -> list[Field]:
    """The entry's fields with those of a 304 in their place (RFC 9111 §3.2). A weak ETag stays: the same tag
    without its `W/` would promise bytes that nobody compared."""
    weak = entry.etag is not None and entry.etag.startswith(b"W/")
    kept = _KEPT | {b"etag"} if weak else _KEPT
    news = [field for field in fields if field[0].lower() not in kept]
    names = {name.lower() for name, _ in news}
    stored = [field for field in entry.response.fields if field[0].lower() not in names]
    return [field for field in stored if field[0].lower() != b"content-length"] + news
