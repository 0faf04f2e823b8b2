"""Which sections and keys a place in the configuration knows, by its type hints."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from types import UnionType
from typing import Annotated, Any, Union, cast, get_args, get_origin

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from edgeproxy.config.tree import TreePath
from edgeproxy.units import field_texts


def key_names(model: type[BaseModel]) -> dict[str, str]:
    """Key in the file -> name of the field."""
    return {field.alias or name: name for name, field in model.model_fields.items()}


def key_doc(model: type[BaseModel], key: str) -> str:
    """The first sentence about a key."""
    name = key_names(model)[key]
    text = model.model_fields[name].description or field_texts(model).get(name, "")
    return re.sub(r"\s+", " ", text).partition(". ")[0].rstrip(".")


def models_at(model: type[BaseModel], path: TreePath) -> list[type[BaseModel]]:
    """The sections that may stand at `path` below a model."""
    hints: list[object] = [model]
    for step in path:
        hints = [inner for hint in hints for inner in _inside(hint, step)]
    return [found for each in hints for found in _models_of(each)]


def _models_of(hint: object) -> list[type[BaseModel]]:
    """The models that a type hint allows at this very place."""
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return [hint]
    if get_origin(hint) is Annotated:
        inner, *metadata = get_args(hint)
        stands_for = [each.model for each in metadata if isinstance(each, ReadAs)]
        return [model for each in stands_for or [inner] for model in _models_of(each)]
    if get_origin(hint) in (Union, UnionType):
        return [model for each in get_args(hint) for model in _models_of(each)]
    return []


def _inside(hint: object, step: str | int) -> list[object]:
    """The type hints of what is at `step` inside a value with this type hint."""
    found: list[object] = []
    for model in _models_of(hint):
        name = key_names(model).get(str(step))
        if name is not None:
            field = model.model_fields[name]
            metadata = tuple(cast("Iterable[object]", field.metadata))
            annotation = cast("object", field.annotation)
            found.append(Annotated[(annotation, *metadata)] if metadata else annotation)  # pyright: ignore[reportInvalidTypeForm]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        found += _inside(arguments[0], step)
    elif origin in (Union, UnionType):
        found += [inner for each in arguments if not _models_of(each) for inner in _inside(each, step)]
    elif isinstance(step, int) and origin in (list, tuple):
        found += [each for each in arguments if each is not Ellipsis]
    elif isinstance(step, str) and origin is dict:
        found.append(arguments[1])
    return found


class ReadAs:
    """In a type hint: this value is read as `model`, then becomes what `convert` makes of it."""

    def __init__(self, model: type[BaseModel], convert: Callable[[Any], object]) -> None:
        self.model = model
        self._convert = convert

    def __get_pydantic_core_schema__(self, _source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(
            self._convert, handler.generate_schema(self.model)
        )
