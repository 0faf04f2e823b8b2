"""Which fields a configuration may write. Refused names are the edge's own, each with a reason."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from edgeproxy.http.fields import FRAMING, HOP_BY_HOP

TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 §5.6.2
TOKEN_SAID = "letters, digits and !#$%&'*+-.^_`|~ only"  # noqa: S105 - a grammar, no secret
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

_HOP_BY_HOP = "belongs to one connection (RFC 9110 §7.6.1); the edge writes its own"
_FRAMING = "says where a message ends; the edge writes its own"
_REFUSED = {
    **{name.decode(): _HOP_BY_HOP for name in HOP_BY_HOP},
    **{name.decode(): _FRAMING for name in FRAMING},
    "trailer": _FRAMING,
    "expect": "is between client and edge; the edge answers it itself",
    "host": "chooses the site; it belongs to the origin's settings",
}


def editable(name: str) -> str:
    """`name` itself. Raises ValueError when it is no token, or is the edge's own business."""
    if not TOKEN.fullmatch(name):
        raise ValueError(f"{name!r} is not a field name: {TOKEN_SAID}")
    # Servers that fold `_` into `-` would read the alias as the refused name.
    reason = _REFUSED.get(name.lower().replace("_", "-"))
    if reason is not None:
        raise ValueError(f"{name} cannot be written by rule: it {reason}")
    return name


def is_plain(value: str) -> bool:
    """Does a field value arrive as it was written? Not with control characters, or with spaces around it."""
    return _CONTROL.search(value) is None and value == value.strip()


def check_field(name: str, value: str) -> None:
    """Raises ValueError for a field line that cannot be written."""
    editable(name)
    if not is_plain(value):
        raise ValueError(f"the value of {name} has control characters, or spaces around it")


FieldName = Annotated[str, AfterValidator(editable)]
