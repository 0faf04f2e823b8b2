"""What only shows when the sections of a configuration meet: names, reachability, what needs what.

Rule: works on the raw tree, not on the models, so that a wrong unit in one place hides no unknown
name in another. Whatever has the wrong shape is skipped here; the models complain about it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from edgeproxy.config.conditions import KNOWS_WHO, condition_checks
from edgeproxy.config.experiments import experiment_checks
from edgeproxy.config.places import NEAREST, place_checks
from edgeproxy.config.preflights import preflight_checks
from edgeproxy.config.reach import Reach
from edgeproxy.config.tokens import token_checks
from edgeproxy.config.tree import MASK, Document, Problem, Tree, TreePath, either, plain, spelled, suggestion
from edgeproxy.config.walk import listed, policies, routes, section, texts
from edgeproxy.units import Address, parse_address

_SHORTEST_TOKEN = 16
_DEFINED_IN = {"jwt": "jwt_providers", "ab": "experiments", "rate_limit": "rate_limits"}


def cross_checks(document: Document) -> list[Problem]:
    """Everything that is wrong between sections."""
    found: list[Problem] = []
    for check in (*_CHECKS, _websockets):
        found += check(document)
    return found


def _references(document: Document) -> Iterator[tuple[TreePath, str, str]]:
    """Path, name, and the section where the name must be."""
    for position, rule in enumerate(listed(section(document.data.get("geo")).get("residency"))):
        at: TreePath = ("geo", "residency", position, "origins")
        yield from ((where, name, "origins") for where, name in texts(at, section(rule).get("origins")))
    for name, experiment in section(document.data.get("experiments")).items():
        for variant, what in section(section(experiment).get("variants")).items():
            at = ("experiments", name, "variants", variant, "origin")
            yield from (
                (where, origin, "origins") for where, origin in texts(at, section(what).get("origin"))
            )
    for path, route in routes(document):
        for where, name in _origins(path, route):
            yield where, name, "origins"
        for where, word, value in policies(path, route):
            if word in _DEFINED_IN:
                for at, names in _named(where, word, value):
                    yield from ((each, name, _DEFINED_IN[word]) for each, name in texts(at, names))


def _named(path: TreePath, word: str, value: Tree) -> Iterator[tuple[TreePath, Tree]]:
    """Where a policy names what is defined elsewhere: under its word, or in the section there."""
    if word != "jwt":
        yield path, value
        return
    for key in ("provider", "any_of", "all_of"):
        yield (*path, key), section(value).get(key)


def _origins(path: TreePath, route: dict[str, Tree]) -> Iterator[tuple[TreePath, str]]:
    """The names of origins that a route's `origin` and `mirror` hold."""
    where, origin = (*path, "origin"), route.get("origin")
    rule = section(origin)
    named = [(where, origin), ((*where, "otherwise"), rule.get("otherwise"))]
    named.append(((*path, "mirror", "origin"), section(route.get("mirror")).get("origin")))
    named += [
        ((*where, "by_country", place), name) for place, name in section(rule.get("by_country")).items()
    ]
    yield from ((at, name) for at, name in named if isinstance(name, str) and name != NEAREST)
    yield from (((*where, "bias", name), name) for name in section(rule.get("bias")))


def _names(document: Document) -> Iterator[Problem]:
    if NEAREST in section(document.data.get("origins")):
        yield Problem(
            ("origins", NEAREST), "found an origin named nearest, expected another name: it means a choice"
        )
    for path, name, defined in _references(document):
        known = section(document.data.get(defined))
        if name in known:
            continue
        names = either(map(plain, sorted(known)[:8])) if known else ""
        wanted = f"one of {defined}: {names}" if known else f"an entry under {defined}"
        near = "" if document.is_secret(path) else suggestion(name, known)
        yield Problem(path, f"found {document.show(path)}, expected {wanted}{near}")


def _by_claim(document: Document, defined: str, name: str) -> bool:
    entry = section(section(document.data.get(defined)).get(name))
    return any(text.startswith("claim:") for _, text in texts((), entry.get("by")))


