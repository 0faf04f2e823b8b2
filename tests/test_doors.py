"""One suite, two doors, with and without a machine tier: a client must not see which."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edgeproxy.purge_log import PurgeKind
from tests.helpers.builds import STANDS_IN
from tests.helpers.edge import Running, running
from tests.helpers.scripted_origin import Peer, Script, ScriptedOrigin, always, silence
from tests.origin.support import eventually

CONFIG = """
edge: {{id: edge-1, pop: ams}}
server: {{listen: ["127.0.0.1:8080"], workers: 1, access_log: {{path: "off"}}, limits: {{body_size: 2MiB}}}}
admin: {{listen: null}}
cache: {cache}
origins:
  main: {{servers: ["{origin}"], timeouts: {{connect: 20s, first_byte: {patience}}}}}
  dead: {{servers: ["http://127.0.0.1:1"]}}
rate_limits: {{few: {{rate: 1/h, burst: 2}}}}
jwt_providers:
  p: {{issuer: i, audience: a, algorithms: [HS256], secret: "0123456789abcdef0123456789abcdef"}}
routes:
  - {{name: limited, match: {{path: /limited}}, policies: [{{rate_limit: few}}], origin: main}}
  - {{name: auth, match: {{path: /auth}}, policies: [{{jwt: {{provider: p}}}}], origin: main}}
  - {{name: dead, match: {{path: /dead}}, origin: dead}}
  - {{name: small, match: {{path: /small}}, cache: false, body_size: 10B, origin: main}}
  - name: traced
    match: {{path: /traced, methods: [GET, OPTIONS, TRACE]}}
    policies: [{{rate_limit: few}}]
    origin: main
  - {{name: posts, match: {{path: /posts, methods: [POST]}}, cache: false, origin: main}}
  - name: rest
    match: {{host: example.com, path: ["/a/**", "/b"]}}
    policies: [{{headers: {{to_client: {{set: {{X-E: "1"}}}}}}}}]
    origin: main
"""


def reply(body: bytes = b"hello", status: str = "200 OK", *fields: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields]
    return "\r\n".join([*lines, "", ""]).encode() + body


FRESH = reply(b"hello", "200 OK", "Cache-Control: max-age=60", 'ETag: "v1"')


@pytest.fixture(params=["memory", "machine"])
def tier(request: pytest.FixtureRequest) -> str:
    """The lowest tier of the cache."""
    return str(request.param)


class Stage:
    """Starts an edge behind a door for an origin's script."""

    def __init__(self, folder: Path, door: str, tier: str) -> None:
        self.folder, self.door = folder, door
        self.cache = f'{{machine: {{path: "{folder / "tier"}"}}}}' if tier == "machine" else "{}"
        self.started: list[object] = []

    async def __call__(self, *scripts: Script) -> tuple[Running, ScriptedOrigin]:
        origin = ScriptedOrigin(*scripts)
        await origin.__aenter__()
        patience = "200ms" if silence in scripts else "20s"
        config = CONFIG.format(origin=origin.url, cache=self.cache, patience=patience)
        context = running(config, self.folder, self.door)
        edge = await context.__aenter__()
        self.started += [context, origin]
        return edge, origin


@pytest.fixture
async def stage(tmp_path: Path, door: str, tier: str) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path, door, tier)
    yield stage
    for one in stage.started:
        await one.__aexit__(None, None, None)  # type: ignore[attr-defined]


async def test_a_miss_then_a_hit(stage: Stage) -> None:
    edge, origin = await stage(always(FRESH))
    miss = await edge.ask()
    hit = await edge.ask()
    assert (miss.status, miss.body, hit.status, hit.body) == (200, b"hello", 200, b"hello")
    assert miss["cache-status"] == "edge-1; fwd=uri-miss; fwd-status=200; stored; ttl=60"
    assert hit["cache-status"].startswith("edge-1; hit; ttl=")
    assert (hit["age"], hit["via"], hit["x-served-by"], hit["x-e"]) == ("0", "1.1 edge-1", "ams", "1")
    assert len(origin.heads) == 1
    head = await edge.ask(method="HEAD")
    assert (head.body, head["content-length"]) == (b"", "5")
    assert (await edge.ask("/a", 'If-None-Match: "v1"')).status == 304


@pytest.mark.parametrize("name", ["Date", "date"])
@pytest.mark.parametrize("place", [0, 1, 2])
async def test_there_is_one_date_wherever_the_origin_puts_its_own(
    stage: Stage, name: str, place: int
) -> None:
    then = "Thu, 01 Jan 2026 00:00:00 GMT"
    lines = ["Content-Length: 0", "Cache-Control: no-store"]
    lines.insert(place, f"{name}: {then}")
    edge, _ = await stage(always("\r\n".join(["HTTP/1.1 200 OK", *lines, "", ""]).encode()))
    assert (await edge.ask())["date"] == then


