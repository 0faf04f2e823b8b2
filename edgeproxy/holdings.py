"""What each tier of this machine holds for one cache key: the control process asks, for `explain`.

Workers answer over the sockets that they have for one another: one question, one answer, both JSON, and
nothing in them changes by it. Whoever does not answer in time is named, and nobody waits longer.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgeproxy.cache.account import refusal
from edgeproxy.cache.codec import decode, encode
from edgeproxy.cache.entry import Entry
from edgeproxy.clock import steady
from edgeproxy.http.message import Headers
from edgeproxy.record import record

if TYPE_CHECKING:
    from edgeproxy.hallway import Hallway

PATIENCE = 0.5  # seconds that all workers together have
MOST = 256 * 1024  # bytes of a question, and of an answer


@record
class Holding:
    """What one tier holds for a request; without an entry `why` says what is known about that."""

    where: str  # `worker 0`, `machine tier`
    entry: Entry | None = None
    why: str = ""
    known: bool = True  # it answered


def answered(hall: Hallway, question: bytes) -> bytes:
    """A worker's answer. It is as if nobody had asked: no use is counted, nothing is taken from below."""
    asked = json.loads(question)
    key = base64.b64decode(asked["key"])
    fields = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in asked["fields"]]
    entry, varied = hall.edge.store.peek(key, Headers(fields))
    held = None if entry is None else base64.b64encode(encode(entry, 0.0, bare=True)).decode()
    return json.dumps({"entry": held, "why": _why_not(hall, key, varied=varied)}).encode()


def _why_not(hall: Hallway, key: bytes, *, varied: bool) -> str:
    """Why a worker has nothing for a key, as far as it remembers."""
    fetcher, now = hall.fetcher, steady()
    flight = fetcher.flights.find(key)
    said: list[str] = []
    if varied:
        said.append("only for other requests (Vary)")
    if flight is not None:
        said.append(f"being fetched for {now - flight.began:.1f} s")
    elif fetcher.flights.must_pass(key, now):
        said.append(f"the last answer was {refusal(fetcher.flights.why_pass(key))}")
    if uses := fetcher.uses.of(key):
        said.append(f"uses so far: {uses} (min_uses)")
    return ", ".join(said)


async def ask(paths: Sequence[str], key: bytes, headers: Headers) -> list[Holding]:
    """What the workers hold, by their sockets' paths. It takes `PATIENCE` at most, and never raises."""
    fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
    question = json.dumps({"key": base64.b64encode(key).decode(), "fields": fields}).encode()
    return list(await asyncio.gather(*[_ask(slot, path, question) for slot, path in enumerate(paths)]))


async def _ask(slot: int, path: str, question: bytes) -> Holding:
    where = f"worker {slot}"
    try:
        async with asyncio.timeout(PATIENCE):
            answer: dict[str, Any] = json.loads(await _posted(path, question))
        held = answer["entry"]
        entry = None if held is None else decode(base64.b64decode(held), 0.0)
        return Holding(where, entry, str(answer["why"]))
    except TimeoutError:
        return Holding(where, why=f"no answer within {PATIENCE:g} s", known=False)
    except (OSError, EOFError, ValueError, LookupError, TypeError):
        return Holding(where, why="no answer", known=False)


async def _posted(path: str, question: bytes) -> bytes:
    """The body of the answer to a question (HTTP/1.1 between our own processes, always with a length)."""
    reader, writer = await asyncio.open_unix_connection(path, limit=MOST)
    try:
        writer.write(
            b"POST / HTTP/1.1\r\nHost: worker\r\nContent-Length: %d\r\n\r\n" % len(question) + question
        )
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        return await reader.readexactly(min(int(length.partition(b":")[2]), MOST))
    finally:
        writer.transport.abort()
