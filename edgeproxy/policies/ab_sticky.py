"""Variants that units keep, in a cookie of the experiment: `version:variant:unit`, joined by `!`.

Rule 1: an entry is bound to its unit by a digest, so that who logs in on somebody's browser does not get the
other's variant. It is not signed: whoever forges one gets a variant that exists, and counts for himself.
Rule 2: at most `_MOST` entries, the newest stay; what is not exactly of that form is as absent.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b

from edgeproxy.context import Context, Edit, Op
from edgeproxy.http.message import Request
from edgeproxy.policies.ab_rule import Experiment
from edgeproxy.policies.identify import cookie_reader
from edgeproxy.record import record

_MOST = 8
_LONGEST = 1_024
_ENTRY = re.compile(r"(\d{1,4}):([A-Za-z0-9][A-Za-z0-9._-]{0,63}):([0-9a-f]{16})")

Entries = tuple[tuple[int, str, str], ...]
"""(version, variant, tag of the unit), oldest first."""


@record
class Kept:
    """What is known about a unit from before."""

    variant: str = ""  # of the version in force, or empty
    blocked: bool = False  # it had a variant of a version that takes no part any more
    own: bool = False  # known by the unit itself, not by the one it had before it logged in


NOTHING = Kept()


@lru_cache(16_384)
def tag(by: str, unit: str) -> str:
    """What stands for a unit in the cookie."""
    name = f"{by}\0{unit}".encode("utf-8", "surrogatepass")
    return blake2b(name, digest_size=8, person=b"edge-sticky").hexdigest()


@lru_cache(1_024)
def entries_of(text: str) -> Entries:
    """The entries of a cookie; none at all when anything in it is strange."""
    found = [_ENTRY.fullmatch(part) for part in text.split("!")[: _MOST + 1]]
    if len(found) > _MOST or None in found:
        return ()
    return tuple([(int(match[1]), match[2], match[3]) for match in found if match is not None])


class StickyVariants:
    """Reads and writes the variants that units of one experiment keep."""

    def __init__(self, experiment: str, config: Experiment) -> None:
        """`config.sticky` must be there."""
        assert config.sticky is not None  # noqa: S101 - the caller looked
        sticky = config.sticky
        self._version, self._least = sticky.version, sticky.min_version
        name = sticky.cookie or f"edge_ab_{experiment}"
        self._read: Callable[[Request], str | None] = cookie_reader(name)
        self._prefix = name.encode() + b"="
        cookie = config.cookie
        age = f"; Max-Age={int(sticky.max_age)}" if sticky.max_age else ""
        self._plain = f"; Path=/{age}; HttpOnly; SameSite={cookie.same_site.capitalize()}".encode()
        self._secure = cookie.secure

    def find(self, request: Request, tags: tuple[str, ...]) -> Kept:
        """What was kept for these units, the first one's entries before the others'."""
        text = self._read(request)
        if not text or len(text) > _LONGEST:
            return NOTHING
        kept: dict[int, tuple[str, bool]] = {}
        entries = entries_of(text)
        for position in range(len(tags) - 1, -1, -1):
            of_tag = [entry for entry in entries if entry[2] == tags[position]]
            kept.update({version: (variant, position == 0) for version, variant, _ in of_tag})
        if any(version < self._least for version in kept):
            return Kept(blocked=True)
        variant, own = kept.get(self._version, ("", False))
        return Kept(variant, own=own)

    def keep(self, request: Request, ctx: Context, unit_tag: str, variant: str) -> None:
        """Tell the client to keep the unit's variant, beside what it keeps already."""
        text = self._read(request)
        entries = entries_of(text) if text and len(text) <= _LONGEST else ()
        others = [entry for entry in entries if (entry[0], entry[2]) != (self._version, unit_tag)]
        kept = [*others, (self._version, variant, unit_tag)][-_MOST:]
        value = "!".join([f"{version}:{one}:{of}" for version, one, of in kept]).encode()
        secure = request.secure if self._secure == "auto" else self._secure
        flags = self._plain + b"; Secure" if secure else self._plain
        ctx.to_client.append(Edit(Op.ADD, b"Set-Cookie", self._prefix + value + flags))
