"""Which requests a route's `match` reaches, and whether one match reaches all that another does.

A pattern covers another when it matches the other one's own text, with its stars replaced by
characters that only a star can match.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from edgeproxy.config.tree import Tree
from edgeproxy.record import record

_ANY_TEXT, _ANY_REST = "\x00", "\x01"  # stand for `*` and for what is below `/**`


@record
class Reach:
    """Hosts, paths and methods of a match; `methods` None means all."""

    hosts: tuple[str, ...]
    paths: tuple[str, ...]
    methods: frozenset[str] | None

    @classmethod
    def of(cls, match: dict[str, Tree]) -> Reach | None:
        """The reach of a `match` section; None when it is not well-formed."""
        hosts, paths = _texts(match.get("host", "*")), _texts(match.get("path", "/**"))
        methods = _texts(match["methods"]) if "methods" in match else None
        if not hosts or not paths or methods == ():
            return None
        lower = tuple(host.lower().removesuffix(".") for host in hosts)
        return cls(lower, paths, None if methods is None else frozenset(methods))

    def covers(self, other: Reach) -> bool:
        """Does every request that `other` takes match here too?"""
        if self.methods is not None and (other.methods is None or not other.methods <= self.methods):
            return False
        for narrow in other.paths:
            if not any(path_covers(wide, narrow) for wide in self.paths):
                return False  # paths first: they differ most often
        return all(any(host_covers(wide, narrow) for wide in self.hosts) for narrow in other.hosts)


def _texts(value: Tree) -> tuple[str, ...]:
    """The texts of a text or list of texts; empty when it is anything else."""
    if isinstance(value, str):
        return (value,)
    texts = [each for each in value if isinstance(each, str)] if isinstance(value, list) else []
    return tuple(texts) if isinstance(value, list) and len(texts) == len(value) else ()


def host_covers(wide: str, narrow: str) -> bool:
    """`*` covers all hosts, `*.example.com` all below example.com."""
    if wide in ("*", narrow):
        return True
    return wide.startswith("*.") and narrow.removeprefix("*").endswith(wide[1:]) and narrow != wide[2:]


def path_covers(wide: str, narrow: str) -> bool:
    """`/a/**` covers `/a`, `/a/*/b` and `/a/b/**`."""
    return _compiled(wide)(_sample(narrow)) is not None


@lru_cache(maxsize=4096)
def _sample(pattern: str) -> str:
    text = pattern.removesuffix("/**").replace("*", _ANY_TEXT)
    return f"{text}/{_ANY_REST}" if pattern.endswith("/**") else text


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> Callable[[str], object]:
    stem = pattern.removesuffix("/**")
    body = f"[^/{_ANY_REST}]*".join(re.escape(part) for part in stem.split("*"))
    return re.compile(body + ("(?:/.*)?" if pattern.endswith("/**") else ""), re.DOTALL).fullmatch
