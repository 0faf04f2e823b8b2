"""Tokens that are no longer good although they have not expired: by `jti`, or all of one subject.

A list is JSON lines, so that appending to the file is enough:

    {"jti": "7f3a"}
    {"sub": "u-1"}                                    every token of u-1
    {"sub": "u-1", "issued_before": 1800000000}       those issued before: u-1 may log in again
    {"jti": "7f3b", "until": 1800003600}              may be forgotten then, since it has expired

Rule: a line that cannot be read revokes nothing, but is counted and told; the others still count.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from edgeproxy.policies.jwt_token import parse_object
from edgeproxy.record import record

MAX_LINE = 1024
_MEMBERS = frozenset({"jti", "sub", "issued_before", "until"})


@record
class Revocation:
    """One line: a `jti`, or a `sub` with the time (epoch seconds) before which its tokens were issued."""

    jti: str | None
    sub: str | None
    issued_before: float
    until: float


class Revocations:
    """An immutable list. `broken` are the numbers of lines that could not be read, the first few."""

    __slots__ = ("_jtis", "_subjects", "broken", "lines")

    def __init__(
        self,
        jtis: frozenset[str] = frozenset(),
        subjects: Mapping[str, float] | None = None,
        lines: int = 0,
        broken: tuple[int, ...] = (),
    ) -> None:
        self._jtis = jtis
        self._subjects: Mapping[str, float] = subjects or {}
        self.lines = lines
        self.broken = broken

    def __len__(self) -> int:
        return len(self._jtis) + len(self._subjects)

    def name(self, claims: Mapping[str, object]) -> bool:
        """Whether a token with these claims is revoked."""
        jti, sub = claims.get("jti"), claims.get("sub")
        if isinstance(jti, str) and jti in self._jtis:
            return True
        before = self._subjects.get(sub) if isinstance(sub, str) else None
        if before is None:
            return False
        issued = claims.get("iat")
        return not isinstance(issued, int | float) or issued < before

    def beside(self, other: Revocations) -> Revocations:
        """What this list or another revokes."""
        subjects = dict(other._subjects)
        for sub, before in self._subjects.items():
            subjects[sub] = max(before, subjects.get(sub, -inf))
        return Revocations(self._jtis | other._jtis, subjects, self.lines, self.broken)

    def with_lines(self, data: bytes) -> Revocations:
        """This list and the lines of `data`."""
        jtis, subjects, broken = set(self._jtis), dict(self._subjects), list(self.broken)
        for number, line in enumerate(data.split(b"\n"), self.lines + 1):
            if not line.strip():
                continue
            try:
                one = parse_revocation(line)
            except ValueError:
                broken.append(number)
                continue
            if one.jti is not None:
                jtis.add(one.jti)
            if one.sub is not None:
                subjects[one.sub] = max(one.issued_before, subjects.get(one.sub, -inf))
        lines = self.lines + data.count(b"\n")
        return Revocations(frozenset(jtis), subjects, lines, tuple(broken[:8]))


NOTHING_REVOKED = Revocations()


def parse_revocation(line: bytes) -> Revocation:
    """What one line says. ValueError with what was expected."""
    if len(line) > MAX_LINE:
        raise ValueError(f"found more than {MAX_LINE} bytes, expected a jti or a sub")
    found = parse_object(line)
    if unknown := sorted(found.keys() - _MEMBERS):
        raise ValueError(f"found {', '.join(unknown)[:64]}, expected jti or sub, issued_before, until")
    named = [found[name] for name in ("jti", "sub") if name in found]
    if len(named) != 1 or not isinstance(named[0], str) or not named[0]:
        raise ValueError('expected one of {"jti": "..."} and {"sub": "..."}, as texts that are not empty')
    if "issued_before" in found and "sub" not in found:
        raise ValueError("found issued_before, which only goes with sub")
    jti, sub = (named[0], None) if "jti" in found else (None, named[0])
    return Revocation(jti, sub, _time(found, "issued_before"), _time(found, "until"))


def _time(found: Mapping[str, object], name: str) -> float:
    value = found.get(name, inf)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    raise ValueError(f"expected {name} as seconds since 1970")
