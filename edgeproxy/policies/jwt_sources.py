"""Where a request carries its token, and how it is kept from the origin.

Rule: a request has one token. Two that differ are refused (RFC 6750 §2, §3.1), because the origin
might read the one that was not verified.
"""

from __future__ import annotations

import re

from edgeproxy.context import Edit, Op
from edgeproxy.http.message import Request
from edgeproxy.policies.jwt_provider import JwtProvider
from edgeproxy.policies.jwt_token import Reason

_SECOND = re.compile(rb",[ \t]*bearer(?:[ \t,]|$)", re.IGNORECASE)


class Sources:
    """The places one provider's tokens may stand in.

    `header` is the lower-case name of the field; `only_header` says that there is no other place.
    """

    __slots__ = ("_cookie", "_query", "_scheme_needed", "header", "only_header")

    def __init__(self, provider: JwtProvider) -> None:
        self.header = (provider.header or "").lower().encode()
        self._scheme_needed = self.header == b"authorization"
        self._cookie = (provider.cookie or "").encode()
        self._query = (provider.query or "").encode()
        self.only_header = bool(self.header) and not self._cookie and not self._query

    def find(self, request: Request) -> bytes | Reason:
        """The token of a request; MISSING, AMBIGUOUS or MALFORMED when there is not exactly one."""
        found: set[bytes] = set()
        value = request.headers.get(self.header)
        if value is not None:
            token = self.from_header(value)
            if isinstance(token, bytes):
                found.add(token)
            elif token is not Reason.MISSING:
                return token
        if self._cookie:
            found.update(_named(request.headers.get(b"cookie") or b"", b";", self._cookie))
        if self._query:
            found.update(_named(request.query, b"&", self._query))
        found.discard(b"")  # how applications log out: the cookie stays, empty
        if not found:
            return Reason.MISSING
        return found.pop() if len(found) == 1 else Reason.AMBIGUOUS

    def from_header(self, value: bytes) -> bytes | Reason:
        """The token of a field value: `Bearer TOKEN`, where in other fields than Authorization
        the scheme may be left out."""
        if _SECOND.search(value):
            return Reason.AMBIGUOUS
        scheme, space, rest = value.partition(b" ")
        if scheme.lower() == b"bearer":
            return rest.strip(b" ") or Reason.MALFORMED
        if self._scheme_needed:
            return Reason.MISSING
        return Reason.MALFORMED if space or not scheme else scheme

    def edits(self, request: Request, token: bytes, forward: bool) -> list[Edit]:
        """What the origin sees of the token beyond what was received.

        Not forwarded: it is taken out of header and cookie. Forwarded: one that came in the URL,
        which is taken out there in any case, moves into Authorization (RFC 6750 §2.3).
        """
        if forward:
            in_query = self._query and token in _named(request.query, b"&", self._query)
            return [Edit(Op.SET, b"Authorization", b"Bearer " + token)] if in_query else []
        edits = [Edit(Op.REMOVE, self.header)] if self.header else []
        cookies = request.headers.get(b"cookie")
        if self._cookie and cookies is not None:
            kept = b";".join([c for c in cookies.split(b";") if c.partition(b"=")[0].strip() != self._cookie])
            kept = kept.strip()
            edits.append(Edit(Op.SET, b"Cookie", kept) if kept else Edit(Op.REMOVE, b"Cookie"))
        return edits


def _named(pairs: bytes, separator: bytes, name: bytes) -> set[bytes]:
    """Values of `name` in `a=1;b=2` or `a=1&b=2`."""
    found: set[bytes] = set()
    for pair in pairs.split(separator):
        key, _, value = pair.partition(b"=")
        if key.strip() == name:
            found.add(value.strip())
    return found
