"""The access log: one JSON object per request and line, whatever the client sent.

Rule 1: a request only appends to a bounded list. The loop renders a few hundred lines at a time (a thread
would fight it for the GIL), and a thread writes them, because a sink may block.
Rule 2: a line is at most 8 KiB of printable ASCII (reliability A124). Header values are not in it, but
for the capped user agent; token-like parts of query, path and agent are `***` (A107).
Rule 3: nothing here raises into the edge. What cannot be logged is dropped and counted (A158), and the
process says so once.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections import deque
from collections.abc import Iterable
from functools import lru_cache
from json.encoder import encode_basestring_ascii  # the C function under json.dumps
from pathlib import Path
from urllib.parse import unquote_to_bytes
from zlib import crc32

from edgeproxy.observe.cells import Slot
from edgeproxy.observe.outcome import Outcome

logger = logging.getLogger("edgeproxy.access_log")

PENDING_CAP = 10_000  # lines
RENDER_LINES = 500  # at a time: about 2 ms of the loop
LINE_CAP = 8 * 1024  # bytes, newline included
_FIELD_CAPS = (2048, 256, 64, 16)  # bytes of one value; the first that makes the line fit is used
HIDDEN = b"***"

# Parameters whose values are secrets, in lower case with `_` for `-`.
SENSITIVE = frozenset(
    b"token access_token id_token refresh_token auth_token auth authorization jwt bearer code state "
    b"assertion client_secret secret password passwd pwd api_key apikey key sig signature session sid "
    b"sessionid x_amz_signature x_amz_credential x_amz_security_token x_goog_signature".split()
)
_JWT = re.compile(rb"eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?")


class AccessLog:
    """The log of one worker. `path` "-" is standard output; a file is opened for appending.

    `sample` (0..1) is the share of requests to keep, by a hash of the request id, so that all edges
    keep the same ones; answers of 500 and above are always kept. `sensitive` names further query
    parameters. Raises OSError when the file cannot be opened.
    """

    def __init__(
        self, slot: Slot, path: str = "-", sample: float = 1.0, sensitive: Iterable[str] = ()
    ) -> None:
        self._path = None if path == "-" else Path(path)
        self._descriptor = 1 if self._path is None else _open(self._path)
        self._kept = int(sample * 0x1_0000_0000)  # of 2**32 hash values
        self._sensitive = SENSITIVE | {_plain_name(name.encode()) for name in sensitive}
        self._pending: deque[Outcome] = deque()
        self._cut = b""  # the rest of a line that the sink took only in part
        self._refused = ""  # why the last write was: said once, and again after one that was taken
        self._name = path if self._path else "on standard output"
        self._second = (-1, "")
        # Two counters, for the loop and for the thread that writes: each cell has one writer.
        self._full = slot.counter("edgeproxy_access_log_dropped_total", reason="full")
        self._lost = slot.counter("edgeproxy_access_log_dropped_total", reason="sink")

    def append(self, outcome: Outcome) -> None:
        """Remember a request for the log. All that happens on the request's path."""
        if outcome.status < 500 and crc32(outcome.request_id.encode()) >= self._kept:
            return
        if len(self._pending) >= PENDING_CAP:
            self._full.inc()
            return
        self._pending.append(outcome)

    def append_rejected(self, peer: str, status: int, reason: str, wall: float) -> None:
        """Remember what never became a request: the door answered `status` or closed."""
        nothing = b""
        self.append(
            Outcome(
                wall, peer, nothing, nothing, nothing, nothing, status, b"refused", "-", "", 0.0, 0,
                policy="door", reason=reason,
            )
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self._pending)

    def render(self, limit: int = RENDER_LINES) -> bytes:
        """The oldest `limit` lines, taken off the list: about 4 µs each. For the loop."""
        lines: list[str] = []
        pending = self._pending
        while pending and len(lines) < limit:
            lines.append(self._line(pending.popleft()))
        return "".join(lines).encode("ascii")

    def write(self, lines: bytes) -> None:
        """Hand rendered lines to the sink. May block: call it in a thread, one call at a time."""
        left = self._cut + lines
        mid_line = bool(self._cut)
        refused = ""
        try:
            while left and (taken := os.write(self._descriptor, left)):
                mid_line = left[taken - 1] != 0x0A
                left = left[taken:]
        except OSError as error:  # a full disk, a full or closed pipe: counted below
            refused = error.strerror or "error"
            if not self._refused:
                logger.warning("the access log %s takes no lines: %s; they are lost", self._name, refused)
        self._refused = refused
        # A line cut in two must be completed before anything else is written.
        end = left.index(b"\n") + 1 if left and mid_line else 0
        self._cut = left[:end]
        if lost := left.count(b"\n", end):
            self._lost.inc(lost)

    def flush(self) -> None:
        """Render and write what is there now. May block, like `write`."""
        for _ in range(0, len(self._pending), RENDER_LINES):
            self.write(self.render())

    def reopen(self) -> None:
        """After rotation: go on in a new file of the same name. On OSError the old one stays."""
        if self._path is None:
            return
        fresh = _open(self._path)
        os.dup2(fresh, self._descriptor, inheritable=False)  # in one step: a write may be under way
        os.close(fresh)
        self._cut = b""

    def close(self) -> None:
        """Write what is left and let go of the file."""
        self.flush()
        if self._path is not None:
            os.close(self._descriptor)
            self._descriptor = -1

    def _line(self, outcome: Outcome) -> str:
        line = ""
        for cap in _FIELD_CAPS:
            line = self._render(outcome, cap)
            if len(line) <= LINE_CAP:
                break
        return line

    def _render(self, o: Outcome, cap: int) -> str:
        """One line. Values of our own making (numbers, times, results) need no escaping."""
        query = self._redact(o.query[:cap]) if o.query else b""
        parts = [
            f'{{"time":"{self._timestamp(o.time)}","client":{_text(o.client, cap)}'
            f',"method":{_bytes(o.method, cap)},"host":{_bytes(o.host, cap)}'
            f',"path":{_bytes(_without_jwt(o.path[:cap]), cap)}'
        ]
        if query:
            parts.append(f',"query":{_bytes(query, cap)}')
        parts.append(
            f',"status":{o.status},"result":{_bytes(o.result, cap)},"route":{_text(o.route, cap)}'
            f',"duration":{o.seconds:.6f},"sent":{o.sent},"request_id":{_quote(o.request_id, cap)}'
        )
        if o.agent:
            parts.append(f',"user_agent":{_bytes(_without_jwt(o.agent[:cap]), min(cap, 512))}')
        if o.country:
            parts.append(f',"country":{_text(o.country, cap)}')
        if o.variants:
            parts.append(f',"variants":{_text(o.variants, cap)}')
        if o.policy:
            parts.append(f',"policy":{_text(o.policy, cap)},"reason":{_text(o.reason, cap)}')
        if o.shadow:
            parts.append(f',"shadow":{_text(o.shadow, cap)}')
        if o.origin:
            parts.append(
                f',"origin":{_text(o.origin, cap)},"server":{_text(o.server, cap)}'
                f',"origin_duration":{o.origin_seconds:.6f},"retries":{o.retries}'
            )
        if o.received:
            parts.append(f',"received":{o.received}')
        if o.error:
            parts.append(f',"error":{_text(o.error, cap)}')
            if o.error_detail:
                parts.append(f',"error_detail":{_text(o.error_detail, cap)}')
        parts.append("}\n")
        return "".join(parts)

    def _timestamp(self, seconds: float) -> str:
        """RFC 3339 in UTC with milliseconds; the whole second is rendered once."""
        whole = int(seconds)
        if whole != self._second[0]:
            self._second = (whole, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)))
        return f"{self._second[1]}.{int((seconds - whole) * 1000):03d}Z"

    def _redact(self, query: bytes) -> bytes:
        """The query with the values of sensitive parameters hidden."""
        parameters = re.split(rb"([&;])", query)
        for place in range(0, len(parameters), 2):
            name, equals, _ = parameters[place].partition(b"=")
            if equals and _plain_name(unquote_to_bytes(name)) in self._sensitive:
                parameters[place] = name + b"=" + HIDDEN
        return _without_jwt(b"".join(parameters))


def _plain_name(name: bytes) -> bytes:
    return name.strip(b" +").lower().replace(b"-", b"_")


def _without_jwt(value: bytes) -> bytes:
    return _JWT.sub(HIDDEN, value) if b"eyJ" in value else value


def _quote(value: str, cap: int) -> str:
    """A JSON string in printable ASCII."""
    quoted = encode_basestring_ascii(value[:cap])
    return quoted.replace("\x7f", "\\u007f") if "\x7f" in quoted else quoted


_text = lru_cache(512)(_quote)  # clients, routes and countries repeat


@lru_cache(512)
def _bytes(value: bytes, cap: int) -> str:
    """A JSON string of bytes that are meant to be UTF-8; those that are not show as `\\xff`."""
    return _quote(value[:cap].decode("utf-8", "backslashreplace"), cap)


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
