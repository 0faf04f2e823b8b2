"""`${VAR}`, `${VAR:-default}` and `${file:/path}` in the text values of a configuration.

Filled in after parsing, so whatever a variable or file holds stays one text value. `$$` is a
dollar sign. An empty variable is as absent where there is a default, as in a shell.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from pathlib import Path

from edgeproxy.config.tree import Problem, Tree, TreePath

MAX_FILLED = 1024 * 1024
"""Characters of a value once it is filled in, and bytes of a file it may name."""

_PLACE = re.compile(r"\$\$|\$\{([^{}]*)\}|\$\{")
_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)


class _UnfilledError(Exception):
    """A place cannot be filled; the message says why and how to mend it."""


class Filler:
    """Fills in one document. `secret` collects the paths whose text came from outside."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self.secret: set[TreePath] = set()
        self.problems: list[Problem] = []
        self._folder = folder
        self._environ = environ
        self._files: dict[str, str] = {}

    def fill(self, value: Tree, path: TreePath) -> Tree:
        """`value` with all its texts filled in; keys stay as they are."""
        if isinstance(value, dict):
            return {key: self.fill(each, (*path, key)) for key, each in value.items()}
        if isinstance(value, list):
            return [self.fill(each, (*path, position)) for position, each in enumerate(value)]
        return self._text(value, path) if isinstance(value, str) and "$" in value else value

    def _text(self, text: str, path: TreePath) -> str:
        parts: list[str] = []
        end = room = 0
        try:
            for place in _PLACE.finditer(text):
                parts += (text[end : place.start()], self._filled(place, path))
                end = place.end()
                room += len(parts[-1])
                if room > MAX_FILLED:
                    raise _UnfilledError(f"found more than {MAX_FILLED // 1024} KiB filled in, expected less")
        except _UnfilledError as error:
            self.problems.append(Problem(path, str(error)))
            return text
        return "".join((*parts, text[end:]))

    def _filled(self, place: re.Match[str], path: TreePath) -> str:
        if place[0] == "$$":
            return "$"
        if place[1] is None:
            raise _UnfilledError("found '${' without its '}'; write $$ for a plain dollar sign")
        if place[1].startswith("file:"):
            self.secret.add(path)
            return self._file(place[1].removeprefix("file:"))
        return self._variable(place[1], path)

    def _variable(self, inside: str, path: TreePath) -> str:
        match = _VARIABLE.fullmatch(inside)
        if match is None:
            raise _UnfilledError(
                "found '${…}' that names nothing, expected ${VAR}, ${VAR:-default} or ${file:/path}"
            )
        name, default = match[1], match[2]
        value = self._environ.get(name)
        if default is not None and not value:
            return default
        if value is None:
            raise _UnfilledError(
                f"found ${{{name}}}, which is not set; set {name}, or write ${{{name}:-default}}"
            )
        if not value.isascii() and not _is_unicode(value):
            raise _UnfilledError(f"found bytes in the variable {name} that are not UTF-8")
        self.secret.add(path)
        return value

    def _file(self, name: str) -> str:
        if name not in self._files:
            self._files[name] = self._read(name)
        return self._files[name]

    def _read(self, name: str) -> str:
        try:
            file = self._folder / name
            if not stat.S_ISREG(file.stat().st_mode):  # a pipe would wait for ever
                raise _UnfilledError(f"found {name!r}, expected a regular file")
            with file.open("rb") as stream:
                raw = stream.read(MAX_FILLED + 1)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise _UnfilledError(f"found the file {name!r}, which cannot be read: {reason}") from None
        if len(raw) > MAX_FILLED:
            raise _UnfilledError(
                f"found the file {name!r} with more than {MAX_FILLED // 1024} KiB, expected less"
            )
        try:
            return re.sub(r"\r?\n\Z", "", raw.decode("utf-8"))
        except UnicodeDecodeError:
            raise _UnfilledError(f"found the file {name!r} with bytes that are not UTF-8") from None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
