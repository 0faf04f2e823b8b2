"""HTTPS origins: chain, name and SNI are verified, and every failure has its word (A120)."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

from edgeproxy.errors import ConfigError, OriginError
from edgeproxy.origin.names import Found
from edgeproxy.origin.resolve import Resolver
from edgeproxy.origin.settings import Tls
from edgeproxy.origin.tls import client_context
from tests.helpers.scripted_origin import Peer, Script, ScriptedOrigin, always, answers
from tests.origin.support import OK, SetClock, ask, kept, start, upstream


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(ca: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    return str(path)


def serving(ca: trustme.CA, *names: str, seen: list[str | None] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert(*names).configure_cert(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    if seen is not None:
        context.sni_callback = lambda _socket, name, _context: seen.append(name)
    return context


async def _here(_host: str) -> Found:
    return Found(["127.0.0.1"])


def named(origin: ScriptedOrigin, name: str) -> str:
    return f"https://{name}:{origin.port}"


RESOLVES: dict[str, Any] = {"allow_private": True}


async def test_a_verified_origin_is_asked_with_its_name_and_http_1_1(ca: trustme.CA, ca_file: str) -> None:
    seen: list[str | None] = []
    context = serving(ca, "origin.example", seen=seen)
    async with (
        ScriptedOrigin(always(OK), tls=context) as origin,
        upstream(
            named(origin, "origin.example"),
            resolver=Resolver(SetClock(), _here),
            tls={"ca": ca_file},
            **RESOLVES,
        ) as made,
    ):
        connection, sink = await ask(made)
        assert (sink.outcome, sink.body) == ("end", b"ok")
        again, sink = await ask(made)
        assert (sink.outcome, kept(made)) == ("end", 1)
        assert again is connection
        assert seen == ["origin.example"]
        tls = connection._transport.get_extra_info("ssl_object")
        assert tls.selected_alpn_protocol() == "http/1.1"


async def test_the_server_name_overrides_the_host(ca: trustme.CA, ca_file: str) -> None:
    seen: list[str | None] = []
    async with (
        ScriptedOrigin(always(OK), tls=serving(ca, "inner.example", seen=seen)) as origin,
        upstream(origin.url, tls={"ca": ca_file, "server_name": "inner.example"}) as made,
    ):
        _, sink = await ask(made)
        assert (sink.outcome, seen) == ("end", ["inner.example"])


async def test_an_address_is_verified_as_an_address(ca: trustme.CA, ca_file: str) -> None:
    async with (
        ScriptedOrigin(always(OK), tls=serving(ca, "127.0.0.1")) as origin,
        upstream(origin.url, tls={"ca": ca_file}) as made,
    ):
        _, sink = await ask(made)
        assert sink.outcome == "end"


@pytest.mark.parametrize(
    ("issued_for", "trusted", "verify", "error"),
    [
        pytest.param("other.example", True, True, "tls_certificate_error", id="wrong host"),
        pytest.param("origin.example", False, True, "tls_certificate_error", id="unknown issuer"),
        pytest.param("other.example", False, False, None, id="not verified"),
    ],
)
async def test_who_is_trusted(
    ca: trustme.CA, ca_file: str, issued_for: str, trusted: bool, verify: bool, error: str | None
) -> None:
    tls = {"verify": verify, **({"ca": ca_file} if trusted else {})}
    async with (
        ScriptedOrigin(always(OK), tls=serving(ca, issued_for)) as origin,
        upstream(
            named(origin, "origin.example"), resolver=Resolver(SetClock(), _here), tls=tls, **RESOLVES
        ) as made,
    ):
        asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)  # the origin's side
        if error is None:
            _, sink = await ask(made)
            assert sink.outcome == "end"
            return
        with pytest.raises(OriginError) as refused:
            await made.connect()
        assert (refused.value.error, refused.value.status) == (error, 502)
        assert made.open == 0
        assert origin.received == b""


async def test_a_client_certificate_is_shown_when_configured(
    ca: trustme.CA, ca_file: str, tmp_path: Path
) -> None:
    context = serving(ca, "127.0.0.1")
    ca.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    shown = tmp_path / "client.pem"
    ca.issue_cert("edge.example").private_key_and_cert_chain_pem.write_to_path(str(shown))
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)  # the origin's side
    async with ScriptedOrigin(always(OK), tls=context) as origin:
        async with upstream(origin.url, tls={"ca": ca_file, "client_cert": str(shown)}) as made:
            _, sink = await ask(made)
            assert sink.outcome == "end"
        async with upstream(origin.url, tls={"ca": ca_file}) as made:
            # TLS 1.3 refuses a missing certificate after our side of the handshake is done.
            error = "connected"
            try:
                _, sink = await ask(made)
                error = sink.outcome
            except OriginError as refused:
                error = refused.error
            assert error in ("tls_protocol_error", "connection_terminated")


def plaintext(data: bytes) -> Script:
    async def script(peer: Peer) -> None:
        await peer.send(data)
        await peer.eof()

    return script


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "tls_protocol_error"),
        (b"\x15\x03\x03\x00\x02\x02\x28", "tls_protocol_error"),  # alert: handshake failure
    ],
    ids=["plaintext before the handshake", "alert"],
)
async def test_what_is_not_a_handshake_is_an_error(data: bytes, error: str) -> None:
    async with (
        ScriptedOrigin(plaintext(data)) as origin,
        upstream(origin.url.replace("http:", "https:")) as made,
    ):
        with pytest.raises(OriginError) as refused:
            await made.connect()
        assert refused.value.error == error
        assert made.open == 0


@pytest.mark.asyncio(loop_factories=["uvloop"])  # asyncio's own loop does not tell the two ends apart
async def test_a_body_until_eof_that_tls_did_not_end_is_incomplete(ca: trustme.CA, ca_file: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\nsome")
        await read.wait()
        peer.cut()
        await peer.eof()

    read = asyncio.Event()
    async with (
        ScriptedOrigin(script, tls=serving(ca, "127.0.0.1")) as origin,
        upstream(origin.url, tls={"ca": ca_file}) as made,
    ):
        _, sink = await start(made)
        await sink.until("data")
        read.set()
        await sink.finished()
        assert sink.outcome == "http_response_incomplete"


async def test_a_body_until_eof_that_tls_ended_is_whole(ca: trustme.CA, ca_file: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\nsome")
        peer.close()

    async with (
        ScriptedOrigin(script, tls=serving(ca, "127.0.0.1")) as origin,
        upstream(origin.url, tls={"ca": ca_file}) as made,
    ):
        _, sink = await ask(made)
        assert (sink.outcome, sink.body) == ("end", b"some")


async def test_a_large_response_crosses_tls_with_back_pressure(ca: trustme.CA, ca_file: str) -> None:
    size = 3_000_000
    response = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size
    async with (
        ScriptedOrigin(answers(response), tls=serving(ca, "127.0.0.1")) as origin,
        upstream(origin.url, tls={"ca": ca_file}) as made,
    ):
        connection, sink = await start(made)
        sink.on_call = lambda name: connection.pause() if name == "head" else None
        await sink.until("head")
        for _ in range(50):
            await asyncio.sleep(0.001)
        assert len(sink.body) <= 512 * 1024
        connection.resume()
        await sink.finished()
        assert (sink.outcome, len(sink.body)) == ("end", size)


@pytest.mark.parametrize(
    ("tls", "key", "why"),
    [
        (Tls(ca="/nonexistent"), "tls.ca", "No such file or directory"),
        (Tls(ca=__file__), "tls.ca", "no certificate is in it"),
        (Tls(client_cert="/nonexistent"), "tls.client_cert", "No such file or directory"),
        (Tls(client_cert=__file__), "tls.client_cert", "it is not PEM, or certificate or key is not in it"),
    ],
    ids=["no ca", "ca is not one", "no certificate", "certificate is not one"],
)
def test_a_file_that_cannot_be_used_is_refused_by_its_key(tls: Tls, key: str, why: str) -> None:
    with pytest.raises(ConfigError) as refused:
        client_context(tls)
    found, _, said = str(refused.value).rpartition(" (")
    assert found.startswith(f"{key}: found '{tls.ca or tls.client_cert}', expected ")
    assert said == f"{why})"


def test_a_key_of_another_certificate_is_said_to_be_one(ca: trustme.CA, tmp_path: Path) -> None:
    one, other = ca.issue_cert("edge.example"), ca.issue_cert("other.example")
    (tmp_path / "cert.pem").write_bytes(one.cert_chain_pems[0].bytes())
    (tmp_path / "key.pem").write_bytes(other.private_key_pem.bytes())
    with pytest.raises(ConfigError, match="the key belongs to another certificate"):
        client_context(Tls(client_cert=str(tmp_path / "cert.pem"), client_key=str(tmp_path / "key.pem")))


def test_an_encrypted_key_is_refused_instead_of_asking_at_the_terminal(
    ca: trustme.CA, tmp_path: Path
) -> None:
    from cryptography.hazmat.primitives import serialization as pem

    issued = ca.issue_cert("edge.example")
    key = pem.load_pem_private_key(issued.private_key_pem.bytes(), None)
    locked = key.private_bytes(
        pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.BestAvailableEncryption(b"secret")
    )
    (tmp_path / "key.pem").write_bytes(locked)
    (tmp_path / "cert.pem").write_bytes(issued.cert_chain_pems[0].bytes())
    with pytest.raises(ConfigError, match="encrypted"):
        client_context(Tls(client_cert=str(tmp_path / "cert.pem"), client_key=str(tmp_path / "key.pem")))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_the_next_handshake_resumes_the_session(
    ca: trustme.CA, ca_file: str, version: ssl.TLSVersion
) -> None:
    context = serving(ca, "origin.example")
    context.minimum_version = context.maximum_version = version
    async with (
        ScriptedOrigin(always(OK), tls=context) as origin,
        upstream(
            f"https://origin.example:{origin.port}",
            tls={"ca": ca_file},
            allow_private=True,
            resolver=Resolver(SetClock(), _here),
        ) as made,
    ):
        resumed: list[bool] = []
        for _ in range(3):
            connection, sink = await ask(made)
            assert sink.outcome == "end"
            resumed.append(connection._transport.get_extra_info("ssl_object").session_reused)
            connection.close_idle()
        assert resumed == [False, True, True]


def test_what_is_no_session_is_not_kept() -> None:
    context = client_context(Tls())
    for thing in (None, "no TLS object"):
        context.keep("origin.example", thing)
    assert context._sessions == {}


def test_old_versions_of_tls_are_not_spoken() -> None:
    assert client_context(Tls()).minimum_version is ssl.TLSVersion.TLSv1_2
    assert client_context(Tls()).verify_mode is ssl.CERT_REQUIRED
