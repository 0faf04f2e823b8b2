"""The head of an answer that goes to one client, before its door adds what belongs to the connection."""

from __future__ import annotations

from collections.abc import Sequence

from edgeproxy.http.message import Field
from edgeproxy.http.wire import STATUS_LINE, render_fields


class AnswerHead:
    """Status and fields, rendered when first asked for and then kept: where an origin repeats itself one head
    serves many answers.

    `fields` hold neither Content-Length nor Transfer-Encoding; a `length` of None is unknown.
    """

    __slots__ = ("_lines", "dated", "fields", "length", "status")

    def __init__(self, status: int, fields: Sequence[Field], length: int | None) -> None:
        self.status = status
        self.fields = fields
        self.length = 0 if status == 205 else length  # it has no content, whatever came (RFC 9110 §15.3.6)
        self.dated = False  # does it bring a Date? known once it is rendered
        self._lines = b""

    @property
    def lines(self) -> bytes:
        """Status line and field lines, Content-Length among them where the length is known."""
        if not self._lines:
            lines = STATUS_LINE[self.status] + render_fields(self.fields)
            self.dated = b"\r\ndate: " in lines.lower()
            if self.length is not None and self.status != 204:
                lines += b"Content-Length: %d\r\n" % self.length
            self._lines = lines
        return self._lines
