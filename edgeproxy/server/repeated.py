"""Heads that repeat: one whose field lines are, byte for byte, those of the connection's last request is not
parsed again. Clients repeat them, and the same bytes mean the same; only the request line is read. What
follows from them is shared by all connections of the client.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from edgeproxy.errors import RequestError
from edgeproxy.http.message import Request
from edgeproxy.http.target import split_target
from edgeproxy.pipeline import Visit

if TYPE_CHECKING:
    from edgeproxy.server.reading import RequestReader

LONGEST_REPEATED = 4096  # bytes of field lines kept for comparing
LONGEST_LINE = 1024  # and of a request line
_LINE = re.compile(rb"(GET|HEAD) (/[!-\"$-\[\]^-~]*)")


def learn(reader: RequestReader, data: bytes, visit: Visit) -> None:
    """Remember a head that came in one read, alone and whole."""
    line, _, rest = data.partition(b" HTTP/1.1\r\n")
    if reader.begun != 1 or not 0 < len(rest) <= LONGEST_REPEATED:
        return
    if len(line) > LONGEST_LINE or _LINE.fullmatch(line) is None:
        return
    if rest != reader.known:
        reader.visits = reader.hall.known_heads.visits(reader.peer, reader.scheme, rest)
        reader.known = reader.visits.fields
    reader.visits.keep(line, visit)


def revisit(reader: RequestReader, line: bytes) -> Visit | None:
    """The visit of another request line above the same fields; None: the parser shall judge it."""
    last = next(iter(reader.visits.values()), None)
    if last is None or last.edge is not reader.hall.edge:
        reader.visits.clear()  # whose word is taken for the client's TLS may have changed
        return None
    match = _LINE.fullmatch(line)
    limits = reader.limits
    longest = min(LONGEST_LINE, limits.url_size, limits.head_size - LONGEST_REPEATED)
    if match is None or len(line) > longest:
        return None
    before = last.received
    try:
        host, path, query = split_target(match[2], before.headers.index[b"host"], secure=before.secure)
    except RequestError:
        return None
    request = Request(match[1], host, path, query, before.headers, reader.peer, before.secure)
    visit = Visit(reader.hall.edge, request)
    reader.visits.keep(line, visit)
    return visit
