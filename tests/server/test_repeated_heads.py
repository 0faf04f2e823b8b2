"""A head that a connection repeats is not parsed again, and means exactly what it meant when it was."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeproxy.server.reading import RequestReader
from edgeproxy.server.repeated import LONGEST_REPEATED, learn
from edgeproxy.visits import HEADS, VISITS, KnownHeads, Visits
from tests.helpers.builds import STANDS_IN
from tests.helpers.edge import Running, running
from tests.helpers.scripted_origin import Peer, ScriptedOrigin

CONFIG = """
edge: {{id: e, pop: p}}
server: {{listen: ["127.0.0.1:0"], access_log: {{path: "off"}}, limits: {{keep_alive_requests: {most}}}}}
origins: {{o: {{servers: ["{origin}"]}}}}
routes:
  - {{name: a, match: {{host: a.example}}, origin: o}}
  - {{name: b, match: {{host: b.example}}, origin: o}}
"""


async def echo(peer: Peer) -> None:
    """Answers with the request line and the Cookie it got; only /stored may be kept."""
    while True:
        head, _ = await peer.request()
        line = head.split(b"\r\n")[0]
        cookie = next((one for one in head.split(b"\r\n") if one.startswith(b"Cookie")), b"")
        control = b"max-age=60" if b"/stored" in line else b"no-store"
        body = line + b"|" + cookie
        await peer.send(
            b"HTTP/1.1 200 OK\r\nCache-Control: %b\r\nContent-Length: %d\r\n\r\n%b"
            % (control, len(body), b"" if line.startswith(b"HEAD") else body)
        )


@pytest.fixture
async def origin() -> AsyncIterator[ScriptedOrigin]:
    async with ScriptedOrigin(echo) as origin:
        yield origin


@pytest.fixture
async def edge(origin: ScriptedOrigin, tmp_path: Path) -> AsyncIterator[Running]:
    async with running(CONFIG.format(origin=origin.url, most=12), tmp_path, "native") as edge:
        yield edge


def get(path: str = "/x", *fields: str, method: str = "GET", host: str = "a.example") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {host}", *fields, "", ""]).encode()


async def test_each_request_line_above_the_same_fields_gets_its_own_answer(edge: Running) -> None:
    client = await edge.client()
    for path in ("/x", "/x", "/y", "/stored", "/stored", "/x?q=1", "/./x", "/x"):
        client.send(get(path, "Cookie: a=1"))
        answer = await client.answer()
        assert answer.body.split(b"|")[0].split()[1].decode() == path.replace("/./", "/")
        assert answer["cache-status"].startswith("e;")


async def test_the_same_line_above_other_fields_is_another_request(edge: Running) -> None:
    client = await edge.client()
    for cookie in ("a=1", "a=1", "a=2", "a=1"):
        client.send(get("/x", f"Cookie: {cookie}"))
        assert (await client.answer()).body == b"GET /x HTTP/1.1|Cookie: " + cookie.encode()
    for host, status in (("a.example", 200), ("nowhere.example", 404), ("b.example", 200)):
        client.send(get("/x", host=host))
        assert (await client.answer()).status == status


async def test_a_head_request_has_no_body(edge: Running) -> None:
    client = await edge.client()
    client.send(get("/stored"))
    await client.answer()
    for _ in range(2):
        client.send(get("/stored", method="HEAD"))
        assert (await client.answer("HEAD"))["content-length"] != ""
    client.send(get("/stored"))
    assert (await client.answer()).status == 200


@pytest.mark.parametrize(
    ("line", "status"),
    [
        pytest.param(b"GET /a b HTTP/1.1", 400, id="a space in the target"),
        pytest.param(b"GET /a\x01 HTTP/1.1", 400, id="a control character"),
        pytest.param(b"GET /../../x HTTP/1.1", 400, id="above the root"),
        pytest.param(b"FROB /x HTTP/1.1", 501, id="an unknown method"),
        pytest.param(b"GET /x HTTP/1.1\r\nX: y HTTP/1.1", 200, id="a field that looks like a line"),
        pytest.param(b"GET /" + b"x" * 9000 + b" HTTP/1.1", 414, id="too long"),
        pytest.param(b"GET http://a.example/x HTTP/1.1", 200, id="absolute form"),
    ],
)
async def test_a_strange_line_above_known_fields_is_judged_by_the_parser(
    line: bytes, status: int, edge: Running
) -> None:
    client = await edge.client()
    for _ in range(2):
        client.send(get())
        assert (await client.answer()).status == 200
    client.send(line + get().removeprefix(b"GET /x HTTP/1.1"))
    assert (await client.answer()).status == status


async def test_two_requests_in_one_read_are_two(edge: Running) -> None:
    client = await edge.client()
    client.send(get())
    await client.answer()
    for _ in range(2):
        client.send(get() + get("/y"))
        answers = [await client.answer(), await client.answer()]
        assert [answer.body.split()[1] for answer in answers] == [b"/x", b"/y"]


async def test_a_body_after_a_repeated_head_is_parsed(edge: Running) -> None:
    client = await edge.client()
    client.send(get())
    await client.answer()
    client.send(get(method="POST").removesuffix(b"\r\n") + b"Content-Length: 3\r\n\r\nabc" + get("/z"))
    assert [(await client.answer()).body[:6] for _ in range(2)] == [b"POST /", b"GET /z"]


async def test_the_last_request_of_a_connection_says_so(edge: Running) -> None:
    client = await edge.client()
    for number in range(1, 13):
        client.send(get("/stored"))
        assert ((await client.answer())["connection"] == "close") == (number == 12)
    assert await client.closed() == b""


async def test_a_reload_is_in_force_for_repeated_heads_too(edge: Running, tmp_path: Path) -> None:
    client = await edge.client()
    for _ in range(2):
        client.send(get())
        assert (await client.answer()).status == 200
    text = (tmp_path / "edge.yaml").read_text().replace("host: a.example", "host: other.example")
    edge.worker.shared.publish(text.encode())
    before = edge.worker.hall.edge
    edge.worker.reload()
    while edge.worker.hall.edge is before:
        await edge.turn()
    client.send(get())
    assert (await client.answer()).status == 404


async def test_who_is_believed_about_tls_is_asked_again_after_a_reload(
    origin: ScriptedOrigin, edge: Running, tmp_path: Path
) -> None:
    client = await edge.client()
    for path in ("/x", "/y"):
        client.send(get(path, "X-Forwarded-Proto: https"))
        await client.answer()
    text = (tmp_path / "edge.yaml").read_text()
    text = text.replace("access_log:", 'trusted_proxies: ["127.0.0.1/32"], access_log:')
    edge.worker.shared.publish(text.encode())
    before = edge.worker.hall.edge
    edge.worker.reload()
    while edge.worker.hall.edge is before:
        await edge.turn()
    for path in ("/x", "/y", "/z"):
        client.send(get(path, "X-Forwarded-Proto: https"))
        await client.answer()
    said = [b"X-Forwarded-Proto: https" in head for head in origin.heads]
    assert said == [False, False, True, True, True]


LINES = st.sampled_from([b"GET /x", b"HEAD /x", b"GET /y?z", b"POST /x", b"GET x", b"GET /\xff"])
RESTS = st.one_of(
    st.just(b"Host: a\r\n\r\n"),
    st.just(b"Host: a\r\nCookie: " + b"c" * LONGEST_REPEATED + b"\r\n\r\n"),
    st.binary(max_size=40),
)


@STANDS_IN
@given(st.lists(st.tuples(LINES, RESTS), max_size=30))
@settings(max_examples=200, deadline=None)
def test_only_short_heads_of_safe_requests_are_remembered(heads: list[tuple[bytes, bytes]]) -> None:
    reader = object.__new__(RequestReader)
    reader.known, reader.visits, reader.begun = None, Visits(), 1
    reader.peer, reader.scheme = "192.0.2.1", "http"
    reader.hall = SimpleNamespace(known_heads=KnownHeads())  # type: ignore[assignment]
    visit = SimpleNamespace(edge=1, request=SimpleNamespace(has_body=False))
    for line, rest in heads:
        learn(reader, line + b" HTTP/1.1\r\n" + rest, visit)  # type: ignore[arg-type]
    assert len(reader.known or b"") <= LONGEST_REPEATED
    assert all(line.startswith((b"GET /", b"HEAD /")) for line in reader.visits)


def test_what_is_remembered_is_bounded() -> None:
    known = KnownHeads()
    for number in range(2 * HEADS):
        for line in range(2 * VISITS):
            visits = known.visits("192.0.2.1", "http", b"%d" % number)
            visits.keep(b"GET /%d" % line, SimpleNamespace(edge=1))  # type: ignore[arg-type]
            assert len(visits) <= VISITS
        assert len(known._visits) <= HEADS


async def test_connections_of_one_client_share_what_was_found_out(edge: Running) -> None:
    known = edge.worker.hall.known_heads
    for _ in range(3):
        client = await edge.client()
        for path in ("/x", "/x", "/y", "/stored"):
            client.send(get(path, "Cookie: a=1"))
            assert (await client.answer()).body == f"GET {path} HTTP/1.1|Cookie: a=1".encode()
    (visits,) = known._visits.values()
    assert list(visits) == [b"GET /x", b"GET /y", b"GET /stored"]


def test_other_clients_and_other_lines_share_nothing() -> None:
    known = KnownHeads()
    mine = known.visits("192.0.2.1", "http", b"Host: a")
    assert known.visits("192.0.2.1", "http", b"Host: a") is mine
    assert known.visits("192.0.2.2", "http", b"Host: a") is not mine
    assert known.visits("192.0.2.1", "https", b"Host: a") is not mine
    assert known.visits("192.0.2.1", "http", b"Host: b") is not mine
