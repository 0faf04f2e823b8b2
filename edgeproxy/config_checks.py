"""What only shows when the sections of a configuration meet: names, reachability, what needs what.

Rule: works on the raw tree, not on the models, so that a wrong unit in one place hides no unknown
name in another. Whatever has the wrong shape is skipped here; the models complain about it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from edgeproxy.config_experiments import experiment_checks
from edgeproxy.config_preflights import preflight_checks
from edgeproxy.config_reach import Reach
from edgeproxy.config_tokens import token_checks
from edgeproxy.config_tree import MASK, Document, Problem, Tree, TreePath, either, plain, spelled, suggestion
from edgeproxy.config_walk import listed, policies, routes, section, texts
from edgeproxy.countries import check_place_name
from edgeproxy.policies.condition import Condition, ConditionError, condition
from edgeproxy.units import Address, parse_address

_SHORTEST_TOKEN = 16
_NEAREST = "nearest"
_KNOWS_WHO = frozenset({"jwt", "api_key", "basic", "use"})  # policies that set claims, or may
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
    yield from ((at, name) for at, name in named if isinstance(name, str) and name != _NEAREST)
    yield from (((*where, "bias", name), name) for name in section(rule.get("bias")))


def _names(document: Document) -> Iterator[Problem]:
    if _NEAREST in section(document.data.get("origins")):
        yield Problem(
            ("origins", _NEAREST), "found an origin named nearest, expected another name: it means a choice"
        )
    for path, name, defined in _references(document):
        known = section(document.data.get(defined))
        if name in known:
            continue
        names = either(map(plain, sorted(known)[:8])) if known else ""
        wanted = f"one of {defined}: {names}" if known else f"an entry under {defined}"
        near = "" if document.is_secret(path) else suggestion(name, known)
        yield Problem(path, f"found {document.show(path)}, expected {wanted}{near}")


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
    return _NEAREST in words or (bool(rule) and rule.get("otherwise", _NEAREST) == _NEAREST)


def _places(document: Document) -> Iterator[Problem]:
    """What looks at where a client is needs a database; what looks for the nearest needs locations."""
    geo = section(document.data.get("geo"))
    has_database = bool(geo.get("database"))
    if geo.get("residency") and not has_database:
        said = "found a rule that asks for the client's place, expected geo.database to name a file"
        yield Problem(("geo", "residency"), said)
    for path, route in routes(document):
        needing = [where for where, word, _ in policies(path, route) if word == "geo"]
        needing += [where for where, _, parsed in _whens(document, path, route) if "country" in parsed.kinds]
        if _is_nearest(route) or "by_country" in section(route.get("origin")):
            needing.append((*path, "origin"))
        if not {"country", "group"}.isdisjoint(name for _, name in texts((), vary_on(route))):
            needing.append((*path, "cache", "vary_on"))
        for where in () if has_database else needing:
            said = "found a rule that asks for the client's place, expected geo.database to name a file"
            yield Problem(where, said)
        if _is_nearest(route):
            yield from _located(document, (*path, "origin"))


def vary_on(route: dict[str, Tree]) -> Tree:
    """What a route's cache key has more of, as it was written."""
    return section(route.get("cache")).get("vary_on")


def _located(document: Document, path: TreePath) -> Iterator[Problem]:
    origins = section(document.data.get("origins")).values()
    if not any(section(each).get("location") for each in origins):
        yield Problem(path, "found nearest, expected origins with a location, like [50.11, 8.68]")
    if not section(document.data.get("edge")).get("location"):
        said = "found nearest, expected edge.location: it stands in for a client nobody can place"
        yield Problem(path, said)


def _by_claim(document: Document, defined: str, name: str) -> bool:
    entry = section(section(document.data.get(defined)).get(name))
    return any(text.startswith("claim:") for _, text in texts((), entry.get("by")))


def _claims(document: Document) -> Iterator[Problem]:
    """A claim is known once a token is verified: the order in YAML is the order of work."""
    for path, route in routes(document):
        verified = False
        for where, word, value in policies(path, route):
            verified = verified or word in _KNOWS_WHO  # a policy of one's own may set claims
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


def _whens(
    document: Document, path: TreePath, route: dict[str, Tree]
) -> Iterator[tuple[TreePath, int, Condition]]:
    """Path, position of the policy, and condition of each readable condition of a route's policies: their
    own, and those of the limits they name."""
    for where, word, value in policies(path, route):
        written = [(where, value)] if word == "when" else []
        if word == "rate_limit":
            written = [each for _, name in texts((), value) for each in _conditions_of_limit(document, name)]
        for at, text in written:
            if isinstance(text, str) and text:
                try:
                    yield at, int(where[-2]), condition(text)
                except ConditionError:
                    continue  # the model complains about it


def _conditions_of_limit(document: Document, name: str) -> Iterator[tuple[TreePath, Tree]]:
    at: TreePath = ("rate_limits", name)
    limit = section(section(document.data.get("rate_limits")).get(name))
    yield (*at, "exempt"), limit.get("exempt")
    for position, other in enumerate(listed(limit.get("overrides"))):
        yield (*at, "overrides", position, "when"), section(other).get("when")


def _conditions(document: Document) -> Iterator[Problem]:
    """What a condition reads must be known by then: places, experiments, claims of a verified token."""
    groups = dict.fromkeys(section(section(document.data.get("geo")).get("groups")), ())
    for path, route in routes(document):
        before: dict[int, tuple[set[str], bool]] = {}
        drawn: set[str] = set()
        verified = False
        for position, step in enumerate(listed(route.get("policies"))):
            before[position] = set(drawn), verified
            drawn.update(name for _, name in texts((), section(step).get("ab")))
            verified = verified or not _KNOWS_WHO.isdisjoint(section(step))
        for where, position, parsed in _whens(document, path, route):
            drawn_before, verified_before = before[position]
            said = ""
            missing = [name for name in parsed.names("variant") if name not in drawn_before]
            if missing:
                said = f"expected an ab policy with the experiment {missing[0]} before it"
            elif "claim" in parsed.kinds and not verified_before:
                said = "expected a jwt policy before it: it reads a claim"
            elif not document.is_secret(where):
                try:
                    condition(parsed.text, groups)
                except ConditionError as error:
                    said = str(error)
            if said:
                yield Problem(where, f"found {document.show(where)}, {said}")


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
    _names, _countries, _places, _claims, _conditions, experiment_checks, token_checks, preflight_checks,
    _admin, _listeners, _twins, _unreachable,
)  # fmt: skip
