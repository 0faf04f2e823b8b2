"""What cannot be run here can still be wrong: packaging, containers, example configurations."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgeproxy.config import load_config

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("name", ["edge", "minimal", "demo", "compose"])
def test_every_example_configuration_is_valid(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert load_config(ROOT / "config" / f"{name}.yaml").routes


@pytest.mark.parametrize("dependency", PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"])
def test_every_dependency_has_a_floor(dependency: str) -> None:
    assert re.match(r"[A-Za-z0-9-]+(\[[a-z]+\])?>=\d", dependency)


def test_the_image_runs_as_somebody_and_says_how_it_is() -> None:
    text = (ROOT / "Dockerfile").read_text()
    stages = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert len(stages) == 2
    assert all(stage.endswith("-slim") for stage in stages)
    for line in ("USER 10001", "STOPSIGNAL SIGTERM", "HEALTHCHECK", 'ENTRYPOINT ["edgeproxy"]'):
        assert line in text
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in source.split()), source


def test_the_compose_file_fits_together() -> None:
    compose: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    services = compose["services"]
    assert set(services) == {"origin-eu", "origin-us", "edge-eu", "edge-us", "prometheus"}
    for service in services.values():
        assert set(service.get("depends_on", [])) <= set(services)
        for volume in service.get("volumes", []):
            assert (ROOT / volume.partition(":")[0]).exists()
    scraped = yaml.safe_load((ROOT / "config" / "prometheus.yml").read_text())["scrape_configs"][0][
        "static_configs"
    ]
    assert {target.partition(":")[0] for one in scraped for target in one["targets"]} == {
        "edge-eu",
        "edge-us",
    }
