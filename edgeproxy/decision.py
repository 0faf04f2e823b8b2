"""What the pipeline can decide, and why: the words of RFC 9211.

`Cause` is at once metric label, log field and `Cache-Status` parameter.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from edgeproxy.http.message import Field, Response
from edgeproxy.record import record

if TYPE_CHECKING:
    from edgeproxy.cache.entry import Entry
    from edgeproxy.context import Wake


class Cause(Enum):
    """Why this answer came from where it came from. Values are a closed set of labels."""

    HIT = "hit"
    STALE_HIT = "stale-hit"  # served stale while one refresh runs behind (RFC 5861 §3)
    STALE_ERROR = "stale-error"  # served stale because the origin failed (RFC 5861 §4)
    BYPASS = "bypass"
    METHOD = "method"
    URI_MISS = "uri-miss"
    VARY_MISS = "vary-miss"
    MISS = "miss"
    REQUEST = "request"
    STALE = "stale"
    REFUSED = "refused"  # answered by a policy or by the edge itself: no cache was asked

    def __init__(self, word: str) -> None:
        self.word = word.encode()


@record
class Stamp:
    """Fields that are true for one second of one entry (`Age`, `Cache-Status`), rendered once."""

    at: int
    fields: tuple[Field, ...]
    lines: bytes


NO_STAMP = Stamp(0, (), b"")


@record
class Serve:
    """Write this response now."""

    response: Response
    cause: Cause
    stamp: Stamp = NO_STAMP
    policy: str = ""  # which policy answered, when cause is REFUSED
    reason: str = ""  # its word for why


@record
class Fetch:
    """Ask the origin. `key` is None when the answer must not be stored or shared; an entry is then not
    validated, and served on error only."""

    cause: Cause
    key: bytes | None = None
    entry: Entry | None = None  # stored, to be validated (RFC 9111 §4.3) or served on error


@record
class ServeStale:
    """Write this response now, then refresh the entry behind the client's back (RFC 5861 §3)."""

    serve: Serve
    refresh: Fetch


@record
class Delay:
    """Not yet: after so many seconds, or as soon as what it waits for has happened.

    Without `refusal` its policies let it pass, and only the rest is decided then. With one and `until`, the
    policy at `step` is asked again, and those behind it; without `until`, the refusal is the answer.
    """

    seconds: float
    refusal: Serve | None = None
    until: Wake | None = None
    step: int = 0
    policy: str = ""  # that let it pass later


Decision = Serve | ServeStale | Fetch | Delay
