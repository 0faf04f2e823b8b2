"""What is wrong between `jwt` and `jwt_providers`: tokens of which each is needed must not share a place."""

from __future__ import annotations

from collections.abc import Iterator

from edgeproxy.config.tree import Document, Problem, Tree
from edgeproxy.config.walk import policies, routes, section, texts

_PLACES = (("header", "Authorization"), ("cookie", None), ("query", None))


def token_checks(document: Document) -> Iterator[Problem]:
    """`all_of` with two providers that read the same header, cookie or query parameter."""
    providers = section(document.data.get("jwt_providers"))
    for path, route in routes(document):
        for where, word, value in policies(path, route):
            named = section(value).get("all_of") if word == "jwt" else None
            taken: dict[tuple[str, str], str] = {}
            for at, name in texts((*where, "all_of"), named):
                shared = [place for place in _places(section(providers.get(name))) if place in taken]
                if shared:
                    kind, place = shared[0]
                    said = f"found {document.show(at)}, expected one that does not read {kind} {place}"
                    yield Problem(at, f"{said}: the token of {taken[shared[0]]} stands there")
                taken.update(dict.fromkeys(_places(section(providers.get(name))), name))


def _places(provider: dict[str, Tree]) -> list[tuple[str, str]]:
    found = [(kind, provider.get(kind, default)) for kind, default in _PLACES]
    return [
        (kind, place.lower() if kind == "header" else place)
        for kind, place in found
        if isinstance(place, str)
    ]
