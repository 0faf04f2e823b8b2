"""What the package promises: floors of its dependencies, example configurations that are valid."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from edgeproxy.config import load_config

ROOT = Path(__file__).resolve().parent.parent
COMPOSE_SETS = {
    "EDGE_ID": "edge-eu",
    "EDGE_POP": "eu",
    "EDGE_LATITUDE": "50.11",
    "EDGE_LONGITUDE": "8.68",
    "EDGE_ADMIN_TOKEN": "a-token-for-this-test",
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("name", ["edge", "minimal", "demo", "compose"])
def test_every_example_configuration_is_valid(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for variable, value in COMPOSE_SETS.items():
        monkeypatch.setenv(variable, value)
    assert load_config(ROOT / "config" / f"{name}.yaml").routes


@pytest.mark.parametrize("dependency", PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"])
def test_every_dependency_has_a_floor(dependency: str) -> None:
    assert re.match(r"[A-Za-z0-9-]+(\[[a-z]+\])?>=\d", dependency)
