"""What a limit tells clients: `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-11).

`q` is the quota, `w` its window in seconds, `r` what is left of it and `t` the seconds until it is more.
"""

from __future__ import annotations

import re

from edgeproxy.context import Edit, Op
from edgeproxy.http.message import Field

_TOLD = 4096  # rendered RateLimit fields per limit
_PRINTABLE = re.compile(r"[ -~]+")


class Told:
    """Both fields of one limit. `window` is in seconds; None for a limit of requests at once."""

    __slots__ = ("_edits", "_policy", "_shown")

    def __init__(self, name: str, quota: int, window: int | None) -> None:
        """Raises ValueError when the name does not fit into a field."""
        quoted = _quoted(name)
        scope = b'qu="concurrent-requests"' if window is None else b"w=%d" % window
        self._policy = Edit(Op.ADD, b"RateLimit-Policy", b"%b;q=%d;%b" % (quoted, quota, scope))
        self._shown = quoted.replace(b"%", b"%%") + (b";r=%d" if window is None else b";r=%d;t=%d")
        self._edits: dict[tuple[int, int | None], tuple[Edit, Edit]] = {}

    def edits(self, remaining: int, seconds: int | None) -> tuple[Edit, Edit]:
        """Both, for an answer that was allowed. Remembered: the same few come all the time."""
        edits = self._edits.get((remaining, seconds))
        if edits is None:
            if len(self._edits) >= _TOLD:
                self._edits.clear()
            state = Edit(Op.ADD, b"RateLimit", self.state(remaining, seconds))
            edits = self._edits[remaining, seconds] = self._policy, state
        return edits

    def fields(self, remaining: int, seconds: int | None) -> tuple[Field, Field]:
        """Both, for a refusal."""
        return (self._policy.name, self._policy.value), (b"RateLimit", self.state(remaining, seconds))

    def state(self, remaining: int, seconds: int | None) -> bytes:
        """The member of `RateLimit`: `r` left for `t` seconds, after which it is more."""
        return self._shown % (remaining if seconds is None else (remaining, seconds))


def _quoted(name: str) -> bytes:
    """`name` as a structured-field string (RFC 9651 §3.3.3)."""
    if not _PRINTABLE.fullmatch(name):
        raise ValueError(f"the rate limit {name!r} is named in a header field: use printable ASCII")
    return b'"%b"' % name.replace("\\", "\\\\").replace('"', '\\"').encode()
