"""Paths taken apart by a pattern, and put together by a template: what redirects and rewrites share.

A pattern is a path as in `match.path`, or a regular expression of the whole path. A template may hold
`{1}` to `{9}` (what each `*` or group took), `{rest}` (what `/**` took), `{path}`, `{query}` and `{host}`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from edgeproxy.errors import RequestError
from edgeproxy.http.message import Request
from edgeproxy.http.target import normalise_host, normalise_path, without_parameters
from edgeproxy.policies.linear_regex import linear_regex
from edgeproxy.policies.patterns import path_pattern

Values = dict[bytes, bytes]
Take = Callable[[bytes], Values | None]

_PLACEHOLDER = re.compile(r"(\{[^{}]*\})")
_LITERAL = re.compile(r"[!-~]*")
_NOT_NORMAL = re.compile(r"[#\\\"<>^`{|}]")
_UNSAFE = re.compile(rb"[^!-~]|[\\#\"<>^`{|}]")
_BROKEN = re.compile(r"%(?![0-9A-Fa-f]{2})|%00")  # no door would take it
ABSOLUTE = re.compile(r"(https?)://(\{host\}|[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?(?::\d{1,5})?)((?:[/?{].*)?)")


def taker(path: str | None, regex: str | None) -> tuple[Take, frozenset[str]]:
    """(what takes a path apart, the placeholders that it fills). Raises ValueError."""
    known = {"{path}", "{query}", "{host}"}
    if regex is None:
        pattern = "/**" if path is None else path
        path_pattern(pattern)  # for its complaints
        expression, rest = _expression(pattern)
    else:
        expression, rest = regex, False
    captures, count = linear_regex(expression)
    if count > 9 + rest:
        raise ValueError(f"{expression!r} takes {count} parts; at most 9 have a name")
    names = [b"{%d}" % number for number in range(1, count + 1 - rest)] + [b"{rest}"] * rest

    def take(path: bytes) -> Values | None:
        found = captures(path)
        return (
            None if found is None else {name: value or b"" for name, value in zip(names, found, strict=True)}
        )

    return take, frozenset(known | {name.decode() for name in names})


def _expression(pattern: str) -> tuple[str, bool]:
    deep = pattern.endswith("/**")
    stem = pattern.removesuffix("/**")
    body = "([^/]*)".join(re.escape(part) for part in stem.split("*"))
    return body + ("(?:/(.*))?" if deep else ""), deep


class Template:
    """A target, taken apart once. `site` is empty for one on the same site."""

    def __init__(self, text: str, known: Iterable[str], *, absolute: bool) -> None:
        """Raises ValueError with what is wrong with it."""
        found = ABSOLUTE.fullmatch(text) if absolute else None
        if found is None and not text.startswith("/"):
            forms = "https://host/path or /path" if absolute else "/path"
            raise ValueError(f"{text!r} is no target; write {forms}, in lower case up to the path")
        self.scheme, host, rest = ("", "", text) if found is None else found.groups()
        self._host = b"" if host in ("", "{host}") else _host(host, secure=self.scheme == "https")
        path, mark, query = rest.partition("?")
        if _BROKEN.search(path):
            raise ValueError(f"{text!r} has a % in its path that is no escape; write %25")
        self._path = _parts(text, path or "/", known)
        self._query = _parts(text, query, known) if mark else [b"{query}"] if "{query}" in path else []
        self._path = [part for part in self._path if part != b"{query}"]
        self.keeps_query = not mark and "{query}" not in path

    def site(self, request: Request) -> bytes:
        """Scheme and host, or nothing."""
        if not self.scheme:
            return b""
        return f"{self.scheme}://".encode() + self.host(request)

    def host(self, request: Request) -> bytes:
        """Where it leads."""
        return self._host or request.host

    def path(self, request: Request, values: Values) -> bytes:
        """The path as the door would spell it. It begins with one slash whatever the parts are, so that none
        belongs to the host before it. Raises RequestError when it climbs above the root."""
        return normalise_path(b"/" + escaped(_filled(self._path, request, values)))

    def query(self, request: Request, values: Values) -> bytes:
        """The query without its `?`: the template's own, or the request's where it has none."""
        if self.keeps_query:
            return escaped(request.query)
        return escaped(_filled(self._query, request, values)).strip(b"&")


def _host(host: str, *, secure: bool) -> bytes:
    """As `Request.host` would be."""
    try:
        return normalise_host(host.encode(), secure=secure)
    except RequestError as error:
        raise ValueError(f"{host!r}: {error.detail}") from None


def _filled(parts: list[bytes], request: Request, values: Values) -> bytes:
    own = {b"{path}": without_parameters(request.path), b"{query}": request.query, b"{host}": request.host}
    return b"".join([values.get(part, own.get(part, part)) for part in parts])


def _parts(text: str, rest: str, known: Iterable[str]) -> list[bytes]:
    names = frozenset(known)
    parts = [part for part in _PLACEHOLDER.split(rest) if part]
    for part in parts:
        if part.startswith("{") and part.endswith("}"):
            if part not in names:
                raise ValueError(f"{text!r} has {part}; known here are {', '.join(sorted(names))}")
        elif not _LITERAL.fullmatch(part) or _NOT_NORMAL.search(part):
            raise ValueError(f'{text!r} may hold visible ASCII, but none of # \\ " < > ^ ` {{ | }}')
    return [part.encode() for part in parts]


def escaped(part: bytes) -> bytes:
    """What a header line and every browser take for the same URL."""
    return _UNSAFE.sub(lambda match: b"%%%02X" % match[0][0], part)
