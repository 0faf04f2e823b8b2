"""The facts that a condition can read, and the tests that can be made of each.

A fact that is absent equals nothing, is in no list and matches no pattern.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import cast
from urllib.parse import unquote_to_bytes

from edgeproxy.context import NOWHERE, Context
from edgeproxy.countries import PlaceSet
from edgeproxy.http.message import Request
from edgeproxy.http.target import without_parameters
from edgeproxy.policies.claims import Claims, find_claim
from edgeproxy.policies.field_names import TOKEN
from edgeproxy.policies.identify import claim_text, cookie_reader
from edgeproxy.policies.networks import NetworkSet
from edgeproxy.policies.patterns import path_pattern, text_pattern
from edgeproxy.record import record
from edgeproxy.units import parse_network

Test = Callable[[Request, Context], bool]
Read = Callable[[Request, Context], str | None]
Groups = Mapping[str, Iterable[str]]

FACTS = (
    "path", "method", "host", "scheme", "country", "client", "query:NAME", "header:NAME", "cookie:NAME",
    "claim:PATH", "variant:EXPERIMENT",
)  # fmt: skip
BARE = frozenset({"country", "query", "header", "cookie", "claim", "variant"})
"""Kinds of facts that may stand alone: is it there?"""
_NAMED = frozenset({"query", "header", "cookie", "claim", "variant"})
_PORT = re.compile(rb":[0-9]+$")
_HIDDEN = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key"})


@record
class Fact:
    """One fact of a request: `header:X-Debug` has kind `header` and name `X-Debug`."""

    kind: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind

    def reader(self) -> Read:
        """What reads it as text; None when it is absent."""
        return _NAMED_READERS[self.kind](self.name) if self.name else _READERS[self.kind]

    def shown(self, request: Request, ctx: Context) -> str:
        """What it is now, for people; `***` for credentials, `-` for absent."""
        value = self.reader()(request, ctx)
        if value is not None and (
            self.kind == "cookie" or (self.kind == "header" and self.name.lower() in _HIDDEN)
        ):
            return "***"
        return "-" if value is None else value

    def is_there(self) -> Test:
        """Is it known, or was it sent?"""
        read = self.reader()
        return lambda request, ctx: read(request, ctx) is not None

    def test(self, word: str, values: list[str], groups: Groups | None) -> Test:
        """The test `word` (==, in, matches, has) with these values. Raises ValueError: what is expected."""
        if word == "has":
            return self._has(values[0])
        if word == "matches":
            return self._matches(values[0])
        if self.kind == "client":
            return self._client(values)
        if self.kind == "country":
            return _country(values, groups)
        if self.kind == "method" and any(value != value.upper() for value in values):
            raise ValueError("a method in upper case, like GET")
        known = frozenset(map(str.lower, values) if self.kind in ("host", "scheme") else values)
        read = self.reader()
        return lambda request, ctx: read(request, ctx) in known

    def _has(self, value: str) -> Test:
        if self.kind != "claim":
            raise ValueError("`has` after a claim only: a list in a token that holds the value")
        name = self.name
        return lambda _, ctx: value in _words(ctx.claims, name)

    def _matches(self, pattern: str) -> Test:
        if self.kind in ("client", "country"):
            raise ValueError(f"a list of {'networks' if self.kind == 'client' else 'places'} after `in`")
        if self.kind == "path":
            try:
                test = path_pattern(pattern)
            except ValueError as error:
                raise ValueError(f"a path pattern: {error}") from None
        else:
            test = text_pattern(pattern)
        read = self.reader()

        def matches(request: Request, ctx: Context) -> bool:
            value = read(request, ctx)
            return value is not None and test(value)

        return matches

    def _client(self, values: list[str]) -> Test:
        try:
            networks = NetworkSet([parse_network(value) for value in values])
        except ValueError as error:
            raise ValueError(f"a network: {error}") from None
        return lambda _, ctx: ctx.client in networks


def fact_named(text: str) -> Fact | None:
    """The fact that `text` names, or None."""
    kind, colon, name = text.partition(":")
    if kind in _NAMED:
        wanted = TOKEN.fullmatch(name) if kind in ("header", "cookie") else name
        return Fact(kind, name) if wanted else None
    return Fact(kind) if kind in _READERS and not colon else None


def _country(values: list[str], groups: Groups | None) -> Test:
    if groups is None:  # the form alone: which groups there are is checked with the whole configuration
        return lambda _request, _ctx: False
    try:
        places = PlaceSet(values, groups)
    except ValueError as error:
        raise ValueError(f"a country, continent or group: {error}") from None
    return lambda _, ctx: (ctx.place or NOWHERE) in places


def _words(claims: Claims | None, path: str) -> Iterable[str]:
    """The members of a claim: of a list, or the words of a text (`scope`, RFC 8693 §4.2)."""
    value = find_claim(claims, path)
    if isinstance(value, str):
        return value.split(" ")
    return [str(each) for each in cast("list[object]", value)] if isinstance(value, list) else ()


def _header(name: str) -> Read:
    lower = name.lower().encode()

    def read(request: Request, _ctx: Context) -> str | None:
        value = request.headers.get(lower)
        return None if value is None else value.decode("utf-8", "surrogateescape")

    return read


def _cookie(name: str) -> Read:
    read = cookie_reader(name)
    return lambda request, _ctx: read(request)


def _claim(path: str) -> Read:
    return lambda _request, ctx: claim_text(ctx.claims, path)


def _variant(name: str) -> Read:
    return lambda _request, ctx: ctx.variants.get(name)


def _query(name: str) -> Read:
    wanted = name.encode()

    def read(request: Request, _ctx: Context) -> str | None:
        query = request.query
        if wanted not in query and b"%" not in query and b"+" not in query:
            return None
        for pair in query.split(b"&"):
            key, _, value = pair.partition(b"=")
            if _decoded(key) == wanted:
                return _decoded(value).decode("utf-8", "surrogateescape")
        return None

    return read


def _decoded(part: bytes) -> bytes:
    """A name or value of a query as the origin reads it."""
    return unquote_to_bytes(part.replace(b"+", b" ")) if b"%" in part or b"+" in part else part


def _path(request: Request, _ctx: Context) -> str:
    return without_parameters(request.path).decode("utf-8", "surrogateescape")


def _host(request: Request, _ctx: Context) -> str:
    """Without its port, as routes see it: who writes another one must not get around a rule."""
    return _PORT.sub(b"", request.host).decode("utf-8", "surrogateescape")


_READERS: dict[str, Read] = {
    "path": _path,
    "method": lambda request, _: request.method.decode("latin-1"),
    "host": _host,
    "scheme": lambda request, _: "https" if request.secure else "http",
    "country": lambda _, ctx: (ctx.place or NOWHERE).country or None,
    "client": lambda _, ctx: ctx.client,
}
_NAMED_READERS: dict[str, Callable[[str], Read]] = {
    "query": _query,
    "header": _header,
    "cookie": _cookie,
    "claim": _claim,
    "variant": _variant,
}
