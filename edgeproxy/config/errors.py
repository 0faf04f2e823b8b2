"""What pydantic found wrong, said in the file's own words.

Rule 1: nobody reads about unions, validators or models: of the ways a value could have been meant,
the one it comes nearest to is explained.
Rule 2: a text from outside is never shown. Sentences about it are taken from a second validation,
of the document with `***` in its place.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from edgeproxy.config.as_yaml import duration_text, size_text
from edgeproxy.config.hints import key_doc, key_names, models_at
from edgeproxy.config.tree import Document, Problem, Tree, TreePath, either, inside, shown, suggestion
from edgeproxy.config.words import BESIDE, BOUNDS, KINDS, LIST, OF_TEXTS, PATTERNS, SECTION
from edgeproxy.record import record
from edgeproxy.units import parse_duration, parse_size

_MOST_EXPLAINED = 1000  # more than a report shows
_MOST_KEYS = 6  # of a section that is described
_IS_NOT = re.compile(r"(.*?) is not (an? .*)", re.DOTALL)


M = TypeVar("M", bound=BaseModel)


@record
class _Fault:
    """One error with its path in the file; `branch` is the way of reading a union it came from."""

    path: TreePath
    branch: tuple[TreePath, str] | None
    of_key: bool
    kind: str
    details: ErrorDetails


def validated(model: type[M], document: Document) -> tuple[M | None, list[Problem]]:
    """The model of a document's data, or what is wrong with it."""
    try:
        return model.model_validate(document.data), []
    except ValidationError as error:
        details = error.errors(include_url=False)
    try:
        model.model_validate(document.masked())
        masked: list[ErrorDetails] = []
    except ValidationError as error:
        masked = error.errors(include_url=False)
    safe = {(each["loc"], each["type"]): each["msg"] for each in reversed(masked)}
    return None, _Explainer(model, document, safe).problems(details)


class _Explainer:
    def __init__(self, model: type[BaseModel], document: Document, safe: Mapping[Any, str]) -> None:
        self._model = model
        self._document = document
        self._safe = safe

    def problems(self, details: Iterable[ErrorDetails]) -> list[Problem]:
        """A problem per mistake; the branches of a union make one together."""
        found: list[Problem] = []
        unions: dict[TreePath, dict[str, list[_Fault]]] = {}
        for each in islice(details, _MOST_EXPLAINED):
            fault = _located(each, self._document.data)
            if self._is_echo(fault):
                continue
            if fault.branch is None:
                found.append(self._problem(fault))
            else:
                point, name = fault.branch
                unions.setdefault(point, {}).setdefault(name, []).append(fault)
        for point, branches in unions.items():
            found += self._of_union(point, branches)
        return found

    def _of_union(self, point: TreePath, branches: dict[str, list[_Fault]]) -> list[Problem]:
        fitting = [
            faults for faults in branches.values() if not any(_is_misfit(each, point) for each in faults)
        ]
        if fitting:
            return [self._problem(fault) for fault in min(fitting, key=len)]
        faults = [fault for each in branches.values() for fault in each if _is_misfit(fault, point)]
        kinds = [
            _literals(fault) if fault.kind == "literal_error" else [KINDS[fault.kind]] for fault in faults
        ]
        value = self._document.at(point)
        words = list(dict.fromkeys(word for each in kinds for word in each))
        if len(words) == 1:
            words = [self._told_of(words[0], point)]
        near = suggestion(value, _bare(words)) if isinstance(value, str) and not self._hidden(point) else ""
        return [Problem(point, f"found {self._document.show(point)}, expected {either(words)}{near}")]

    def _is_echo(self, fault: _Fault) -> bool:
        """A list whose entries are all wrong counts as too short: the entries are the mistake."""
        value = self._document.at(fault.path)
        least = fault.details.get("ctx", {}).get("min_length", 0)
        return fault.kind == "too_short" and not (isinstance(value, list | dict | str) and len(value) < least)

    def _hidden(self, path: TreePath) -> bool:
        """Is this value, or one inside it, from outside the file?"""
        document = self._document
        return document.is_secret(path) or any(each[: len(path)] == path for each in document.secret)

    def _problem(self, fault: _Fault) -> Problem:
        explain = _EXPLAINED.get(fault.kind, _Explainer._by_table)
        return Problem(fault.path, explain(self, fault))

    def _by_table(self, fault: _Fault) -> str:
        found, details = self._found(fault), fault.details
        if fault.kind in KINDS:
            quotes = fault.kind == "string_type" and isinstance(self._document.at(fault.path), int | float)
            hint = "; put it in quotes" if quotes else ""
            return f"found {found}, expected {self._told_of(KINDS[fault.kind], fault.path)}{hint}"
        if fault.kind == "string_pattern_mismatch":
            pattern = str(details.get("ctx", {})["pattern"])
            return f"found {found}, expected {PATTERNS.get(pattern, f'text that matches {pattern}')}"
        if fault.kind in BOUNDS:
            value = self._document.at(fault.path)
            bounds = {name: _in_unit_of(value, bound) for name, bound in details.get("ctx", {}).items()}
            kind = f"string_{fault.kind}" if fault.kind in OF_TEXTS and isinstance(value, str) else fault.kind
            expected = BOUNDS[kind].format(**bounds)
            return f"found {found}, expected {expected}"
        if self._hidden(fault.path):
            return f"found {found}, expected another value"
        return f"found {found}, {details['msg'].replace('Input should be', 'expected')}"

    def _told_of(self, kind: str, path: TreePath) -> str:
        """A kind of value; of a section or a list also what belongs into it."""
        if kind not in (SECTION, LIST):
            return kind
        value = self._document.at(path)
        models = models_at(self._model, path) if kind == SECTION else []
        if models:
            keys = sorted({name: 0 for each in models for name in key_names(each)}, key=BESIDE.__contains__)
            listed = f"{', '.join(keys[:_MOST_KEYS])}, …" if len(keys) > _MOST_KEYS else either(keys)
            key = isinstance(value, str) and value in keys
            return f"{kind} with {listed}{f'; write `{value}:` and its settings below' if key else ''}"
        said = self._doc(path)
        sections = isinstance(value, dict) and models_at(self._model, (*path, 0))
        dashes = "; begin each entry with `- `" if kind == LIST and sections else ""
        return f"{kind}{f' ({said})' if said else ''}{dashes}"

    def _doc(self, path: TreePath) -> str:
        """The first sentence about the setting at `path`."""
        if not path or isinstance(path[-1], int):
            return ""
        name, at = path[-1], path[:-1]
        models = models_at(self._model, at) or models_at(self._model, (*at, 0))  # one that stands for a list
        docs = [key_doc(each, name) for each in models if name in key_names(each)]
        return next((doc for doc in docs if doc), "")

    def _found(self, fault: _Fault) -> str:
        return shown(fault.path[-1]) if fault.of_key else self._document.show(fault.path)

    def _missing(self, fault: _Fault) -> str:
        name = fault.path[-1]
        if isinstance(name, int):
            return f"found nothing, expected one more entry, the {_ordinal(name)}"
        said = self._doc(fault.path)
        return f"found nothing, expected this setting{f': {said}' if said else ''}"

    def _unknown_key(self, fault: _Fault) -> str:
        key = str(fault.path[-1])
        at = fault.path[:-1]
        models = models_at(self._model, at) or models_at(self._model, (*at, 0))  # one that stands for a list
        known = dict.fromkeys(name for each in models for name in key_names(each))
        near = suggestion(key, known)
        expected = (
            f", expected {either(sorted(known, key=BESIDE.__contains__))}" if known and not near else ""
        )
        return f"found an unknown key{near}{expected}"

    def _literal(self, fault: _Fault) -> str:
        choices = _literals(fault)
        value = self._document.at(fault.path)
        near = (
            suggestion(value, _bare(choices))
            if isinstance(value, str) and not self._hidden(fault.path)
            else ""
        )
        return f"found {self._found(fault)}, expected {either(choices)}{near}"

    def _sentence(self, fault: _Fault) -> str:
        """What a validator of ours said: it names what it found, and what it expected."""
        said = fault.details["msg"]
        if self._hidden(fault.path):
            said = self._safe.get((fault.details["loc"], fault.kind), "this value is not accepted here")
            found = self._document.show(fault.path)
        else:
            found = self._found(fault)
        said = said.removeprefix("Value error, ").removeprefix("Assertion failed, ")
        match = _IS_NOT.fullmatch(said)
        value = self._document.at(fault.path)
        if match is not None and match[1] in (found, repr(found), repr(value)):
            return f"found {found}, expected {match[2]}"
        named = isinstance(value, dict | list) or found in said or fault.of_key
        comma = "," if said.startswith("expected ") else ":"
        return said if named else f"found {found}{comma} {said}"


