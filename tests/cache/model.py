"""A cache written straight from the text of RFC 9111, simple and slow: what the real one is compared with.

Nothing here is shared with the package. A stored response keeps its fields; everything is worked out anew
from them each time it is looked at. Where RFC 9111 leaves a choice, or the house is stricter than it, the
line says `house:`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime

Fields = dict[str, str]
"""Lower-case name -> value."""

HEURISTIC = {200, 203, 204, 300, 301, 308, 404, 410, 405, 414, 501}  # RFC 9110 §15.1
UNDERSTOOD = {200, 203, 204, 300, 301, 302, 303, 307, 308, 404, 405, 410, 501}
# house: partial answers, and errors that one client provokes, are never stored
NEVER = {206, 304, 400, 401, 403, 407, 408, 413, 414, 416, 421, 425, 428, 429, 431, 511}
# house: without explicit freshness these are not guessed at
NO_GUESS = {405, 414, 501}


@dataclass
class Reply:
    """What an origin says."""

    status: int
    fields: Fields
    body: str


@dataclass
class Answer:
    """What a client gets, and how it came about."""

    source: str  # hit, stale, origin, validated, instead, 504
    status: int
    body: str
    age: int | None = None


@dataclass
class Stored:
    """A response as it was received, with the request that brought it."""

    request: Fields
    status: int
    fields: Fields
    body: str
    request_time: float
    response_time: float
    always_ask: bool = False
    ended_at: float | None = None  # made stale early (§4.3.5)
    names: list[str] = field(default_factory=list[str])  # §4.1: the fields that select it

    def __post_init__(self) -> None:
        self.names = vary_names(self.fields)


def directives(value: str | None) -> dict[str, str | None]:
    """§5.2, for what the generator writes: no quotes. house: of two ages the smaller counts."""
    found: dict[str, str | None] = {}
    for part in (value or "").lower().split(","):
        name, equals, argument = part.strip().partition("=")
        if not name:
            continue
        before = found.get(name)
        if before is not None and equals:
            argument = str(min(_seconds(before), _seconds(argument)))
        found[name] = argument if equals else None
    return found


def _seconds(argument: str | None) -> int:
    """house: what is no number counts as 0. §1.2.2: at most 2^31."""
    return min(int(argument), 2**31) if argument is not None and argument.isdigit() else 0


def date_of(value: str | None) -> float | None:
    if value is None:
        return None
    try:
        return parsedate_to_datetime(value).timestamp()
    except ValueError:
        return None


def http_date(seconds: float) -> str:
    return format_datetime(datetime.fromtimestamp(int(seconds), UTC), usegmt=True)


def vary_names(fields: Fields) -> list[str]:
    return sorted({name.strip().lower() for name in fields.get("vary", "").split(",")} - {""})


def freshness_lifetime(one: Stored) -> float | None:
    """§4.2.1 and §4.2.2; None where there is nothing to go by."""
    control = directives(one.fields.get("cache-control"))
    date = date_of(one.fields.get("date"))
    start = one.response_time if date is None else date
    if "s-maxage" in control:
        return _seconds(control["s-maxage"])
    if "max-age" in control:
        return _seconds(control["max-age"])
    if "expires" in one.fields:
        expires = date_of(one.fields["expires"])
        return 0.0 if expires is None else max(0.0, expires - start)
    if (one.status not in HEURISTIC or one.status in NO_GUESS) and "public" not in control:
        return None
    modified = date_of(one.fields.get("last-modified"))
    if modified is not None and one.status not in (404, 410):  # house: no guess for what is not there
        return min(max(0.0, start - modified) * 0.1, 86400.0)
    if "no-cache" in control or "etag" in one.fields:
        return 0.0  # house: kept to be validated
    return None


def current_age(one: Stored, now: float) -> float:
    """§4.2.3, name by name."""
    date_value = date_of(one.fields.get("date"))
    apparent_age = max(0.0, one.response_time - date_value) if date_value is not None else 0.0
    response_delay = int(one.response_time - one.request_time)  # house: like all ages in whole seconds
    age_value = one.fields.get("age", "0")
    stated = _seconds(age_value) if age_value.isdigit() else 2**31  # house: what is no age is a high one
    corrected_age_value = stated + response_delay
    corrected_initial_age = max(apparent_age, corrected_age_value)
    resident_time = now - one.response_time
    return corrected_initial_age + resident_time


def may_store(method: str, one: Stored) -> bool:
    """§3, §3.5."""
    control = directives(one.fields.get("cache-control"))
    if method != "GET" or one.status in NEVER or one.status < 200:
        return False
    if "must-understand" in control:
        if one.status not in UNDERSTOOD:
            return False
    elif "no-store" in control:
        return False
    if "private" in control or "no-store" in directives(one.request.get("cache-control")):
        return False
    if "authorization" in one.request and not control.keys() & {"public", "s-maxage", "must-revalidate"}:
        return False
    if "set-cookie" in one.fields or "*" in vary_names(one.fields):
        return False  # house: a cookie is for one client; §4.1: * never matches
    lifetime = freshness_lifetime(one)
    if lifetime is None:
        return False
    validators = "etag" in one.fields or "last-modified" in one.fields
    useful = lifetime > 0 and "no-cache" not in control
    # house: what can neither be reused nor validated is not worth its place
    return (
        useful
        or validators
        or stale_window(one, "stale-while-revalidate") + stale_window(one, "stale-if-error") > 0
    )


def forbids_stale(one: Stored) -> bool:
    """§4.2.4; RFC 5861's own directives are explicit permission where only s-maxage forbids."""
    control = directives(one.fields.get("cache-control"))
    if control.keys() & {"must-revalidate", "proxy-revalidate", "no-cache"} or one.always_ask:
        return True
    return "s-maxage" in control and not control.keys() & {"stale-while-revalidate", "stale-if-error"}


