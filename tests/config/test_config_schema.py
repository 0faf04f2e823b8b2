"""The JSON Schema that editors use agrees with what `load_config` takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from edgeproxy.config import schema
from edgeproxy.config_file import CoreLoader

FOLDER = Path(__file__).parents[2] / "config"
VALIDATOR = jsonschema.Draft202012Validator(schema())


def sections() -> list[tuple[str, dict[str, Any]]]:
    made = schema()
    return [("", made), *made["$defs"].items()]


def mistakes(text: str) -> list[str]:
    """What the schema says of a file before anything is filled in, as an editor sees it."""
    return [str(error.message) for error in VALIDATOR.iter_errors(yaml.load(text, Loader=CoreLoader))]


def test_it_is_a_schema_of_the_draft_it_names() -> None:
    made = schema()
    jsonschema.Draft202012Validator.check_schema(made)
    assert made["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_it_takes_every_configuration_that_comes_with_the_project(path: Path) -> None:
    assert mistakes(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(("name", "section"), sections(), ids=[name or "root" for name, _ in sections()])
def test_every_key_has_a_word_for_the_editor_to_show(name: str, section: dict[str, Any]) -> None:
    plain = [key for key, node in section.get("properties", {}).items() if "$ref" not in node]
    undescribed = [key for key in plain if not section["properties"][key].get("description")]
    assert undescribed == []


def test_defaults_are_written_with_their_units() -> None:
    limits = schema()["$defs"]["ServerLimits"]["properties"]
    assert (limits["head_timeout"]["default"], limits["head_size"]["default"]) == ("10s", "32KiB")


BASE = "origins: {eu: {servers: ['http://10.0.1.5:8000']}}\n"


@pytest.mark.parametrize(
    "text",
    [
        BASE + "routes: [{name: a}]",
        BASE + "routes: [{name: a, origin: eu, cachee: false}]",
        BASE + "routes: [{name: a, origin: eu, cache: {ttl: 30}}]",
        BASE + "routes: [{name: a, origin: eu, cache: true}]",
        BASE + "routes: [{name: a, origin: eu, policies: [{ratelimit: x}]}]",
        BASE + "server: {workers: many}\nroutes: [{name: a, origin: eu}]",
        BASE + "server: {limits: {head_fields: 1}}\nroutes: [{name: a, origin: eu}]",
        "routes: []",
    ],
)
def test_it_refuses_what_would_be_refused(text: str) -> None:
    assert mistakes(text)


@pytest.mark.parametrize(
    "text",
    [
        BASE + "server: {workers: '${N}'}\nroutes: [{name: a, origin: eu, cache: {ttl: '${TTL:-30s}'}}]",
        BASE + "server: {listen: ':80', limits: {head_fields: '${N}'}}\nroutes: [{name: a, origin: eu}]",
        BASE + "experiments: {a-name-longer-than-sixteen: {variants: {a: 1}}}\n"
        "routes: [{name: a, origin: eu, policies: [{ab: a-name-longer-than-sixteen}]}]",
    ],
    ids=["template for a number and a duration", "short forms", "long name"],
)
def test_it_takes_templates_and_short_forms(text: str) -> None:
    assert mistakes(text) == []
