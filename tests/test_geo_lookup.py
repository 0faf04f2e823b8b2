"""`edgeproxy geo lookup`: what is known about an address, and clear words when nothing can be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgeproxy.cli import main

ROOT = Path(__file__).parent.parent
DATABASE = str(ROOT / "config" / "demo-geo.mmdb")
CONFIG = """
origins: {{eu: {{servers: ["http://10.0.0.1"]}}}}
geo: {{database: "{database}", groups: {{dach: [DE, AT, CH]}}}}
routes: [{{name: all, origin: eu}}]
"""


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["geo", "lookup", *arguments])
    return done.exit_code, done.output


def test_the_configuration_says_which_databases_and_groups(tmp_path: Path) -> None:
    path = tmp_path / "edge.yaml"
    path.write_text(CONFIG.format(database=DATABASE))
    code, said = run("192.0.2.1", "--config", str(path), "--json")
    found = json.loads(said)
    assert code == 0
    assert (found["country"], found["continent"], found["groups"]) == ("DE", "EU", ["EU", "EEA", "dach"])
    assert (found["currency"], found["languages"]) == ("EUR", ["de"])
    assert "private" not in found


@pytest.mark.parametrize(
    ("address", "lines"),
    [("10.0.0.1", ["country", "unknown", "private", "yes"]), ("240.0.0.1", ["country", "unknown"])],
)
def test_what_nobody_knows_is_said(address: str, lines: list[str]) -> None:
    code, said = run(address, "--database", DATABASE)
    assert code == 0
    assert all(word in said for word in lines)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["192.0.2.1"], "Name a file with --database"),
        (["nowhere", "--database", DATABASE], "is no IP address"),
        (["192.0.2.1", "--database", str(ROOT / "README.md")], "not a sound MaxMind DB"),
    ],
)
def test_what_cannot_be_looked_up_is_explained(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGEPROXY_CONFIG", raising=False)
    code, output = run(*arguments)
    assert code != 0
    assert said in output
