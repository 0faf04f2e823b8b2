"""TLS towards origins: chain, name and SNI are verified unless the configuration says otherwise (A120)."""

from __future__ import annotations

import ssl

from edgeproxy.errors import ConfigError, OriginError, origin_error
from edgeproxy.origin.settings import Tls


def client_context(tls: Tls) -> ssl.SSLContext:
    """The context for one origin's servers. Raises ConfigError when a file cannot be used."""
    try:
        context = ssl.create_default_context(cafile=tls.ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"tls.ca: {tls.ca!r} cannot be used: {error}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.client_cert is not None:
        try:
            context.load_cert_chain(tls.client_cert, tls.client_key, password=_no_password)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"tls.client_cert: {tls.client_cert!r} cannot be used: {error}") from None
    return context


def _no_password() -> str:
    raise ssl.SSLError("the private key is encrypted")  # OpenSSL would ask at the terminal


def tls_error(error: ssl.SSLError) -> OriginError:
    """The OriginError of a failed handshake."""
    # Both attributes are missing from errors that an event loop makes itself.
    if isinstance(error, ssl.SSLCertVerificationError):
        return origin_error("tls_certificate_error", getattr(error, "verify_message", "not verified"))
    return origin_error("tls_protocol_error", getattr(error, "reason", None) or "the handshake failed")