def stale_window(one: Stored, name: str) -> float:
    if forbids_stale(one):
        return 0.0
    return _seconds(directives(one.fields.get("cache-control")).get(name))


@dataclass
class Model:
    """A shared cache for one URL. `ask` is the origin: request fields -> its reply; None when it is dead."""

    stored: list[Stored] = field(default_factory=list[Stored])
    forced_at: float = -1e9

    def exchange(self, method: str, request: Fields, now: float, ask: object, delay: float) -> Answer:
        """One request and its answer. `delay` is how long the origin takes."""
        if method not in ("GET", "HEAD"):
            return self._unsafe(method, request, now, ask)
        wishes: dict[str, str | None] = directives(request.get("cache-control"))
        if "cache-control" not in request and "no-cache" in request.get("pragma", ""):
            wishes = directives("no-cache")  # §5.4
        if "no-store" in wishes:
            return self._forward(method, request, now, ask, delay, None, keep=False)
        one = self._select(request)
        if one is not None and self._may_use(one, wishes, now):
            return self._answer("hit", one, now)
        if "only-if-cached" in wishes:
            return Answer("504", 504, "")
        if one is None:
            return self._forward(method, request, now, ask, delay, None, keep=method == "GET")
        asks_for_more = wishes.keys() & {"no-cache", "max-age", "min-fresh"}
        if self._is_fresh(one, now):
            # house: clients make us ask for what is fresh once a second
            if 0 <= now - self.forced_at < 1:
                return self._answer("hit", one, now)
            self.forced_at = now
        elif not asks_for_more and 0 <= self._staleness(one, now) < stale_window(
            one, "stale-while-revalidate"
        ):
            answer = self._answer("stale", one, now)
            self._forward("GET", request, now, ask, delay, one, keep=True)
            return answer
        return self._forward(method, request, now, ask, delay, one, keep=method == "GET")

    def _select(self, request: Fields) -> Stored | None:
        """§4.1: all fields that Vary names must match; absent matches absent only."""
        for one in self.stored:
            if all(one.request.get(name) == request.get(name) for name in one.names):
                return one
        return None

    def _lifetime(self, one: Stored) -> float:
        lifetime = freshness_lifetime(one) or 0.0
        if one.ended_at is not None:
            lifetime = min(lifetime, current_age(one, one.ended_at))
        return lifetime

    def _staleness(self, one: Stored, now: float) -> float:
        return current_age(one, now) - self._lifetime(one)

    def _is_fresh(self, one: Stored, now: float) -> bool:
        """§4.2, and §5.2.2.4: no-cache is never reused unasked."""
        control = directives(one.fields.get("cache-control"))
        return self._staleness(one, now) < 0 and "no-cache" not in control and not one.always_ask

    def _may_use(self, one: Stored, wishes: dict[str, str | None], now: float) -> bool:
        """§4 and §5.2.1, without asking the origin."""
        control = directives(one.fields.get("cache-control"))
        if "no-cache" in wishes or "no-cache" in control or one.always_ask:
            return False
        if "max-age" in wishes and int(current_age(one, now)) > _seconds(wishes["max-age"]):
            return False
        staleness = self._staleness(one, now)
        if "min-fresh" in wishes and -staleness < _seconds(wishes["min-fresh"]):
            return False
        if staleness < 0:
            return True
        if "max-stale" not in wishes or forbids_stale(one):
            return False
        # §1.2.2: nothing is staler than 2^31 seconds, not even "any"
        most = 2**31 if wishes["max-stale"] is None else _seconds(wishes["max-stale"])
        return staleness <= most

    def _answer(self, source: str, one: Stored, now: float) -> Answer:
        return Answer(source, one.status, one.body, min(int(current_age(one, now)), 2**31))

    def _forward(
        self,
        method: str,
        request: Fields,
        now: float,
        ask: object,
        delay: float,
        one: Stored | None,
        *,
        keep: bool,
    ) -> Answer:
        """§4.3.1: ask, with the stored validators when there is something to validate. What is not kept
        validates nothing; what is stored may stand in for it."""
        told = {name: value for name, value in request.items() if not name.startswith("if-") or not keep}
        if one is not None and keep:
            for validator, condition in (("etag", "if-none-match"), ("last-modified", "if-modified-since")):
                if validator in one.fields:
                    told[condition] = one.fields[validator]
        assert callable(ask)
        reply: Reply | None = ask(method, told)  # type: ignore[assignment]
        then = now + delay
        if reply is None or reply.status in (500, 502, 503, 504):
            if one is not None:
                stale = self._staleness(one, then)
                if self._is_fresh(one, then) or 0 <= stale < stale_window(one, "stale-if-error"):
                    return self._answer("instead", one, then)  # RFC 5861 §4
                if reply is not None and keep:
                    return Answer("origin", reply.status, reply.body)  # house: errors replace nothing
            if reply is None:
                return Answer("origin", 502, "")
        if method == "HEAD":
            self._head(request, reply, now, then)
            return Answer("origin", reply.status, "")
        fields = dict(reply.fields)
        if one is not None and reply.status == 304:
            if not _speaks_of(one, fields):
                return self._forward(method, request, now, ask, delay, None, keep=keep)
            self._freshen(one, request, fields, now, then)
            return self._answer("validated", one, then)
        new = Stored(request, reply.status, fields, reply.body, now, then)
        if keep and may_store(method, new):
            self._put(new)
        elif one is not None and (reply.status < 400 or reply.status in (404, 410)):
            one.ended_at = min(then, one.ended_at or then)  # §4.3.3: the full response takes its place
            one.always_ask = True
        return Answer("origin", reply.status, reply.body)

    def _put(self, new: Stored) -> None:
        """house: what was stored under another Vary goes, with what was stored for the same fields."""
        self.stored = [
            other for other in self.stored
            if other.names == new.names
            and any(other.request.get(name) != new.request.get(name) for name in new.names)
        ]  # fmt: skip
        self.stored.append(new)

    def _freshen(self, one: Stored, request: Fields, fields: Fields, now: float, then: float) -> None:
        """§3.2, §4.3.4."""
        kept = {"content-encoding", "content-length", "content-range", "content-md5", "transfer-encoding"}
        if one.fields.get("etag", "").startswith("W/"):
            kept.add("etag")  # house: what was compared weakly does not become strong
        # RFC 9110 §6.6.1: without a Date it is of the moment it came
        one.fields = {name: value for name, value in one.fields.items() if name not in ("age", "date")}
        one.fields |= {name: value for name, value in fields.items() if name not in kept | {"set-cookie"}}
        one.request_time, one.response_time, one.ended_at = now, then, None
        one.always_ask = False
        one.request = request  # a 304 may bring another Vary: then it is known to suit this request only
        if "*" not in one.fields.get("vary", ""):
            one.names = vary_names(one.fields)
        # house: what may not be stored any more is good for this once
        one.always_ask = not may_store("GET", one)
        self._put(one)

    def _head(self, request: Fields, reply: Reply, now: float, then: float) -> None:
        """§4.3.5."""
        one = self._select(request)
        if one is None or reply.status not in (200, 410):
            return
        length = reply.fields.get("content-length")
        same = length is None or length == str(len(one.body))
        fields = dict(reply.fields)
        if reply.status == one.status and same and _speaks_of(one, fields):
            self._freshen(one, request, fields, now, then)
        elif self._staleness(one, then) < 0:
            one.ended_at = then

    def _unsafe(self, method: str, request: Fields, now: float, ask: object) -> Answer:
        """§4.4."""
        assert callable(ask)
        reply: Reply | None = ask(method, request)  # type: ignore[assignment]
        if reply is None:
            return Answer("origin", 502, "")
        if 200 <= reply.status < 400:
            self.stored = []
        return Answer("origin", reply.status, reply.body)


def _speaks_of(one: Stored, fields: Fields) -> bool:
    """§4.3.4: are its validators, as far as there are some, those of the stored response?"""
    if "etag" in fields:
        return one.fields.get("etag", "").removeprefix("W/") == fields["etag"].removeprefix("W/")
    modified = fields.get("last-modified")
    return modified is None or one.fields.get("last-modified") in (None, modified)
