"""config/edge.yaml is the reference: it names every key where it belongs, with a line about it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgeproxy.config import schema
from edgeproxy.config.file import CoreLoader

TEXT = (Path(__file__).parents[2] / "config" / "edge.yaml").read_text(encoding="utf-8")
LINES = TEXT.splitlines()
SCHEMA = schema()
SECTIONS: dict[str, Any] = {"": SCHEMA, **SCHEMA["$defs"]}
Place = tuple[int, int, bool]
"""First and last line of the section that a key was found in, and whether its own line says something."""


def options(node: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(name, schema) of everything that a place of the schema may be."""
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        yield from options(SECTIONS[name], name)
    elif "anyOf" in node or "oneOf" in node:
        for each in [*node.get("anyOf", ()), *node.get("oneOf", ())]:
            yield from options(each, name)
    else:
        yield name, node


def walk(
    may_be: list[tuple[str, Any]], node: yaml.Node | None, found: dict[tuple[str, str], list[Place]]
) -> None:
    if isinstance(node, yaml.SequenceNode):
        for _, each in may_be:
            for item in node.value if "items" in each else ():
                walk(list(options(each["items"])), item, found)
    if not isinstance(node, yaml.MappingNode):
        return
    keys = [key.value for key, _ in node.value]
    fitting = [one for one in may_be if set(keys) <= one[1].get("properties", {}).keys()]
    for name, section in fitting or may_be:
        free = [section.get("additionalProperties"), *section.get("patternProperties", {}).values()]
        for key, value in node.value:
            known = section.get("properties", {}).get(key.value)
            if known is not None:
                block = isinstance(value, yaml.CollectionNode) and not value.flow_style
                told = block or "#" in LINES[key.start_mark.line]
                found[name, key.value].append((node.start_mark.line, node.end_mark.line, told))
            for each in [known] if known is not None else [one for one in free if isinstance(one, dict)]:
                walk(list(options(each)), value, found)


@pytest.fixture(scope="module")
def found() -> dict[tuple[str, str], list[Place]]:
    found: dict[tuple[str, str], list[Place]] = defaultdict(list)
    walk([("", SCHEMA)], yaml.compose(TEXT, Loader=CoreLoader), found)
    return found


@pytest.mark.parametrize("name", [name for name in SECTIONS if "properties" in SECTIONS[name]])
def test_every_key_of_a_section_is_there_with_a_line_about_it(
    name: str, found: dict[tuple[str, str], list[Place]]
) -> None:
    """What cannot stand beside another key is named in a comment of the section."""
    places = [place for (section, _), those in found.items() if section == name for place in those]
    remarks = " ".join(line.partition("#")[2] for low, high, _ in places for line in LINES[low : high + 1])
    keys = list(SECTIONS[name]["properties"])
    assert [key for key in keys if not found[name, key] and not re.search(rf"\b{key}\b", remarks)] == []
    silent = [key for key in keys if found[name, key] and not any(told for *_, told in found[name, key])]
    assert silent == []
