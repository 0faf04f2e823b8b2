"""What to do with an origin's answer, decided at its head: store, pass, refresh, or rather serve stale."""

from __future__ import annotations

from edgeproxy.cache.body_file import BodyFile
from edgeproxy.cache.cache_status import cache_status, x_cache
from edgeproxy.cache.conditional import answer, freshened_fields, validates
from edgeproxy.cache.entry import Entry, Location, make_stamp
from edgeproxy.cache.key import location_of, variant_key
from edgeproxy.cache.rfc9111 import Assessment, assess, corrected_age, vary_names
from edgeproxy.cache.rule import CacheRule
from edgeproxy.cache.tags import TAGS, response_tags
from edgeproxy.decision import Cause, Fetch, Serve
from edgeproxy.http.dates import format_date, parse_date
from edgeproxy.http.fields import end_to_end_fields
from edgeproxy.http.message import Field, Headers, Request
from edgeproxy.http.pieces import Body
from edgeproxy.http.wire import response
from edgeproxy.record import record

FAILURES = frozenset({500, 502, 503, 504})  # RFC 5861 §4
COOKIES = frozenset({b"set-cookie"})  # of one client, whoever validated for all


@record
class Keep:
    """Record the body and store it when it is whole."""

    key: bytes
    location: Location
    assessment: Assessment
    variant: bytes
    fields: tuple[Field, ...]
    status: int
    ttl: int
    object_size: int
    tags: frozenset[bytes]
    file_size: int = 0  # bytes of a body that only fits into a file; 0 for others

    def shared_fields(self, now: float) -> list[Field]:
        """The fields for a client that did not ask for this itself, Age included."""
        return [*self.fields, (b"Age", b"%d" % self.age(now))]

    def age(self, now: float) -> int:
        """Seconds since it was 0."""
        return max(0, int(now - self.assessment.born))

    def suits(self, request: Request) -> bool:
        """Would this request have got the same answer? (its selecting fields, RFC 9111 §4.1)"""
        return not self.assessment.names or self.variant_of(request) == self.variant

    def variant_of(self, request: Request) -> bytes:
        """What tells this request's variant from others."""
        return variant_key(self.assessment.names, request.headers)


@record
class Pass:
    """Hand the answer to the one client that asked. `remember`: others of this key should not wait either."""

    reason: str
    remember: bool = True


@record
class Revalidated:
    """The stored response is still right; `entry` is its successor. With a `reason` it is for the one client
    that asked: the 304 says what an answer says that is not stored."""

    entry: Entry
    reason: str = ""


@record
class Again:
    """A 304 that speaks of another response than ours: ask once more, without a condition (§4.3.4)."""


@record
class UseStale:
    """The origin failed, and the stored response may stand in for it."""

    entry: Entry


Settled = Keep | Pass | Revalidated | UseStale | Again


def settle(
    rule: CacheRule,
    request: Request,
    fetch: Fetch,
    status: int,
    headers: Headers,
    requested_at: float,
    responded_at: float,
    ahead: float = 0.0,
) -> Settled:
    """The verdict on a response whose head has arrived. Times in steady seconds; `ahead`: by how many the
    wall clock is ahead of that."""
    entry = fetch.entry
    if fetch.key is None:
        if entry is not None and status in FAILURES and on_failure(entry, responded_at):
            return UseStale(entry)
        return Pass("", remember=False)
    if entry is not None:
        if status == 304:
            if not validates(entry, headers):
                return Again()
            return Revalidated(*freshen(rule, request, entry, headers, requested_at, responded_at, ahead))
        if status in FAILURES and on_failure(entry, responded_at):
            return UseStale(entry)
        if status >= 500:
            return Pass("error", remember=False)  # it does not take the place of what is stored (A53)
    verdict = assess(rule, request, status, headers, requested_at, responded_at, ahead)
    if isinstance(verdict, str):
        return Pass(verdict)
    length = headers.get(b"content-length")
    size = int(length) if length is not None and length.isdigit() else 0
    large = size > rule.object_size
    if size > max(rule.object_size, rule.file_size):
        return Pass("too-large")
    tags = response_tags(request, headers, rule.tag_fields)
    if tags is None:
        return Pass("too-many-tags")
    return Keep(
        fetch.key,
        location_of(fetch.key),
        verdict,
        variant_key(verdict.names, request.headers),
        tuple(_kept(headers, verdict)),
        status,
        int(verdict.fresh_until - responded_at),
        rule.object_size,
        tags,
        size if large else 0,
    )


def _kept(headers: Headers, verdict: Assessment) -> list[Field]:
    return [field for field in end_to_end_fields(headers) if field[0].lower() not in verdict.left_out]


