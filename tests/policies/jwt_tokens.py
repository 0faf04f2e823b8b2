"""Keys and tokens for the JWT tests: signed by hand, so that what no library would make can be made."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from functools import cache

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import Algorithm, get_default_algorithms

from edgeproxy.context import Context
from edgeproxy.http.message import Headers, Request
from edgeproxy.policies.jwt import Issuer, JwtAuth, JwtProvider, JwtRule, configured_keys
from edgeproxy.policies.jwt_keys import KeySet
from edgeproxy.policies.jwt_revoked import Revocations
from edgeproxy.snapshot import Snapshot

ISSUER = "https://id.example.com/"
NOW = 1_800_000_000.0
SECRET = "correct horse battery staple, twice over: 64 bytes are needed by HS512"
GOOD = {"iss": ISSUER, "aud": "shop", "sub": "u-1", "exp": NOW + 600, "iat": NOW - 10, "scope": "read write"}
SCHEMES: dict[str, Algorithm] = get_default_algorithms()
SCHEMES["Ed25519"] = SCHEMES["EdDSA"]
Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | Ed25519PrivateKey


@cache
def private_key(alg: str, number: int = 0) -> Private:
    """The `number`-th key for an algorithm, made once."""
    if alg.startswith("ES"):
        return ec.generate_private_key(
            {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1()}.get(alg, ec.SECP521R1())
        )
    return Ed25519PrivateKey.generate() if alg.startswith("Ed") else rsa.generate_private_key(65537, 2048)


def rsa_of(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def pem(key: Private) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def jwk(key: Private, **members: object) -> dict[str, object]:
    """The public JWK of a key, with members added or (None) taken away."""
    public = key.public_key()
    scheme = SCHEMES["RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"]
    if isinstance(key, Ed25519PrivateKey):
        scheme = SCHEMES["EdDSA"]
    made = {**scheme.to_jwk(public, as_dict=True), **members}
    made.pop("key_ops", None) if "key_ops" not in members else None
    return {name: value for name, value in made.items() if value is not None}


def b64(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")


def sign(payload: object, alg: str, key: object, header: dict[str, object] | bytes | None = None) -> bytes:
    """A compact JWS. Bytes are taken as they are, anything else as JSON; `header` adds to `alg`."""
    head = header if isinstance(header, bytes) else json.dumps({"alg": alg, **(header or {})}).encode()
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    signed = b64(head) + b"." + b64(body)
    scheme = SCHEMES[alg]
    return signed + b"." + b64(scheme.sign(signed, key.encode() if isinstance(key, str) else key))


def hs256(claims: object = GOOD, header: dict[str, object] | bytes | None = None) -> bytes:
    return sign(claims, "HS256", SECRET, header)


def provider(**settings: object) -> JwtProvider:
    base: dict[str, object] = {"issuer": ISSUER, "audience": "shop", "algorithms": ["HS256"]}
    if not {"keys", "jwks", "jwks_file", "public_key"} & settings.keys():
        base["secret"] = SECRET
    return JwtProvider.model_validate({**base, **settings})


def policy(
    of: JwtProvider | None = None,
    keys: Snapshot[KeySet | None] | None = None,
    revoked: Snapshot[Revocations] | None = None,
    **rule: object,
) -> JwtAuth:
    of = of or provider()
    keys = keys or Snapshot(configured_keys(of))
    issuer = Issuer("main", of, keys, None, revoked)
    return JwtAuth(JwtRule.model_validate({"provider": "main", **rule}), {"main": issuer})


def request(token: bytes | None = None, query: bytes = b"", **fields: bytes) -> Request:
    """A GET with `Authorization: Bearer token` and the fields given (`_` for `-`)."""
    raw = [(name.replace("_", "-").encode(), value) for name, value in fields.items()]
    if token is not None:
        raw.append((b"Authorization", b"Bearer " + token))
    return Request(b"GET", b"shop.example.com", b"/", query, Headers(raw), "192.0.2.1")


def context(wall: float = NOW, now: float = 5000.0) -> Context:
    return Context(now, wall, "192.0.2.1", "api", "r-1")
