"""TLS towards origins: chain, name and SNI are verified unless the configuration says otherwise (A120)."""

from __future__ import annotations

import ssl
import sys

from edgeproxy.errors import ConfigError, OriginError, origin_error
from edgeproxy.origin.settings import Tls

_MOST_SESSIONS = 256  # one for each server name, of which an origin has as many as servers


class ResumingContext(ssl.SSLContext):
    """A context that offers the server the session of the last connection (RFC 8446 §2.2).

    Event loops cannot be told a session; they do ask the context for each connection's TLS object.
    A session is only kept from, and offered to, the same name, by the same rules of verification.
    """

    _sessions: dict[str, ssl.SSLSession]

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        if session is None and isinstance(server_hostname, str):
            session = self._sessions.get(server_hostname)
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)

    def keep(self, server_name: str | None, tls: object) -> None:
        """Keep the session of a connection's TLS object, when there is one by now."""
        session = tls.session if isinstance(tls, ssl.SSLObject) else None
        if server_name is not None and session is not None and session.has_ticket:
            if len(self._sessions) >= _MOST_SESSIONS:
                self._sessions.clear()
            self._sessions[server_name] = session


def client_context(tls: Tls, protocol: str = "http/1.1") -> ResumingContext:
    """The context for one origin's servers; `protocol` is what they shall speak (RFC 7301).
    Raises ConfigError when a file cannot be used."""
    context = ResumingContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies chain and name
    context._sessions = {}
    if sys.version_info >= (3, 13):  # as `ssl.create_default_context` does there
        context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        if tls.ca is None:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        else:
            context.load_verify_locations(tls.ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"tls.ca: found {tls.ca!r}, expected PEM certificates ({_why(error)})") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([protocol])
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.client_cert is not None:
        try:
            context.load_cert_chain(tls.client_cert, tls.client_key, password=_no_password)
        except (OSError, ssl.SSLError) as error:
            said = (
                f"tls.client_cert: found {tls.client_cert!r}, expected a PEM certificate and its private key"
            )
            raise ConfigError(f"{said} ({_why(error)})") from None
    return context


def _no_password() -> str:
    raise ssl.SSLError(_ENCRYPTED)  # OpenSSL would ask at the terminal


_ENCRYPTED = "the private key is encrypted, and nobody is asked for its password"
_REASONS = {
    "KEY_VALUES_MISMATCH": "the key belongs to another certificate",
    "NO_CERTIFICATE_OR_CRL_FOUND": "no certificate is in it",
}


def _why(error: OSError) -> str:
    """What OpenSSL or the system says, in words."""
    if not isinstance(error, ssl.SSLError):
        return error.strerror or str(error)
    if _ENCRYPTED in error.args:
        return _ENCRYPTED
    return _REASONS.get(error.reason, "it is not PEM, or certificate or key is not in it")


def tls_error(error: ssl.SSLError) -> OriginError:
    """The OriginError of a failed handshake."""
    # Both attributes are missing from errors that an event loop makes itself.
    if isinstance(error, ssl.SSLCertVerificationError):
        return origin_error("tls_certificate_error", getattr(error, "verify_message", "not verified"))
    return origin_error("tls_protocol_error", getattr(error, "reason", None) or "the handshake failed")
