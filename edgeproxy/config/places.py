"""Whether what a configuration says of places holds: their words, and what is needed to know them."""

from __future__ import annotations

from collections.abc import Iterator

from edgeproxy.config.conditions import conditions_of
from edgeproxy.config.tree import MASK, Document, Problem, Tree, TreePath
from edgeproxy.config.walk import policies, routes, section, texts
from edgeproxy.countries import check_place_name

NEAREST = "nearest"  # the origin that is closest to the client


def place_checks(document: Document) -> Iterator[Problem]:
    """Unknown words for places, and rules that need a database or locations where there are none."""
    yield from _countries(document)
    yield from _places(document)


def _countries(document: Document) -> Iterator[Problem]:
    """Words for places: codes, continents, and the groups of the `geo` section."""
    groups = tuple(section(section(document.data.get("geo")).get("groups")))
    for where, word in _place_words(document):
        try:
            check_place_name(word, groups)
        except ValueError as error:
            yield Problem(where, _unplaced(document, where, word, str(error)))


def _place_words(document: Document) -> Iterator[tuple[TreePath, str]]:
    for path, route in routes(document):
        by_country = (*path, "origin", "by_country")
        yield from (
            ((*by_country, word), word) for word in section(section(route.get("origin")).get("by_country"))
        )
        for where, policy, value in policies(path, route):
            rule = section(value) if policy == "geo" else {}
            yield from texts((*where, "allow"), rule.get("allow"))
            yield from texts((*where, "deny"), rule.get("deny"))
            for key in ("redirect", "rewrite", "set"):
                yield from (((*where, key, word), word) for word in section(rule.get(key)))


def _unplaced(document: Document, path: TreePath, word: str, said: str) -> str:
    if document.is_secret(path):
        return f"found {MASK}, expected a country, continent or group"
    return said.replace(f"{word!r} is no ", f"found {word!r}, expected a ", 1)


def _is_nearest(route: dict[str, Tree]) -> bool:
    """May the nearest origin be looked for? Where a rule has no `otherwise`, that is what it means."""
    origin = route.get("origin")
    rule = section(origin)
    words = [origin, *section(rule.get("by_country")).values()]
    return NEAREST in words or (bool(rule) and rule.get("otherwise", NEAREST) == NEAREST)


def _places(document: Document) -> Iterator[Problem]:
    """What looks at where a client is needs a database; what looks for the nearest needs locations."""
    geo = section(document.data.get("geo"))
    has_database = bool(geo.get("database"))
    if geo.get("residency") and not has_database:
        said = "found a rule that asks for the client's place, expected geo.database to name a file"
        yield Problem(("geo", "residency"), said)
    for path, route in routes(document):
        needing = [where for where, word, _ in policies(path, route) if word == "geo"]
        needing += [
            where for where, _, parsed in conditions_of(document, path, route) if "country" in parsed.kinds
        ]
        if _is_nearest(route) or "by_country" in section(route.get("origin")):
            needing.append((*path, "origin"))
        if not {"country", "group"}.isdisjoint(
            name for _, name in texts((), section(route.get("cache")).get("vary_on"))
        ):
            needing.append((*path, "cache", "vary_on"))
        for where in () if has_database else needing:
            said = "found a rule that asks for the client's place, expected geo.database to name a file"
            yield Problem(where, said)
        if _is_nearest(route):
            yield from _located(document, (*path, "origin"))


def _located(document: Document, path: TreePath) -> Iterator[Problem]:
    origins = section(document.data.get("origins")).values()
    if not any(section(each).get("location") for each in origins):
        yield Problem(path, "found nearest, expected origins with a location, like [50.11, 8.68]")
    if not section(document.data.get("edge")).get("location"):
        said = "found nearest, expected edge.location: it stands in for a client nobody can place"
        yield Problem(path, said)
