"""The JSON Schema that editors use agrees with what `load_config` takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from annotated_types import Gt
from pydantic import BaseModel

from edgeproxy.config import schema
from edgeproxy.config.as_yaml import units_of
from edgeproxy.config.file import CoreLoader
from edgeproxy.units import Model, parse_duration

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


def sections_of(model: type[BaseModel]) -> set[type[BaseModel]]:
    below = {each for one in model.__subclasses__() for each in sections_of(one)}
    return below | {one for one in model.__subclasses__() if one.__module__.startswith("edgeproxy.")}


@pytest.mark.parametrize("model", sorted(sections_of(Model), key=str), ids=lambda model: model.__name__)
def test_no_duration_says_that_0_is_fine_where_it_is_not(model: type[BaseModel]) -> None:
    properties = model.model_json_schema().get("properties", {})
    for name, field in model.model_fields.items():
        told = properties[field.alias or name]
        if parse_duration in units_of(field) and any(isinstance(each, Gt) for each in field.metadata):
            assert not jsonschema.Draft202012Validator(told).is_valid(0), f"{name} is an Above0"


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
        BASE + "server: {limits: {head_timeout: 0}}\nroutes: [{name: a, origin: eu}]",
        BASE + "server: {limits: {head_size: 64 kb}}\nroutes: [{name: a, origin: eu}]",
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
        BASE + "routes: [{name: a, origin: eu, cache: {ttl: 0, stale_if_error: '0', negative: {404: 0s}}}]",
        BASE + "server: {listen: ':80', limits: {head_fields: '${N}'}}\nroutes: [{name: a, origin: eu}]",
        BASE + "experiments: {a-name-longer-than-sixteen: {variants: {a: 1}}}\n"
        "routes: [{name: a, origin: eu, policies: [{ab: a-name-longer-than-sixteen}]}]",
    ],
    ids=["template for a number and a duration", "no time", "short forms", "long name"],
)
def test_it_takes_templates_and_short_forms(text: str) -> None:
    assert mistakes(text) == []
