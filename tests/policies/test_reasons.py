"""Why requests are answered before the cache: closed sets of words, because metrics have them as labels."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import edgeproxy
from edgeproxy.errors import REQUEST_FAILURES

PACKAGE = Path(edgeproxy.__file__).parent
WORD = re.compile(r"[a-z]+(?:-[a-z]+)*")
SAYING = {"problem", "_refuse", "_held", "Held"}


def declared(path: Path) -> set[str] | None:
    """The reasons of the policies in a module; None when it has no policy that answers."""
    module = import_module(f"edgeproxy.policies.{path.stem}")
    made_here = [each for each in vars(module).values() if getattr(each, "__module__", "") == module.__name__]
    sets = [set(each.reasons) for each in made_here if isinstance(each, type) and hasattr(each, "reasons")]
    return set[str]().union(*sets) if sets else None


def said(path: Path) -> Iterator[str]:
    """The words that a module gives as reasons."""
    for node in ast.walk(ast.parse(path.read_text())):
        values: list[ast.expr] = []
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in SAYING:
            values = node.args
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).rpartition(".")[2] == "reason":
            values = [node.value]
        for value in values:
            if (
                isinstance(value, ast.Constant)
                and isinstance(value.value, str)
                and WORD.fullmatch(value.value)
            ):
                yield value.value


ANSWERING = [path for path in sorted((PACKAGE / "policies").glob("*.py")) if declared(path) is not None]


def family(path: Path) -> list[Path]:
    return [path, *path.parent.glob(f"{path.stem}_*.py")]


@pytest.mark.parametrize("path", ANSWERING, ids=lambda path: path.stem)
def test_a_policy_says_just_the_reasons_that_it_declares(path: Path) -> None:
    found = {word for each in family(path) for word in said(each)}
    if path.stem == "jwt":  # its reasons are an enum; what clients are told is less
        assert not found & (declared(path) or set())
    else:
        assert found == declared(path)


def test_no_policy_answers_without_declaring_why() -> None:
    covered = {each for path in ANSWERING for each in family(path)}
    assert [
        path.name for path in (PACKAGE / "policies").glob("*.py") if path not in covered and [*said(path)]
    ] == []


def test_the_door_says_just_the_reasons_that_it_declares() -> None:
    calls = [
        node
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "RequestError"
    ]
    assert {ast.literal_eval(call.args[1]) for call in calls} == REQUEST_FAILURES
