"""The routes of a configuration as a table, for `edgeproxy check`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, cast

from edgeproxy.config.as_yaml import duration_text
from edgeproxy.units import Model

if TYPE_CHECKING:
    from edgeproxy.config import Config

WIDEST, WIDEST_RULE = 48, 32  # characters of a cell, and of what a policy may have in brackets
_NOTHING: tuple[object, ...] = (None, (), [], {}, "")
TITLES = ("route", "hosts", "paths", "methods", "policies", "cache", "origin")


def route_rows(config: Config) -> list[tuple[str, ...]]:
    """One row per route: name, hosts, paths, methods, policies in order, cache, origin."""
    rows: list[tuple[str, ...]] = []
    for route in config.routes:
        match = route.match
        policies = " > ".join([_policy(step.word, step.rule) for step in route.policies])
        cache = "off" if route.cache is None else _within(WIDEST, route.cache) or "as the origin says"
        where = [_within(WIDEST, part) for part in (match.host, match.path, match.methods or "*")]
        rows.append((route.name, *where, policies or "-", cache, _within(WIDEST, route.origin)))
    return rows


def _policy(word: str, rule: object) -> str:
    """`rate_limit(per_client)`; what header edits and foreign classes hold may be secret."""
    if word == "headers":
        return word
    if word == "use":
        rule = getattr(rule, "path", "")
    said = _brief(rule)
    return f"{word}({said})" if 0 < len(said) <= WIDEST_RULE else word


def _within(width: int, value: object) -> str:
    """A part of the configuration in one line of so many characters; `explain` has the whole."""
    said = " ".join(_brief(value).split())
    return said if len(said) <= width else f"{said[: width - 1]}…"


def _brief(value: object) -> str:
    """A part of the configuration in a few words, as it was written. A float there is a duration."""
    if isinstance(value, Model):
        return _brief(value.model_dump(exclude_unset=True))
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return " ".join([f"{key}={_brief(item)}" for key, item in items if item not in _NOTHING])
    if isinstance(value, list | tuple | set | frozenset):
        return "|".join([_brief(item) for item in cast("Iterable[object]", value)])
    return duration_text(value) if isinstance(value, float) else str(value)


def table(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Columns lined up under their titles."""
    lines = [tuple(title.upper() for title in titles), *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join(["  ".join(map(str.ljust, line, widths)).rstrip() + "\n" for line in lines])
