"""`redirect`: requests that are answered with another URL.

Rule 1: scheme and host come from the configuration, or are the request's own; no part of a path chooses
another site. Rule 2: who is where a rule leads stays there, so no rule can send anybody in circles.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from edgeproxy.context import Context, Verdict
from edgeproxy.errors import RequestError
from edgeproxy.http.message import SAFE, Request, Response
from edgeproxy.http.replies import redirect
from edgeproxy.http.target import without_parameters
from edgeproxy.policies.templates import Template, taker
from edgeproxy.units import Model

_MOST = 10_000
_KEEPS_METHOD = {301: 308, 302: 307}  # for unsafe methods: many a client makes a GET of them (A42)


class RedirectRule(Model):
    """Which requests go where. Exactly one of `path`, `regex` and `map`."""

    path: str | None = None
    """Path as in `match.path`: `/old/**`, `/a/*/b`."""
    regex: str | None = None
    """Regular expression (RE2) of the whole path: `/p/([0-9]+)`."""
    map: Annotated[dict[str, str], Field(max_length=_MOST)] | None = None
    """Exact path -> target, for many."""
    to: str | None = None
    """Target of `path` or `regex`: `https://www.example.com/new/{rest}`, `/item/{1}`, `https://{host}{path}`.
    The query goes along where the target has none."""
    status: Literal[301, 302, 303, 307, 308] = 308
    """301 and 308 are for good; 303 makes a GET of every method. Unsafe methods stay what they are: they get
    308 for 301 and 307 for 302."""

    @model_validator(mode="after")
    def _is_one(self) -> RedirectRule:
        ways = [way for way in ("path", "regex", "map") if getattr(self, way) is not None]
        if len(ways) != 1:
            raise ValueError(f"found {' and '.join(ways) or 'none'} of path, regex, map, expected one")
        if (self.to is None) != (self.map is not None):
            raise ValueError("`to` goes with path or regex, and only with them")
        Redirect(self)
        return self


class Redirect:
    """The policy."""

    name = "redirect"
    reasons = ("redirected",)
    fails_open = True
    repeatable = True

    def __init__(self, rule: RedirectRule) -> None:
        """Raises ValueError when a target does not fit."""
        self._rule = rule
        self._status = rule.status
        self._take, known = taker(rule.path, rule.regex)
        self._to = None if rule.to is None else Template(rule.to, known, absolute=True)
        exact = {"{path}", "{query}", "{host}"}
        self._map = {
            path.encode(): Template(to, exact, absolute=True) for path, to in (rule.map or {}).items()
        }
        if any(not path.startswith(b"/") for path in self._map):
            raise ValueError("a path in `map` begins with a slash")

    def __call__(self, request: Request, ctx: Context, /) -> Response | None:
        """The redirect, or None for who is not meant or already there."""
        location = self._location(request)
        if ctx.notes is not None:
            rule = self._rule.path or self._rule.regex or f"map of {len(self._map)}"
            values = (("path", request.path.decode("latin-1")),)
            if location is None:
                ctx.note(self.name, Verdict.ALLOW, "no rule sends it elsewhere", rule, values)
            else:
                ctx.note(self.name, Verdict.ANSWER, f"sends it to {location.decode('latin-1')}", rule, values)
        if location is None:
            return None
        ctx.reason = "redirected"
        status = self._status if request.method in SAFE else _KEEPS_METHOD.get(self._status, self._status)
        return redirect(status, location)

    def _location(self, request: Request) -> bytes | None:
        path = without_parameters(request.path)
        to, values = self._to, {}
        if to is None:
            to = self._map.get(path)
            if to is None:
                return None
        else:
            taken = self._take(path)
            if taken is None:
                return None
            values = taken
        try:
            path = to.path(request, values)
        except RequestError:
            return None
        query = to.query(request, values)
        same_site = to.host(request) == request.host and to.scheme in (
            "",
            "https" if request.secure else "http",
        )
        if same_site and self._again(path):
            return None
        return to.site(request) + path + (b"?" + query if query else b"")

    def _again(self, path: bytes) -> bool:
        """Would the same rule send who comes back from there away again?"""
        path = without_parameters(path)
        return path in self._map if self._to is None else self._take(path) is not None
