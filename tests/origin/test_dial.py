"""Getting connected: every way it fails has its word, and other servers are tried (A147)."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from pathlib import Path

import pytest

from edgeproxy.errors import ORIGIN_FAILURES, OriginError, Retry
from edgeproxy.origin.dial import Dialer, connect_error
from edgeproxy.origin.names import TTL, Found
from edgeproxy.origin.resolve import Resolver
from edgeproxy.origin.standing import HOLD_DOWN
from edgeproxy.origin.upstream import Upstream
from tests.helpers.scripted_origin import Peer, ScriptedOrigin, always, silence
from tests.origin.support import OK, SetClock, ask, eventually, kept, settle, start, upstream


@pytest.fixture
def refusing() -> str:
    """A port of the loopback where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (ConnectionRefusedError(), "connection_refused"),
        (TimeoutError(), "connection_timeout"),
        (OSError(errno.EHOSTUNREACH, "no route"), "destination_unavailable"),
        (OSError(errno.EMFILE, "too many files"), "destination_unavailable"),
        (ConnectionResetError(), "connection_terminated"),
        (ConnectionAbortedError(), "connection_terminated"),
        (EOFError(), "connection_terminated"),
        (ssl.SSLCertVerificationError("no"), "tls_certificate_error"),
        (ssl.SSLError("no"), "tls_protocol_error"),
        (UnicodeError("encoding with 'idna' codec failed"), "destination_unavailable"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_each_failure_has_its_word(failure: Exception, error: str) -> None:
    mapped = connect_error(failure)
    assert mapped.error == error
    assert (mapped.status, mapped.retry) == ORIGIN_FAILURES[error]


async def test_a_refused_connection_is_told_at_once_and_may_be_retried(refusing: str) -> None:
    async with upstream(refusing) as made:
        with pytest.raises(OriginError) as refused:
            await made.connect()
        assert (refused.value.error, refused.value.retry) == ("connection_refused", Retry.ANY)
        assert made.open == 0


async def test_what_no_dial_is_expected_to_raise_has_its_word_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for the connection would wait for ever."""

    def fail(*_: object) -> None:
        raise UnicodeError("label empty or too long")

    monkeypatch.setattr(Dialer, "_connect", fail)
    async with upstream("http://127.0.0.1:1") as made:
        with pytest.raises(OriginError, match="destination_unavailable"):
            await made.connect()


async def test_a_handshake_that_hangs_times_out() -> None:
    async with (
        ScriptedOrigin(silence) as origin,
        upstream(origin.url.replace("http:", "https:"), timeouts={"connect": "50ms"}) as made,
    ):
        with pytest.raises(OriginError) as late:
            await made.connect()
        assert (late.value.error, late.value.status) == ("connection_timeout", 504)
        assert made.open == 0
        await eventually(lambda: all(peer.ended.is_set() for peer in origin.peers))  # nothing is left behind


async def test_another_server_is_tried_and_the_failed_one_avoided(refusing: str) -> None:
    clock = SetClock()
    async with ScriptedOrigin(always(OK)) as origin, upstream(refusing, origin.url, clock=clock) as made:
        connection, sink = await ask(made)
        assert (sink.outcome, connection.server.label) == ("end", origin.url)
        assert [made.usable(0), made.usable(1), made.healthy()] == [False, True, True]
        for _ in range(3):
            again, _ = await ask(made)
            assert again is connection
        clock.now += HOLD_DOWN
        assert made.usable(0)


async def test_no_more_servers_are_tried_than_configured(refusing: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        also = f"http://127.0.0.1:{other.getsockname()[1]}"  # bound, not listening
        async with ScriptedOrigin(always(OK)) as origin:
            async with upstream(refusing, also, origin.url, retries=1) as made:
                with pytest.raises(OriginError, match="connection_refused"):
                    await made.connect()
                assert not made.usable(0)
                assert not made.usable(1)
                assert made.usable(2)
            async with upstream(refusing, origin.url, retries=0) as made:
                with pytest.raises(OriginError, match="connection_refused"):
                    await made.connect()
            async with upstream(refusing, also, origin.url, retries=2) as made:
                assert (await ask(made))[1].outcome == "end"


async def test_when_all_servers_are_down_all_are_tried_again(refusing: str) -> None:
    async with ScriptedOrigin(always(OK)) as origin:
        port = origin.port
        async with upstream(refusing, origin.url, retries=1) as made:
            await origin.stop()
            with pytest.raises(OriginError, match="connection_refused"):
                await made.connect()
            assert not made.healthy()
            async with ScriptedOrigin(always(OK), port=port):
                _, sink = await ask(made)  # panic: suspicion does not stop us
                assert sink.outcome == "end"
                assert made.healthy()


async def test_a_suspected_server_is_tried_when_all_others_failed(refusing: str) -> None:
    async with ScriptedOrigin(always(OK)) as origin, upstream(refusing, origin.url) as made:
        made.roster.servers[1].suspect_until = made._sweeper.clock() + 1
        connection, sink = await ask(made)
        assert (sink.outcome, connection.server.index) == ("end", 1)
        assert made.usable(1)


async def test_an_unhealthy_server_is_not_asked() -> None:
    cells = bytearray(2)
    async with (
        ScriptedOrigin(always(OK)) as one,
        ScriptedOrigin(always(OK)) as two,
        upstream(one.url, two.url, health=memoryview(cells)) as made,
    ):
        for _ in range(4):
            await ask(made)
        assert (len(one.heads), len(two.heads)) == (2, 2)
        cells[0] = 2
        for _ in range(4):
            await ask(made)
        assert (len(one.heads), len(two.heads)) == (2, 6)
        cells[0], cells[1] = 1, 2
        await ask(made)
        assert (len(one.heads), len(two.heads)) == (3, 6)
        cells[0] = 2
        assert not made.healthy()
        assert (await ask(made))[1].outcome == "end"  # panic: better than nothing


async def test_least_requests_goes_to_the_less_busy_server() -> None:
    async with (
        ScriptedOrigin(silence) as one,
        ScriptedOrigin(silence) as two,
        upstream(one.url, two.url, balance="least_requests") as made,
    ):
        for _ in range(6):
            await made.connect()
        assert [server.in_flight for server in made.servers] == [3, 3]


async def test_a_server_that_failed_is_not_chosen_again_for_the_same_request() -> None:
    cells = memoryview(bytearray([2, 2]))
    async with upstream(
        "http://127.0.0.1:1", "http://127.0.0.1:2", balance="least_requests", health=cells
    ) as made:
        assert {made._reach._choose(b"", {0}) for _ in range(20)} == {1}


async def test_addresses_are_tried_in_order() -> None:
    async def two_addresses(_host: str) -> Found:
        return Found(["127.0.0.2", "127.0.0.1"])

    async with (
        ScriptedOrigin(always(OK)) as origin,
        upstream(
            f"http://origin.example:{origin.port}",
            resolver=Resolver(SetClock(), two_addresses),
            allow_private=True,
        ) as made,
    ):
        connection, sink = await ask(made)
        assert (sink.outcome, connection.server.label) == ("end", f"http://origin.example:{origin.port}")


async def test_a_resolver_that_hangs_leaves_time_for_the_last_good_address() -> None:
    async def addresses(_host: str) -> Found:
        await working.wait()
        return Found(["127.0.0.1"])

    working = asyncio.Event()
    working.set()
    clock = SetClock()
    async with (
        ScriptedOrigin(always(OK)) as origin,
        upstream(
            f"http://origin.example:{origin.port}",
            clock=clock,
            resolver=Resolver(clock, addresses),
            allow_private=True,
            timeouts={"connect": "2s"},
        ) as made,
    ):
        (await made.connect()).abandon()
        working.clear()
        clock.now += TTL + 1
        connection, sink = await ask(made)
        assert (sink.outcome, connection.reused) == ("end", True)
        working.set()
        await settle()


async def test_an_address_that_hangs_leaves_time_for_the_next() -> None:
    async def fast(peer: Peer) -> None:
        await peer.eof()

    async def addresses(_host: str) -> Found:
        return Found(["127.0.0.1", "127.0.0.1"])

    async with (
        ScriptedOrigin(silence, fast) as origin,
        upstream(
            f"https://origin.example:{origin.port}",
            resolver=Resolver(SetClock(), addresses),
            allow_private=True,
            timeouts={"connect": "2s"},
        ) as made,
    ):
        with pytest.raises(OriginError, match="connection_timeout"):
            await made.connect()
        assert len(origin.peers) == 2


async def test_an_address_that_swallows_packets_does_not_hold_up_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edgeproxy.origin.dial.HEAD_START", 0.02)

    async def addresses(_host: str) -> Found:
        return Found(["127.0.0.3", "127.0.0.1"])

    async with ScriptedOrigin(always(OK)) as origin:
        with socket.socket() as full:  # its queue of connections is full: SYNs are dropped
            full.bind(("127.0.0.3", origin.port))
            full.listen(0)
            fillers = [socket.socket() for _ in range(4)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.3", origin.port))
            resolver = Resolver(SetClock(), addresses)
            url = f"http://origin.example:{origin.port}"
            async with upstream(url, resolver=resolver, allow_private=True) as made:
                async with asyncio.timeout(2):
                    assert (await ask(made))[1].outcome == "end"
            for filler in fillers:
                filler.close()


async def test_a_socket_of_this_machine_can_be_an_origin(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK)
        await reader.read()
        writer.close()

    heads: list[bytes] = []
    path = tmp_path / "app.sock"
    server = await asyncio.start_unix_server(answer, path)
    async with upstream(f"unix:{path}") as made:
        connection, sink = await ask(made)
        assert (sink.outcome, sink.body, connection.server.label) == ("end", b"ok", f"unix:{path}")
        assert made.idle() is connection  # quiet, as one over TCP would be
        connection.abandon()
        made.tend()
    server.close()
    await settle()
    path.unlink(missing_ok=True)
    async with upstream(f"unix:{path}") as made:
        with pytest.raises(OriginError, match="destination_unavailable"):
            await made.connect()


class Names:
    """A name server that says what the test sets."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)

    async def __call__(self, _host: str) -> Found:
        return Found(self.addresses)


async def look(made: Upstream, clock: SetClock) -> None:
    """Let the next look-up come due, and its answer be seen."""
    clock.now += TTL + 1
    made.tend()
    await settle()
    made.tend()
    await settle()


async def test_a_server_whose_name_moved_is_left() -> None:
    clock, names = SetClock(), Names("127.0.0.1")
    async with ScriptedOrigin(always(OK)) as origin:
        url = f"http://origin.example:{origin.port}"
        async with upstream(url, clock=clock, resolver=Resolver(clock, names), allow_private=True) as made:
            await ask(made)
            names.addresses = ["127.0.0.9"]
            await look(made, clock)
            assert kept(made) == 1  # one answer may be a part
            await look(made, clock)
            assert kept(made) == 0
            with pytest.raises(OriginError, match="connection_refused"):
                await made.connect()


async def test_a_connection_in_use_ends_its_exchange_before_it_is_left() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await gate.wait()
        await peer.send(OK)
        await peer.eof()

    gate = asyncio.Event()
    clock, names = SetClock(), Names("127.0.0.1")
    async with ScriptedOrigin(script) as origin:
        url = f"http://origin.example:{origin.port}"
        async with upstream(url, clock=clock, resolver=Resolver(clock, names), allow_private=True) as made:
            connection, sink = await start(made)
            names.addresses = ["127.0.0.9"]
            await look(made, clock)
            await look(made, clock)
            assert not connection.closed
            gate.set()
            await sink.finished()
            assert (sink.outcome, connection.closed) == ("end", True)


async def test_a_name_that_cannot_be_resolved_any_more_moves_nobody() -> None:
    clock, names = SetClock(), Names("127.0.0.1")
    async with ScriptedOrigin(always(OK)) as origin:
        url = f"http://origin.example:{origin.port}"
        async with upstream(url, clock=clock, resolver=Resolver(clock, names), allow_private=True) as made:
            await ask(made)
            names.addresses = []
            for _ in range(3):
                await look(made, clock)
            assert kept(made) == 1


async def test_a_connection_lost_while_it_is_opened_is_not_counted() -> None:
    async with ScriptedOrigin(always(OK)) as origin, upstream(origin.url) as made:
        server = made.servers[0]

        class Dialer:
            async def open(self, build):  # type: ignore[no-untyped-def]
                connection = await real.open(build)
                connection.abandon()
                await settle()
                return connection

        real, server.dialer = server.dialer, Dialer()  # type: ignore[assignment]
        with pytest.raises(OriginError) as lost:
            await made.connect()
        assert (lost.value.error, lost.value.retry) == ("connection_terminated", Retry.ANY)
        assert (made.open, server.in_flight, len(made._sweeper)) == (0, 0, 0)


async def test_the_reprs_tell_the_state() -> None:
    async with ScriptedOrigin(always(OK)) as origin, upstream(origin.url) as made:
        connection, _ = await ask(made)
        assert repr(connection) == f"<OriginConnection {origin.url} idle reused>"
        assert repr(made) == f"<Upstream test [<Server {origin.url} 0 in flight, 1 idle>]>"
        connection.abandon()
        await eventually(lambda: connection.closed)
        assert repr(connection) == f"<OriginConnection {origin.url} closed reused>"
        await asyncio.sleep(0)
