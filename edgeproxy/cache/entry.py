"""A stored response: deadlines instead of directives, bytes instead of objects.

Whether it is fresh is one comparison, and its head is rendered: what changes from second to second
(Age, the ttl in Cache-Status) is a `Stamp`, made at most once a second for all who hit it.
"""

from __future__ import annotations

from sys import getsizeof
from typing import TYPE_CHECKING

from edgeproxy.cache.body_file import WEIGHT, BodyFile
from edgeproxy.cache.cache_status import hit_status
from edgeproxy.cache.compact import compact, weigh
from edgeproxy.decision import Cause, Serve, Stamp
from edgeproxy.http.message import Field, Response
from edgeproxy.http.wire import render_fields, response

if TYPE_CHECKING:
    from edgeproxy.cache.rule import CacheRule

Location = tuple[bytes, bytes, bytes]
"""Host, path and query: what a purge by URL names, whatever else is in the key."""

LONGEST_REST = 30.0  # seconds between refreshes that fail
OVERHEAD = 1165  # bytes of Python objects an entry costs beside its texts; measured by tests/bench/tiers.py
MOST_STAMPED = 1024  # entries
# RFC 9110 §15.4.5: what a 304 repeats; the rest would only be news to a cache that has the body
_IN_304 = frozenset(
    {b"cache-control", b"content-location", b"date", b"etag", b"expires", b"last-modified", b"vary"}
)
_SMALL_SET = getsizeof(frozenset((b"",))) - 16  # what it takes where others left holes; measured too
TAG_OVERHEAD = 108  # bytes of its place in the index of tags


class Entry:
    """One response of one key and one choice of selecting fields. Times in steady seconds."""

    __slots__ = (
        "_hit",
        "_short",
        "answered",
        "born",
        "error_until",
        "etag",
        "failures",
        "file",
        "fresh_until",
        "key",
        "last_modified",
        "location",
        "looked_until",
        "must_validate",
        "names",
        "never_stale",
        "newer",
        "older",
        "position",
        "response",
        "rests_until",
        "size",
        "stale_until",
        "stored",
        "tags",
        "variant",
        "visited",
    )

    def __init__(
        self,
        key: bytes,
        names: tuple[bytes, ...],
        variant: bytes,
        response: Response,
        born: float,
        fresh_until: float,
        stale_until: float,
        error_until: float,
        *,
        must_validate: bool,
        never_stale: bool,
        location: Location,
        position: int,
        tags: frozenset[bytes] = frozenset(),
        file: BodyFile | None = None,
        known: tuple[bytes | None, bytes | None, int] | None = None,
    ) -> None:
        """`known` are its ETag, Last-Modified and size, where another process worked them out."""
        self.key = key
        self.names = names  # lower-case field names of its Vary
        self.variant = variant  # their values in the request that fetched it
        self.born = born  # when its age was 0
        self.fresh_until = fresh_until
        self.stale_until = stale_until  # end of stale-while-revalidate
        self.error_until = error_until  # end of stale-if-error
        self.must_validate = must_validate  # `no-cache`: never reused without asking
        self.never_stale = never_stale  # `must-revalidate` and its like (RFC 9111 §4.2.4)
        self.location = location  # host, path and query: what a purge by URL names
        self.tags = tags
        self.file = file  # where its body lies, when that is not in memory
        self.position = position  # of the purge log when its fetch began
        self.visited = False  # SIEVE's bit, and its queue's links; the store owns them
        self.older: Entry | None = None
        self.newer: Entry | None = None
        self.stored = False
        self.failures = 0  # refreshes that failed since it was stored
        self.looked_until = 0.0  # a tier below need not be asked for a newer one until then
        self.rests_until = 0.0  # no refresh behind clients' backs until then
        self._hit: Serve | None = None
        self._short: Response | None = None
        self.answered: tuple[bytes, Serve] | None = None  # If-None-Match, and what it got with the stamp
        if known is not None:
            self.response = response
            self.etag, self.last_modified, self.size = known
            return
        self.response, weight = compact(response)
        index = {name.lower(): value for name, value in response.fields}
        self.etag = index.get(b"etag") or None
        self.last_modified = index.get(b"last-modified") or None
        body = b"" if file is not None else response.body
        texts = (body, key, location[1], location[2], variant, *names, *tags)
        self.size = OVERHEAD + weight + sum([weigh(text) for text in texts if text])
        if file is not None:
            self.size += WEIGHT
        if tags:
            self.size += getsizeof(tags) - _SMALL_SET + TAG_OVERHEAD * len(tags)

    @property
    def validators(self) -> list[Field]:
        """The fields that ask the origin whether this is still right."""
        pairs = (b"If-None-Match", self.etag), (b"If-Modified-Since", self.last_modified)
        return [(name, value) for name, value in pairs if value is not None]

    def age(self, now: float) -> int:
        """Seconds for the Age field, saturated (RFC 9111 §1.2.2)."""
        return max(0, min(int(now - self.born), 2**31))

    def rest(self, now: float) -> None:
        """A refresh failed: the next one waits, twice as long each time (A81)."""
        self.rests_until = now + min(2.0**self.failures, LONGEST_REST)
        self.failures += 1

    def end(self, now: float) -> None:
        """The origin has something else, which may not be stored: this is never served again unasked."""
        self.fresh_until = self.stale_until = self.error_until = min(self.fresh_until, now)
        self.must_validate = self.never_stale = True
        self._hit = None

    def expire(self, now: float) -> None:
        """Make it stale; it may still be served stale for as long as if its freshness had ended by itself."""
        early = self.fresh_until - now
        if early > 0:
            self.fresh_until = now
            self.stale_until -= early
            self.error_until -= early
            self._hit = None  # what it says of this second is not true any more

    def hit(self, rule: CacheRule, now: float) -> Serve:
        """The whole response with Age and Cache-Status of this second: all hits of a second share it."""
        hit = self._hit
        second = int(now)
        if hit is None or hit.stamp.at != second:
            status = hit_status(rule.ident, int(self.fresh_until - now))
            if self.file is not None:
                self.file.used(now)
            word = b"" if not rule.x_cache else b"HIT" if now < self.fresh_until else b"STALE"
            hit = Serve(self.response, Cause.HIT, make_stamp(second, self.age(now), status, word))
            if self._hit is None and self.stored:
                if len(STAMPED) >= MOST_STAMPED:
                    for other in STAMPED:
                        other._hit = other._short = other.answered = None
                    STAMPED.clear()
                STAMPED[self] = None
            self._hit = hit
        return hit

    def not_modified(self) -> Response:
        """The 304 that says it is still right; remembered for as long as a stamp is."""
        short = self._short
        if short is None:
            short = response(304, [field for field in self.response.fields if field[0].lower() in _IN_304])
            if self._hit is not None:
                self._short = short
        return short


STAMPED: dict[Entry, None] = {}
"""Stored entries that hold a stamp: an answer that is asked for once a day need not keep one."""


def make_stamp(at: int, age: int, status: bytes, x_cache: bytes = b"") -> Stamp:
    """The stamp of a response whose age is known; `x_cache` where that is wanted too."""
    fields: tuple[Field, ...] = ((b"Age", b"%d" % age), (b"Cache-Status", status))
    if x_cache:
        fields += ((b"X-Cache", x_cache),)
    return Stamp(at, fields, render_fields(fields))


def status_stamp(status: bytes) -> Stamp:
    """The stamp of an answer of the edge's own, which has no age."""
    fields: tuple[Field, ...] = ((b"Cache-Status", status),)
    return Stamp(0, fields, render_fields(fields))
