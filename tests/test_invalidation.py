"""RFC 9111 §4.4 and RFC 9875 through a running edge: what unsafe requests make doubtful (both doors)."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeproxy.purge_log import PurgeKind
from tests.helpers.edge import Running, running
from tests.helpers.scripted_origin import Peer, ScriptedOrigin

CONFIG = """
edge: {{id: edge-1, pop: ams}}
server: {{listen: ["127.0.0.1:8080"], workers: 1, access_log: {{path: "off"}}}}
admin: {{listen: null}}
origins: {{main: {{servers: ["{origin}"]}}}}
routes:
  - {{name: forms, match: {{path: "/form/**", methods: [POST]}}, cache: false, origin: main}}
  - {{name: all, origin: main}}
"""


def script_of(posted: str, status: str):  # type: ignore[no-untyped-def]
    async def script(peer: Peer) -> None:
        while True:
            head, _ = await peer.request()
            if head.startswith(b"GET"):
                groups = b'Cache-Groups: "one", "two"\r\n' if b"/grouped" in head else b""
                await peer.send(
                    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nCache-Control: max-age=60\r\n"
                    + groups
                    + b"\r\nok"
                )
            else:
                await peer.send(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n{posted}\r\n".encode())

    return script


async def is_stored(edge: Running, path: str) -> bool:
    return "hit" in (await edge.ask(path))["cache-status"]


@pytest.mark.parametrize(
    ("method", "path", "answer", "status", "forgotten"),
    [
        pytest.param("POST", "/a", "", "200 OK", {"/a"}, id="§4.4 the target"),
        pytest.param("DELETE", "/a", "", "204 No Content", {"/a"}, id="§4.4 DELETE"),
        pytest.param("PROPPATCH", "/a", "", "200 OK", {"/a"}, id="§4.4 a method of unknown safety"),
        pytest.param("POST", "/a", "", "500 Oops", set[str](), id="§4.4 not on errors"),
        pytest.param("OPTIONS", "/a", "", "200 OK", set[str](), id="§4.4 safe methods invalidate nothing"),
        pytest.param("POST", "/x", "Location: /a\r\n", "201 Created", {"/a"}, id="§4.4 Location"),
        pytest.param(
            "POST", "/x", "Content-Location: http://example.com/grouped\r\n", "200 OK", {"/grouped"},
            id="§4.4 Content-Location",
        ),
        pytest.param(
            "POST", "/x", "Location: http://other.example/a\r\n", "201 Created", set[str](),
            id="§4.4 another origin is not touched",
        ),
        pytest.param("POST", "/form/a", "Location: /a\r\n", "303 See Other", {"/a"}, id="without a cache"),
        pytest.param(
            "POST", "/x", 'Cache-Group-Invalidation: "two"\r\n', "200 OK", {"/grouped"}, id="RFC 9875 §3"
        ),
        pytest.param(
            "POST", "/x", 'Cache-Group-Invalidation: "two"\r\n', "404 Not Found", set[str](),
            id="RFC 9875 §3 not on errors",
        ),
        pytest.param(
            "POST", "/x", 'Cache-Group-Invalidation: "three"\r\n', "200 OK", set[str](), id="RFC 9875 another"
        ),
    ],
)  # fmt: skip
async def test_what_a_request_makes_the_cache_forget(
    tmp_path: Path, door: str, method: str, path: str, answer: str, status: str, forgotten: set[str]
) -> None:
    async with (
        ScriptedOrigin(script_of(answer, status)) as origin,
        running(CONFIG.format(origin=origin.url), tmp_path, door) as edge,
    ):
        for one in ("/a", "/b", "/grouped"):
            await edge.ask(one)
        await edge.ask(path, method=method)
        assert {one for one in ("/a", "/b", "/grouped") if not await is_stored(edge, one)} == forgotten


async def test_other_workers_are_told(tmp_path: Path, door: str) -> None:
    async with (
        ScriptedOrigin(script_of('Cache-Group-Invalidation: "one", "nobody\'s"\r\n', "200 OK")) as origin,
        running(CONFIG.format(origin=origin.url), tmp_path, door) as edge,
    ):
        await edge.ask("/grouped")
        log = edge.worker.shared.purge_log
        before = log.position
        await edge.ask("/x", method="POST")
        purges, lost = log.since(before)
        assert not lost
        assert [(purge.kind, purge.value) for purge in purges] == [
            (PurgeKind.TAG, b"group http example.com one")
        ]
