"""Claims by path: what a verified token says, as JSON has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

Claims = Mapping[str, object]


def find_claim(claims: Claims | None, path: str, absent: object = None) -> object:
    """The claim of that very name (`https://example.com/roles`), else the one the dots lead to; `absent` when
    there is neither."""
    if claims is None:
        return absent
    if path in claims:
        return claims[path]
    inner, _, name = path.rpartition(".")
    outer = find_claim(claims, inner) if inner else None
    return cast("Claims", outer).get(name, absent) if isinstance(outer, Mapping) else absent
