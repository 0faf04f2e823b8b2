"""Requests mean the same however their bytes are cut into reads: the network cuts them as it likes."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from hypothesis import example, given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from edgeproxy.app import EdgeApp
from edgeproxy.door import RequestBody
from edgeproxy.errors import RequestError
from edgeproxy.http.framing import Framing
from edgeproxy.http.message import Request
from edgeproxy.pipeline import Visit
from edgeproxy.server.reading import RequestReader
from edgeproxy.server.worker import Worker
from tests.helpers.builds import STANDS_IN

CONFIG = """
server: {listen: ["127.0.0.1:0"], workers: 1, access_log: {path: "off"}}
admin: {listen: null}
origins: {o: {servers: ["http://192.0.2.1"]}}
routes: [{name: all, origin: o}]
"""
HOST = b"Host: a\r\n"
MESSAGES = [
    b"GET /x HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /y?z=1 HTTP/1.1\r\n" + HOST + b"\r\n",
    b"HEAD /x HTTP/1.1\r\n" + HOST + b"Cookie: a=1\r\ncookie: b=2\r\n\r\n",
    b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello",
    b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\n\r\n\r\nG",
    b"\r\n\r\nPUT /x HTTP/1.1\r\n"
    + HOST
    + b"Content-Length: 6000\r\n\r\n"
    + b"GET / HTTP/1.1\r\n\r\n" * 300
    + b"end",
    b"PUT /x HTTP/1.1\r\n" + HOST + b"Content-Length: 9\r\nConnection: close\r\n\r\nGET / HTT",
    b"POST /x HTTP/1.1\r\n"
    + HOST
    + b"Transfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n4\r\n\r\n\r\n\r\n0\r\n\r\n",
    b"PUT /x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-T: y\r\n\r\n",
    b"GET /x HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    b"GET /x HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n",
    b"GET /x HTTP/1.0\r\n\r\n",
    b"GET /x HTTP/1.1\r\n" + HOST + b"X: " + b"x" * 5000 + b"\r\n\r\n",
    b"\r\n",
    b"GET /x HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
    b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET /\x00 HTTP/1.1\r\n" + HOST + b"\r\n",
    b"nonsense",
]
STREAMS = st.lists(st.sampled_from(MESSAGES), min_size=1, max_size=8).map(b"".join)


class Transport(asyncio.Transport):
    """Takes nothing and knows nobody."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def close(self) -> None: ...


class Recorder(RequestReader):
    """Writes down what it reads."""

    def __init__(self, config: Any) -> None:
        super().__init__(config, ServerState(), {}, asyncio.new_event_loop())
        self.loop.close()
        self.heard: list[object] = []
        self.connection_made(Transport())

    def _arrived(self, request: Request, framing: Framing, *, keep_alive: bool, http10: bool) -> None:
        visit = Visit(self.hall.edge, request)
        if request.has_body:
            self.receiving = RequestBody(framing.length, lambda: None, lambda: None)
            self.body_left = 10_000 if framing.length is None else framing.length
            self.overhead = 0
            self.heard.append(self.receiving)
        if keep_alive and not http10 and not framing.expects_continue and framing.length is not None:
            self.visit = visit
        self._answer(visit, keep_alive, http10)

    def _answer(self, visit: Visit, keep_alive: bool, http10: bool) -> None:
        it = visit.received
        self.heard.append((it.method, it.host, it.path, it.query, tuple(it.headers.raw), keep_alive, http10))
        if not keep_alive:
            self.closing = True

    def _receive(self, visit: Visit, length: int, data: bytes, begin: int) -> None:
        self.at_rest = False
        self.receiving = RequestBody(length, lambda: None, lambda: None)
        self.body_left, self.counting, self.unread = length, True, data[begin:]
        self.heard.append(self.receiving)
        self._answer(visit, True, False)
        self._take_unread()

    def _body_complete(self) -> None: ...

    def _switching(self, rest: bytes) -> bool:
        return False

    def _busy(self) -> bool:
        return False

    def _reject(self, error: RequestError) -> None:
        if not self.closing:
            self.heard.append((error.status, error.reason))
            self.closing = True
            self.at_rest = False

    def _close_after_answer(self) -> None:
        self.closing = True

    @property
    def outcome(self) -> list[object]:
        return [
            (b"".join(one.buffered), one.complete) if isinstance(one, RequestBody) else one
            for one in self.heard
        ]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> uvicorn.Config:
    path: Path = tmp_path_factory.mktemp("edge") / "edge.yaml"
    path.write_text(CONFIG)
    made = uvicorn.Config(
        EdgeApp(worker=Worker.alone(path)), ws="none", lifespan="off", log_config=None, proxy_headers=False
    )
    made.load()
    return made


@STANDS_IN
@given(STREAMS, st.lists(st.integers(0, 20_000), max_size=12))
@example(MESSAGES[0] * 3, [len(MESSAGES[0]), 2 * len(MESSAGES[0])])
@example(MESSAGES[0] * 4, [2 * len(MESSAGES[0])])
@example(MESSAGES[3] * 3, [len(MESSAGES[3]), 2 * len(MESSAGES[3]) - 2])
@example(MESSAGES[5] * 3, [len(MESSAGES[5]), len(MESSAGES[5]) + 60])
@example(MESSAGES[12] * 3, [])
@settings(max_examples=400, deadline=None)
def test_requests_are_the_same_whatever_the_reads(
    config: uvicorn.Config, stream: bytes, places: list[int]
) -> None:
    whole, cut = Recorder(config), Recorder(config)
    whole.data_received(stream)
    cuts = sorted({0, len(stream), *[place % (len(stream) + 1) for place in places]})
    for begin, end in pairwise(cuts):
        cut.data_received(stream[begin:end])
    assert cut.outcome == whole.outcome


@STANDS_IN
@given(st.lists(st.one_of(st.sampled_from(MESSAGES), st.binary(max_size=40)), max_size=8), st.data())
@settings(max_examples=400, deadline=None)
def test_whatever_comes_the_reader_stays_sane(
    config: uvicorn.Config, parts: list[bytes], data: st.DataObject
) -> None:
    stream = bytearray(b"".join(parts))
    for _ in range(data.draw(st.integers(0, 3)) if stream else 0):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    reader = Recorder(config)
    reader.data_received(bytes(stream))
    assert reader.closing or not reader.unread
    assert all(one[0] != 500 for one in reader.outcome if isinstance(one, tuple))
