"""The configuration said again, as canonical YAML.

Units are written as people write them; what is secret, or came from outside the file, is `***`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, SecretStr
from pydantic.fields import FieldInfo

from edgeproxy.config.file import Resolvers, core_resolvers
from edgeproxy.config.tree import MASK, Document, Tree, TreePath
from edgeproxy.units import Rate, parse_duration, parse_size

_DURATIONS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))
_SIZES = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
_USUAL = ("", "enforce", None)  # of when, mode and on_error beside a policy
_RATES = {1.0: "s", 60.0: "m", 3600.0: "h", 86400.0: "d"}


def duration_text(seconds: float) -> str:
    """`90s`, `1h`, `250ms` of seconds."""
    if seconds and seconds < 1:
        return f"{_plain_number(seconds * 1000)}ms"
    unit, word = next(((unit, word) for unit, word in _DURATIONS if seconds and not seconds % unit), (1, "s"))
    return f"{_plain_number(seconds / unit)}{word}"


def size_text(size: int) -> str | int:
    """`64MiB`, `8KiB` of bytes; the number itself when no unit divides it."""
    return next((f"{size // unit}{word}" for unit, word in _SIZES if size and not size % unit), size)


def rate_text(rate: Rate) -> str:
    """`100/s` of a rate."""
    return f"{_plain_number(rate.count)}/{_RATES[rate.seconds]}"


def _plain_number(value: float) -> str:
    return f"{value:.9f}".rstrip("0").rstrip(".")


def _both_resolvers() -> Resolvers:
    old, new = cast("Resolvers", yaml.CSafeDumper.yaml_implicit_resolvers), core_resolvers()
    return {first: [*old.get(first, ()), *new.get(first, ())] for first in {**old, **new}}


class _Dumper(yaml.CSafeDumper):
    """Quotes text that any YAML, 1.1 or 1.2, could read as something else."""

    yaml_implicit_resolvers = _both_resolvers()


def yaml_of(config: BaseModel, document: Document, *, defaults: bool) -> str:
    """The YAML of a configuration that was read from `document`."""
    tree = _Writer(document, defaults=defaults).section(config, ())
    return yaml.dump(
        tree, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=110
    )


class _Writer:
    def __init__(self, document: Document, *, defaults: bool) -> None:
        self._document = document
        self._defaults = defaults

    def section(self, model: BaseModel, path: TreePath) -> dict[str, Tree]:
        written: dict[str, Tree] = {}
        for name, field in type(model).model_fields.items():
            if self._defaults or name in model.model_fields_set:
                key = field.alias or name
                written[key] = self._value(getattr(model, name), units_of(field), (*path, key))
        return written

    def _value(self, value: object, units: frozenset[object], path: TreePath) -> Tree:
        match value:
            case None:
                return False if path[-1] == "cache" and len(path) == 3 else None  # routes[].cache: off
            case SecretStr():
                return MASK
            case BaseModel():
                return self.section(value, path)
            case list() | tuple() | set() | frozenset():
                if hasattr(cast("object", value), "_fields"):
                    return self._step(*cast("tuple[str, object, tuple[object, ...]]", value), path)
                items = enumerate(cast("Iterable[object]", value))
                return [self._value(each, units, (*path, position)) for position, each in items]
            case Mapping():
                pairs = cast("Mapping[object, object]", value).items()
                return {str(key): self._value(each, units, (*path, str(key))) for key, each in pairs}
            case bool():
                return value
            case _:
                return self._scalar(value, units, path)

    def _step(self, word: str, rule: object, guard: tuple[object, ...], path: TreePath) -> Tree:
        """An item of `policies`, with what stands beside it. A `use` brings its options along."""
        beside = [
            (key, value)
            for key, value, usual in zip(("when", "mode", "on_error"), guard, _USUAL, strict=True)
            if value != usual
        ]
        if word == "use":
            rule, options = cast("tuple[str, dict[str, object]]", rule)
            beside[:0] = [("with", options)] if options else []
        return {key: self._value(each, frozenset(), (*path, key)) for key, each in ((word, rule), *beside)}

    def _scalar(self, value: object, units: frozenset[object], path: TreePath) -> Tree:
        if self._document.is_secret(path):
            return MASK
        match value:
            case int() if parse_size in units:
                return size_text(value)
            case int() | float() if parse_duration in units:
                return duration_text(value)
            case float():
                return int(value) if value.is_integer() else value
            case int():
                return value
            case Rate():
                return rate_text(value)
            case _:
                return str(value).replace("$", "$$")


def _parsers(hint: object) -> frozenset[object]:
    if isinstance(hint, BeforeValidator):
        return frozenset((hint.func,))
    metadata = cast("Iterable[object]", getattr(hint, "__metadata__", ()))
    return _all_parsers((*get_args(hint), *metadata))


def _all_parsers(hints: Iterable[object]) -> frozenset[object]:
    return frozenset(parser for hint in hints for parser in _parsers(hint))


def units_of(field: FieldInfo) -> frozenset[object]:
    """The parsers of `units` that a field's values went through."""
    metadata = cast("Iterable[object]", field.metadata)
    return _all_parsers((field.annotation, *metadata))
