"""What may be compiled: the same sources, the same answers. CI runs the tests of a request in both forms."""

from __future__ import annotations

import sys
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import edgeproxy

ROOT = Path(__file__).resolve().parent.parent
BUILD: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
HOOK = BUILD["targets"]["wheel"]["hooks"]["mypyc"]
LISTED: list[str] = HOOK["include"]


def is_compiled(name: str) -> bool:
    module = import_module(name.strip("/").removesuffix(".py").replace("/", "."))
    return not str(module.__file__).endswith(".py")


def test_what_may_be_compiled_is_there_and_in_order() -> None:
    assert sorted(set(LISTED)) == LISTED
    assert [name for name in LISTED if not (ROOT / name.strip("/")).is_file()] == []


def test_it_is_compiled_as_a_whole_or_not_at_all() -> None:
    """An extension module left over in the tree would be loaded in the place of its source."""
    kinds = {is_compiled(name) for name in LISTED}
    assert kinds == {edgeproxy.__build__ == "compiled"}


def test_nobody_pays_for_the_compiler_who_did_not_ask_for_it() -> None:
    assert HOOK["enable-by-default"] is False
    assert "mypy" not in {name.partition(".")[0] for name in sys.modules}
