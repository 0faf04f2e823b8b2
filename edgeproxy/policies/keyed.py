"""What `cache.vary_on` needs of a route's chain: device class and claims become parts of the key.

No policy of the YAML: the composition root puts it last, so that claims are verified by then. What it
tells the origin is part of the key, and what is part of the key the origin may use (A61).
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from edgeproxy.context import Context, Edit, Op, Verdict
from edgeproxy.http.device import DESKTOP, MOBILE, TABLET, device_class
from edgeproxy.http.message import Request, Response
from edgeproxy.policies.claims import find_claim

DEVICE_FIELD = b"X-Device-Class"
_DEVICES = {
    name: ((b"device:" + name,), Edit(Op.SET, DEVICE_FIELD, name)) for name in (MOBILE, TABLET, DESKTOP)
}
_ABSENT = object()


class Keyed:
    """The last step of a route's chain. It never answers, and fails closed: clients must not be mixed up."""

    name = "cache_key"
    fails_open = False

    def __init__(self, *, device: bool, claims: Iterable[str]) -> None:
        self._device = device
        self._claims = [(path, path.encode()) for path in claims]
        self.repeatable = not self._claims  # whoever sets them may do so anew each time
        self.asserted = (DEVICE_FIELD.lower(),) if device else ()

    def __call__(self, request: Request, ctx: Context, /) -> Response | None:
        """Always None; adds to `ctx.key_parts` and `ctx.to_origin`."""
        if self._device:
            name = device_class(request.headers)
            parts, edit = _DEVICES[name]
            ctx.key_parts += parts
            ctx.to_origin.append(edit)
            ctx.note(self.name, Verdict.ALLOW, f"device {name.decode()}")
        for path, raw in self._claims:
            value = find_claim(ctx.claims, path, _ABSENT)
            ctx.key_parts += (_claim_part(raw, value),)
            ctx.note(self.name, Verdict.ALLOW, f"claim {path} is {'absent' if value is _ABSENT else 'there'}")
        return None


def _claim_part(path: bytes, value: object) -> bytes:
    """Absent, null, text, number and list are all told apart; a path may hold any character."""
    said = b""
    if value is not _ABSENT:
        said = b"=" + json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    return b"by-claim:%d:%b%b" % (len(path), path, said)
