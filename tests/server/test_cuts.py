"""The same bytes mean the same requests however the network cuts them: nothing of a body, of a known head, or
of what follows an upgrade or a fault is ever read as something else (reliability A16, A17, A28)."""

from __future__ import annotations

import random
from collections.abc import Callable
from hashlib import sha256
from itertools import takewhile
from pathlib import Path

import pytest
from uvicorn.server import ServerState

from edgeproxy.app import EdgeApp
from edgeproxy.door import Piece
from edgeproxy.http.answer_head import AnswerHead
from edgeproxy.job import Job
from edgeproxy.server.protocol import EdgeProtocol
from edgeproxy.server.worker import server_settings
from tests.helpers.edge import Running, running

CONFIG = """
edge: {id: edge-1, pop: ams}
server:
  listen: ["127.0.0.1:8080"]
  access_log: {path: "off"}
  limits: {body_size: 20KiB, head_size: 8KiB, head_fields: 20, url_size: 500B}
admin: {listen: null}
origins: {main: {servers: ["http://127.0.0.1:1"]}}
routes:
  - {name: small, match: {path: "/small/**"}, origin: main, cache: false, body_size: 100B}
  - {name: all, origin: main, cache: false}
"""
STREAMS = 40  # of each seed


Answer = tuple[bytes, bytes]  # status, and body of what went through


class Wire:
    """A transport that takes everything at once, and remembers it."""

    def __init__(self) -> None:
        self.written = b""
        self.closing = False

    def write(self, data: bytes) -> None:
        if not self.closing:
            self.written += data

    def writelines(self, parts: list[bytes]) -> None:
        self.write(b"".join(parts))

    def close(self) -> None:
        self.closing = True

    def is_closing(self) -> bool:
        return self.closing

    def get_extra_info(self, name: str, default: object = None) -> object:
        return ("192.0.2.1", 1) if name == "peername" else default

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...

    abort = close


def answer(job: Job) -> None:
    """In the place of an origin: says what it was asked for, and what the body was."""
    door = job.door
    assert door is not None
    body: list[Piece] = []

    def end() -> None:
        request = job.visit.request
        what = b" ".join([request.method, request.path, sha256(b"".join(body)).hexdigest().encode()])
        door.start(AnswerHead(200, [], len(what)))
        door.write(what)
        door.end()

    if door.body is None:
        end()
    else:
        door.body.attach(body.append, end)


def message(chance: random.Random) -> tuple[bytes, Answer | None]:
    """A request whose body looks like requests, and its answer; sometimes a wrong one, or one behind which
    the connection may close: None."""
    method = chance.choice(["GET", "GET", "HEAD", "POST", "POST", "POST", "PUT"])
    target, path = chance.choice(
        [("/a", "/a"), ("/b?x=1", "/b"), ("/small/a", "/small/a"), ("http://b/a", "/a")]
    )
    fields = ["Host: example.com", *chance.choices(["A: 1", "Cookie: a=b"], k=chance.randrange(2))]
    content = body = b""
    size = 0
    if method in ("POST", "PUT"):
        size = chance.choice([0, 1, 5, 5, 99, 101, 3000, 5000, 19_000, 21_000])
        parts = [b"GET /evil HTTP/1.1\r\nHost: example.com\r\n\r\n", b"\r\n\r\n", b"0\r\n\r\n", b"abc"]
        content = body = b"".join(chance.choices(parts, k=size // 3 + 1))[:size]
        if chance.random() < 0.6:
            fields.append(f"Content-Length: {size}")
        else:
            fields.append("Transfer-Encoding: chunked")
            body = chunked(body, chance)
    what = b" ".join([method.encode(), path.encode(), sha256(content).hexdigest().encode()])
    told: Answer | None = b"200", b"" if method == "HEAD" else what
    if size > (100 if path == "/small/a" else 20 * 1024):
        told = None
    if chance.random() < 0.15:
        odd = ["Connection: close", "Content-Length: 5", "Transfer-Encoding: chunked", "Host: b", " folded"]
        odd += [
            "Expect: 100-continue",
            "Connection: upgrade\r\nUpgrade: h2c",
            "Bad Name: x",
            "X: " + "y" * 9000,
        ]
        fields.append(chance.choice(odd))
        told = None
    version = "1.0" if chance.random() < 0.05 else "1.1"
    sent = "\r\n".join([f"{method} {target} HTTP/{version}", *fields, "", ""]).encode() + body
    if chance.random() < 0.05:
        at = chance.randrange(len(sent))
        sent = (
            sent[:at]
            + chance.choice([b"", b"\r", b"\n", b"\0", b" ", b"x"])
            + sent[at + chance.randrange(2) :]
        )
        told = None
    return sent, told if version == "1.1" else None


def chunked(body: bytes, chance: random.Random) -> bytes:
    sent = b""
    while body:
        size = chance.choice([1, 7, 900])
        extension = b";a=b" if size == 900 else b""  # there may be so many bytes of them
        sent += b"%x%b\r\n%b\r\n" % (len(body[:size]), extension, body[:size])
        body = body[size:]
    return sent + b"0\r\n" + chance.choice([b"", b"", b"X-T: 1\r\n"]) + b"\r\n"


def pieces(stream: bytes, sizes: Callable[[], int]) -> list[bytes]:
    """A stream, cut."""
    cut: list[bytes] = []
    while stream:
        size = sizes()
        cut.append(stream[:size])
        stream = stream[size:]
    return cut


async def play(edge: Running, reads: list[bytes]) -> list[Answer]:
    """What a connection answers to these reads."""
    settings = server_settings(EdgeApp(worker=edge.worker), http=EdgeProtocol, date_header=False)
    settings.load()
    protocol, wire = EdgeProtocol(settings, ServerState(), {}), Wire()
    protocol.connection_made(wire)
    for read in reads:
        if not wire.closing:
            protocol.data_received(read)
        await edge.turn()
    for _ in range(50):
        await edge.turn()
    protocol.connection_lost(None)
    answers: list[Answer] = []
    for each in wire.written.split(b"HTTP/1.1 ")[1:]:
        head, _, body = each.partition(b"\r\n\r\n")
        status = head[:3]
        answers.append((status, body if status == b"200" else b""))
    return answers


@pytest.mark.parametrize("seed", range(8))
async def test_the_same_bytes_get_the_same_answers_however_they_are_cut(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    async with running(CONFIG, tmp_path, "native") as edge:
        monkeypatch.setattr(edge.worker.hall.fetcher, "start", answer)
        for _ in range(STREAMS):
            group = [message(chance) for _ in range(chance.randrange(1, 4))]
            messages = [sent for sent, _ in group]
            together = b"".join(messages)
            stream = together * 3
            one_by_one = pieces(stream, lambda: 1 if len(stream) < 2000 else 700)  # noqa: B023
            cuts = [
                messages * 3,  # what is known of a head is used the next time
                [together] * 3,
                [*messages, together * 2],
                [read for each in messages for read in each.partition(b"\r\n\r\n") if read] * 3,
                pieces(stream, lambda: chance.choice([2047, 2048, 2049, 4096, 4097, 60])),
                pieces(stream, lambda: chance.choice([1, 3, 20, 100, 1000, 100_000])),
                one_by_one,
            ]
            whole = await play(edge, [stream])
            assert [await play(edge, reads) for reads in cuts] == [whole] * len(cuts), stream
            right = list(takewhile(lambda told: told is not None, [told for _, told in group * 3]))
            assert whole[: len(right)] == right, stream
