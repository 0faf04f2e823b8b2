"""What a revocation asks for: whose list, and the line to append to it."""

from __future__ import annotations

import json
from collections.abc import Mapping

from edgeproxy.errors import EdgeError
from edgeproxy.policies.jwt_revoked import parse_revocation


class RevokeError(EdgeError):
    """The revocation cannot be understood; the message is for the person who asked."""


def parse_revoke(parameters: Mapping[str, object]) -> tuple[str, dict[str, object]]:
    """Provider and line of `{"provider": "main", "jti": …}`. Raises RevokeError."""
    line = dict(parameters)
    provider = line.pop("provider", None)
    if not isinstance(provider, str) or not provider:
        raise RevokeError("Give provider: a name among jwt_providers.")
    for name in ("issued_before", "until"):
        if isinstance(text := line.get(name), str):  # as a query has it
            try:
                line[name] = float(text)
            except ValueError:
                raise RevokeError(f"{name} is seconds since 1970.") from None
    try:
        parse_revocation(json.dumps(line, ensure_ascii=False, default=str).encode())
    except ValueError as error:
        raise RevokeError(f"{error}.") from None
    return provider, line
