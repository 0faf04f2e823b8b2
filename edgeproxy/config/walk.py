"""Ways through the raw tree of a configuration, for the checks between sections.

Whatever has the wrong shape is walked past: the models complain about it.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeproxy.config.tree import Document, Tree, TreePath

MOST_ROUTES = 1000


def section(value: Tree) -> dict[str, Tree]:
    """The section itself; an empty one in place of anything else."""
    return value if isinstance(value, dict) else {}


def listed(value: Tree) -> list[Tree]:
    """The list itself; an empty one in place of anything else."""
    return value if isinstance(value, list) else []


def routes(document: Document) -> Iterator[tuple[TreePath, dict[str, Tree]]]:
    """Path and section of each route."""
    for position, route in enumerate(listed(document.data.get("routes"))[:MOST_ROUTES]):
        yield ("routes", position), section(route)


def policies(path: TreePath, route: dict[str, Tree]) -> Iterator[tuple[TreePath, str, Tree]]:
    """Path, word and value of each policy."""
    for position, step in enumerate(listed(route.get("policies"))):
        for word, value in section(step).items():
            yield (*path, "policies", position, word), word, value


def texts(path: TreePath, value: Tree) -> Iterator[tuple[TreePath, str]]:
    """The names that a name or a list of names holds."""
    if isinstance(value, str):
        yield path, value
    for position, each in enumerate(listed(value)):
        if isinstance(each, str):
            yield (*path, position), each
