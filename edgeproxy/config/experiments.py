"""What experiments need of the sections around them: places, claims, each other."""

from __future__ import annotations

from collections.abc import Iterator

from edgeproxy.config.conditions import KNOWS_WHO
from edgeproxy.config.tree import Document, Problem, Tree, TreePath
from edgeproxy.config.walk import listed, policies, routes, section, texts
from edgeproxy.policies.condition import Condition, ConditionError, condition


def experiment_checks(document: Document) -> Iterator[Problem]:
    """Everything that is wrong between experiments and other sections."""
    yield from _groups(document)
    for path, route in routes(document):
        yield from _order(document, path, route)


def _experiments(document: Document) -> dict[str, Tree]:
    return section(document.data.get("experiments"))


def _groups(document: Document) -> Iterator[Problem]:
    """Words for places in the conditions."""
    groups = dict.fromkeys(section(section(document.data.get("geo")).get("groups")), ())
    for name in _experiments(document):
        path = ("experiments", name, "when")
        parsed = _when(document, name)
        if parsed is None or document.is_secret(path):
            continue
        try:
            condition(parsed.text, groups)
        except ConditionError as error:
            said = str(error).partition("\n")[0]  # the caret's lines would be lines of their own
            yield Problem(path, f"found {document.show(path)}, {said}")


def _when(document: Document, name: str) -> Condition | None:
    text = section(_experiments(document).get(name)).get("when")
    if not isinstance(text, str) or not text:
        return None
    try:
        return condition(text)
    except ConditionError:
        return None  # the model complains about it


def _order(document: Document, path: TreePath, route: dict[str, Tree]) -> Iterator[Problem]:
    """What an experiment reads must be known by then: the order in YAML is the order of work."""
    drawn: set[str] = set()
    verified = False
    located = bool(section(document.data.get("geo")).get("database"))
    for where, word, value in policies(path, route):
        verified = verified or word in KNOWS_WHO
        for each, name in texts(where, value) if word == "ab" else ():
            parsed = _when(document, name)
            said = _missing(parsed, drawn, verified=verified, located=located)
            if not said and not verified and _other_units(document, name):
                said = "which goes by a claim, expected a jwt policy before it"
            if said:
                yield Problem(each, f"found {document.show(each)}, {said}")
            drawn.add(name)


def _missing(parsed: Condition | None, drawn: set[str], *, verified: bool, located: bool) -> str:
    if parsed is None:
        return ""
    absent = [name for name in parsed.names("variant") if name not in drawn]
    if absent:
        return f"whose condition reads the variant of {absent[0]}, expected that experiment before it"
    if "claim" in parsed.kinds and not verified:
        return "whose condition reads a claim, expected a jwt policy before it"
    if "country" in parsed.kinds and not located:
        return "whose condition asks for the client's place, expected geo.database to name a file"
    return ""


def _other_units(document: Document, name: str) -> bool:
    """Does something else than `by` go by a claim?"""
    experiment = section(_experiments(document).get(name))
    units = [
        experiment.get("fallback"),
        *[section(one).get("by") for one in listed(experiment.get("filters"))],
    ]
    return any(isinstance(unit, str) and unit.startswith("claim:") for unit in units)
