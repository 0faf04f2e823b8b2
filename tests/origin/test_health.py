"""Active checks: what makes a server healthy, and what a probe looks like on the wire."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import trustme

from edgeproxy.origin.health import HealthProber, Tally
from edgeproxy.origin.names import Found
from edgeproxy.origin.resolve import Resolver
from edgeproxy.origin.settings import Origin
from edgeproxy.origin.standing import HEALTHY, UNHEALTHY, UNKNOWN
from tests.helpers.scripted_origin import ScriptedOrigin, always, silence
from tests.origin.support import SetClock, eventually
from tests.origin.test_tls import serving

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nSet-Cookie: a=b\r\n\r\n"


@pytest.mark.parametrize(
    ("probes", "states"),
    [
        pytest.param("", "", id="nothing yet"),
        pytest.param("+", "h", id="the first good one is enough"),
        pytest.param("---", "??u", id="three bad ones from the start"),
        pytest.param("--+--+", "??hhhh", id="bad ones must come in a row"),
        pytest.param("+---", "hhhu", id="fall"),
        pytest.param("---+-++", "??uuuuh", id="good ones must come in a row"),
        pytest.param("---++---", "??uuhhhu", id="there and back"),
    ],
)
def test_probes_in_a_row_change_the_state(probes: str, states: str) -> None:
    tally = Tally(rise=2, fall=3)
    word = {UNKNOWN: "?", HEALTHY: "h", UNHEALTHY: "u"}
    assert "".join(word[tally.observe(good=probe == "+")] for probe in probes) == states


def prober(
    cells: bytearray, *urls: str, health: dict[str, Any] | None = None, **options: Any
) -> HealthProber:
    origin = Origin.model_validate({"servers": list(urls), "health": health or {}, **options})
    assert origin.health is not None
    resolver = Resolver(SetClock(), _here)
    return HealthProber("test", origin, origin.health, memoryview(cells), resolver, chance=lambda: 0.0)


async def _here(_host: str) -> Found:
    return Found(["127.0.0.1"])


async def probe(made: HealthProber) -> bool:
    async with made.client(made._origin.urls[0]) as client:
        return not await made.fault(client, made._origin.urls[0])


@pytest.mark.parametrize(
    ("response", "accepted", "good"),
    [
        (OK, "200-399", True),
        (
            b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
            "200-399",
            True,
        ),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", "200", False),
        (b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", "200-399", False),
        (b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n", "401", True),
        (b"nonsense\r\n\r\n", "200-399", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "200-399", True),
    ],
    ids=["200", "redirect", "redirect unwanted", "500", "401 wanted", "not http", "body not read"],
)
async def test_the_status_decides(response: bytes, accepted: str, good: bool) -> None:
    async with ScriptedOrigin(always(response)) as origin:
        assert await probe(prober(bytearray(1), origin.url, health={"status": accepted})) is good
        assert len(origin.heads) == 1  # redirects are not followed


def says(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


@pytest.mark.parametrize(
    ("response", "good"),
    [
        (says(b'{"status": "pass"}'), True),
        (says(b'{"status": "fail"}'), False),
        (says(b""), False),
        (says(b"x" * 65_520 + b'"status": "pass"'), True),
        (says(b"x" * 65_530 + b'"status": "pass"'), False),
        (b"HTTP/1.1 500 No\r\nContent-Length: 16\r\n\r\n" + b'"status": "pass"', False),
    ],
    ids=["says it", "says something else", "says nothing", "just in time", "too late", "with a wrong status"],
)
async def test_a_text_may_be_expected(response: bytes, good: bool) -> None:
    async with ScriptedOrigin(always(response)) as origin:
        made = prober(bytearray(1), origin.url, health={"body": '"status": "pass"'})
        assert await probe(made) is good


@pytest.mark.parametrize(
    ("response", "health", "said"),
    [
        (b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", {}, "/ answered 503, not 200-399"),
        (says(b"fail"), {"path": "/up", "body": "pass"}, "/up answered without the text of health.body"),
        (b"nonsense\r\n\r\n", {}, "illegal status line"),
        (None, {"timeout": "50ms"}, "/ has no answer within 0.05s"),
    ],
    ids=["status", "text", "not http", "silent"],
)
async def test_what_is_wrong_is_said(response: bytes | None, health: dict[str, Any], said: str) -> None:
    async with ScriptedOrigin(silence if response is None else always(response)) as origin:
        made = prober(bytearray(1), origin.url, health=health)
        async with made.client(made._origin.urls[0]) as client:
            assert said in await made.fault(client, made._origin.urls[0])


async def test_a_probe_is_a_plain_request_on_its_own_connection() -> None:
    async with ScriptedOrigin(always(OK)) as origin:
        made = prober(bytearray(1), origin.url, health={"path": "/healthz?deep=1"}, host="www.example.com")
        async with made.client(made._origin.urls[0]) as client:
            for _ in range(2):
                assert not await made.fault(client, made._origin.urls[0])
        assert len(origin.peers) == 2
        for head in origin.heads:
            lines = head.lower().split(b"\r\n")
            assert lines[0] == b"get /healthz?deep=1 http/1.1"
            assert b"host: www.example.com" in lines
            assert b"user-agent: edgeproxy-health" in lines
            assert b"cookie" not in head.lower()


async def test_a_probe_that_takes_too_long_has_failed() -> None:
    async with ScriptedOrigin(silence) as origin:
        assert not await probe(prober(bytearray(1), origin.url, health={"timeout": "50ms"}))


async def test_a_server_that_refuses_has_failed() -> None:
    async with ScriptedOrigin(silence) as origin:
        url = origin.url
    assert not await probe(prober(bytearray(1), url))


async def test_a_name_that_resolves_to_this_machine_is_not_probed() -> None:
    async with ScriptedOrigin(always(OK)) as origin:
        url = f"http://origin.example:{origin.port}"
        assert not await probe(prober(bytearray(1), url))
        assert await probe(prober(bytearray(1), url, allow_private=True))
        assert f"Host: origin.example:{origin.port}\r\n".encode() in origin.heads[0]


async def test_a_server_behind_a_socket_is_probed_there(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK)
        writer.close()

    heads: list[bytes] = []
    path = tmp_path / "app.sock"
    made = prober(bytearray(1), f"unix:{path}", health={"path": "/healthz"})
    assert not await probe(made)
    async with await asyncio.start_unix_server(answer, path):
        assert await probe(made)
    assert heads[0].startswith(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")


@pytest.mark.parametrize(
    ("issued_for", "said"), [("origin.example", ""), ("other.example", "Hostname mismatch")]
)
async def test_probes_verify_like_requests(tmp_path: Path, issued_for: str, said: str) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)  # the origin's side
    async with ScriptedOrigin(always(OK), tls=serving(ca, issued_for)) as origin:
        made = prober(
            bytearray(1),
            f"https://origin.example:{origin.port}",
            tls={"ca": str(tmp_path / "ca.pem")},
            allow_private=True,
        )
        async with made.client(made._origin.urls[0]) as client:
            fault = await made.fault(client, made._origin.urls[0])
    assert fault.startswith(said)
    assert bool(fault) == bool(said)


async def test_the_loop_publishes_what_it_learns(caplog: pytest.LogCaptureFixture) -> None:
    cells = bytearray(2)
    async with ScriptedOrigin(always(OK)) as good, ScriptedOrigin(always(OK)) as dying:
        health = {"interval": "100ms", "timeout": "1s", "fall": 2, "rise": 1}
        made = prober(cells, good.url, dying.url, health=health)
        task = asyncio.create_task(made.run())
        await eventually(lambda: bytes(cells) == bytes([HEALTHY, HEALTHY]))
        await dying.stop()
        await eventually(lambda: bytes(cells) == bytes([HEALTHY, UNHEALTHY]))
        async with ScriptedOrigin(always(OK), port=dying.port):
            await eventually(lambda: bytes(cells) == bytes([HEALTHY, HEALTHY]))
        task.cancel()
        await asyncio.wait([task])
    said = [record.getMessage() for record in caplog.records if record.name.startswith("edgeproxy")]
    assert said == [
        f"origin test: {dying.url} is unhealthy: the origin refuses connections",
        f"origin test: {dying.url} is healthy again",
    ]


@pytest.mark.parametrize(
    ("known", "fault", "state", "said"),
    [
        (UNHEALTHY, "down", UNHEALTHY, []),
        (UNHEALTHY, "", HEALTHY, ["origin test: http://127.0.0.1:1 is healthy again"]),
        (HEALTHY, "down", UNHEALTHY, ["origin test: http://127.0.0.1:1 is unhealthy: down"]),
    ],
)
def test_a_prober_goes_on_where_the_one_before_it_ended(
    caplog: pytest.LogCaptureFixture, known: int, fault: str, state: int, said: list[str]
) -> None:
    cells = bytearray([known])
    made = prober(cells, "http://127.0.0.1:1", health={"rise": 2, "fall": 2})
    made.record(0, fault)
    assert (cells[0], caplog.records) == (known, [])
    made.record(0, fault)
    assert cells[0] == state
    assert [record.getMessage() for record in caplog.records] == said


async def test_probes_are_spread_over_a_tenth_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        slept.append(round(seconds, 3))
        await real(0)
        if len(slept) > 3:
            raise asyncio.CancelledError

    async def well(*_: object) -> str:
        return ""

    made = prober(bytearray(1), "http://127.0.0.1:1", health={"interval": "5s"})
    chances = iter([0.5, 0.0, 0.5, 1.0])
    made._chance = lambda: next(chances)
    monkeypatch.setattr(made, "fault", well)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        async with made.client(made._origin.urls[0]) as client:
            await made._watch(client, 0, made._origin.urls[0])
    assert slept == [0.5, 4.5, 5.0, 5.5]
