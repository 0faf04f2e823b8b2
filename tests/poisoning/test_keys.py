"""What is in the key, and that nothing else changes the answer (reliability A43 to A57, A61, A65)."""

from __future__ import annotations

from pathlib import Path

import jwt as pyjwt
import pytest

from edgeproxy.http.forwarding import UNTRUSTED_NAMES
from edgeproxy.purge_log import PurgeKind
from tests.poisoning.support import FRESH, SECRET, echo, reply, same, site

CANARY = "c4n4ry"


async def test_a44_one_path_on_two_hosts_is_two_objects(tmp_path: Path, door: str) -> None:
    async with site(tmp_path, door, echo(FRESH)) as edge:
        client = await edge.edge.client()
        bodies: list[bytes] = []
        for host in (b"example.com", b"other.example", b"EXAMPLE.com:80", b"example.com."):
            client.send(b"GET /a HTTP/1.1\r\nHost: %b\r\n\r\n" % host)
            bodies.append((await client.answer()).body)
        assert b"Host: other.example" in bodies[1]
        assert bodies[0] == bodies[2] == bodies[3] != bodies[1]
        assert edge.asked == 2


async def test_a43_an_unknown_host_is_nobodys(tmp_path: Path, door: str) -> None:
    async with site(tmp_path, door, same(FRESH)) as edge:
        for host in (b"unknown.example", b"example.com.evil", b"127.0.0.1", b"example.com:81x"):
            answer = await edge.raw(b"GET /a HTTP/1.1\r\nHost: %b\r\n\r\n" % host)
            assert answer.status in (400, 404, 421)
        assert edge.asked == 0


async def test_a46_no_header_that_is_not_in_the_key_reaches_the_next_visitor(
    tmp_path: Path, door: str
) -> None:
    names = sorted(name.decode() for name in UNTRUSTED_NAMES)
    assert len(names) >= 100
    async with site(tmp_path, door, echo(FRESH)) as edge:
        for number, name in enumerate(names):
            await edge.ask(f"/{number}", f"{name}: {CANARY}")
            await edge.ask(f"/{number}", f"{name.replace('-', '_')}: {CANARY}")
            plain = await edge.ask(f"/{number}")
            assert "hit" in plain["cache-status"]
            assert CANARY.encode() not in plain.body, name


async def test_a46_with_unkeyed_dropped_no_other_header_or_cookie_is_told_either(
    tmp_path: Path, door: str
) -> None:
    cache = 'unkeyed: drop, vary_on: ["header:X-Kept", "cookie:lang"]'
    said = ["X-Anything", "User-Agent", "Referer", "Origin", "X.Kept", "Cache-Control"]
    async with site(tmp_path, door, echo(FRESH), cache) as edge:
        first = await edge.ask(
            "/a",
            *[f"{name}: {CANARY}" for name in said],
            f"Cookie: a={CANARY}; lang=de",
            "X-Kept: k",
            "Accept: x/y",
        )
        assert CANARY.encode() not in first.body
        for told in (b"x-kept: k\r\n", b"cookie: lang=de\r\n", b"accept: x/y\r\n"):
            assert told in first.body.lower()
        passed = await edge.ask("/a", f"X-Anything: {CANARY}", method="POST", body=b"x")
        assert CANARY.encode() in passed.body, "what is not stored may differ from client to client"


async def test_a47_a_get_with_a_body_neither_fills_nor_reads_the_cache(tmp_path: Path, door: str) -> None:
    async with site(tmp_path, door, same(FRESH)) as edge:
        await edge.ask("/a", body=b"x=1")
        assert not await edge.is_stored()
        answer = await edge.ask("/a", body=b"x=1")
        assert "fwd=bypass" in answer["cache-status"]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("/a?utm_x=1;callback=evil", "/a"),
        ("/a?utm_x=1&b=2", "/a?b=2"),
        ("/a?b=2&utm_x=1%26callback=evil", "/a?b=2"),
        ("/a?%75tm_x=1&b=2&UTM_x=3", "/a?b=2&UTM_x=3"),
        ("/a?b=2&b=3&utm_x", "/a?b=2&b=3"),
    ],
)
async def test_a48_what_the_key_leaves_out_the_origin_is_not_told(
    tmp_path: Path, door: str, asked: str, told: str
) -> None:
    async with site(tmp_path, door, echo(FRESH), "query: {deny: ['utm_*']}") as edge:
        answer = await edge.ask(asked)
        assert answer.body.startswith(f"GET {told} HTTP/1.1\r\n".encode())
        assert await edge.is_stored(told)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "POST"])
