"""Which keys are taken, for which algorithm: A87-A90, A100, A103; and the providers that hold them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from pydantic import ValidationError

from edgeproxy.errors import ConfigError
from edgeproxy.policies.jwt import configured_keys
from edgeproxy.policies.jwt_keys import ALGORITHMS, KeySet
from edgeproxy.policies.jwt_load import KeyRefusedError, load_jwk, load_keys, load_pem, load_secret, load_set
from edgeproxy.policies.jwt_provider import Asymmetric, Symmetric
from edgeproxy.policies.jwt_token import decode_base64url
from tests.policies.jwt_tokens import SECRET, b64, jwk, pem, private_key, provider, rsa_of, sign

RSA, EC, ED = private_key("RS256"), private_key("ES256"), private_key("Ed25519")
EIGHTH = 2**255 - 19 - 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
K32 = b64(SECRET.encode()[:32]).decode()


def oct_key(**members: object) -> dict[str, object]:
    return {"kty": "oct", "k": K32, **members}


def test_the_names_of_the_configuration_are_the_algorithms_we_verify() -> None:
    assert {*Symmetric.__args__, *Asymmetric.__args__} - {"EdDSA"} == ALGORITHMS


@pytest.mark.parametrize("alg", sorted(ALGORITHMS))
def test_each_algorithm_verifies_its_own_signature_and_no_other(alg: str) -> None:
    secret = alg.startswith("HS")
    private = SECRET if secret else private_key(alg)
    material = {"kty": "oct", "k": b64(SECRET.encode()).decode()} if secret else jwk(private)  # pyright: ignore[reportArgumentType]
    key = load_jwk({**material, "alg": alg, "kid": "a"}, ALGORITHMS)
    assert (key.kid, key.alg) == ("a", alg)
    signed, _, signature = sign({"a": 1}, alg, private).rpartition(b".")
    raw = decode_base64url(signature)
    assert key.verify(signed, raw)
    for forged in (b"", raw[:-1], raw + b"\0", bytes(len(raw)), bytes([raw[0] ^ 1]) + raw[1:]):
        assert not key.verify(signed, forged)
    assert not key.verify(signed + b"x", raw)


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda: oct_key(alg="HS256", use="enc"), "use"),
        (lambda: jwk(RSA, alg="RS256", key_ops=["sign"]), "key_ops"),
        (lambda: jwk(RSA, alg="RS256", key_ops="verify"), "key_ops"),
        (lambda: jwk(RSA, alg="RS256", key_ops=["verify", "verify"]), "key_ops"),
        (lambda: jwk(RSA, alg="RS256", key_ops=["verify", "encrypt"]), "key_ops"),
        (lambda: jwk(RSA, alg="RS256", key_ops=["verify", "wrapKey"]), "key_ops"),
        (lambda: jwk(RSA, alg="RS256", key_ops=["verify", 1]), "key_ops"),
        (lambda: jwk(RSA, alg="RS256", use="sig", key_ops=["sign"]), "key_ops"),
        (lambda: jwk(RSA, alg="RS256", use="SIG"), "use"),
        (lambda: jwk(RSA, alg="RS256", use=["sig"]), "use"),
        (lambda: jwk(RSA, alg="RSA-OAEP"), "algorithm"),
        (lambda: jwk(RSA, alg="none"), "algorithm"),
        (lambda: jwk(RSA, alg="rs256"), "algorithm"),
        (lambda: jwk(RSA, alg="ES521"), "algorithm"),
        (lambda: jwk(EC, alg="ES521"), "algorithm"),
        (lambda: jwk(EC, alg="RS256"), "algorithm"),
        (lambda: jwk(EC, alg="ES384"), "algorithm"),
        (lambda: jwk(RSA, alg="HS256"), "algorithm"),
        (lambda: oct_key(alg="RS256"), "algorithm"),
        (lambda: oct_key(alg="A256GCM"), "algorithm"),
        (oct_key, "ambiguous"),
        (lambda: jwk(RSA), "ambiguous"),
        (lambda: oct_key(alg="HS384"), "short"),
        (lambda: oct_key(alg="HS256", k=""), "short"),
        (lambda: oct_key(alg="HS256", k=K32 + "="), "encoding"),
        (lambda: oct_key(alg="HS256", k=None), "garbage"),
        (lambda: oct_key(alg="HS256", use=None), "garbage"),
        (lambda: {"kty": "oct", "alg": "HS256"}, "encoding"),
        (lambda: oct_key(alg="HS256", k=K32 + "\n"), "encoding"),
        (lambda: oct_key(alg="HS256", k=K32[:-1] + "-/"), "encoding"),
        (lambda: oct_key(alg="HS256", k=b64(pem(RSA).encode()).decode()), "public"),
        (lambda: jwk(rsa_of(1024), alg="RS256"), "short"),
        (lambda: jwk(RSA, alg="RS256", e="AQ"), "exponent"),
        (lambda: jwk(RSA, alg="RS256", e="Ag"), "exponent"),
        (lambda: jwk(RSA, alg="RS256", e=b64(b"\x01" * 9).decode()), "exponent"),
        (lambda: jwk(RSA, alg="RS256", n=b64(b"\xff" * 255 + b"\xfe").decode()), "exponent"),
        (lambda: jwk(RSA, alg="RS256", d="AQAB"), "private"),
        (lambda: jwk(EC, d="AQAB"), "private"),
        (lambda: jwk(EC, crv="P-384"), "point"),
        (lambda: jwk(EC, crv="secp256k1"), "curve"),
        (lambda: jwk(EC, crv=["P-256"]), "curve"),
        (lambda: jwk(EC, x=b64(bytes(32)).decode()), "point"),
        (lambda: jwk(EC, y=b64(bytes(31)).decode()), "point"),
        (lambda: jwk(ED, crv="Ed448"), "curve"),
        (lambda: jwk(ED, crv="X25519"), "curve"),
        (lambda: jwk(ED, alg="ES256"), "algorithm"),
        *(
            (lambda y=y: jwk(ED, x=b64(y.to_bytes(32, "little")).decode()), "weak")
            for y in (0, 1, 2**255 - 20, 2**255 - 19, 2**255 - 18, EIGHTH, 2**255 | 1, 2**255 - 1)
        ),
        (lambda: jwk(ED, x=b64(bytes(31)).decode()), "point"),
        (lambda: jwk(EC, kid=7), "garbage"),
        (lambda: jwk(EC, alg=["ES256"]), "garbage"),
        (lambda: {"kty": "AKP"}, "kty"),
        (dict, "kty"),
        (lambda: "key", "garbage"),
    ],
)
def test_a_key_that_is_weak_or_for_something_else_is_no_key(made: object, reason: str) -> None:
    with pytest.raises(KeyRefusedError) as refused:
        load_jwk(made(), ALGORITHMS)  # type: ignore[operator]
    assert refused.value.reason == reason
    assert K32 not in str(refused.value)


@pytest.mark.parametrize("spelling", ["ES512", "ES521"])
def test_the_unregistered_name_of_es512_is_read_on_its_only_curve(spelling: str) -> None:
    private = private_key("ES512")
    key = load_jwk(jwk(private, alg=spelling), ALGORITHMS)
    assert key.alg == "ES512"


@pytest.mark.parametrize(
    "secret",
    [
        {"kty": "oct", "k": K32},
        {"kty": "oct", "k": K32, "alg": "HS256", "use": "enc"},
        {"kty": "oct", "k": "", "alg": "HS256"},
        {"kty": "oct"},
    ],
    ids=["no alg", "other use", "empty", "no secret"],
)
def test_a_secret_of_any_kind_beside_a_public_key_refuses_the_set(secret: dict[str, object]) -> None:
    for members in ([secret, jwk(EC, kid="a")], [jwk(EC, kid="a"), secret]):
        with pytest.raises(KeyRefusedError) as refused:
            load_keys(members, ALGORITHMS)
        assert refused.value.reason == "mixed"


def test_a_modulus_of_the_broken_generator_is_refused(data_dir: Path) -> None:
    file = data_dir / "jwt" / "wycheproof" / "json_web_key_test.json"
    groups = {group["comment"]: group for group in json.loads(file.read_text())["testGroups"]}
    with pytest.raises(KeyRefusedError) as refused:
        load_jwk(groups["jws_rsa_roca_key"]["public"]["keys"][0], ALGORITHMS)
    assert refused.value.reason == "weak"


def test_a_set_keeps_its_good_keys_and_names_the_others() -> None:
    members = [jwk(RSA, kid="bad", use="enc"), jwk(EC, kid="good"), jwk(ED, x="!", kid="broken"), 5]
    keys = load_set(json.dumps({"keys": members}).encode(), ["ES256", "Ed25519"])
    assert keys.find("good", "ES256") is not None
    assert len(keys) == 1
    assert keys.skipped == (("bad", "use"), ("broken", "encoding"), ("#3", "garbage"))


def test_keys_that_share_a_kid_are_all_dropped_even_when_one_is_broken() -> None:
    twice = [jwk(private_key("ES256", n), kid="a") for n in (1, 2)]
    keys = load_keys([*twice, jwk(EC, kid="b")], ALGORITHMS)
    assert keys.find("a", "ES256") is None
    assert keys.find("b", "ES256") is not None
    assert keys.skipped == (("a", "duplicate-kid"), ("a", "duplicate-kid"))
    broken = load_keys([twice[0], {**twice[1], "x": "!"}, jwk(EC, kid="b")], ALGORITHMS)
    assert broken.find("a", "ES256") is None


def test_a_kid_may_also_name_a_key_for_another_purpose() -> None:
    keys = load_keys([jwk(EC, kid="a"), jwk(RSA, kid="a", use="enc")], ALGORITHMS)
    assert keys.find("a", "ES256") is not None


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"keys": [oct_key(alg="HS256"), jwk(EC)]}, "mixed"),
        ({"keys": []}, "no-usable-key"),
        ({"keys": [jwk(EC)]}, "no-usable-key"),
        ({"keys": {}}, "garbage"),
        ({}, "garbage"),
        ([], "garbage"),
    ],
    ids=["secret and public", "empty", "other algorithm", "no list", "no keys", "no object"],
)
def test_a_set_without_one_family_of_usable_keys_is_refused(document: object, reason: str) -> None:
    with pytest.raises(KeyRefusedError) as refused:
        load_set(json.dumps(document).encode(), ["RS256"])
    assert refused.value.reason == reason


def test_a_key_is_found_by_its_kid_and_its_algorithm() -> None:
    keys = load_keys([jwk(EC, kid="e"), jwk(RSA, kid="r", alg="RS256"), jwk(ED)], ALGORITHMS)
    assert keys.find("e", "ES256") is not None
    assert keys.find("e", "RS256") is None
    assert keys.find("r", "PS256") is None
    assert keys.find("x", "ES256") is None, "an unknown kid never falls back to a key that has one"
    assert keys.find(None, "ES256") is not None, "no kid: the only key of that algorithm"
    assert keys.find("any", "Ed25519") is not None, "that key has no kid to compare"
    assert keys.find(None, "HS256") is None
    assert (keys.knows("e"), keys.knows("any"), keys.knows(None)) == (True, False, False)
    assert len(keys) == 3
    assert "e" not in repr(keys).replace("keys", "").replace("KeySet", "").replace("skipped", "")


def test_without_kid_several_keys_of_an_algorithm_are_no_choice() -> None:
    keys = load_keys([jwk(private_key("ES256", n), kid=str(n)) for n in (1, 2)], ALGORITHMS)
    assert keys.find(None, "ES256") is None


def test_a_key_without_alg_gets_the_one_the_provider_leaves() -> None:
    assert load_keys([jwk(RSA, kid="a")], ["PS256", "ES256"]).find("a", "PS256") is not None
    with pytest.raises(KeyRefusedError, match="ambiguous"):
        load_keys([jwk(RSA, kid="a")], ["PS256", "RS256"])


@pytest.mark.parametrize("alg", ["RS256", "ES384", "Ed25519"])
def test_a_pem_public_key_is_bound_to_what_fits(alg: str) -> None:
    assert load_pem(pem(private_key(alg)), ["ES256", "ES384", "RS256", "Ed25519"]).alg == alg


def test_a_pem_that_is_private_foreign_or_weak_is_refused() -> None:
    private = RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    ed448 = Ed448PrivateKey.generate().public_key()
    other = ed448.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    for text, reason in (
        (private, "private"),
        (other, "kty"),
        ("x", "encoding"),
        (pem(rsa_of(1024)), "short"),
    ):
        with pytest.raises(KeyRefusedError) as refused:
            load_pem(text, ["RS256"])
        assert refused.value.reason == reason


def public_key_spellings() -> dict[str, bytes]:
    """A87: the ways to write a public key that was ever taken for a secret."""
    public = RSA.public_key()
    return {
        "PEM": pem(RSA).encode(),
        "PKCS#1": public.public_bytes(Encoding.PEM, PublicFormat.PKCS1),
        "SSH": public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
        "DER": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "JWK": json.dumps(jwk(RSA)).encode(),
        "JWKS": json.dumps({"keys": [jwk(RSA)]}).encode(),
    }


@pytest.mark.parametrize("spelling", public_key_spellings().values(), ids=public_key_spellings().keys())
def test_a_public_key_is_never_taken_for_a_secret(spelling: bytes) -> None:
    with pytest.raises(KeyRefusedError) as refused:
        load_secret(spelling, ["HS256"])
    assert refused.value.reason == "public"


def test_neither_key_nor_set_nor_provider_shows_a_secret() -> None:
    held = provider(keys=[oct_key(alg="HS256", kid="k")])
    keys = configured_keys(held)
    assert keys is not None
    shown = repr(keys) + repr(keys.find("k", "HS256")) + repr(held) + repr(provider())
    assert K32 not in shown
    assert SECRET[:32] not in shown


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"secret": "short"}, "at least 32 bytes"),
        ({"algorithms": ["HS256", "HS512"]}, "exactly one"),
        ({"algorithms": ["HS256", "RS256"]}, "never mixed"),
        ({"algorithms": ["none"]}, "algorithms"),
        ({"algorithms": []}, "algorithms"),
        ({"algorithms": ["RS256"]}, "expected HS256 or HS384 or HS512 for a secret"),
        ({"public_key": pem(EC), "algorithms": ["ES256"], "secret": SECRET}, "exactly one of"),
        ({"secret": None}, "found none"),
        (
            {"keys": [jwk(EC, kid="a"), jwk(ED, kid="b", x="!")], "algorithms": ["ES256"]},
            "'b' cannot be used",
        ),
        ({"keys": [jwk(EC)], "algorithms": ["ES384"]}, "no usable key"),
        ({"jwks": "https://id.example/jwks", "algorithms": ["HS256"]}, "never fetched"),
        ({"jwks": "http://id.example/jwks", "algorithms": ["ES256"]}, "must be https"),
        ({"jwks": "http://10.0.0.1/jwks", "algorithms": ["ES256"]}, "must be https"),
        ({"jwks": "file:///etc/passwd", "algorithms": ["ES256"]}, "not a URL of keys"),
        ({"jwks": "https://user:pw@id.example/", "algorithms": ["ES256"]}, "not a URL of keys"),
        ({"jwks": "https://id.example:99999/", "algorithms": ["ES256"]}, "ort"),
        ({"header": None}, "where the token is"),
        ({"header": "X Token"}, "header"),
        ({"audience": ""}, "audience"),
        ({"audience": []}, "audience"),
        ({"issuer": ""}, "issuer"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_provider_that_cannot_be_safe_is_refused_at_start(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        provider(**settings)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8081/jwks", "http://[::1]/j", "http://localhost/j", "https://10.0.0.1/j"]
)
def test_keys_come_by_https_or_from_this_machine(url: str) -> None:
    assert configured_keys(provider(jwks=url, algorithms=["EdDSA", "Ed25519"])) is None


def test_a_file_of_keys_is_read_whole_or_refused(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    held = provider(jwks_file=str(file), algorithms=["ES256"])
    with pytest.raises(ConfigError, match="No such file"):
        configured_keys(held)
    file.write_text(json.dumps({"keys": [jwk(EC, kid="a"), jwk(RSA, kid="b", use="enc")]}))
    keys = configured_keys(held)
    assert isinstance(keys, KeySet)
    assert keys.find("a", "ES256") is not None
    file.write_text(json.dumps({"keys": [jwk(EC, kid="a"), jwk(rsa_of(1024), kid="b")]}))
    with pytest.raises(KeyRefusedError, match="'b' cannot be used"):
        configured_keys(provider(jwks_file=str(file), algorithms=["ES256", "RS256"]))
    file.write_text(" " * 70_000)
    with pytest.raises(ConfigError, match="64 KiB"):
        configured_keys(held)