_EXPLAINED: dict[str, Callable[[_Explainer, _Fault], str]] = {
    "missing": _Explainer._missing,
    "extra_forbidden": _Explainer._unknown_key,
    "literal_error": _Explainer._literal,
    "enum": _Explainer._literal,
    "value_error": _Explainer._sentence,
    "assertion_error": _Explainer._sentence,
}


def _located(details: ErrorDetails, data: Tree) -> _Fault:
    """The error's path in the file: steps that are not in it name the branch of a union."""
    loc = details["loc"]
    path: list[str | int] = []
    branch: tuple[TreePath, str] | None = None
    here = data
    for position, step in enumerate(loc):
        if step == "[key]":
            continue
        try:
            here = inside(here, step)
        except LookupError:
            if position < len(loc) - 1 or details["type"] != "missing":
                branch = branch or (tuple(path), str(step))
                continue
        path.append(step)
    return _Fault(tuple(path), branch, loc[-1:] == ("[key]",), details["type"], details)


def _is_misfit(fault: _Fault, point: TreePath) -> bool:
    return fault.path == point and (fault.kind in KINDS or fault.kind == "literal_error")


def _literals(fault: _Fault) -> list[str]:
    expected = str(fault.details.get("ctx", {}).get("expected", "another value"))
    return re.split(r", | or ", expected)


def _in_unit_of(value: Tree, bound: object) -> str:
    """A bound as a person would write it who wrote `value`: `100ms`, `1KiB`, or a plain number."""
    if not isinstance(bound, int | float):
        return str(bound)
    if isinstance(value, str) and bound:
        with contextlib.suppress(ValueError):
            parse_duration(value)
            return duration_text(bound)
        with contextlib.suppress(ValueError):
            parse_size(value)
            return str(size_text(int(bound)))
    return f"{bound:g}"


def _bare(words: Iterable[str]) -> list[str]:
    return [word[1:-1] for word in words if word.startswith("'")]


def _ordinal(position: int) -> str:
    return {0: "first", 1: "second", 2: "third"}.get(position, f"{position + 1}th")
