"""A configuration file as data: YAML read strictly, every value with the line it stands on.

Rule 1: what the file says is data. No tag builds an object, no alias multiplies, nothing is nested
deeper or longer than a person would write; `NO` is Norway (YAML 1.2 core schema).
Rule 2: what cannot be read at all raises ConfigError; what is wrong in one place becomes a Problem,
so that one run names all of them.
Rule 3: what was filled in from outside (`config.fill`) is never shown again.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

import yaml
from yaml.reader import ReaderError

from edgeproxy.config.fill import Filler
from edgeproxy.config.named_files import anchored
from edgeproxy.config.tree import Document, Mark, Problem, Tree, TreePath
from edgeproxy.errors import ConfigError

MAX_FILE = 1024 * 1024
"""Bytes of a file; more is refused."""
MAX_DEPTH = 32
"""Sections and lists inside each other."""
MAX_EXPANDED = 10_000
"""Values that aliases may stand for, all together."""
_MAX_DIGITS = 20

_TAG = "tag:yaml.org,2002:"
CORE_SCALARS: dict[str, tuple[re.Pattern[str], tuple[str, ...]]] = {
    "null": (re.compile(r"(?:~|null|Null|NULL|)\Z"), ("~", "n", "N", "")),
    "bool": (re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), tuple("tTfF")),
    "int": (re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z"), tuple("-+0123456789")),
    "float": (
        re.compile(
            r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
        ),
        tuple("-+.0123456789"),
    ),
}
"""YAML 1.2 §10.3.2: how plain scalars that are no text look, and how they begin."""

Resolvers = dict[str, list[tuple[str, re.Pattern[str]]]]


def core_resolvers() -> Resolvers:
    """CORE_SCALARS as PyYAML wants them: first character -> tags to try, in order."""
    resolvers: Resolvers = {}
    for name, (pattern, first) in CORE_SCALARS.items():
        for character in first:
            resolvers.setdefault(character, []).append((_TAG + name, pattern))
    return resolvers


_HINTS = (
    ("mapping values are not allowed", "put text that holds `: ` in quotes, or check the indentation"),
    ("found character that cannot start any token", "put the value in quotes; indent with spaces, not tabs"),
    ("did not find expected key", "check the indentation of this line and the one above"),
    ("did not find expected '-' indicator", "check the indentation of this line and the one above"),
    ("did not find expected ',' or", "a bracket opened before is not closed"),
    ("could not find expected ':'", "a key needs a colon and a space after it"),
    ("found unexpected end of stream", "a quote opened before is not closed"),
    ("but found another document", "a configuration is one document: remove the line `---` in the middle"),
    ("found undefined alias", "the anchor must come before the alias; text that starts with * needs quotes"),
)


class CoreLoader(yaml.CSafeLoader):
    """libyaml's parser with the scalars of YAML 1.2 instead of 1.1."""

    yaml_implicit_resolvers = core_resolvers()


def load(path: str | Path) -> Document:
    """The document in a file. ConfigError when it cannot be read or is no YAML."""
    file = Path(path)
    try:
        with file.open("rb") as stream:
            raw = stream.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{path}: cannot be read: {reason}") from None
    return parse(raw, str(path), file.parent)


def parse(raw: bytes, name: str, folder: Path, environ: Mapping[str, str] | None = None) -> Document:
    """The document in `raw`. `name` is for messages, `folder` where relative paths begin,
    `environ` what `${VAR}` means (default: the process's environment). Raises ConfigError."""
    text = _decode(raw, name)
    try:
        _check_depth(text, name)
        root = CoreLoader(text).get_single_node()
    except yaml.YAMLError as error:
        raise ConfigError(_syntax(error, name, text)) from None
    builder = _Builder(name)
    data = {} if root is None else builder.build(root, ())
    if not isinstance(data, dict):
        raise ConfigError(
            f"{name}:1: found no sections, expected edge:, origins:, routes: and so on at the top"
        )
    filler = Filler(folder, os.environ if environ is None else environ)
    filled = {key: anchored(key, filler.fill(value, (key,)), folder) for key, value in data.items()}
    problems = (*builder.problems, *filler.problems)
    return Document(name, filled, builder.places, frozenset(filler.secret), problems)


def _decode(raw: bytes, name: str) -> str:
    if len(raw) > MAX_FILE:
        raise ConfigError(f"{name}: found more than 1 MiB, expected a configuration; is this the right file?")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{name}:{line}: found bytes that are not UTF-8; save the file as UTF-8") from None


def _check_depth(text: str, name: str) -> None:
    """libyaml composes by recursion in C: what is too deep would end the process."""
    depth, parser = 0, CoreLoader(text)
    while not isinstance(event := parser.get_event(), yaml.StreamEndEvent):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise ConfigError(f"{name}:{line}: found more than {MAX_DEPTH} levels, expected fewer")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _syntax(error: yaml.YAMLError, name: str, text: str) -> str:
    if isinstance(error, ReaderError):
        line = text.encode().count(b"\n", 0, error.position) + 1  # libyaml counts bytes
        return (
            f"{name}:{line}: found a control character, expected text; in double quotes it is written \\x.."
        )
    if not isinstance(error, yaml.MarkedYAMLError):
        return f"{name}: not YAML: {error}"
    mark = error.problem_mark or error.context_mark
    where = f"{name}:{mark.line + 1}: column {mark.column + 1}" if mark else name
    said = error.problem or error.context or "this is not YAML"
    hint = next((f"; {hint}" for start, hint in _HINTS if start in f"{said} {error.context or ''}"), "")
    context = ""
    if error.context and error.context_mark and mark and error.context_mark.line != mark.line:
        context = f" ({error.context} of line {error.context_mark.line + 1})"
    return f"{where}: not YAML: {said}{context}{hint}"


