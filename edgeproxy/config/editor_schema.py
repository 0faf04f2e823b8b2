"""The configuration's JSON Schema, for editors: completion, and a red line before `check` is run.

It is a little wider than the truth: `${VAR}` may stand for every value, and names that must exist
somewhere else in the file are only looked up by `load_config`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from pydantic import BaseModel

from edgeproxy.config.as_yaml import duration_text, size_text

Schema = dict[str, Any]

_CHECKED_WORDS = frozenset({"pattern", "enum", "const", "format", "minLength", "maxLength"})


def editor_schema(model: type[BaseModel]) -> Schema:
    """The JSON Schema of a model, where `${VAR}` may stand for every value and defaults have units."""
    made = model.model_json_schema(by_alias=True)
    definitions: dict[str, Schema] = made.pop("$defs", {})
    definitions = {name: _opened(each) for name, each in definitions.items()}
    definitions["Filled"] = {
        "type": "string",
        "pattern": r"\$\{[^{}]*\}",
        "description": "Filled in: ${VAR}, ${VAR:-default}, ${file:/path}.",
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **_opened(made),
        "title": "edgeproxy configuration",
        "$defs": definitions,
    }


def _opened(node: Schema) -> Schema:
    """A schema node whose checked scalars also take a template, and so on inside."""
    opened: Schema = {key: _INSIDE.get(key, _kept)(value) for key, value in node.items()}
    _retell_default(opened)
    if not _is_checked(node):
        return opened
    told = {key: opened.pop(key) for key in ("title", "description", "default", "examples") if key in opened}
    return {**told, "anyOf": [opened, {"$ref": "#/$defs/Filled"}]}


def _is_checked(node: Schema) -> bool:
    kind = node.get("type")
    if kind in ("integer", "number", "boolean"):
        return True
    return not _CHECKED_WORDS.isdisjoint(node) and kind in ("string", None)


def _retell_default(node: Schema) -> None:
    default = node.get("default")
    if default is None or isinstance(default, Mapping | list):
        node.pop("default", None)  # a section's defaults stand at its own fields
    elif isinstance(default, int | float) and node.get("examples") == ["30s"]:
        node["default"] = duration_text(default)
    elif isinstance(default, int) and node.get("examples") == ["64MiB"]:
        node["default"] = size_text(default)


def _kept(value: Any) -> Any:
    return value


def _each_value(value: Any) -> Any:
    return {key: _opened(each) for key, each in value.items()}


def _each_item(value: Any) -> Any:
    return [_opened(each) for each in value]


def _one(value: Any) -> Any:
    return _opened(cast("Schema", value)) if isinstance(value, dict) else value


_INSIDE: dict[str, Callable[[Any], Any]] = {
    "properties": _each_value,
    "patternProperties": _each_value,
    "anyOf": _each_item,
    "oneOf": _each_item,
    "prefixItems": _each_item,
    "items": _one,
    "additionalProperties": _one,
}
