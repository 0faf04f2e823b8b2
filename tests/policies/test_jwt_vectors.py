"""Third-party JWS vectors: Wycheproof, RFC 7515, RFC 8037, RFC 7520, RFC 7797.

They sign any bytes, so they go through reading, key loading and signature, not through claims.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeproxy.policies.jwt_keys import ALGORITHMS
from edgeproxy.policies.jwt_load import KeyRefusedError, load_keys
from edgeproxy.policies.jwt_token import Reason, parse_token

# Valid by the file, and refused all the same: a foreign character in a segment, which RFC 7515 §2 has no
# room for; a key that names another algorithm than the token (PS256 for PS384, RFC 8725 §3.1).
STRICTER = {"InvalidCharacterInsertedInHeader", "InvalidCharacterInsertedInPayload", "Figure20"}


def accepts(keys: list[object], token: str, algorithms: frozenset[str] = ALGORITHMS) -> bool:
    try:
        loaded = load_keys(keys, algorithms)
    except KeyRefusedError:
        return False
    parsed = parse_token(token.encode())
    if isinstance(parsed, Reason):
        return False
    key = loaded.find(parsed.kid, parsed.alg)
    return key is not None and key.verify(parsed.signed, parsed.signature)


def wycheproof(data_dir: Path) -> Iterator[tuple[str, list[object], dict[str, Any]]]:
    for path in sorted((data_dir / "jwt" / "wycheproof").glob("*.json")):
        for group in json.loads(path.read_text())["testGroups"]:
            key = group.get("public") or group["private"]
            for test in group["tests"]:
                yield f"{path.stem} {test['tcId']} {test['comment']}", key.get("keys", [key]), test


def text_of(test: dict[str, Any]) -> str:
    token = test.get("jws", test.get("jwe"))
    return token if isinstance(token, str) else json.dumps(token)


def test_wycheproof_each_invalid_is_refused_and_each_valid_accepted(data_dir: Path) -> None:
    tests = list(wycheproof(data_dir))
    # Two `invalidBase64Padding` vectors lost their padding: byte for byte they are a valid one.
    proven = {(json.dumps(keys), text_of(test)) for _, keys, test in tests if test["result"] == "valid"}
    wrong: list[str] = []
    tried = {"valid": 0, "invalid": 0}
    for name, keys, test in tests:
        valid = test["result"] == "valid" and "jws" in test and test["comment"] not in STRICTER
        if test["result"] == "invalid" and (json.dumps(keys), text_of(test)) in proven:
            continue
        tried["valid" if valid else "invalid"] += 1
        if accepts(keys, text_of(test)) != valid:
            wrong.append(f"{name}: must be {'accepted' if valid else 'refused'}")
    assert wrong == []
    assert tried["valid"] >= 30
    assert tried["invalid"] >= 210


def test_a_token_with_the_private_half_of_an_asymmetric_key_is_not_verified(data_dir: Path) -> None:
    for path in sorted((data_dir / "jwt" / "wycheproof").glob("*signature*.json")):
        for group in json.loads(path.read_text())["testGroups"]:
            if group["private"].get("kty") != "oct":
                assert not any(accepts([group["private"]], test["jws"]) for test in group["tests"])


def test_rfc_7515_and_8037_examples(data_dir: Path) -> None:
    vectors = json.loads((data_dir / "jwt" / "rfc" / "rfc7515-8037.json").read_text())["vectors"]
    assert len(vectors) >= 9
    for vector in vectors:
        compact = "token" in vector
        token = vector["token"] if compact else json.dumps(vector["json"])
        keys = vector["jwks"]["keys"] if "jwks" in vector else [vector["jwk"]]
        fitting = {"oct": "HS256", "RSA": "RS256", "OKP": "Ed25519"}.get((keys[0] or {"kty": ""})["kty"])
        algorithms = frozenset({fitting} if fitting else ALGORITHMS)
        assert accepts(keys, token, algorithms) is (vector["valid"] and compact), vector["name"]


@pytest.mark.parametrize(
    ("file", "algorithm"),
    [
        ("jws/4_1.rsa_v15_signature.json", "RS256"),
        ("jws/4_2.rsa-pss_signature.json", "PS384"),
        ("jws/4_3.ecdsa_signature.json", "ES512"),
        ("jws/4_4.hmac-sha2_integrity_protection.json", "HS256"),
        ("curve25519/jws.json", "Ed25519"),
    ],
)
def test_rfc_7520_and_8037_cookbook(data_dir: Path, file: str, algorithm: str) -> None:
    example = json.loads((data_dir / "jwt" / "cookbook" / file).read_text())
    key = {
        name: value for name, value in example["input"]["key"].items() if name == "k" or name not in PRIVATE
    }
    compact, only = example["output"]["compact"], frozenset({algorithm})
    assert accepts([key], compact, only)
    assert not accepts([key], json.dumps(example["output"]["json"]), only)
    assert not accepts([key], json.dumps(example["output"]["json_flat"]), only)
    if key["kty"] != "oct":
        assert not accepts([example["input"]["key"]], compact, only), "a private key is no verification key"


PRIVATE = {"d", "p", "q", "dp", "dq", "qi"}


def test_every_other_example_of_the_cookbook_is_refused(data_dir: Path) -> None:
    """Detached content, JSON serialisations, JWE, and RFC 7797's `b64: false`."""
    refused = 0
    for path in sorted((data_dir / "jwt" / "cookbook").rglob("*.json")):
        example = json.loads(path.read_text())
        if path.parent.name in ("jws", "curve25519") and path.name[:3] in ("4_1", "4_2", "4_3", "4_4", "jws"):
            continue
        for output in example.get("output", {}).values() if isinstance(example, dict) else []:
            key = example["input"].get("key", {})
            keys = key if isinstance(key, list) else [key]
            assert not accepts(keys, output if isinstance(output, str) else json.dumps(output)), path.name
            refused += 1
    assert refused >= 30
