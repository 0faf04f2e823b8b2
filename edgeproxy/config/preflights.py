"""What `cors` needs of its route: a preflight is an OPTIONS without credentials."""

from __future__ import annotations

from collections.abc import Iterator

from edgeproxy.config.tree import Document, Problem
from edgeproxy.config.walk import policies, routes, section

_ASKS_FOR_CREDENTIALS = frozenset({"jwt", "api_key", "basic"})


def preflight_checks(document: Document) -> Iterator[Problem]:
    """The route must take the method, and `cors` come before what asks for credentials."""
    for path, route in routes(document):
        methods = section(route.get("match")).get("methods")
        asked = False
        for where, word, _ in policies(path, route):
            asked = asked or word in _ASKS_FOR_CREDENTIALS
            if word != "cors":
                continue
            if isinstance(methods, list) and "OPTIONS" not in methods:
                said = "found cors in a route without the method OPTIONS, expected it in match.methods"
                yield Problem(where, said)
            if asked:
                said = "found cors behind a policy that asks for credentials, expected it before: preflights"
                yield Problem(where, f"{said} carry none")
