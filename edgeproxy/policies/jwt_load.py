"""Loading keys: what a key may be used for is decided here, never when a token comes.

Rule 1: a key is bound to exactly one algorithm (RFC 8725 §3.1), by its `alg`, its curve, or because
the provider's list leaves one choice.
Rule 2: a key that is weak, private, or meant for something else is no key.
Rule 3: one set is of one family. Keys that share a `kid` are all dropped; a secret beside public
keys refuses the whole set, whatever else is wrong with either. Everything else that is wrong costs
only the key it is wrong with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import cast

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key

from edgeproxy.policies.jwt_keys import ALGORITHMS, Key, KeySet, PublicKey
from edgeproxy.policies.jwt_token import SYMMETRIC, canonical_algorithm, decode_base64url, parse_object

_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_HASH_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}  # RFC 7518 §3.2: a key at least that long
_EC_ALGORITHM = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_CURVES: dict[str, tuple[ec.EllipticCurve, int]] = {
    "P-256": (ec.SECP256R1(), 32),
    "P-384": (ec.SECP384R1(), 48),
    "P-521": (ec.SECP521R1(), 66),
}
_KINDS = frozenset({"oct", "RSA", "EC", "OKP"})
_PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth"})
_SIGNING = frozenset({"sign", "verify"})
_UNREGISTERED = {("ES521", "P-521"): "ES512"}  # how some issuers name the only algorithm of P-521
_ED25519_PRIME = 2**255 - 19
# y of the points whose order divides 8: with such a key one signature fits many messages.
_ED25519_EIGHTH = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_ED25519_SMALL = frozenset({0, 1, _ED25519_PRIME - 1, _ED25519_EIGHTH, _ED25519_PRIME - _ED25519_EIGHTH})
_RSA_BITS = range(2048, 8193)  # RFC 7518 §3.3; above, one verification takes milliseconds

_OTHER_PURPOSE = frozenset({"use", "key_ops", "algorithm", "kty"})
"""Reasons for which a sound key is simply not for this provider: never a mistake of who made the set."""


class KeyRefusedError(ValueError):
    """A key, or a set of keys, that is not taken. `reason` is one bounded word."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def load_set(document: bytes, algorithms: Collection[str]) -> KeySet:
    """A JWK Set (RFC 7517 §5). KeyRefusedError when it is none, is mixed, or leaves no key."""
    try:
        members = parse_object(document).get("keys")
    except ValueError as error:
        raise KeyRefusedError("garbage", f"not a JWK set: {error}") from None
    if not isinstance(members, list):
        raise KeyRefusedError("garbage", "not a JWK set: it has no list `keys`")
    return load_keys(cast("list[object]", members), algorithms)


def load_keys(members: Iterable[object], algorithms: Collection[str]) -> KeySet:
    """The usable keys among some JWKs; the others are named in `skipped`.

    KeyRefusedError when secrets and public keys are mixed, or no key is left.
    """
    members = list(members)
    if len({kty == "oct" for kty in map(_kty, members) if kty in _KINDS}) > 1:
        raise KeyRefusedError("mixed", "secrets and public keys in one set")
    keys: list[Key] = []
    skipped: list[tuple[str, str]] = []
    named: Counter[str] = Counter()
    for position, member in enumerate(members):
        label = _label(member, position)
        try:
            keys.append(load_jwk(member, ALGORITHMS, algorithms))
        except KeyRefusedError as refused:
            skipped.append((label, refused.reason))
            if refused.reason in _OTHER_PURPOSE:
                continue
        named[label] += 1  # a broken twin counts: nobody can say which of the two was meant
    taken: list[Key] = []
    for key in keys:
        if key.kid is not None and named[key.kid] > 1:
            skipped.append((key.kid, "duplicate-kid"))
        elif key.alg not in algorithms:
            skipped.append((key.kid or "", "algorithm"))
        else:
            taken.append(key)
    if not taken:
        reasons = ", ".join(f"{label[:64]}: {reason}" for label, reason in skipped[:5])
        raise KeyRefusedError("no-usable-key", f"no usable key in the set ({reasons or 'it is empty'})")
    return KeySet(taken, skipped)


def flawless(keys: KeySet) -> KeySet:
    """The same set, when no key had to be left out because something is wrong with it. KeyRefusedError."""
    for label, reason in keys.skipped:
        if reason not in _OTHER_PURPOSE:
            raise KeyRefusedError(reason, f"key {label[:64]!r} cannot be used: {reason}")
    return keys