async def test_what_the_origin_is_told(stage: Stage) -> None:
    edge, origin = await stage(always(reply()))
    await edge.ask(
        "/a?x=1",
        "X-Forwarded-For: 6.6.6.6",
        "Connection: close, X-Hop",
        "X-Hop: 1",
        "X-Under_score: 1",
        "X-KeEp: 1",
    )
    head = origin.heads[0].decode()
    assert head.startswith("GET /a?x=1 HTTP/1.1\r\nHost: example.com\r\n")
    assert "X-Forwarded-For: 127.0.0.1\r\n" in head
    assert "Via: 1.1 edge-1" in head
    assert "x-keep: 1" in head.lower()
    for gone in ("6.6.6.6", "X-Hop", "Under_score"):
        assert gone.lower() not in head.lower()


async def test_a_stored_response_is_validated_and_purged(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        while head := await peer.head():
            if b'If-None-Match: "v1"' in head:
                await peer.send(
                    b'HTTP/1.1 304 Not Modified\r\nETag: "v1"\r\nCache-Control: max-age=9\r\n\r\n'
                )
            else:
                await peer.send(FRESH)

    edge, origin = await stage(script)
    await edge.ask()
    validated = await edge.ask("/a", "Cache-Control: no-cache")
    assert (validated.status, validated.body) == (200, b"hello")
    assert "fwd=request; fwd-status=304" in validated["cache-status"]
    edge.worker.shared.purge_log.append(PurgeKind.URL, b"example.com/a")
    assert "uri-miss" in (await edge.ask())["cache-status"]
    assert len(origin.heads) == 3


async def test_stale_is_served_while_it_is_refreshed_and_when_the_origin_fails(stage: Stage) -> None:
    control = "Cache-Control: max-age=1, stale-while-revalidate=60, stale-if-error=600"
    count = 0

    async def script(peer: Peer) -> None:
        nonlocal count
        while await peer.head():
            count += 1
            await peer.send(
                reply(b"no", "503 Oops")
                if count == 3
                else reply(b"%d" % count, "200 OK", control, 'ETag: "x"')
            )

    edge, _ = await stage(script)
    assert (await edge.ask()).body == b"1"
    entry = next(iter(edge.worker.hall.edge.store))
    entry.fresh_until -= 30
    stale = await edge.ask()
    assert (stale.body, "ttl=-" in stale["cache-status"]) == (b"1", True)
    await eventually(lambda: count > 1 and not edge.worker.hall.fetcher.refreshing)  # it ends on its own
    assert (await edge.ask()).body == b"2", "refreshed behind"
    entry = next(iter(edge.worker.hall.edge.store))
    entry.fresh_until -= 100
    entry.stale_until -= 100
    failed = await edge.ask()
    assert (failed.status, failed.body) == (200, b"2")
    assert "fwd=stale; fwd-status=503" in failed["cache-status"]


async def test_a_hundred_clients_and_one_cold_key(stage: Stage) -> None:
    gate = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=9\r\nContent-Length: 10\r\n\r\nfirst")
        await gate.wait()
        await peer.send(b"-last")
        await peer.eof()

    edge, origin = await stage(script)
    clients = [await edge.client() for _ in range(100)]
    for client in clients:
        client.send(b"GET /a HTTP/1.1\r\nHost: example.com\r\n\r\n")
    heads = [await client.head() for client in clients]
    assert await clients[99].reader.readexactly(5) == b"first", "followers stream along"
    clients[0].writer.close()  # the leader leaves
    gate.set()
    for client in clients[1:99]:
        assert await client.reader.readexactly(10) == b"first-last"
    assert len(origin.heads) == 1
    assert sum(b"collapsed" in head for head in heads) == 99


async def test_an_answer_that_cannot_be_shared_is_shared_with_nobody(stage: Stage) -> None:
    edge, origin = await stage(always(reply(b"mine", "200 OK", "Cache-Control: private")))
    answers = await asyncio.gather(*(edge.ask() for _ in range(5)))
    assert {answer.body for answer in answers} == {b"mine"}
    assert len(origin.heads) == 5


async def test_a_truncated_answer_is_seen_to_be_one_and_is_not_stored(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=9\r\nContent-Length: 10\r\n\r\nfirst")
        peer.close()

    edge, origin = await stage(script, script)
    for _ in range(2):
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await edge.ask()
    assert len(origin.heads) == 2
    assert len(edge.worker.hall.edge.store) == 0


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [("/dead", 502, "connection_refused"), ("/a", 504, "http_response_timeout")],
    ids=["refused", "silent"],
)
async def test_a_failing_origin_is_named(stage: Stage, path: str, status: int, error: str) -> None:
    edge, _ = await stage(silence)
    answer = await edge.ask(path)
    assert answer.status == status
    assert answer["proxy-status"] == f"edge-1; error={error}"
    assert answer["content-type"] == "application/problem+json"
    assert answer["cache-control"] == "no-store"


async def test_a_connection_that_died_while_idle_is_tried_once_more(stage: Stage) -> None:
    async def once(peer: Peer) -> None:
        await peer.head()
        await peer.send(reply(b"1", "200 OK", "Cache-Control: no-store"))
        await peer.head()
        peer.reset()

    edge, _ = await stage(once, always(reply(b"2", "200 OK", "Cache-Control: no-store")))
    assert (await edge.ask()).body == b"1"
    assert (await edge.ask()).body == b"2"


async def test_a_loop_ends_at_once(stage: Stage) -> None:
    edge, origin = await stage(always(FRESH))
    assert (await edge.ask("/a", "Via: 1.1 edge-1")).status == 508
    assert origin.heads == []


@pytest.mark.parametrize("chunked", [False, True], ids=["counted", "chunked"])
async def test_request_bodies_arrive_whole(stage: Stage, chunked: bool) -> None:
    bodies: list[bytes] = []

    async def script(peer: Peer) -> None:
        bodies.append((await peer.request())[1])
        await peer.send(reply())

    edge, _ = await stage(script)
    body = b"0123456789" * 100_000
    client = await edge.client()
    if chunked:
        client.send(b"POST /posts HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for start in range(0, len(body), 65_000):
            part = body[start : start + 65_000]
            client.send(b"%x\r\n%b\r\n" % (len(part), part))
        client.send(b"0\r\n\r\n")
    else:
        client.send(b"POST /posts HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert (await client.answer()).body == b"hello"
    assert bodies == [body]


async def test_refusals(stage: Stage) -> None:
    edge, origin = await stage(always(reply(b"x", "200 OK", "Cache-Control: no-store")))
    statuses = [(await edge.ask("/limited")).status for _ in range(3)]
    assert statuses == [200, 200, 429]
    refused = await edge.ask("/limited")
    assert int(refused["retry-after"]) >= 1
    assert refused["ratelimit"]
    denied = await edge.ask("/auth")
    assert (denied.status, denied["www-authenticate"].startswith("Bearer")) == (401, True)
    assert (await edge.ask("/nowhere")).status == 404
    wrong = await edge.ask("/posts")
    assert (wrong.status, wrong["allow"]) == (405, "POST")
    for method in ("TRACE", "PURGE"):
        assert (await edge.ask("/a", method=method)).status == 405
    large = await edge.ask("/small", method="POST", body=b"x" * 11)
    assert large.status == 413
    assert len(origin.heads) == 2
    page = await edge.ask("/nowhere", "Accept: text/html")
    assert page["content-type"] == "text/html; charset=utf-8"


async def test_a_request_that_may_travel_no_further_is_answered_here(stage: Stage) -> None:
    edge, origin = await stage(always(reply()))
    options = await edge.ask("/a", "Max-Forwards: 0", method="OPTIONS")
    assert (options.status, options.body) == (200, b"")
    assert options["allow"] == "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"
    trace = await edge.ask("/traced?q", "max-forwards: 0", "Cookie: a=b", "X-One: 1", method="TRACE")
    assert (trace.status, trace["content-type"]) == (200, "message/http")
    assert trace.body.startswith(b"TRACE /traced?q HTTP/1.1\r\n")
    assert trace.body.endswith(b"\r\n\r\n")
    lines = trace.body.lower().splitlines()
    assert {b"host: example.com", b"max-forwards: 0", b"x-one: 1"} <= set(lines)
    assert b"cookie" not in trace.body.lower()
    assert origin.heads == []


@pytest.mark.parametrize(
    ("method", "path", "hops", "status"),
    [("TRACE", "/a", "0", 405), ("OPTIONS", "/nowhere", "0", 404), ("GET", "/a", "0", 200)],
)
async def test_max_forwards_opens_no_door(
    stage: Stage, method: str, path: str, hops: str, status: int
) -> None:
    edge, _ = await stage(always(reply()))
    assert (await edge.ask(path, f"Max-Forwards: {hops}", method=method)).status == status


async def test_the_last_hop_answers_after_the_policies_of_the_route(stage: Stage) -> None:
    edge, origin = await stage(always(reply()))
    statuses = [(await edge.ask("/traced", "Max-Forwards: 0", method="OPTIONS")).status for _ in range(3)]
    assert statuses == [200, 200, 429]
    assert (await edge.ask("/a", "Max-Forwards: 1", method="OPTIONS")).body == b"hello"
    assert b"max-forwards: 0" in origin.heads[0].lower()


async def test_posts_invalidate(stage: Stage) -> None:
    edge, origin = await stage(always(FRESH))
    await edge.ask("/b")
    await edge.ask("/b", method="POST", body=b"x")
    assert "uri-miss" in (await edge.ask("/b"))["cache-status"]
    assert len(origin.heads) == 3


@STANDS_IN
async def test_a_policy_that_breaks_is_a_500_and_the_edge_goes_on(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge, _ = await stage(always(FRESH))

    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("edgeproxy.hallway.decide", broken)
    assert (await edge.ask()).status == 500
    monkeypatch.undo()
    assert (await edge.ask()).status == 200
