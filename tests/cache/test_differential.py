"""The cache against a naive model of RFC 9111: generated exchanges, and no difference that is not explained.

A few hundred exchanges run with every suite. For many:

    EDGE_EXCHANGES=100000 .venv/bin/python -m pytest tests/cache/test_differential.py
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from random import Random

import pytest

from edgeproxy.cache.invalidation import invalidation_targets
from edgeproxy.cache.key import primary_key
from edgeproxy.cache.lookup import lookup
from edgeproxy.cache.memory import MemoryStore
from edgeproxy.cache.settle import (
    Again,
    Keep,
    Revalidated,
    UseStale,
    build_entry,
    head_update,
    on_failure,
    serve_entry,
    settle,
)
from edgeproxy.decision import Cause, Fetch, Serve, ServeStale
from edgeproxy.http.message import Headers, Request
from tests.cache.model import Answer, Fields, Model, Reply, http_date
from tests.helpers.requests import NOW, context, request, rule, whole_body

PER_SCENARIO = 25
EXCHANGES = int(os.environ.get("EDGE_EXCHANGES", "1000"))
RULE = rule()


@dataclass
class Origin:
    """One URL whose representation changes, whose clock is off, and which fails now and then."""

    random: Random
    now: float = NOW
    version: int = 1
    alive: bool = True
    status: int = 200
    control: str = ""
    extra: Fields = field(default_factory=dict[str, str])
    skew: float = 0.0
    asked: list[Fields] = field(default_factory=list[Fields])

    def change(self) -> None:
        """Whatever may change between two exchanges."""
        pick = self.random
        self.version += pick.random() < 0.2
        self.alive = pick.random() < 0.92
        self.status = pick.choice([200] * 12 + [203, 204, 301, 302, 404, 410, 405, 500, 503, 429])
        self.control = ", ".join(pick.sample(CONTROLS, pick.choice([0, 1, 1, 1, 2, 2, 3]))).replace(
            "N", str(pick.choice(AGES))
        )
        self.extra = {}
        for name, values in EXTRAS.items():
            value = pick.choice(values)
            if value:
                self.extra[name] = value
        self.skew = pick.choice([0, 0, 0, 0, -30, 30, -5000])

    def __call__(self, method: str, told: Fields) -> Reply | None:
        self.asked.append(told)
        if not self.alive:
            return None
        if method not in ("GET", "HEAD"):
            return Reply(self.status, {}, "done")
        tag = f'{self.extra.get("x-weak", "")}"v{self.version}"'
        modified = http_date(NOW - 1000 + self.version * 10)
        fields: Fields = {}
        if self.control:
            fields["cache-control"] = self.control
        for name in ("vary", "age", "set-cookie"):
            if name in self.extra:
                fields[name] = self.extra[name]
        if "date" not in self.extra:
            fields["date"] = http_date(self.now + self.skew)
        if "expires" in self.extra:
            offset = self.extra["expires"]
            fields["expires"] = offset if offset == "0" else http_date(self.now + float(offset))
        if "no-etag" not in self.extra:
            fields["etag"] = tag
        if "no-modified" not in self.extra:
            fields["last-modified"] = modified
        body = f"v{self.version} a={told.get('x-a')} b={told.get('x-b')}"
        if self.status == 200 and self._matches(told, fields):
            kept = {name: value for name, value in fields.items() if name != "set-cookie"}
            return Reply(304, kept, "")
        if self.status == 204:
            body = ""
        fields["content-length"] = str(len(body))
        return Reply(self.status, fields, body)

    def _matches(self, told: Fields, fields: Fields) -> bool:
        if "if-none-match" in told:
            tag = fields.get("etag", "").removeprefix("W/")
            return bool(tag) and told["if-none-match"].removeprefix("W/") == tag
        return "if-modified-since" in told and told["if-modified-since"] == fields.get("last-modified")


AGES = [0, 1, 5, 30, 60, 300]
CONTROLS = [
    "max-age=N", "max-age=N", "max-age=N", "s-maxage=N", "no-cache", "no-store", "private", "public",
    "must-revalidate", "proxy-revalidate", "stale-while-revalidate=20", "stale-if-error=40",
    "must-understand", "max-age=10, max-age=90", "max-age=x", "x-unknown=1",
]  # fmt: skip
EXTRAS: dict[str, list[str]] = {
    "vary": ["", "", "", "", "X-A", "X-A, X-B", "x-b", "*"],
    "age": ["", "", "", "", "10", "3000", "9" * 30, "x"],
    "set-cookie": [""] * 15 + ["a=b"],
    "date": ["", "", "", "", "absent"],
    "expires": ["", "", "", "", "60", "-10", "0"],
    "no-etag": ["", "", "yes"],
    "no-modified": ["", "yes"],
    "x-weak": ["", "W/"],
}
WISHES = [
    "", "", "", "", "", "", "no-cache", "no-store", "max-age=0", "max-age=30", "min-fresh=20", "max-stale",
    "max-stale=15", "only-if-cached", "max-age=100, max-stale=50", "only-if-cached, max-stale",
]  # fmt: skip


class Real:
    """The package's own functions, put together as the fetcher does, without a loop."""

    def __init__(self) -> None:
        self.store = MemoryStore(10**7)

    def exchange(self, method: str, fields: Fields, now: float, ask: Origin, delay: float) -> Answer:
        wish = request("/a", fields, method=method)
        key = primary_key(RULE, wish, b"", context())
        decision = lookup(self.store, RULE, key, wish, context(now))
        if isinstance(decision, Serve):
            if decision.response.status == 504:
                return Answer("504", 504, "")
            return _answer("hit", decision)
        if isinstance(decision, ServeStale):
            get = request("/a", fields)
            self._fetch(get, fields, decision.refresh, key, now, ask, delay)
            return _answer("stale", decision.serve)
        assert isinstance(decision, Fetch)
        return self._fetch(wish, fields, decision, key, now, ask, delay)

    def _fetch(
        self, wish: Request, fields: Fields, fetch: Fetch, key: bytes, now: float, ask: Origin, delay: float
    ) -> Answer:
        told = dict(fields)
        entry = fetch.entry
        if entry is not None and fetch.key is not None:
            told |= {name.decode().lower(): value.decode() for name, value in entry.validators}
        reply = ask(wish.method.decode(), told)
        then = now + delay
        if reply is None:
            if entry is not None and on_failure(entry, then):
                return _answer("instead", serve_entry(RULE, wish, entry, Cause.STALE_ERROR, 502, then))
            return Answer("origin", 502, "")
        headers = Headers([(name.encode(), value.encode()) for name, value in reply.fields.items()])
        if wish.method == b"HEAD":
            stored, _ = self.store.find(key, wish.headers)
            if stored is not None and reply.status in (200, 410):
                update = head_update(RULE, wish, stored, reply.status, headers, now, then)
                if update is None:
                    stored.expire(then)
                else:
                    self.store.renew(update, 0)
        for target in invalidation_targets(wish, reply.status, headers):
            self.store.invalidate(target)
        settled = settle(RULE, wish, fetch, reply.status, headers, now, then)
        if isinstance(settled, Again):
            return self._fetch(wish, fields, Fetch(fetch.cause, key), key, now, ask, delay)
        if isinstance(settled, Revalidated):
            self.store.renew(settled.entry, 0)
            return _answer("validated", serve_entry(RULE, wish, settled.entry, fetch.cause, 304, then))
        if isinstance(settled, UseStale):
            return _answer("instead", serve_entry(RULE, wish, entry, Cause.STALE_ERROR, 502, then))  # type: ignore[arg-type]
        if isinstance(settled, Keep):
            self.store.put(build_entry(settled, reply.body.encode(), 0))
        elif (
            entry is not None and fetch.key is not None and (reply.status < 400 or reply.status in (404, 410))
        ):
            entry.end(then)
        return Answer("origin", reply.status, "" if wish.method == b"HEAD" else reply.body)


