"""Where `geo` sends the visitors of a country: `https://de.example.com{path}{query}`.

Rule 1: scheme and host come from the template alone, so no request can choose another site.
Rule 2: a request that is where the template leads stays there, so no redirect can repeat.
"""

from __future__ import annotations

import re

from edgeproxy.http.message import Request

_ABSOLUTE = re.compile(
    r"(https?)://([A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)(?::(\d{1,5}))?((?:/|\{path\}).*)?"
)
# What follows the first slash may be neither a slash nor {path}: `//host` is another site (A41).
_SAME_HOST = re.compile(r"/(?:[A-Za-z0-9_~-]|\{country\}).*")
_PLACEHOLDER = re.compile(r"(\{[^{}]*\})")
_KNOWN = ("{path}", "{query}", "{country}")
_LITERAL = re.compile(r"[!-~]*")
# The door would write these otherwise, and a visitor who arrived would not be seen to be there.
_NOT_NORMAL = re.compile(r"[#%\\]|//|(?:^|/)\.\.?(?:/|$)")
_UNSAFE = re.compile(rb"[^!-~]|[\\#\"<>^`{|}]")
_DEFAULT_PORT = {"http": "80", "https": "443"}


class Target:
    """A template, taken apart once."""

    def __init__(self, template: str) -> None:
        """Raises ValueError with what is wrong with the template."""
        absolute = _ABSOLUTE.fullmatch(template)
        if absolute is None and not _SAME_HOST.fullmatch(template):
            raise ValueError(
                f"{template!r} is no redirect; write https://host{{path}}{{query}} or /folder{{path}}"
                " (the host is fixed: no placeholder in it)"
            )
        rest = template if absolute is None else absolute[4] or "/"
        self._host = b"" if absolute is None else _host(absolute)
        self._site = b"" if absolute is None else template.removesuffix(absolute[4] or "").encode()
        self._parts = _parts(template, rest)
        self._path = _parts(template, re.split(r"\?|\{query\}", rest)[0])

    def location(self, request: Request, country: str) -> bytes | None:
        """The Location for this request, or None when it already is where the template leads."""
        path = _escaped(request.path)
        if not path.startswith(b"/"):  # `OPTIONS *`
            return None
        if not country and b"{country}" in self._parts:  # `/{country}{path}` must not become `//host`
            return None
        values = {
            b"{path}": path,
            b"{query}": b"?" + _escaped(request.query) if request.query else b"",
            b"{country}": country.encode(),
        }
        if self._host in (b"", request.host) and self._is_there(path, values):
            return None
        return self._site + _filled(self._parts, values)

    def _is_there(self, path: bytes, values: dict[bytes, bytes]) -> bool:
        """Is `path` one that this template makes, whatever it was before?"""
        if b"{path}" not in self._path:
            return path == _filled(self._path, values)
        before = _filled(self._path[: self._path.index(b"{path}")], values).rstrip(b"/")
        return (path + b"/").startswith(before + b"/")


def _filled(parts: list[bytes], values: dict[bytes, bytes]) -> bytes:
    return b"".join([values.get(part, part) for part in parts])


def _host(absolute: re.Match[str]) -> bytes:
    """As `Request.host` would be: lower case, without the scheme's own port."""
    host, port = absolute[2].lower(), absolute[3]
    return host.encode() if port in (None, _DEFAULT_PORT[absolute[1]]) else f"{host}:{port}".encode()


def _parts(template: str, rest: str) -> list[bytes]:
    rest = rest.replace("?{query}", "{query}")  # people write both; the query brings its `?`
    parts = [part for part in _PLACEHOLDER.split(rest) if part]
    for part in parts:
        if part.startswith("{") and part.endswith("}"):
            if part not in _KNOWN:
                raise ValueError(f"{template!r} has {part}; known are {', '.join(_KNOWN)}")
        elif not _LITERAL.fullmatch(part) or _NOT_NORMAL.search(part):
            raise ValueError(
                f"{template!r} may hold visible ASCII, but no #, %, backslash, // or dot folders"
            )
    return [part.encode() for part in parts]


def _escaped(part: bytes) -> bytes:
    """What a header line and every browser take for the same URL."""
    return _UNSAFE.sub(lambda match: b"%%%02X" % match[0][0], part)
