"""`jwt_providers:` one issuer of tokens: where its keys come from and what its tokens must say."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, StringConstraints, field_validator, model_validator

from edgeproxy.errors import ConfigError
from edgeproxy.policies.jwt_token import SYMMETRIC, canonical_algorithm
from edgeproxy.units import Duration, Model, NetworkField

if TYPE_CHECKING:
    from edgeproxy.policies.jwt_keys import KeySet

MAX_SET = 64 * 1024
"""Bytes of a JWK set, fetched or read; more is refused."""

FieldName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$", max_length=128)]
Text = Annotated[str, StringConstraints(min_length=1)]
Symmetric = Literal["HS256", "HS384", "HS512"]
Asymmetric = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519", "EdDSA"
]


class JwksFetch(Model):
    """How the keys of a `jwks` URL are kept fresh."""

    refresh: Duration = 600.0
    """Time between fetches when the issuer's `Cache-Control: max-age` does not say."""

    cooldown: Duration = 30.0
    """Shortest time between fetches that unknown keys ask for, however many tokens name them."""

    stale_for: Duration = 86400.0
    """How long the last good keys serve while the issuer cannot be reached; then 503."""

    timeout: Duration = 5.0
    """Time for one whole fetch."""

    allow: Annotated[tuple[NetworkField, ...], Field(max_length=64)] = ()
    """Networks beside the public ones that the issuer may be in, like 10.0.0.0/8."""


class JwtProvider(Model):
    """One issuer. Exactly one of `jwks`, `jwks_file`, `keys`, `secret`, `public_key`."""

    issuer: Text
    """What `iss` must be, character by character."""

    audience: Text | Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    """What `aud` must name: one of these. Without it only tokens that name no audience pass."""

    subjects: Annotated[tuple[Text, ...], Field(min_length=1, max_length=1024)] | None = None
    """What `sub` must be: one of these; a `*` at the end matches the rest. Default: anything."""

    algorithms: Annotated[tuple[Symmetric | Asymmetric, ...], Field(min_length=1)]
    """Signature algorithms that are accepted: all with a shared secret (HS...), or all without."""

    jwks: str | None = None
    """URL of the issuer's JWK set: https, or http on this machine. Redirects are not followed."""

    jwks_file: Path | None = None
    """File with a JWK set."""

    keys: tuple[dict[str, object], ...] | None = Field(default=None, repr=False)
    """The keys themselves, as JWK mappings."""

    secret: SecretStr | None = None
    """Shared secret of HS256 (32 bytes or more), HS384 (48) or HS512 (64)."""

    public_key: str | None = None
    """PEM public key."""

    fetch: JwksFetch = JwksFetch()
    """How the keys of the `jwks` URL are kept fresh."""

    leeway: Duration = 60.0
    """Difference between clocks that is forgiven at `exp`, `nbf` and `iat`."""

    require_exp: bool = True
    """Refuse tokens that never expire."""

    max_lifetime: Duration | None = None
    """Longest time from `iat` to `exp`; a token must then have `iat`."""

    typ: str | None = None
    """What the header's `typ` must be, like `at+jwt`. Without it: none, `JWT` or `at+jwt`."""

    header: FieldName | None = "Authorization"
    """Request header with the token, after `Bearer ` in Authorization; `null` to not look there."""

    cookie: FieldName | None = None
    """Cookie with the token."""

    query: FieldName | None = None
    """Query parameter with the token. It never goes on to the origin in the URL."""

    revoked: Path | None = None
    """File with tokens that are refused although they have not expired, by `jti` or `sub`: JSON lines, looked
    at four times a second. `POST /revoke` of the admin API appends to it."""

    max_failures: Annotated[int, Field(ge=1, le=1_000_000)] | None = 50
    """Forged tokens of one client (IPv6: of its /64) that each worker verifies within a second; then its
    tokens get 429 unverified, but those remembered as good. `null` for no cap."""

    cache_size: Annotated[int, Field(ge=0, le=1_000_000)] = 10_000
    """Verified tokens each worker remembers per route, until they expire or the keys change."""

    @field_validator("algorithms")
    @classmethod
    def _one_family(cls, algorithms: tuple[str, ...]) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(canonical_algorithm(name) for name in algorithms))
        if 0 < len(SYMMETRIC.intersection(names)) < len(names):
            raise ValueError("HS... and algorithms without a shared secret are never mixed (RFC 8725 §2.1)")
        return names

    @field_validator("jwks")
    @classmethod
    def _safe_url(cls, url: str | None) -> str | None:
        if url is not None:
            _check_url(url)
        return url

    @model_validator(mode="after")
    def _usable(self) -> JwtProvider:
        sources = ("jwks", "jwks_file", "keys", "secret", "public_key")
        given = [name for name in sources if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"exactly one of {', '.join(sources)} is needed; found {found}")
        if self.jwks is not None and not SYMMETRIC.isdisjoint(self.algorithms):
            raise ValueError("a shared secret is never fetched: HS... cannot go with `jwks`")
        if self.header is None and self.cookie is None and self.query is None:
            raise ValueError("one of header, cookie, query must say where the token is")
        if self.jwks_file is None:
            configured_keys(self)
        return self

    @property
    def audiences(self) -> frozenset[str]:
        """The accepted audiences; empty when tokens must name none."""
        if self.audience is None:
            return frozenset()
        return frozenset([self.audience] if isinstance(self.audience, str) else self.audience)


def configured_keys(provider: JwtProvider) -> KeySet | None:
    """The keys that stand in the configuration or its file; None when they come from a URL.

    Any key that is broken or weak is refused, not skipped: the operator can mend it.
    KeyRefusedError (a ValueError), or ConfigError when the file cannot be read.
    """
    # Imported where there are keys: cryptography would take a tenth of everybody's start.
    from edgeproxy.policies import jwt_load
    from edgeproxy.policies.jwt_keys import KeySet

    algorithms = provider.algorithms
    if provider.secret is not None:
        return KeySet([jwt_load.load_secret(provider.secret.get_secret_value().encode(), algorithms)])
    if provider.public_key is not None:
        return KeySet([jwt_load.load_pem(provider.public_key, algorithms)])
    if provider.keys is not None:
        return jwt_load.flawless(jwt_load.load_keys(provider.keys, algorithms))
    if provider.jwks_file is not None:
        return jwt_load.flawless(jwt_load.load_set(_read(provider.jwks_file), algorithms))
    return None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SET + 1)
    except OSError as error:
        raise ConfigError(f"jwks_file {path}: {error.strerror}") from None
    if len(data) > MAX_SET:
        raise ConfigError(f"jwks_file {path}: more than {MAX_SET // 1024} KiB")
    return data


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if (
        not parts.hostname
        or parts.username is not None
        or parts.fragment
        or parts.scheme not in ("https", "http")
    ):
        raise ValueError(f"{url!r} is not a URL of keys; write it like https://id.example.com/jwks.json")
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise ValueError(f"{url!r} must be https: whoever can change the keys can sign tokens")
    _ = parts.port  # ValueError when it is none


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
