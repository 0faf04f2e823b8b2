"""Signatures of the families that third-party vectors come in, made with keys of our own: A88, A100.

Each row is a signature that some library took, or would take if it let its decoder decide.
"""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from edgeproxy.policies.jwt_keys import ALGORITHMS, Key
from edgeproxy.policies.jwt_load import load_jwk
from tests.policies.jwt_tokens import jwk, private_key

SIGNED = b"eyJhbGciOiJFUzI1NiJ9.e30"
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256
ED_ORDER = 2**252 + 27742317777372353535851937790883648493
ECDSA = {"ES256": (32, hashes.SHA256()), "ES384": (48, hashes.SHA384()), "ES512": (66, hashes.SHA512())}
RSASSA = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}


def key_of(alg: str) -> Key:
    return load_jwk(jwk(private_key(alg), alg=alg), ALGORITHMS)


def ec_private(alg: str) -> ec.EllipticCurvePrivateKey:
    private = private_key(alg)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    return private


def raw(r: int, s: int, size: int = 32) -> bytes:
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


@pytest.mark.parametrize("alg", ECDSA)
def test_an_ecdsa_signature_has_one_form_and_one_size(alg: str) -> None:
    size, hashed = ECDSA[alg]
    key = key_of(alg)
    der = ec_private(alg).sign(SIGNED, ec.ECDSA(hashed))
    r, s = decode_dss_signature(der)
    good = raw(r, s, size)
    assert key.verify(SIGNED, good)
    forged = [
        der,
        raw(r, s, size + 1),
        good + good,
        good[1:],
        good[:-1],
        b"\0" + good,
        good + b"\0",
        good[:size],
    ]
    forged += [encode_dss_signature(1, 1), raw(s, r, size)]
    assert not any(key.verify(SIGNED, signature) for signature in forged)


@pytest.mark.parametrize("r", [0, 1, ORDER - 1, ORDER, ORDER + 1, 2**256 - 1])
@pytest.mark.parametrize("s", [0, 1, ORDER - 1, ORDER, ORDER + 1, 2**256 - 1])
def test_r_and_s_at_the_edges_verify_nothing(r: int, s: int) -> None:
    assert not key_of("ES256").verify(SIGNED, raw(r, s))


@pytest.mark.parametrize("alg", ECDSA)
@pytest.mark.parametrize("other", ECDSA)
def test_a_curve_goes_with_one_hash(alg: str, other: str) -> None:
    size, _ = ECDSA[alg]
    r, s = decode_dss_signature(ec_private(alg).sign(SIGNED, ec.ECDSA(ECDSA[other][1])))
    assert key_of(alg).verify(SIGNED, raw(r, s, size)) is (alg == other)


def pss(bits: str, salt: int, mask: str | None = None) -> bytes:
    private = private_key("PS" + bits)
    assert isinstance(private, rsa.RSAPrivateKey)
    return private.sign(SIGNED, padding.PSS(padding.MGF1(RSASSA[mask or bits]), salt), RSASSA[bits])


@pytest.mark.parametrize("bits", RSASSA)
def test_a_pss_salt_is_as_long_as_the_hash(bits: str) -> None:
    key, size = key_of("PS" + bits), int(bits) // 8
    assert key.verify(SIGNED, pss(bits, size))
    for salt in (0, 20, size - 1, size + 1, 256 - size - 2):
        assert not key.verify(SIGNED, pss(bits, salt)), salt


@pytest.mark.parametrize("bits", RSASSA)
def test_a_pss_mask_is_made_with_the_same_hash(bits: str) -> None:
    for mask in RSASSA.keys() - {bits}:
        assert not key_of("PS" + bits).verify(SIGNED, pss(bits, int(bits) // 8, mask)), mask


@pytest.mark.parametrize("alg", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"])
def test_an_rsa_key_verifies_one_padding_with_one_hash(alg: str) -> None:
    private = private_key("RS256")
    assert isinstance(private, rsa.RSAPrivateKey)
    key = load_jwk(jwk(private, alg=alg), ALGORITHMS)
    for bits, hashed in RSASSA.items():
        plain = private.sign(SIGNED, padding.PKCS1v15(), hashed)
        masked = private.sign(SIGNED, padding.PSS(padding.MGF1(hashed), hashed.digest_size), hashed)
        assert key.verify(SIGNED, plain) is (alg == "RS" + bits)
        assert key.verify(SIGNED, masked) is (alg == "PS" + bits)


@pytest.mark.parametrize("alg", ["RS256", "PS256"])
def test_an_rsa_signature_has_the_size_of_the_modulus(alg: str) -> None:
    key = key_of(alg)
    size = 256
    modulus = private_key(alg).public_key().public_numbers().n  # type: ignore[union-attr]
    for value in (0, 1, modulus - 1, modulus, modulus + 1):
        assert not key.verify(SIGNED, value.to_bytes(size, "big"))
    assert not key.verify(SIGNED, b"\1")
    assert not key.verify(SIGNED, bytes(size + 1))


def test_an_rsa_signature_plus_the_modulus_is_no_second_spelling() -> None:
    private = private_key("RS256")
    assert isinstance(private, rsa.RSAPrivateKey)
    good = private.sign(SIGNED, padding.PKCS1v15(), hashes.SHA256())
    moved = int.from_bytes(good, "big") + private.private_numbers().public_numbers.n
    key = load_jwk(jwk(private, alg="RS256"), ALGORITHMS)
    assert key.verify(SIGNED, good)
    assert not key.verify(SIGNED, moved.to_bytes(257, "big"))
    assert not key.verify(SIGNED, b"\0" + good)


def test_an_ed25519_scalar_beyond_the_order_is_no_second_spelling() -> None:
    private = private_key("Ed25519")
    assert isinstance(private, Ed25519PrivateKey)
    good = private.sign(SIGNED)
    scalar = int.from_bytes(good[32:], "little")
    key = key_of("Ed25519")
    assert key.verify(SIGNED, good)
    assert not key.verify(SIGNED, good[:32] + (scalar + ED_ORDER).to_bytes(32, "little"))
    for signature in (b"", good[:-1], good + b"\0", bytes(64), b"\1" + bytes(63), good[32:] + good[:32]):
        assert not key.verify(SIGNED, signature)
