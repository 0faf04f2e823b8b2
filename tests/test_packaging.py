"""What the package promises: floors of its dependencies."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("dependency", PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"])
def test_every_dependency_has_a_floor(dependency: str) -> None:
    assert re.match(r"[A-Za-z0-9-]+(\[[a-z]+\])?>=\d", dependency)


BROUGHT = {
    "pydantic-core",
    "pycares",
    "cryptography",
    "hpack",
    "hyperframe",
}  # by pydantic, aiodns, pyjwt[crypto], h2


def imported() -> Iterator[str]:
    """Top-level names of what the package imports from elsewhere, also by `import_module`."""
    for path in (ROOT / "edgeproxy").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield (node.module or "").partition(".")[0]
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "importlib.import_module":
                yield from (str(each.value) for each in node.args if isinstance(each, ast.Constant))


def test_the_dependencies_are_those_that_are_imported() -> None:
    homes = packages_distributions()
    others = set(imported()) - set(sys.stdlib_module_names) - {"edgeproxy"}
    used = {home.lower().replace("_", "-") for name in others for home in homes[name]}
    named = {re.split(r"[\[>;]", each)[0].lower() for each in PROJECT["dependencies"]}
    assert used - BROUGHT == named


def test_the_wheel_has_every_module(tmp_path: Path) -> None:
    """Also from a checkout, whose .gitignore the build heeds."""
    tree = tmp_path / "tree"
    left_out = shutil.ignore_patterns("__pycache__", "*.so")
    for name in ("edgeproxy", "config"):
        shutil.copytree(ROOT / name, tree / name, ignore=left_out)
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, tree)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=tree,
        check=True,
        capture_output=True,
    )
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        packed = {name for name in wheel.namelist() if name.endswith(".py")}
    assert packed == {str(path.relative_to(tree)) for path in (tree / "edgeproxy").rglob("*.py")}