def _answer(source: str, serve: Serve) -> Answer:
    return Answer(
        source,
        serve.response.status,
        whole_body(serve.response).decode(),
        int(dict(serve.stamp.fields)[b"Age"]),
    )


def run(seed: int) -> int:
    """One scenario. How many exchanges it was."""
    random = Random(seed)
    real, model = Real(), Model()
    ours, theirs = Origin(Random(seed)), Origin(Random(seed))
    now, story = NOW, [f"seed {seed}"]
    for _ in range(PER_SCENARIO):
        now += random.choice([0.0, 0.25, 1.5, 4.0, 20.5, 61.0, 400.0])
        delay = random.choice([0.0, 0.0, 0.0, 0.5, 3.0])
        for origin in (ours, theirs):
            origin.now = now
            origin.asked = []
        if random.random() < 0.6:
            ours.change()
            theirs.change()
        method = random.choice(["GET"] * 8 + ["HEAD", "POST"])
        fields: Fields = {}
        for name, values in (("x-a", ["", "1", "2"]), ("x-b", ["", "1"]), ("cache-control", WISHES)):
            if value := random.choice(values):
                fields[name] = value
        if random.random() < 0.08:
            fields["authorization"] = "x"
        if "cache-control" not in fields and random.random() < 0.05:
            fields["pragma"] = "no-cache"
        got = real.exchange(method, fields, now, ours, delay)
        want = model.exchange(method, fields, now, theirs, delay)
        story.append(f"{now - NOW:.2f} +{delay} {method} {fields} -> {ours.status} alive={ours.alive} "
                     f"[{ours.control}] {ours.extra} skew={ours.skew}\n    {got}\n    {want}")  # fmt: skip
        if got.source in ("hit", "stale", "instead", "validated") and method == "HEAD":
            want.body = got.body  # the door leaves it out
        if got.age is not None and want.age == got.age + 1 and got.source in ("hit", "stale"):
            want.age = got.age  # all hits of one second share the Age of the first
        assert (got, ours.asked) == (want, theirs.asked), "\n".join(story)
        now += delay
    return PER_SCENARIO


@pytest.mark.parametrize("part", range(10))
def test_the_cache_does_what_the_model_does(part: int) -> None:
    done, seed = 0, part * 10**7
    while done < EXCHANGES / 10:
        done += run(seed)
        seed += 1
