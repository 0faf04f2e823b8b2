"""The routes of a configuration as a table, for `edgeproxy check`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, cast

from edgeproxy.config_dump import duration_text
from edgeproxy.units import Model

if TYPE_CHECKING:
    from edgeproxy.config import Config

TITLES = ("route", "hosts", "paths", "methods", "policies", "cache", "origin")


def route_rows(config: Config) -> list[tuple[str, ...]]:
    """One row per route: name, hosts, paths, methods, policies in order, cache, origin."""
    rows: list[tuple[str, ...]] = []
    for route in config.routes:
        match = route.match
        policies = " > ".join([_policy(step.word, step.rule) for step in route.policies])
        cache = "off" if route.cache is None else _brief(route.cache) or "as the origin says"
        where = (_brief(match.host), _brief(match.path), _brief(match.methods or "*"))
        rows.append((route.name, *where, policies or "-", cache, _brief(route.origin)))
    return rows


def _policy(word: str, rule: object) -> str:
    """`rate_limit(per_client)`; what header edits and foreign classes hold may be secret."""
    if word == "headers":
        return word
    if word == "use":
        rule = getattr(rule, "path", "")
    return f"{word}({_brief(rule)})"


def _brief(value: object) -> str:
    """A part of the configuration in a few words, as it was written. A float there is a duration."""
    if isinstance(value, Model):
        return _brief(value.model_dump(exclude_unset=True))
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return " ".join([f"{key}={_brief(item)}" for key, item in items])
    if isinstance(value, list | tuple | set | frozenset):
        return "|".join([_brief(item) for item in cast("Iterable[object]", value)])
    return duration_text(value) if isinstance(value, float) else str(value)


def table(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Columns lined up under their titles."""
    lines = [tuple(title.upper() for title in titles), *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join(["  ".join(map(str.ljust, line, widths)).rstrip() + "\n" for line in lines])
