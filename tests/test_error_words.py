"""Every failure has one word: in Proxy-Status, in metrics, in the log; the log has a phrase beside it, and
people get a page."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.helpers.edge import Running, running
from tests.helpers.scripted_origin import Peer, Script, ScriptedOrigin, silence
from tests.origin.support import eventually

CONFIG = """
edge: {{id: edge-1}}
server:
  listen: ["127.0.0.1:8080"]
  access_log: {{path: "{log}"}}
  error_page: "<h1>{{status}} {{title}}</h1><p>{{detail}}</p><i>{{request_id}}</i>"
admin: {{listen: null}}
origins: {{main: {{servers: ["{origin}"], timeouts: {{connect: 20s, first_byte: {patience}}}}}}}
routes: [{{name: all, cache: false, origin: main}}]
"""


@asynccontextmanager
async def failing(folder: Path, door: str, script: Script) -> AsyncGenerator[Running]:
    async with ScriptedOrigin(script) as origin:
        patience = "200ms" if script is silence else "20s"
        config = CONFIG.format(origin=origin.url, log=folder / "access.log", patience=patience)
        async with running(config.replace("{{", "{"), folder, door) as edge:
            yield edge


def counted(edge: Running) -> dict[str, float]:
    errors = edge.worker.parts._origin_meters["main"]._errors
    return {word: counter._values[counter.column] for word, counter in errors.items()}


async def logged(folder: Path) -> dict[str, object]:
    log = folder / "access.log"
    await eventually(lambda: log.exists() and log.read_text().endswith("\n"))
    line: dict[str, object] = json.loads(log.read_text().splitlines()[-1])
    return line


async def _reset(peer: Peer) -> None:
    await peer.head()
    peer.reset()


async def _nonsense(peer: Peer) -> None:
    await peer.head()
    await peer.send(b"SSH-2.0-OpenSSH\r\n")


async def _truncated(peer: Peer) -> None:
    await peer.head()
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello")


@pytest.mark.parametrize(
    ("script", "status", "word", "detail"),
    [
        (_reset, 502, "connection_terminated", "Connection reset by peer"),
        (_nonsense, 502, "http_protocol_error", "Expected HTTP/, RTSP/ or ICE/"),
        (silence, 504, "http_response_timeout", "no response in time"),
    ],
    ids=["reset", "nonsense", "silence"],
)
async def test_a_failure_has_one_word_everywhere(
    tmp_path: Path, door: str, script: Script, status: int, word: str, detail: str
) -> None:
    async with failing(tmp_path, door, script) as edge:
        answer = await edge.ask("/a", "Accept: text/html", method="POST")
        assert answer.status == status
        assert answer["proxy-status"] == f"edge-1; error={word}"
        assert answer["content-type"] == "text/html; charset=utf-8"
        assert answer.body.startswith(f"<h1>{status} ".encode())
        assert counted(edge) == {word: 1.0}
        json_answer = await edge.ask("/a", "Accept: application/json", method="POST")
        assert f"urn:edgeproxy:problem:{word}".encode() in json_answer.body
    line = await logged(tmp_path)
    assert line["error"] == word
    assert detail in str(line["error_detail"])


async def test_the_log_names_the_server_that_cannot_be_connected_to(tmp_path: Path, door: str) -> None:
    async with ScriptedOrigin(silence) as origin:
        server = origin.url
    config = CONFIG.format(origin=server, log=tmp_path / "access.log", patience="20s").replace("{{", "{")
    async with running(config, tmp_path, door) as edge:
        assert (await edge.ask("/a")).status == 502
    line = await logged(tmp_path)
    assert (line["error"], line["server"]) == ("connection_refused", server)
    assert line["error_detail"] == "the origin refuses connections"


async def test_an_answer_that_breaks_off_is_counted_under_its_word(tmp_path: Path, door: str) -> None:
    async with failing(tmp_path, door, _truncated) as edge:
        client = await edge.client()
        client.send(b"GET /a HTTP/1.1\r\nHost: example.com\r\n\r\n")
        assert await client.closed() != b""
        assert counted(edge) == {"http_response_incomplete": 1.0}
    line = await logged(tmp_path)
    assert (line["error"], line["error_detail"]) == (
        "http_response_incomplete",
        "the origin closed the connection",
    )