def load_jwk(jwk: object, allowed: Collection[str], preferred: Collection[str] = ()) -> Key:
    """The key of a JWK (RFC 7517 §4, RFC 7518 §6).

    `allowed` are the algorithms it may be bound to; where its own members leave a choice,
    `preferred` must leave one. KeyRefusedError says in one word what is wrong.
    """
    if not isinstance(jwk, Mapping):
        raise KeyRefusedError("garbage", "a JWK is an object")
    members = cast("Mapping[str, object]", jwk)
    kid, alg = members.get("kid"), members.get("alg")
    if not (kid is None or isinstance(kid, str)) or not (alg is None or isinstance(alg, str)):
        raise KeyRefusedError("garbage", "`kid` and `alg` are strings")
    if None in members.values():
        raise KeyRefusedError("garbage", "a member that is null says nothing: leave it out")
    _check_purpose(members)
    if alg is not None:
        alg = _UNREGISTERED.get((alg, str(members.get("crv"))), canonical_algorithm(alg))
        allowed = [name for name in allowed if name == alg]
    match members.get("kty"):
        case "oct":
            return _secret_key(_octets(members, "k"), kid, allowed, preferred)
        case "RSA" | "EC" | "OKP" if not _PRIVATE_MEMBERS.isdisjoint(members):
            raise KeyRefusedError("private", "this is a private key; give the public half")
        case "RSA":
            material = _rsa_key(members)
        case "EC":
            material = _ec_key(members)
        case "OKP":
            material = _okp_key(members)
        case _:
            raise KeyRefusedError("kty", "`kty` is none of oct, RSA, EC, OKP")
    return _bind(material, kid, allowed, preferred)


def load_pem(text: str, algorithms: Collection[str]) -> Key:
    """The key of a PEM public key (`BEGIN PUBLIC KEY`), bound to the one algorithm that fits."""
    if "PRIVATE KEY" in text:
        raise KeyRefusedError("private", "this is a private key; give the public half")
    try:
        material = load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise KeyRefusedError("encoding", "not a PEM public key (-----BEGIN PUBLIC KEY-----)") from None
    if not isinstance(material, PublicKey):
        raise KeyRefusedError("kty", "the PEM key is none of RSA, EC, Ed25519")
    return _bind(material, None, algorithms)


def load_secret(secret: bytes, algorithms: Collection[str]) -> Key:
    """The key of a shared secret, bound to the one HMAC algorithm of the list."""
    return _secret_key(secret, None, algorithms)


def _label(member: object, position: int) -> str:
    kid = cast("Mapping[str, object]", member).get("kid") if isinstance(member, Mapping) else None
    return kid if isinstance(kid, str) else f"#{position}"


def _kty(member: object) -> str:
    kty = cast("Mapping[str, object]", member).get("kty") if isinstance(member, Mapping) else None
    return kty if isinstance(kty, str) else ""


def _check_purpose(members: Mapping[str, object]) -> None:
    if members.get("use", "sig") != "sig":
        raise KeyRefusedError("use", "`use` is not sig")
    operations = members.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise KeyRefusedError("key_ops", "`key_ops` has no verify")
    named = cast("list[object]", operations)
    # RFC 7517 §4.3: no operation twice, and no key for unrelated purposes.
    if any(operation not in _SIGNING for operation in named) or named.count("verify") > 1:
        raise KeyRefusedError("key_ops", "`key_ops` is for more than signatures, or names one twice")


def _octets(members: Mapping[str, object], name: str) -> bytes:
    value = members.get(name)
    if not isinstance(value, str):
        raise KeyRefusedError("encoding", f"`{name}` is missing")
    try:
        return decode_base64url(value.encode())
    except ValueError:
        raise KeyRefusedError("encoding", f"`{name}` is not base64url without padding") from None


def _secret_key(
    secret: bytes, kid: str | None, algorithms: Collection[str], preferred: Collection[str] = ()
) -> Key:
    alg = _only(algorithms, SYMMETRIC, preferred, "a secret")
    if len(secret) < _HASH_BYTES[alg]:
        least = _HASH_BYTES[alg]
        raise KeyRefusedError("short", f"a secret for {alg} has at least {least} bytes (RFC 7518 §3.2)")
    if _is_public_key(secret):
        raise KeyRefusedError("public", "a public key is no secret: anybody could sign with it")
    return Key(kid, alg, secret)


def _is_public_key(secret: bytes) -> bool:
    """RFC 8725 §2.1: the way algorithm confusion starts."""
    text = secret.lstrip()
    if b"-----BEGIN" in text or text.startswith((b"ssh-", b"ecdsa-sha2-")) or b'"kty"' in text:
        return True
    try:
        load_der_public_key(secret)
    except (ValueError, UnsupportedAlgorithm):
        return False
    return True


