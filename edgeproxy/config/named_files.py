"""The files that a configuration names: where they are, and all that are not there, each with its place.

Rule: a relative path begins in the folder of the configuration file, wherever the edge is started; so does
`${file:…}`. Only whether they can be opened is looked at; what they hold is for those who use them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from edgeproxy.config.tree import MASK, Document, Problem, Tree, TreePath, shown
from edgeproxy.config.walk import texts

_ANY = object()  # every key of a section, every position of a list
_READ: tuple[tuple[tuple[object, ...], str], ...] = (
    (("geo", "database"), "set it to the path of an .mmdb file"),
    (("origins", _ANY, "tls", "ca"), "leave it out for the system's certificates"),
    (("origins", _ANY, "tls", "client_cert"), "it holds a PEM certificate"),
    (("origins", _ANY, "tls", "client_key"), "it holds a PEM private key"),
    (("jwt_providers", _ANY, "jwks_file"), "it holds a JWK set"),
    (("routes", _ANY, "policies", _ANY, "api_key", "file"), "`edgeproxy api-key NAME` makes its lines"),
    (("routes", _ANY, "policies", _ANY, "basic", "file"), "`edgeproxy password USER` makes its lines"),
)
_WRITTEN = (("server", "access_log", "path"), ("exposures", "file"), ("rate_limit_table", "file"))
_MADE = (("cache", "machine", "path"), ("jwt_providers", _ANY, "revoked"))
_LONGEST_PATH = 200  # characters that are shown
_NO_FILES = ("-", "off")  # of the access log: standard output, and none


def anchored(key: str, value: Tree, folder: Path) -> Tree:
    """The section `key` with relative paths that begin in `folder`."""
    for first, *pattern in (*[pattern for pattern, _ in _READ], *_WRITTEN, *_MADE):
        if first == key:
            value = _anchored(value, tuple(pattern), folder)
    return value


def _anchored(value: Tree, pattern: tuple[object, ...], folder: Path) -> Tree:
    if isinstance(value, dict) and pattern:
        step, *rest = pattern
        return {
            key: _anchored(each, tuple(rest), folder) if step is _ANY or step == key else each
            for key, each in value.items()
        }
    if isinstance(value, list) and (not pattern or pattern[0] is _ANY):
        return [_anchored(each, pattern[1:], folder) for each in value]
    if isinstance(value, str) and not pattern and value and value not in _NO_FILES:
        return str(folder / value)
    return value


def file_problems(document: Document) -> Iterator[Problem]:
    """What cannot be read, and what cannot be written."""
    for pattern, advice in _READ:
        for path, name in _named(document.data, pattern):
            if why := _unreadable(name):
                yield Problem(path, f"found {_shown(name)}, expected a file to read ({why}); {advice}")
    for pattern in _WRITTEN:
        for path, name in _named(document.data, pattern):
            if name not in _NO_FILES and (why := _unwritable(Path(name))):
                yield Problem(path, f"found {_shown(name)}, expected a file to write ({why})")


def folder_problems(document: Document) -> Iterator[Problem]:
    """A folder of the machine tier that cannot be had: an edge runs without it, so this stops none."""
    for path, name in _named(document.data, ("cache", "machine", "path")):
        folder = Path(name)
        there = next(each for each in (folder, *folder.parents) if each.exists())
        why = "" if there.is_dir() else f"{there} is no folder"
        if why or (why := _unwritable(there / "lock")):
            said = f"found {_shown(name)}, expected a folder to write to ({why})"
            yield Problem(path, f"{said}; the edge would run with memory alone")


def _named(data: Tree, pattern: tuple[object, ...]) -> Iterator[tuple[TreePath, str]]:
    """Path and text of each file name that stands where the pattern says."""
    found: list[tuple[TreePath, Tree]] = [((), data)]
    for step in pattern:
        found = [
            ((*path, key), value)
            for path, tree in found
            for key, value in _members(tree)
            if step is _ANY or key == step
        ]
    for path, value in found:
        yield from ((at, name) for at, name in texts(path, value) if name)


def _members(tree: Tree) -> Iterator[tuple[str | int, Tree]]:
    if isinstance(tree, dict):
        yield from tree.items()
    elif isinstance(tree, list):
        yield from enumerate(tree)


def _shown(name: str) -> str:
    """A name is no secret, but what `${file:…}` brought in its place by mistake may be."""
    return MASK if "\n" in name else repr(name) if len(name) <= _LONGEST_PATH else shown(name)


def _unreadable(name: str) -> str:
    """Why, or an empty text."""
    try:
        os.close(os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    except (OSError, ValueError) as error:
        return _reason(name, error)
    return "it is a folder" if Path(name).is_dir() else ""


def _unwritable(path: Path) -> str:
    """Why, or an empty text. Nothing is made: `check` leaves no trace."""
    try:
        if path.is_dir():
            return "it is a folder"
        there = path if path.exists() else path.parent
        os.stat(there)
    except (OSError, ValueError) as error:
        return _reason(str(path), error)
    return "" if os.access(there, os.W_OK) else f"no right to write to {there}"


def _reason(name: str, error: OSError | ValueError) -> str:
    why = error.strerror if isinstance(error, OSError) else str(error)
    return f"{why}" if Path(name).is_absolute() else f"{why}, from {Path.cwd()}"
