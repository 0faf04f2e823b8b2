"""What the package promises: floors of its dependencies."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("dependency", PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"])
def test_every_dependency_has_a_floor(dependency: str) -> None:
    assert re.match(r"[A-Za-z0-9-]+(\[[a-z]+\])?>=\d", dependency)
