"""Who may import whom. The core decides and is synchronous; the shell acts."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
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
    "routes",
    "door",
    "snapshot",
    "record",
    "errors",
    "units",
    "countries",
    "country_data",
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
    "concurrent",
    "multiprocessing",
    "subprocess",
    "selectors",
    "uvloop",
}
# Lower may not import higher; names in one row may import each other only as ALLOWED says.
LAYERS = [
    {"record", "errors", "snapshot", "units", "clock", "process_lock", "shared_memory", "mutexes"},
    {"context", "countries", "country_data", "http", "decision", "door", "purge_log", "recall"},
    {"cache", "policies", "origin", "observe"},
    {"routes"},
    {"feeds", "pipeline", "flight_table", "machine"},
    {"siblings", "tunnel", "expect", "compress", "waiting", "visits"},
    {"outgoing"},
    {"hedge"},
    {"delivery"},
    {"trip"},
    {"job"},
    {"turns"},
    {"recording", "mirror", "side_effects"},
    {"verdict"},
    {"fetch"},
    {"config", "hallway", "bucket_file"},
    {"holdings", "shared", "admin", "experiments", "geo_lookup", "origins"},
    {"build"},
    {"asgi_exchange"},
    {"rehearsal"},
    {"explain", "app", "server", "demo"},
    {"cli"},
    {"__main__"},
]
APART = {"cache", "policies", "origin"}  # never import each other
SHARED = {
    "bucket_table",
    "in_flight_table",
    "identify",
    "field_names",
    "failure_budget",
    "claims",
    "credential",
    "redirect_target",
    "rewriter",
    "condition",
    "condition_facts",
    "networks",
    "patterns",
    "linear_regex",
    "templates",
}  # helpers of several policies; jwt_keys is one of jwt alone
ONLY_IN = {"lmdb": ("cache", "machine")}
FILES = sorted(PACKAGE.rglob("*.py"))


def module(path: Path) -> tuple[str, ...]:
    return path.relative_to(PACKAGE).with_suffix("").parts


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(dotted name, whether it is imported inside a function) of what is imported at run time."""
    tree = ast.parse(path.read_text())
    typing = {id(inner) for node in ast.walk(tree) if _for_types(node) for inner in ast.walk(node)}
    lazy = {id(inner) for node in ast.walk(tree) if _is_function(node) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in typing:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide who imports whom"
            if node.module in ("edgeproxy", "edgeproxy.policies"):  # the names imported may be modules
                yield from ((f"{node.module}.{alias.name}", id(node) in lazy) for alias in node.names)
            else:
                yield node.module or "", id(node) in lazy


def _for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def known_to(importer: str, policy: str) -> bool:
    """Whether a module of policies may import another: one of its own policy, or a shared helper."""
    return policy in SHARED or policy.partition("_")[0] == importer.partition("_")[0]


def layer(name: str) -> int:
    family = f"{name.partition('_')[0]}_*"
    for number, names in enumerate(LAYERS):
        if name in names or ("_" in name and family in names):
            return number
    raise AssertionError(f"{name} has no layer: say where it belongs")


@pytest.mark.parametrize("path", FILES, ids=lambda path: ".".join(module(path)))
def test_imports_point_towards_plain_values(path: Path) -> None:
    top, *rest = module(path)
    if top == "__init__":
        return
    for name, lazy in imports(path):
        root, *parts = name.split(".")
        assert ONLY_IN.get(root, module(path)) == module(path), f"{name} has one place"
        if top in CORE:
            assert root not in NOT_IN_CORE, f"{name} in the core"
        if root != "edgeproxy" or not parts or parts[0].startswith("__"):
            continue
        if not lazy or top in CORE:  # the shell may import upwards where it is run, the core nowhere
            assert layer(parts[0]) <= layer(top), f"{name} lies above {top}"
        if top in APART and parts[0] in APART:
            assert parts[0] == top, f"{top} and {parts[0]} must not know each other"
        if top == parts[0] == "policies":
            assert known_to(rest[0], parts[1]), f"one policy imports another: {name}"


@pytest.mark.parametrize(
    ("importer", "policy", "may"),
    [
        ("jwt", "jwt_keys", True),
        ("ab", "identify", True),
        ("geo", "jwt", False),
        ("rate_limit", "geo_data", False),
        ("identify", "jwt", False),
    ],
)
def test_the_rule_for_policies_tells_them_apart(importer: str, policy: str, may: bool) -> None:
    assert known_to(importer, policy) is may


@pytest.mark.parametrize(
    "path", [path for path in FILES if module(path)[0] in CORE], ids=lambda path: path.stem
)
def test_the_core_never_awaits(path: Path) -> None:
    found = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith)
    ]
    assert not found


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.stem != "__main__"], ids=lambda path: path.stem
)
def test_every_module_can_be_imported(path: Path) -> None:
    importlib.import_module(".".join(("edgeproxy", *module(path))).removesuffix(".__init__"))


def test_a_start_waits_for_no_library_that_it_may_not_need() -> None:
    script = "import sys, edgeproxy.server.supervisor; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert {"aiodns", "httpx", "cryptography", "starlette", "prometheus_client"}.isdisjoint(
        done.stdout.split()
    )


LONGEST = 340  # lines
STORIES = {"trip": 400}


@pytest.mark.parametrize("path", FILES, ids=lambda path: ".".join(module(path)))
def test_files_stay_small(path: Path) -> None:
    most = STORIES.get(".".join(module(path)), LONGEST)
    assert len(path.read_text().splitlines()) <= most, "split it, by idea"
