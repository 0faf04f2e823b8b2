"""Origins repeat themselves. An answer whose head came before is relayed as if it had come first."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random

import pytest

from edgeproxy.origin.heads import Heads
from tests.helpers.edge import Answer, running
from tests.helpers.scripted_origin import Peer, ScriptedOrigin

CONFIG = """
edge: {{id: e, pop: p}}
server: {{listen: ["127.0.0.1:0"], access_log: {{path: "off"}}}}
cache: {{memory: 16MiB}}
origins: {{o: {{servers: ["{origin}"]}}}}
routes:
  - {{name: told, match: {{path: /told/**}}, origin: o, cache: {{x_cache: true}}}}
  - name: edited
    match: {{path: /edited/**}}
    origin: o
    cache: {{}}
    policies: [{{headers: {{to_client: {{set: {{X-Route: edited}}}}}}}}]
  - name: stored
    match: {{path: /stored/**, methods: [GET]}}
    origin: o
    cache: {{freshness: {{any: {{ignore: true, set: 60s}}}}}}
  - {{name: cached, match: {{path: /a/**}}, origin: o, cache: {{}}}}
  - {{name: bare, origin: o}}
"""
VARIED = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nVary: X-Lang\r\nContent-Length: 2\r\n\r\nde"
ANSWER = (
    b"HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 06:21:09 GMT\r\nCache-Control: no-store\r\n"
    b"Content-Length: 2\r\nSurrogate-Control: x\r\n\r\nok"
)
REQUESTS = [
    ("GET", "/a", ()),
    ("GET", "/a/b", ()),
    ("GET", "/a", ("Authorization: Bearer x",)),
    ("GET", "/a", ("Cache-Control: no-store",)),
    ("GET", "/a", ("X-Lang: de",)),
    ("GET", "/bare", ()),
    ("POST", "/stored/a", ()),
    ("GET", "/told/a", ()),
    ("GET", "/edited/a", ()),
    ("GET", "/stored/a", ()),
]


async def origin_of_two(peer: Peer) -> None:
    """Nearly always the same answer."""
    while True:
        head, _ = await peer.request()
        await peer.send(VARIED if b"X-Lang" in head else ANSWER)


async def asked(folder: Path, door: str, requests: list[tuple[str, str, tuple[str, ...]]]) -> list[Answer]:
    """Each request twice, on an edge of its own."""
    async with (
        ScriptedOrigin(origin_of_two) as origin,
        running(CONFIG.format(origin=origin.url), folder, door) as edge,
    ):
        return [
            await edge.ask(path, *fields, method=method) for method, path, fields in requests for _ in "ab"
        ]


def said(answer: Answer) -> tuple[object, ...]:
    """What does not depend on the second in which it was said."""
    fields = [(name, re.sub("ttl=-?[0-9]+", "ttl", value)) for name, value in answer.fields]
    return (answer.status, [field for field in fields if field[0] not in ("date", "age")], answer.body)


@pytest.mark.parametrize("door", ["native", "asgi"])
async def test_a_repeated_head_changes_no_answer(
    tmp_path: Path, door: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = Random(1)
    # each once the first that is learned from, the others behind it in any order, and all of it again
    orders = [2 * [first, *chance.sample(REQUESTS, len(REQUESTS))] for first in REQUESTS]
    known = [await asked(tmp_path, door, order) for order in orders]
    monkeypatch.setattr(Heads, "learn", lambda *_: None)
    for order, answers in zip(orders, known, strict=True):
        expected = await asked(tmp_path, door, order)
        assert [said(answer) for answer in answers] == [said(answer) for answer in expected]
