"""`rewrite`: another path and query, for cache key and origin. The route and later conditions stay as
they were; what the client asked for is what the log shows.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from typing import Annotated
from urllib.parse import unquote_to_bytes

from pydantic import AfterValidator, Field, model_validator

from edgeproxy.context import Context, Verdict
from edgeproxy.errors import RequestError
from edgeproxy.http.message import Request, Response
from edgeproxy.http.replies import problem
from edgeproxy.http.target import without_parameters
from edgeproxy.policies.patterns import text_pattern
from edgeproxy.policies.templates import Template, escaped, taker
from edgeproxy.units import Model

_NAME = re.compile(r"[A-Za-z0-9._~-]+\*?")


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError(f"{text!r} is no name of a parameter; write it like utm_source or utm_*")
    return text


def _exact(text: str) -> str:
    if text.endswith("*"):
        raise ValueError(f"{text!r} is no single parameter; patterns are for `keep` and `remove`")
    return _name(text)


class QueryRule(Model):
    """Edits of the query: first `keep`, then `remove`, then `set`."""

    keep: tuple[Annotated[str, AfterValidator(_name)], ...] | None = None
    """Only these parameters go on; a `*` at the end matches the rest of a name. Default: all."""
    remove: tuple[Annotated[str, AfterValidator(_name)], ...] = ()
    """These do not."""
    set: dict[Annotated[str, AfterValidator(_exact)], str] = Field(default_factory=dict)
    """Parameter -> value, in place of what was there."""


class RewriteRule(Model):
    """What becomes of path and query. With neither `path` nor `regex` it is for every request."""

    path: str | None = None
    """Path as in `match.path`: `/v1/**`, `/a/*/b`."""
    regex: str | None = None
    """Regular expression (RE2) of the whole path: `/p/([0-9]+)`."""
    to: str | None = None
    """The path in its place: `/v2/{rest}`, `/item?id={1}`. The query goes along where this has none."""
    query: QueryRule | None = None
    """Edits of the query."""

    @model_validator(mode="after")
    def _does_something(self) -> RewriteRule:
        if self.path is not None and self.regex is not None:
            raise ValueError("found path and regex, expected one")
        if self.to is None and self.query is None:
            raise ValueError("found neither to nor query, expected one of them at least")
        Rewrite(self)
        return self


class Rewrite:
    """The policy."""

    name = "rewrite"
    reasons = ("bad-rewrite",)
    fails_open = False
    repeatable = True

    def __init__(self, rule: RewriteRule) -> None:
        """Raises ValueError when the target does not fit."""
        self._rule = rule
        self._take, known = taker(rule.path, rule.regex)
        self._to = None if rule.to is None else Template(rule.to, known - {"{host}"}, absolute=False)
        query = rule.query or QueryRule()
        self._keep = None if query.keep is None else [text_pattern(name) for name in query.keep]
        self._remove = [text_pattern(name) for name in query.remove]
        self._set = [
            (name, escaped(value.encode()).replace(b"&", b"%26")) for name, value in query.set.items()
        ]

    def __call__(self, request: Request, ctx: Context, /) -> Response | None:
        """None, or 400 for a request that cannot be rewritten: its path would leave the root."""
        before = ctx.rewritten or request
        try:
            after = self._rewritten(before)
        except RequestError as error:
            return problem(request, ctx, error.status, "bad-rewrite", error.detail)
        if after is None:
            ctx.note(self.name, Verdict.ALLOW, "not meant", self._rule.path or self._rule.regex or "")
            return None
        if after is not before:
            ctx.rewritten = after
        if ctx.notes is not None:
            target = (after.path + (b"?" + after.query if after.query else b"")).decode("latin-1")
            ctx.note(self.name, Verdict.ALLOW, f"the origin is asked for {target}", self._rule.to or "query")
        return None

    def becomes(self, request: Request) -> list[Request]:
        """What it makes of a request, when it is meant."""
        with suppress(RequestError):
            after = self._rewritten(request)
            if after is not None:
                return [after]
        return []

    def _rewritten(self, before: Request) -> Request | None:
        """The request as it goes on; None when it is not meant. Raises RequestError when its path would leave
        the root."""
        values = self._take(without_parameters(before.path))
        if values is None:
            return None
        path, query = before.path, before.query
        if self._to is not None:
            path, query = self._to.path(before, values), self._to.query(before, values)
        if self._rule.query is not None:
            query = self._edited(query)
        if (path, query) == (before.path, before.query):
            return before
        return replace(before, path=path, query=query)

    def _edited(self, query: bytes) -> bytes:
        ours = {name for name, _ in self._set}
        kept: list[bytes] = []
        for pair in query.split(b"&") if query else ():
            name = unquote_to_bytes(pair.partition(b"=")[0]).decode("latin-1")  # as the origin reads it
            if self._keep is not None and not any(test(name) for test in self._keep):
                continue
            if name not in ours and not any(test(name) for test in self._remove):
                kept.append(pair)
        return b"&".join([*kept, *[name.encode() + b"=" + value for name, value in self._set]])