@pytest.mark.parametrize("named", ["/a?c=3&b=2", "/a?b=2&utm_x=9&c=3", "/a?b=2&c=3"])
async def test_a73_what_the_key_leaves_out_hides_nothing_from_an_unsafe_request(
    tmp_path: Path, door: str, method: str, named: str
) -> None:
    async with site(tmp_path, door, same(FRESH), "query: {deny: ['utm_*'], sort: true}") as edge:
        await edge.ask("/a?utm_x=1&b=2&c=3")
        await edge.ask("/a?b=2")
        await edge.ask(named, method=method)
        assert not await edge.is_stored("/a?b=2&c=3")
        assert await edge.is_stored("/a?b=2"), "another URL stays"


@pytest.mark.parametrize("named", [b"/a?c=3&b=2", b"/a?b=2&utm_x=9&c=3", b"/a?b=2&c=3"])
async def test_a48_what_the_key_leaves_out_hides_nothing_from_a_purge(
    tmp_path: Path, door: str, named: bytes
) -> None:
    async with site(tmp_path, door, same(FRESH), "query: {deny: ['utm_*'], sort: true}") as edge:
        await edge.ask("/a?utm_x=1&b=2&c=3")
        worker = edge.edge.worker
        (value,) = worker.parts.edge.routes.purged_as(b"example.com" + named)
        worker.shared.purge_log.append(PurgeKind.URL, value)
        assert not await edge.is_stored("/a?b=2&c=3")


async def test_a49_a_method_override_is_not_passed_on(tmp_path: Path, door: str) -> None:
    names = ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X-Original-Method")
    async with site(tmp_path, door, echo(FRESH)) as edge:
        answer = await edge.ask("/a", *[f"{name}: DELETE" for name in names])
        assert b"DELETE" not in answer.body


@pytest.mark.parametrize("status", [400, 413, 414, 431, 501])
async def test_a50_what_a_big_or_strange_head_provokes_is_not_stored(
    tmp_path: Path, door: str, status: int
) -> None:
    async with site(tmp_path, door, same(status=f"{status} No")) as edge:
        await edge.ask("/a", "X-Oversized: " + "x" * 8000)
        edge.now(same(FRESH))
        assert (await edge.ask()).status == 200


@pytest.mark.parametrize("byte", [0x00, 0x07, 0x0B, 0x7F, 0x0D, 0x0A], ids=hex)
async def test_a51_a_control_character_in_a_header_is_refused(tmp_path: Path, door: str, byte: int) -> None:
    async with site(tmp_path, door, same(FRESH)) as edge:
        answer = await edge.raw(b"GET /a HTTP/1.1\r\nHost: example.com\r\nX-A: a%cb\r\n\r\n" % byte)
        assert answer.status == 400
        assert edge.asked == 0
        assert (await edge.ask()).status == 200


@pytest.mark.parametrize(
    "field", ["Cookie", "Authorization", "User-Agent", "Accept-Encoding", "X-\N{SNOWMAN}"]
)
async def test_a40_bytes_that_are_not_ascii_hurt_nobody(tmp_path: Path, door: str, field: str) -> None:
    async with site(tmp_path, door, same(FRESH)) as edge:
        line = field.encode() + b": \xff\xfe\xc3\x28"
        answer = await edge.raw(b"GET /a HTTP/1.1\r\nHost: example.com\r\n%b\r\n\r\n" % line)
        assert answer.status in (200, 400)
        assert (await edge.ask("/b")).status == 200


DECEPTIONS = [
    "/account/x.css", "/account;x.css", "/account%2fx.css", "/account%00.css", "/account%23.css",
    "/account%3f.css", "/static/..%2faccount", "/account/%2e%2e/static/x.css", "/account/x.js?.css",
    "/account%0ax.css", "/account/.css",
]  # fmt: skip


