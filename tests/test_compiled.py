"""What may be compiled: the same sources, the same answers. CI runs the tests of a request in both forms."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from enum import Enum
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
    kinds = {is_compiled(name) for name in LISTED}
    assert kinds == {edgeproxy.__build__ == "compiled"}


def test_no_extension_module_hides_a_source_that_is_worked_on() -> None:
    """`pip install .` with the compiler leaves them there; `git clean -fX edgeproxy "*.so"` removes them."""
    assert edgeproxy.__build__ == "interpreted" or (ROOT / "compiled-from").exists()


def test_nobody_pays_for_the_compiler_who_did_not_ask_for_it() -> None:
    assert HOOK["enable-by-default"] is False
    assert "mypy" not in {name.partition(".")[0] for name in sys.modules}


def classes() -> Iterator[object]:
    """What a module of ours defines."""
    for path in sorted((ROOT / "edgeproxy").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if path.stem != "__main__":
            module = import_module(name)
            yield from (one for one in vars(module).values() if getattr(one, "__module__", "") == name)


def test_what_inherits_from_what_is_compiled_is_compiled_too() -> None:
    """The compiler would refuse it only when such a class is made."""
    listed = {name.strip("/").removesuffix(".py").replace("/", ".") for name in LISTED}
    found = [
        f"{one.__module__}.{one.__name__} is a {base.__name__}"
        for one in classes()
        if isinstance(one, type)
        for base in one.__mro__[1:]
        if base.__module__ in listed and one.__module__ not in listed and not issubclass(base, Enum)
    ]
    assert found == []
