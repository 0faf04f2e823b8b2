"""Whether what the conditions of policies read is known by then."""

from __future__ import annotations

from collections.abc import Iterator

from edgeproxy.config.tree import Document, Problem, Tree, TreePath
from edgeproxy.config.walk import listed, policies, routes, section, texts
from edgeproxy.policies.condition import Condition, ConditionError, condition

KNOWS_WHO = frozenset({"jwt", "api_key", "basic", "use"})  # policies that set claims, or may


def conditions_of(
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


def condition_checks(document: Document) -> Iterator[Problem]:
    """What a condition reads must be known by then: places, experiments, claims of a verified token."""
    groups = dict.fromkeys(section(section(document.data.get("geo")).get("groups")), ())
    for path, route in routes(document):
        before: dict[int, tuple[set[str], bool]] = {}
        drawn: set[str] = set()
        verified = False
        for position, step in enumerate(listed(route.get("policies"))):
            before[position] = set(drawn), verified
            drawn.update(name for _, name in texts((), section(step).get("ab")))
            verified = verified or not KNOWS_WHO.isdisjoint(section(step))
        for where, position, parsed in conditions_of(document, path, route):
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