def _claims(document: Document) -> Iterator[Problem]:
    """A claim is known once a token is verified: the order in YAML is the order of work."""
    for path, route in routes(document):
        verified = False
        for where, word, value in policies(path, route):
            verified = verified or word in KNOWS_WHO  # a policy of one's own may set claims
            for each, name in texts(where, value) if word in _DEFINED_IN and not verified else ():
                if _by_claim(document, _DEFINED_IN[word], name):
                    said = (
                        f"found {document.show(each)}, which goes by a claim, expected a jwt policy before it"
                    )
                    yield Problem(each, said)
        keyed = (*path, "cache", "vary_on")
        for each, name in texts(keyed, section(route.get("cache")).get("vary_on")):
            if name.startswith("claim:") and not verified:
                yield Problem(each, f"found {document.show(each)}, expected a jwt policy in this route")


def _websockets(document: Document) -> Iterator[Problem]:
    """A WebSocket begins as an HTTP/1.1 request: HTTP/2 has no Upgrade."""
    origins = section(document.data.get("origins"))
    for path, route in routes(document):
        for where, name in _origins(path, route) if route.get("websocket") else ():
            if section(origins.get(name)).get("protocol") == "h2":
                said = f"found {document.show(where)}, which speaks h2, expected one that speaks http/1.1"
                yield Problem(where, f"{said}: the route takes WebSockets")


def _admin(document: Document) -> Iterator[Problem]:
    admin = section(document.data.get("admin"))
    token, listen = admin.get("token"), _address(admin.get("listen"))
    exposed = listen is not None and not ipaddress.ip_address(listen.host).is_loopback
    if exposed and isinstance(token, str) and 0 < len(token) < _SHORTEST_TOKEN:
        said = f"found {MASK}, expected {_SHORTEST_TOKEN} characters or more: admin.listen is not on loopback"
        yield Problem(("admin", "token"), said)


def _address(value: Tree) -> Address | None:
    try:
        return parse_address(value)
    except ValueError:
        return None


def _listeners(document: Document) -> Iterator[Problem]:
    """One port of one address is bound once. Port 0 is any free one."""
    listen = section(document.data.get("server")).get("listen")
    at: TreePath = ("server", "listen")
    entries: list[tuple[TreePath, Tree]] = [(at, listen)] if isinstance(listen, str) else []
    for position, each in enumerate(listed(listen)):
        value = each.get("address") if isinstance(each, dict) else each
        entries.append(((*at, position), value))
    admin = section(document.data.get("admin")).get("listen")
    entries.append((("admin", "listen"), admin))
    parsed = [(path, _address(value)) for path, value in entries]
    addresses = [(path, str(address)) for path, address in parsed if address is not None and address.port]
    yield from _repeated(document, addresses, "an address that nothing else listens on")


def _twins(document: Document) -> Iterator[Problem]:
    names = [each for path, route in routes(document) for each in texts((*path, "name"), route.get("name"))]
    yield from _repeated(document, names, "a name that no other route has")


def _repeated(document: Document, named: Iterable[tuple[TreePath, str]], expected: str) -> Iterator[Problem]:
    first: dict[str, TreePath] = {}
    for path, name in named:
        if name in first:
            other = first[name]
            where = f"{spelled(other)} on line {document.line(other)} has it too"
            yield Problem(path, f"found {document.show(path)}, expected {expected}; {where}")
        first.setdefault(name, path)


def _unreachable(document: Document) -> Iterator[Problem]:
    earlier: list[tuple[TreePath, Reach]] = []
    for path, route in routes(document):
        match = route.get("match", {})
        reach = Reach.of(match) if isinstance(match, dict) else None
        if reach is None:
            continue
        wide = next((at for at, each in earlier if each.covers(reach)), None)
        if wide is not None:
            where = f"{spelled(wide)} on line {document.line(wide)}"
            said = f"found a route that no request reaches, expected it before {where}, which takes them all"
            yield Problem(path, said)
        earlier.append((path, reach))


_CHECKS = (
    _names, place_checks, _claims, condition_checks, experiment_checks, token_checks, preflight_checks,
    _admin, _listeners, _twins, _unreachable,
)  # fmt: skip
