"""What the edge would do with a request, and why: the record that `explain.explain` fills, and its two faces.

Rule: nothing is spent while explaining, and credentials are shown as `***`.
"""

from __future__ import annotations

from collections.abc import Iterable

from edgeproxy.context import Edit, Note, Op
from edgeproxy.record import record

_SECRET = frozenset({b"authorization", b"cookie", b"proxy-authorization", b"set-cookie", b"x-api-key"})
_SIGN = {Op.SET: "", Op.ADD: "+ ", Op.REMOVE: "- ", Op.CHANGE: "~ "}

Told = tuple[int, list[tuple[str, str]]]
"""Status and fields that an origin might answer."""


@record
class Question:
    """A request that might come, and from what address; with `told`, whether that answer would be stored."""

    method: str
    url: str
    client: str
    fields: list[tuple[str, str]]
    told: Told | None = None


@record
class Stored:
    """What one tier holds for the request."""

    where: str
    said: str
    known: bool = True  # it answered
    facts: tuple[tuple[str, object], ...] = ()  # of the stored response, when there is one

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "where": self.where,
            "said": self.said,
            "known": self.known,
            "response": dict(self.facts) or None,
        }


@record
class Explanation:
    """One request, explained. Empty texts and tuples mean that the request did not get so far."""

    method: str
    url: str
    client: str  # the client's address
    client_why: str  # which hop of which field, or the socket
    route: str
    notes: tuple[Note, ...] = ()  # one or more per policy, in order
    status: int = 0  # of a policy's answer; 0 when all let it pass
    variants: tuple[tuple[str, str], ...] = ()  # experiment, variant
    to_origin: tuple[Edit, ...] = ()
    to_client: tuple[Edit, ...] = ()
    cache: str = ""  # what the cache would say, in the words of Cache-Status
    key: str = ""  # the cache key, readable
    stored: tuple[Stored, ...] = ()  # what each tier holds for it, and how fresh that is
    filled: str = ""  # whether the answer that was asked about would be stored
    origin: str = ""
    origin_why: str = ""  # what its choice decided
    servers: tuple[str, ...] = ()  # in the order they would be tried
    hedge: str = ""  # when another one would be asked as well
    mirror: str = ""  # who else gets a copy

    def as_dict(self) -> dict[str, object]:
        """For JSON. Every key is always there."""
        return {
            "request": {"method": self.method, "url": self.url},
            "client": {"address": self.client, "why": self.client_why},
            "route": self.route,
            "policies": [
                {
                    "policy": note.policy,
                    "mode": "shadow" if note.shadow else "enforce",
                    "verdict": note.verdict.value,
                    "why": note.why,
                    "rule": note.rule or None,
                    "values": dict(note.values),
                }
                for note in self.notes
            ],
            "answered": self.status or None,
            "variants": dict(self.variants),
            "to_origin": _edits(self.to_origin),
            "to_client": _edits(self.to_client),
            "cache": {
                "result": self.cache,
                "key": self.key,
                "stored": [one.as_dict() for one in self.stored],
                "answer": self.filled or None,
            }
            if self.cache
            else None,
            "origin": self._origin(),
        }

    def _origin(self) -> dict[str, object] | None:
        if not self.origin:
            return None
        return {
            "name": self.origin,
            "why": self.origin_why or None,
            "servers": list(self.servers),
            "hedge": self.hedge or None,
            "mirror": self.mirror or None,
        }

    def as_tree(self) -> str:
        """For people: lines of printable text."""
        branches: list[tuple[str, list[str]]] = [
            (_row("client", self.client, self.client_why), []),
            (_row("route", self.route), []),
            ("policies", _told(self.notes) or ["none"]),
        ]
        if self.variants:
            branches.append(("variants", _table(self.variants)))
        for title, edits in (("to the origin", self.to_origin), ("to the client", self.to_client)):
            if edits:
                branches.append((title, [_edit_line(edit) for edit in edits]))
        if self.cache:
            said = [
                ("key", self.key),
                *[(one.where, one.said) for one in self.stored],
                ("answer", self.filled),
            ]
            branches.append(
                (_row("cache", self.cache), [f"{name}: {value}" for name, value in said if value])
            )
        if self.origin:
            said = (("hedge", self.hedge), ("mirror", self.mirror))
            leaves = [*self.servers, *[f"{name} {value}" for name, value in said if value]]
            branches.append((_row("origin", self.origin, self.origin_why), leaves))
        if self.status:
            branches.append(
                (_row("answer", f"{self.status}, from a policy: neither cache nor origin is asked"), [])
            )
        lines = [f"{self.method} {self.url}", *_draw(branches)]
        return "\n".join(map(_printable, lines)) + "\n"


def _row(title: str, value: str, why: str = "") -> str:
    return f"{title:<8} {value}{f' ({why})' if why else ''}"


def _told(notes: tuple[Note, ...]) -> list[str]:
    """A line for each, and one below it for the rule and the values that decided."""
    rows = _table([(n.policy + (" (shadow)" if n.shadow else ""), n.verdict.value, n.why) for n in notes])
    lines: list[str] = []
    for note, row in zip(notes, rows, strict=True):
        lines.append(row)
        values = ", ".join([f"{name} = {value}" for name, value in note.values])
        because = "; ".join([part for part in (f"rule {note.rule}" if note.rule else "", values) if part])
        if because:
            lines.append(f"   {because}")
    return lines


def _table(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Columns lined up, the last one as it is."""
    cells = list(rows)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)][:-1]
    return ["  ".join([*map(str.ljust, row, widths), row[-1]]).rstrip() for row in cells]


def _draw(branches: list[tuple[str, list[str]]]) -> list[str]:
    lines: list[str] = []
    for number, (title, leaves) in enumerate(branches, 1):
        last = number == len(branches)
        lines.append(f"{'└─' if last else '├─'} {title}")
        stem = "   " if last else "│  "
        lines += [
            f"{stem}{_branch(leaf, last=leaf_no == len(leaves))} {leaf}"
            for leaf_no, leaf in enumerate(leaves, 1)
        ]
    return lines


def _branch(leaf: str, *, last: bool) -> str:
    """A line that begins with a space goes on about the one before it."""
    return "│ " if leaf.startswith(" ") else "└─" if last else "├─"


def _value(edit: Edit) -> str:
    return "***" if edit.name.lower() in _SECRET else edit.value.decode("utf-8", "backslashreplace")


def _edits(edits: Iterable[Edit]) -> list[dict[str, str]]:
    return [
        {"op": edit.op.value, "name": edit.name.decode("latin-1"), "value": _value(edit)} for edit in edits
    ]


def _edit_line(edit: Edit) -> str:
    name = edit.name.decode("latin-1")
    return f"{_SIGN[edit.op]}{name}" + ("" if edit.op in (Op.REMOVE, Op.CHANGE) else f": {_value(edit)}")


def _printable(line: str) -> str:
    """Nothing that moves a terminal's cursor, colours it or turns the direction of writing."""
    if line.isprintable():
        return line
    return "".join([c if c.isprintable() else c.encode("unicode_escape").decode() for c in line])
