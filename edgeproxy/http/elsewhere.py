"""Credentials in a URL are for the site they were sent to: a redirect to another one leaves them out."""

from __future__ import annotations

import re
from collections.abc import Callable

from edgeproxy.http.message import Request, Response
from edgeproxy.http.wire import response

_SITE = re.compile(rb"(?:[a-z]+:)?[/\\]{2}([^/?#\\]*)", re.IGNORECASE)


def without_credentials(answer: Response, request: Request, kept: Callable[[bytes], bytes]) -> Response:
    """The answer, its Location without the parameters that `kept` leaves out of a query, when that leads to
    another site than the request's."""
    fields = [
        (name, _cut(value, request, kept) if name.lower() == b"location" else value)
        for name, value in answer.fields
        if name.lower() != b"content-length"
    ]
    return response(answer.status, fields, answer.body)


def _cut(location: bytes, request: Request, kept: Callable[[bytes], bytes]) -> bytes:
    site = _SITE.match(location)
    if site is None or site[1].lower() == request.host:
        return location
    url, hash_, fragment = location.partition(b"#")
    path, _, query = url.partition(b"?")
    query = kept(query)
    return (path + b"?" + query if query else path) + hash_ + fragment
