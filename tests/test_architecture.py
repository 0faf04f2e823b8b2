"""Who may import whom. The core decides and is synchronous; the shell acts."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "edgeproxy"
CORE = {
    "http",
    "policies",
    "cache",
    "context",
    "decision",
    "pipeline",
    "door",
    "snapshot",
    "record",
    "errors",
    "units",
    "countries",
}
NOT_IN_CORE = {
    "asyncio",
    "time",
    "socket",
    "ssl",
    "logging",
    "yaml",
    "httpx",
    "prometheus_client",
    "uvicorn",
    "starlette",
    "threading",
}
# Lower may not import higher; names in one row may import each other only as ALLOWED says.
LAYERS = [
    {"record", "errors", "snapshot", "units", "clock", "process_lock", "shared_memory"},
    {"context", "countries", "http", "decision", "door", "purge_log"},
    {"cache", "policies", "origin", "observe"},
    {"feeds", "pipeline"},
    {"reception", "fetch", "config_*"},
    {"config", "hallway"},
    {"shared", "admin"},
    {"build"},
    {"explain", "app", "server", "demo"},
    {"cli"},
    {"__main__"},
]
APART = {"cache", "policies", "origin"}  # never import each other
HELPERS = (
    "jwt",
    "ab",
    "geo",
    "bucket_table",
    "identify",
    "field_names",
)  # pieces of one policy, or of several
FILES = sorted(PACKAGE.rglob("*.py"))


def module(path: Path) -> tuple[str, ...]:
    return path.relative_to(PACKAGE).with_suffix("").parts


def imports(path: Path) -> Iterator[str]:
    """Dotted names imported at run time: neither for the type checker nor inside functions."""
    tree = ast.parse(path.read_text())
    lazy = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in lazy:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def layer(name: str) -> int:
    for number, names in enumerate(LAYERS):
        if name in names or ("config_*" in names and name.startswith("config_")):
            return number
    raise AssertionError(f"{name} has no layer: say where it belongs")


@pytest.mark.parametrize("path", FILES, ids=lambda path: ".".join(module(path)))
def test_imports_point_towards_plain_values(path: Path) -> None:
    top, *rest = module(path)
    if top == "__init__":
        return
    for name in imports(path):
        root, *parts = name.split(".")
        if top in CORE:
            assert root not in NOT_IN_CORE, f"{name} in the core"
        if root != "edgeproxy" or not parts:
            continue
        assert layer(parts[0]) <= layer(top), f"{name} lies above {top}"
        if top in APART and parts[0] in APART:
            assert parts[0] == top, f"{top} and {parts[0]} must not know each other"
        if top == parts[0] == "policies" and rest != ["__init__"]:
            assert parts[1].startswith(HELPERS), f"one policy imports another: {name}"


@pytest.mark.parametrize(
    "path", [path for path in FILES if module(path)[0] in CORE], ids=lambda path: path.stem
)
def test_the_core_never_awaits(path: Path) -> None:
    found = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.AsyncFunctionDef | ast.Await)
    ]
    assert not found


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.stem != "__main__"], ids=lambda path: path.stem
)
def test_every_module_can_be_imported(path: Path) -> None:
    importlib.import_module(".".join(("edgeproxy", *module(path))).removesuffix(".__init__"))


def test_files_stay_small() -> None:
    large = {
        str(path.relative_to(PACKAGE)): count
        for path in FILES
        if (count := len(path.read_text().splitlines())) > 560
    }
    assert not large
