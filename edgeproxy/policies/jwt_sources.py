"""Where a request carries its token, and how it is kept from the origin.

Rule: a request has one token. Two that differ are refused (RFC 6750 §2, §3.1), because the origin
might read the one that was not verified.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from edgeproxy.context import Edit, Op
from edgeproxy.http.message import Request
from edgeproxy.policies.jwt_provider import JwtProvider
from edgeproxy.policies.jwt_token import Reason

# The whole word: an origin may take any blank after it for the end of the scheme.
_BEARER = re.compile(rb"bearer(?![!#$%&'*+.^_`|~0-9A-Za-z-])", re.IGNORECASE)
_SECOND = re.compile(rb",[ \t]*bearer(?:[ \t,]|$)", re.IGNORECASE)


class Sources:
    """The places one provider's tokens may stand in.

    `header` is the lower-case name of the field; `only_header` says that there is no other place.
    """

    __slots__ = ("_scheme_needed", "cookie", "header", "only_header", "query")

    def __init__(self, provider: JwtProvider) -> None:
        self.header = (provider.header or "").lower().encode()
        self._scheme_needed = self.header == b"authorization"
        self.cookie = (provider.cookie or "").encode()
        self.query = (provider.query or "").encode()
        self.only_header = bool(self.header) and not self.cookie and not self.query

    @property
    def places(self) -> list[str]:
        """The places, each named as no other is."""
        kinds = (("header ", self.header), ("cookie ", self.cookie), ("query parameter ", self.query))
        return [kind + name.decode() for kind, name in kinds if name]

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
        if self.cookie:
            found.update(_named(request.headers.get(b"cookie") or b"", b";", self.cookie))
        if self.query:
            found.update(_named(request.query, b"&", self.query))
        found.discard(b"")  # how applications log out: the cookie stays, empty
        if not found:
            return Reason.MISSING
        return found.pop() if len(found) == 1 else Reason.AMBIGUOUS

    def from_header(self, value: bytes) -> bytes | Reason:
        """The token of a field value: `Bearer TOKEN`, where in other fields than Authorization
        the scheme may be left out."""
        if _SECOND.search(value):
            return Reason.AMBIGUOUS
        if _BEARER.match(value):
            blank, token = value[6:7], value[7:].strip(b" ")
            return token if blank == b" " and token else Reason.MALFORMED
        if self._scheme_needed:
            return Reason.MISSING
        return Reason.MALFORMED if b" " in value or not value else value

    def is_in_query(self, request: Request, token: bytes) -> bool:
        """Whether `token` came in the URL."""
        return bool(self.query) and token in _named(request.query, b"&", self.query)


def token_edits(request: Request, found: Sequence[tuple[Sources, bytes]], forward: bool) -> list[Edit]:
    """What the origin sees of the tokens that were found, beyond what was received.

    Not forwarded: they are taken out of headers and cookies. Forwarded: the first, if it came in the
    URL, which it is taken out of in any case, moves into Authorization (RFC 6750 §2.3) where that is free.
    """
    if forward:
        sources, token = found[0]
        taken = any(other.header == b"authorization" for other, _ in found[1:])
        moves = not taken and sources.is_in_query(request, token)
        return [Edit(Op.SET, b"Authorization", b"Bearer " + token)] if moves else []
    edits = [
        Edit(Op.REMOVE, header) for header in dict.fromkeys([each.header for each, _ in found]) if header
    ]
    names = {each.cookie for each, _ in found if each.cookie}
    cookies = request.headers.get(b"cookie")
    if names and cookies is not None:
        kept = b";".join(
            [each for each in cookies.split(b";") if each.partition(b"=")[0].strip() not in names]
        )
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
