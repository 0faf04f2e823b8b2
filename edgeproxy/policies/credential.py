"""What `api_key` and `basic` have in common: who passed, and what later policies and the origin learn.

A pass sets the claims `sub` and, where the file has words for it, `scope`: limits, conditions and
experiments go by them as by those of a token.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TypeVar

from edgeproxy.context import Context, Edit, Op, Verdict
from edgeproxy.record import record
from edgeproxy.snapshot import Snapshot

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}")
T = TypeVar("T")
MAX_ENTRIES = 100_000
_WORD = re.compile(r"[!#-\[\]-~]+")  # RFC 6749 §3.3


@record
class Holder:
    """Whose credential it is, and the words of its scope."""

    name: str
    scope: tuple[str, ...]


@record
class Pass:
    """Everything a pass does."""

    claims: Mapping[str, object]
    edits: tuple[Edit, ...]
    key_parts: tuple[bytes, ...]


def pass_of(holder: Holder, name_header: str | None, edits: tuple[Edit, ...] = ()) -> Pass:
    """The pass of one holder. The origin that learns the name may answer by it, so that joins the key."""
    claims = {"sub": holder.name} | ({"scope": " ".join(holder.scope)} if holder.scope else {})
    if name_header is None:
        return Pass(MappingProxyType(claims), edits, ())
    name = holder.name.encode()
    told = Edit(Op.SET, name_header.encode(), name)
    return Pass(MappingProxyType(claims), (*edits, told), (b"name:" + name,))


def let_pass(made: Pass, ctx: Context, read: Snapshot[T]) -> None:
    """Do what a pass does. It is good as long as `read`, the file's contents, is what it was."""
    if ctx.recorder is not None:
        ctx.recorder.reads(read, read.value)
    ctx.claims = made.claims
    ctx.to_origin.extend(made.edits)
    if made.key_parts:
        ctx.key_parts += made.key_parts


def entries(data: bytes) -> Iterator[tuple[int, list[str]]]:
    """Line number and words of each line that is neither empty nor a comment.

    ValueError when there are too many, or it is not UTF-8.
    """
    try:
        text = data.decode()
    except UnicodeError:
        raise ValueError("expected UTF-8") from None
    found = 0
    for number, line in enumerate(text.split("\n"), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        found += 1
        if found > MAX_ENTRIES:
            raise ValueError(f"line {number}: expected at most {MAX_ENTRIES} entries")
        yield number, words


def holder(number: int, name: str, scope: list[str]) -> Holder:
    """The holder that a line names. ValueError says what is wrong with it, never what else the line holds."""
    if not NAME.fullmatch(name):
        raise ValueError(f"line {number}: expected a name of letters, digits and ._@+- first")
    if not all(map(_WORD.fullmatch, scope)):
        raise ValueError(f"line {number}: expected words of a scope at the end (RFC 6749 §3.3)")
    return Holder(name, tuple(scope))


def note(ctx: Context, policy: str, refused: str, name: str = "") -> None:
    """For `explain`: who passed, or why nobody did."""
    if ctx.notes is not None:
        verdict = Verdict.REFUSE if refused else Verdict.ALLOW
        ctx.note(policy, verdict, refused or f"{name} is known")
