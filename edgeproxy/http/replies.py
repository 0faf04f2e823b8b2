"""The edge's own answers: problem+json (RFC 9457), or HTML for browsers. Never stored, never reflecting."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from functools import lru_cache
from http import HTTPStatus

from edgeproxy.context import Context
from edgeproxy.http.message import Field, Request, Response
from edgeproxy.http.pages import Page, filled, prefers_html
from edgeproxy.http.wire import response

_ID = "\0"  # where the request's id goes; the edge makes it, of letters, digits and -._
NO_STORE: Field = (b"Cache-Control", b"no-store")


def problem(
    request: Request,
    ctx: Context,
    status: int,
    kind: str,
    detail: str,
    fields: Iterable[Field] = (),
) -> Response:
    """A refusal with `status`. `kind` is one of the policy's `reasons`: it also becomes the reason in metrics
    and log. `detail` is a sentence of ours.

    HTML when the client prefers it, else application/problem+json.
    """
    ctx.reason = kind
    as_html = prefers_html(request.headers.get(b"accept"))
    return render_problem(status, kind, detail, ctx.request_id, fields, as_html=as_html)


def render_problem(
    status: int,
    kind: str,
    detail: str,
    request_id: str,
    fields: Iterable[Field] = (),
    *,
    as_html: bool = False,
) -> Response:
    """The refusal itself; the door uses it where no request could be parsed."""
    content_type, before, after = _mould(status, kind, detail, Page.text if as_html else None)
    body = b"%b%b%b" % (before, request_id.encode(), after)
    return response(status, [content_type, NO_STORE, *fields], body)


@lru_cache(maxsize=512)
def _mould(status: int, kind: str, detail: str, page: str | None) -> tuple[Field, bytes, bytes]:
    """Content type and body around the request's id. Who floods us with what is refused must not make
    us write the same text again and again: that was most of what a refusal took."""
    title = HTTPStatus(status).phrase
    if page is not None:
        content_type = b"text/html; charset=utf-8"
        text = filled(page, status, title, html.escape(detail), _ID)
    else:
        content_type = b"application/problem+json"
        document = {
            "type": f"urn:edgeproxy:problem:{kind}",
            "title": title,
            "status": status,
            "detail": detail,
            "instance": f"urn:request:{_ID}",
        }
        text = json.dumps(document, ensure_ascii=False).replace("\\u0000", _ID) + "\n"
    before, _, after = text.rpartition(_ID)
    return (b"Content-Type", content_type), before.encode(), after.encode()


def redirect(status: int, location: bytes, fields: Iterable[Field] = ()) -> Response:
    """A redirect to `location`, which comes from configuration and holds no control characters."""
    return response(status, [(b"Location", location), NO_STORE, *fields])