def head_update(
    rule: CacheRule,
    request: Request,
    entry: Entry,
    status: int,
    headers: Headers,
    requested_at: float,
    responded_at: float,
    ahead: float = 0.0,
) -> Entry | None:
    """What a response to HEAD makes of the stored response to GET: its successor when both describe the same
    bytes, None when it is out of date (RFC 9111 §4.3.5)."""
    length = headers.get(b"content-length")
    if (
        status != entry.response.status
        or not validates(entry, headers)
        or (length is not None and length != b"%d" % len(entry.response.body))
    ):
        return None
    return freshen(rule, request, entry, headers, requested_at, responded_at, ahead)[0]


def on_failure(entry: Entry, now: float) -> bool:
    """May this entry be served although the origin failed? Fresh ones always, stale ones in their window."""
    if entry.must_validate:
        return False
    return now < entry.fresh_until or (now < entry.error_until and not entry.never_stale)


def build_entry(settled: Keep, body: bytes, position: int, file: BodyFile | None = None) -> Entry:
    """The entry of a response that arrived whole; `file` is where its body lies, when not in memory."""
    return _entry(
        settled.key,
        settled.location,
        settled.variant,
        settled.status,
        settled.fields,
        body,
        settled.assessment,
        position,
        settled.tags,
        file,
    )


def freshen(
    rule: CacheRule,
    request: Request,
    entry: Entry,
    headers: Headers,
    requested_at: float,
    responded_at: float,
    ahead: float = 0.0,
) -> tuple[Entry, str]:
    """(the successor of an entry that a 304 validated (RFC 9111 §4.3.4), why it is for one client only)."""
    news = [field for field in end_to_end_fields(headers) if field[0].lower() not in COOKIES]
    fields = freshened_fields(entry, news)
    if b"date" not in headers:  # then its date is that of its receipt (RFC 9110 §6.6.1)
        fields = [field for field in fields if field[0].lower() != b"date"]
    merged = Headers([*fields, *[field for field in headers.raw if field[0].lower() == b"age"]])
    verdict = assess(rule, request, entry.response.status, merged, requested_at, responded_at, ahead)
    reason = verdict if isinstance(verdict, str) else ""
    if isinstance(verdict, str):  # not storable any more: good for this once
        date = parse_date(merged.get(b"date"))
        born = responded_at - corrected_age(merged, date, requested_at, responded_at, ahead)
        names = vary_names(merged)
        names = entry.names if names is None else names
        verdict = Assessment(names, born, responded_at, responded_at, responded_at, True, True, ahead=ahead)
    else:
        fields = [field for field in fields if field[0].lower() not in verdict.left_out]
    variant = entry.variant
    if verdict.names != entry.names:  # all that is known is that it suits this request
        variant = variant_key(verdict.names, request.headers)
    successor = _entry(
        entry.key,
        entry.location,
        variant,
        entry.response.status,
        tuple(fields),
        entry.response.body,
        verdict,
        entry.position,
        _tags(rule, request, entry, headers),
        entry.file,
    )
    return successor, reason


def _tags(rule: CacheRule, request: Request, entry: Entry, headers: Headers) -> frozenset[bytes]:
    """Those of the entry and of the 304: what it may not name again can still be purged by."""
    news = response_tags(request, headers, rule.tag_fields)
    every = entry.tags | news if news else entry.tags
    return every if len(every) <= TAGS else news or entry.tags


def _entry(
    key: bytes,
    location: Location,
    variant: bytes,
    status: int,
    fields: tuple[Field, ...],
    body: Body,
    times: Assessment,
    position: int,
    tags: frozenset[bytes],
    file: BodyFile | None,
) -> Entry:
    if not any(name.lower() == b"date" for name, _ in fields):
        fields = (*fields, (b"Date", format_date(times.born + times.ahead)))
    return Entry(
        key,
        times.names,
        variant,
        response(status, fields, body),
        times.born,
        times.fresh_until,
        times.stale_until,
        times.error_until,
        must_validate=times.must_validate,
        never_stale=times.never_stale,
        location=location,
        position=position,
        tags=tags,
        file=file,
    )


def tells_all(rule: CacheRule, entry: Entry, headers: Headers) -> bool:
    """Do the entry's fields alone say what the origin's `headers` said? Not when some are kept from clients:
    they are not stored, and another cache that reads the entry could not decide by them."""
    return rule.hidden.isdisjoint(headers.index) and not (
        entry.tags and not rule.hidden.isdisjoint(rule.tag_fields)
    )


def serve_entry(
    rule: CacheRule,
    request: Request,
    entry: Entry,
    cause: Cause,
    fwd_status: int,
    now: float,
    *,
    stored: bool = False,
    detail: str = "",
) -> Serve:
    """The stored response after the origin was asked: validated, or standing in for a failure. `fwd_status`
    is 0 where no answer came, and `detail` says why."""
    word = Cause.STALE if cause is Cause.STALE_ERROR else cause
    status = cache_status(
        rule.ident, word, fwd_status, stored=stored, ttl=int(entry.fresh_until - now), detail=detail
    )
    said = x_cache(cause, fwd_status) if rule.x_cache else b""
    stamp = make_stamp(int(now), entry.age(now), status, said)
    return Serve(answer(request, entry), cause, stamp)