@pytest.mark.parametrize(
    "control", ["Cache-Control: private, max-age=60", "X-Silent: 1", "Cache-Control: no-store"]
)
@pytest.mark.parametrize("path", DECEPTIONS)
async def test_a54_no_extension_makes_an_answer_cacheable(
    tmp_path: Path, door: str, path: str, control: str
) -> None:
    async with site(tmp_path, door, same(control)) as edge:
        first = await edge.ask(path, "Cookie: session=victim")
        if first.status == 400:
            assert edge.asked == 0
            return
        assert not await edge.is_stored(path)


@pytest.mark.parametrize(
    "cache", ["ttl: 1h", 'freshness: {"200": {ignore: true, set: 1h}}', "freshness: {any: {extend: 1h}}"]
)
@pytest.mark.parametrize(
    ("path", "kind", "stored"),
    [
        ("/account/x.css", "text/html", False),
        ("/account/x.CSS", "text/html; charset=utf-8", False),
        ("/account/x.png", "application/json", False),
        ("/account/x.js", "text/html", False),
        ("/account;x.css", "text/html", False),
        ("/a/x.css", "text/css", True),
        ("/a/x.js", "text/javascript; charset=utf-8", True),
        ("/a/x.js", "application/javascript", True),
        ("/a/x.png", "image/webp", True),
        ("/a/x.woff2", "application/octet-stream", True),
        ("/a/page.html", "text/html", True),
        ("/a/page", "text/html", True),
        ("/a/v1.2", "text/html", True),
    ],
)
async def test_a55_what_only_we_make_cacheable_must_be_what_its_extension_says(
    tmp_path: Path, door: str, cache: str, path: str, kind: str, stored: bool
) -> None:
    async with site(tmp_path, door, same(f"Content-Type: {kind}"), cache) as edge:
        first = await edge.ask(path)
        assert ("type-mismatch" in first["cache-status"]) is not stored
        assert await edge.is_stored(path) is stored


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("/a/%2e%2e/b", "/b"),
        ("/a/../b", "/b"),
        ("/a/%2E/b", "/a/b"),
        ("//a//b", "/a/b"),
        ("/a%2fb", "/a%2Fb"),
        ("/a%5cb", "/a%5Cb"),
        ("/%61", "/a"),
        ("/%2561", "/%2561"),
        ("/a%zz", ""),
        ("/a\\b", ""),
        ("/../a", ""),
    ],
)
async def test_a56_one_spelling_of_a_path_for_key_and_origin(
    tmp_path: Path, door: str, asked: str, told: str
) -> None:
    async with site(tmp_path, door, echo(FRESH)) as edge:
        answer = await edge.ask(asked)
        if told:
            assert answer.body.startswith(f"GET {told} HTTP/1.1\r\n".encode())
            assert await edge.is_stored(told)
        else:
            assert (answer.status, edge.asked) == (400, 0)


@pytest.mark.parametrize(
    "path",
    ["/admin", "/admin;x=1", "/%61dmin", "//admin", "/admin/", "/x/../admin", "/admin;x=1/y", "/admin/%2e"],
)
async def test_a57_no_spelling_of_a_path_gets_around_its_route(tmp_path: Path, door: str, path: str) -> None:
    async with site(tmp_path, door, same(FRESH)) as edge:
        assert (await edge.ask(path)).status == 401
        assert edge.asked == 0


async def test_a61_what_the_origin_is_told_of_a_client_is_in_the_key(tmp_path: Path, door: str) -> None:
    async with site(tmp_path, door, echo(FRESH), "vary_on: [device]") as edge:
        bodies: set[bytes] = set()
        for agent in ("x", "Mobi"):
            for _ in range(3):
                answer = await edge.ask("/a", f"User-Agent: {agent}")
                bodies.add(answer.body)
        assert len(bodies) == 2


async def test_a58_a_token_is_no_key_and_its_answer_is_for_its_owner(tmp_path: Path, door: str) -> None:
    token = pyjwt.encode({"iss": "i", "sub": "a"}, SECRET, "HS256")
    async with site(tmp_path, door, lambda head: reply(FRESH, body=head[:200])) as edge:
        for _ in range(2):
            assert (await edge.ask("/admin/x", f"Authorization: Bearer {token}")).status == 200
        assert edge.asked == 2
        assert (await edge.ask("/admin/x")).status == 401
