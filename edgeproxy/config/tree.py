"""What a configuration file holds: plain values, the line of each, and what is wrong with them.

Every message about a file has one form: `file:line: path: found …, expected …; how to mend it`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import TypeAlias

from edgeproxy.record import record

Tree: TypeAlias = "str | int | float | bool | list[Tree] | dict[str, Tree] | None"
"""A value as YAML says it."""
TreePath: TypeAlias = tuple[str | int, ...]
"""Where a value stands: keys and positions from the top."""

MASK = "***"
_MOST_PROBLEMS = 100
_LONGEST_SHOWN = 60
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")
# Settings that hold a secret even when somebody writes it into the file itself.
_SECRET_KEYS = frozenset({"token", "secret", "keys", "password", "authorization", "proxy-authorization"})


@record
class Mark:
    """A place in the file, both counted from 1."""

    line: int
    column: int


@record
class Problem:
    """One thing that is wrong. `line` 0 means: the line of `path`."""

    path: TreePath
    text: str
    line: int = 0


@record
class Document:
    """A parsed file. `secret` are the paths whose text came from the environment or another file."""

    name: str
    data: dict[str, Tree]
    places: dict[TreePath, Mark]
    secret: frozenset[TreePath]
    problems: tuple[Problem, ...] = ()

    def nearest(self, path: TreePath) -> TreePath:
        """`path` without the steps that the file does not have."""
        while path and path not in self.places:
            path = path[:-1]
        return path

    def line(self, path: TreePath) -> int:
        """The line of `path`, or of the section it would be in."""
        place = self.places.get(self.nearest(path))
        return place.line if place else 1

    def is_secret(self, path: TreePath) -> bool:
        """Must the value at `path` stay unseen?"""
        if any(isinstance(step, str) and step.lower() in _SECRET_KEYS for step in path):
            return True
        return any(path[:end] in self.secret for end in range(len(path) + 1))

    def at(self, path: TreePath) -> Tree:
        """The value at `path`; None when there is none."""
        value: Tree = self.data
        try:
            for step in path:
                value = inside(value, step)
        except LookupError:
            return None
        return value

    def show(self, path: TreePath) -> str:
        """The value at `path` as a message may name it."""
        value = self.at(path)
        return MASK if isinstance(value, str) and self.is_secret(path) else shown(value)

    def masked(self) -> dict[str, Tree]:
        """The data with every secret replaced by `***`."""
        return {key: self._masked(value, (key,)) for key, value in self.data.items()}

    def _masked(self, value: Tree, path: TreePath) -> Tree:
        if isinstance(value, dict):
            return {key: self._masked(each, (*path, key)) for key, each in value.items()}
        if isinstance(value, list):
            return [self._masked(each, (*path, position)) for position, each in enumerate(value)]
        return MASK if isinstance(value, str) and self.is_secret(path) else value

    def report(self, problems: Iterable[Problem]) -> str:
        """All problems, a line each, in the order of the file."""
        lines = sorted(
            {(each.line or self.line(each.path), spelled(each.path), each.text) for each in problems}
        )
        said = [f"{self.name}:{line}: {path + ': ' if path else ''}{text}" for line, path, text in lines]
        if len(said) > _MOST_PROBLEMS:
            said[_MOST_PROBLEMS:] = [f"{self.name}: and {len(said) - _MOST_PROBLEMS} more"]
        return "\n".join(said)


def inside(value: Tree, step: str | int) -> Tree:
    """What `value` has at `step`. LookupError when it has nothing there."""
    if isinstance(value, dict) and isinstance(step, str):
        return value[step]
    if isinstance(value, list) and isinstance(step, int):
        return value[step]
    raise LookupError(step)


def spelled(path: TreePath) -> str:
    """`routes[0].match.path` of a path."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{plain(step)}" if text else plain(step)
    return text


def plain(key: str) -> str:
    """A key as it is when it is ordinary, else as text in quotes: it may hold line ends."""
    return key if _PLAIN_KEY.fullmatch(key) else shown(key)


def shown(value: Tree) -> str:
    """A value as a person wrote it: text in quotes, sections by their kind."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case list():
            return f"a list of {len(value)}"
        case dict():
            return "a section"
        case str() if len(value) > _LONGEST_SHOWN:
            return f"{value[: _LONGEST_SHOWN - 1]!r}…"
        case _:
            return repr(value)


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'X'?` when one of `known` is near, else an empty string."""
    names = {name.lower(): name for name in known}
    near = get_close_matches(word.lower(), names, n=1, cutoff=0.6)
    return f"; did you mean {names[near[0]]!r}?" if near else ""


def either(choices: Iterable[str]) -> str:
    """`a, b or c`, each named once."""
    names = list(dict.fromkeys(choices))
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
