"""Heads that repeat: one whose field lines are, byte for byte, those of the connection's last request is not
parsed again. Clients repeat them, and the same bytes mean the same; only the request line is read. What
follows from them is shared by all connections of the client. Before a body the whole head has to be the same.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from edgeproxy.errors import RequestError
from edgeproxy.http.message import Request
from edgeproxy.http.target import split_target
from edgeproxy.pipeline import Visit

if TYPE_CHECKING:
    from edgeproxy.server.intake import Intake
    from edgeproxy.server.reading import RequestReader

LONGEST_REPEATED = 4096  # bytes of field lines kept for comparing
LONGEST_LINE = 1024  # and of a request line
_LINE = re.compile(rb"(GET|HEAD) (/[!-\"$-\[\]^-~]*)")
_LINE_WITH_BODY = re.compile(rb"[A-Z]+ /[!-\"$-\[\]^-~]* HTTP/1\.1\r\n")
_EMPTY_LINE = b"\r\n\r\n"


def learn(reader: RequestReader, data: bytes, visit: Visit) -> None:
    """Remember a head that came in one read, alone and whole."""
    if visit.request.has_body:
        _learn_with_body(reader, data, visit)
        return
    line, _, rest = data.partition(b" HTTP/1.1\r\n")
    if reader.begun != 1 or not 0 < len(rest) <= LONGEST_REPEATED:
        return
    if len(line) > LONGEST_LINE or _LINE.fullmatch(line) is None:
        return
    if rest != reader.known:
        reader.visits = reader.hall.known_heads.visits(reader.peer, reader.scheme, rest)
        reader.known = reader.visits.fields
    reader.visits.keep(line, visit)


def _learn_with_body(reader: RequestReader, data: bytes, visit: Visit) -> None:
    """The head ends at the first empty line, unless the parser took more or less of what follows for body."""
    end = data.find(_EMPTY_LINE) + len(_EMPTY_LINE)
    length = int(visit.request.headers.index[b"content-length"])
    taken = length if reader.receiving is None else length - reader.body_left
    if (
        reader.begun == 1
        and not reader.closing
        and len(_EMPTY_LINE) <= end <= LONGEST_REPEATED
        and _LINE_WITH_BODY.match(data) is not None
        and taken == min(length, len(data) - end)
    ):
        reader.sends_bodies = True
        reader.hall.known_heads.keep_with_body(reader.peer, reader.scheme, data[:end], visit, length)


def sent_before(reader: Intake, data: bytes) -> bool:
    """Take a request with a body whose head is known; False: the parser shall judge it."""
    end = data.find(_EMPTY_LINE, 0, LONGEST_REPEATED) + len(_EMPTY_LINE)
    known = reader.hall.known_heads.with_body(reader.peer, reader.scheme, data[:end])
    if known is None:
        return False
    visit, length = known
    if visit.edge is not reader.hall.edge or len(data) - end > length:
        return False
    reader._receive(visit, length, data, end)
    return True


def revisit(reader: Intake, line: bytes) -> Visit | None:
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