def _rsa_key(members: Mapping[str, object]) -> rsa.RSAPublicKey:
    modulus = int.from_bytes(_octets(members, "n"), "big")
    exponent = int.from_bytes(_octets(members, "e"), "big")
    if modulus.bit_length() not in _RSA_BITS:
        raise KeyRefusedError("short", "an RSA key has 2048 to 8192 bits (RFC 7518 §3.3)")
    try:
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except ValueError:
        raise KeyRefusedError("exponent", "`n` and `e` are no RSA public key") from None


def _ec_key(members: Mapping[str, object]) -> ec.EllipticCurvePublicKey:
    name = members.get("crv")
    curve, size = _CURVES.get(name, (None, 0)) if isinstance(name, str) else (None, 0)
    if curve is None:
        raise KeyRefusedError("curve", "`crv` is none of P-256, P-384, P-521")
    x, y = _octets(members, "x"), _octets(members, "y")
    if len(x) != size or len(y) != size:
        raise KeyRefusedError("point", f"`x` and `y` have {size} bytes on {name} (RFC 7518 §6.2.1.2)")
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(curve, b"\x04" + x + y)
    except ValueError:
        raise KeyRefusedError("point", f"(`x`, `y`) is no point of {name}") from None


def _okp_key(members: Mapping[str, object]) -> Ed25519PublicKey:
    if members.get("crv") != "Ed25519":
        raise KeyRefusedError("curve", "`crv` is not Ed25519")
    encoded = _octets(members, "x")
    try:
        return Ed25519PublicKey.from_public_bytes(encoded)
    except ValueError:
        raise KeyRefusedError("point", "`x` is no Ed25519 public key") from None


def _is_weak_ed25519(key: Ed25519PublicKey) -> bool:
    """Whether its point has a small order or a second spelling (RFC 8032 §5.1.3)."""
    y = int.from_bytes(key.public_bytes_raw(), "little") & (2**255 - 1)
    return y >= _ED25519_PRIME or y in _ED25519_SMALL


def _bind(
    material: PublicKey, kid: str | None, algorithms: Collection[str], preferred: Collection[str] = ()
) -> Key:
    if isinstance(material, rsa.RSAPublicKey):
        numbers = material.public_numbers()
        if material.key_size not in _RSA_BITS:
            raise KeyRefusedError("short", "an RSA key has 2048 to 8192 bits (RFC 7518 §3.3)")
        if numbers.n % 2 == 0 or numbers.e.bit_length() > 64:
            raise KeyRefusedError("exponent", "`n` and `e` are no RSA public key")
        if _is_roca(numbers.n):
            raise KeyRefusedError("weak", "the modulus was made by the broken generator of CVE-2017-15361")
        fitting: Collection[str] = _RSA
    elif isinstance(material, Ed25519PublicKey):
        if _is_weak_ed25519(material):
            raise KeyRefusedError("weak", "the point of this key is one that many signatures fit")
        fitting = ("Ed25519",)
    else:
        fitting = (_EC_ALGORITHM.get(material.curve.name, ""),)
    return Key(kid, _only(algorithms, fitting, preferred, "this key"), material)


def _only(
    algorithms: Collection[str], fitting: Collection[str], preferred: Collection[str], what: str
) -> str:
    """The one algorithm of the list that a key is for."""
    choices = [name for name in algorithms if name in fitting]
    if len(choices) > 1 and preferred:
        choices = [name for name in choices if name in preferred]
    if not choices:
        listed, wanted = ", ".join(algorithms), " or ".join(sorted(fitting))
        raise KeyRefusedError("algorithm", f"algorithms: found {listed}, expected {wanted} for {what}")
    if len(choices) > 1:
        names = ", ".join(sorted(choices))
        raise KeyRefusedError("ambiguous", f"{what} fits {names}: a key has exactly one, set its `alg`")
    return choices[0]


def _is_roca(modulus: int) -> bool:
    return all(modulus % prime in residues for prime, residues in _ROCA_RESIDUES)


def _powers(generator: int, prime: int) -> frozenset[int]:
    return frozenset(pow(generator, exponent, prime) for exponent in range(prime))


# Primes of the broken generator are powers of 65537 modulo every small prime, and so is their product.
_ROCA_RESIDUES = tuple(
    (prime, _powers(65537, prime))
    for prime in (
        *(3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 53),
        *(61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157),
    )
)