class _Builder:
    """Turns composed nodes into plain data, remembering where each value stands."""

    def __init__(self, name: str) -> None:
        self.places: dict[TreePath, Mark] = {}
        self.problems: list[Problem] = []
        self._name = name
        self._seen: set[int] = set()  # nodes built before: meeting one again is an alias
        self._open: set[int] = set()
        self._expanded = 0

    def build(self, node: yaml.Node, path: TreePath) -> Tree:
        """The value of a node at `path`; an alias is built again, as a copy of its own."""
        mark = Mark(node.start_mark.line + 1, node.start_mark.column + 1)
        self.places.setdefault(path, mark)
        self._count(node, path)
        self._open.add(id(node))
        try:
            match node:
                case yaml.MappingNode():
                    return self._mapping(node, path)
                case yaml.SequenceNode():
                    return self._sequence(node, path)
                case _:
                    return self._scalar(node, path)
        finally:
            self._open.discard(id(node))

    def _count(self, node: yaml.Node, path: TreePath) -> None:
        line = f"{self._name}:{self.places[path].line}"
        if id(node) in self._open:
            raise ConfigError(f"{line}: found an alias of something it stands in itself")
        if len(path) > MAX_DEPTH:
            raise ConfigError(f"{line}: found more than {MAX_DEPTH} levels, expected fewer")
        if id(node) in self._seen:
            self._expanded += 1
            if self._expanded > MAX_EXPANDED:
                raise ConfigError(
                    f"{line}: found aliases that stand for more than {MAX_EXPANDED} values, expected fewer"
                )
        self._seen.add(id(node))

    def _complain(self, path: TreePath, text: str, node: yaml.Node) -> None:
        self.problems.append(Problem(path, text, node.start_mark.line + 1))

    def _tag(self, node: yaml.Node, path: TreePath, expected: str) -> bool:
        if node.tag == _TAG + expected:
            return True
        tag = node.tag.replace(_TAG, "!!") if node.tag.startswith(_TAG) else node.tag
        self._complain(path, f"found the tag {tag[:60]}, expected plain YAML; remove the tag", node)
        return False

    def _mapping(self, node: yaml.MappingNode, path: TreePath) -> Tree:
        if not self._tag(node, path, "map"):
            return None
        built: dict[str, Tree] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node, path)
            if key is None:
                continue
            line = key_node.start_mark.line + 1
            if key in lines:
                said = f"found the key twice, expected it once; the first is on line {lines[key]}"
                self._complain((*path, key), said, key_node)
                continue
            lines[key] = line
            self.places[*path, key] = Mark(line, key_node.start_mark.column + 1)
            built[key] = self.build(value_node, (*path, key))
        return built

    def _key(self, node: yaml.Node, path: TreePath) -> str | None:
        """Keys are text, whatever they look like: `404`, `NO`."""
        if not isinstance(node, yaml.ScalarNode):
            self._complain(path, "found a list or section as a key, expected text", node)
        elif node.tag.removeprefix(_TAG) not in ("str", *CORE_SCALARS):
            self._tag(node, path, "str")
        elif node.value == "<<":
            said = "found a merge key, which YAML 1.2 does not have; repeat the settings, or alias it whole"
            self._complain((*path, "<<"), said, node)
        elif not node.value:
            self._complain(path, "found an empty key, expected a name before the colon", node)
        else:
            return str(node.value)
        return None

    def _sequence(self, node: yaml.SequenceNode, path: TreePath) -> Tree:
        if not self._tag(node, path, "seq"):
            return None
        return [self.build(item, (*path, position)) for position, item in enumerate(node.value)]

    def _scalar(self, node: yaml.Node, path: TreePath) -> Tree:
        text = str(node.value)
        kind = node.tag.removeprefix(_TAG)
        if kind in ("str", "!"):
            return text
        if kind not in CORE_SCALARS or not CORE_SCALARS[kind][0].match(text):
            self._tag(node, path, "str")
            return None
        if kind == "null":
            return None
        if kind == "bool":
            return text[0] in "tT"
        return self._number(node, text, path, whole=kind == "int")

    def _number(self, node: yaml.Node, text: str, path: TreePath, *, whole: bool) -> Tree:
        if whole and len(text) <= _MAX_DIGITS:
            return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
        try:
            number = math.nan if whole else float(text)
        except ValueError:  # `.inf` and `.nan`: no setting means them
            number = math.nan
        if math.isfinite(number):
            return number
        long = len(text) > _MAX_DIGITS  # it may be a secret that was meant as text
        found, hint = (f"a number of {len(text)} digits", "; put text in quotes") if long else (text, "")
        said = f"found {found}, expected a finite number of at most {_MAX_DIGITS} digits{hint}"
        self._complain(path, said, node)
        return None
