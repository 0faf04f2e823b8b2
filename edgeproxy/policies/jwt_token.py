"""A compact JWS (RFC 7515 §3.1), taken apart by hand before any library sees it.

Rule: one token has one reading. Padding, whitespace, stray trailing bits, a member named twice or
a number no double can hold is refused here, so no later step can read it another way.
"""

from __future__ import annotations

import json
import math
import re
from base64 import urlsafe_b64decode
from enum import Enum
from typing import cast

from edgeproxy.record import record

MAX_TOKEN = 8 * 1024
MAX_DEPTH = 8
_MAX_DIGITS = 18
_ALPHABET = re.compile(rb"[A-Za-z0-9_-]*")
# What the last character may be when its low 4 (two characters left over) or 2 bits mean nothing.
_CANONICAL_ENDS = {0: None, 2: b"AQgw", 3: b"AEIMQUYcgkosw048"}
_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*+"?|([\[{])|([\]}])', re.DOTALL)
# `enc` marks a JWE; the others change how the token is read or bring their own key (RFC 8725 §3.10).
_REFUSED_MEMBERS = frozenset({"crit", "b64", "zip", "jku", "x5u", "jwk", "x5c", "enc"})


class Reason(Enum):
    """Why a token was refused: the closed set of words of metrics, log and explain."""

    MISSING = "missing"
    INCOMPLETE = "incomplete"  # a token of one issuer, where one of each is needed
    AMBIGUOUS = "ambiguous"  # two different tokens in one request
    MALFORMED = "malformed"
    TOO_LONG = "too-long"
    ALGORITHM = "algorithm"
    UNKNOWN_KEY = "unknown-key"
    NO_KEYS = "no-keys"
    SIGNATURE = "signature"
    TYPE = "type"
    ISSUER = "issuer"
    AUDIENCE = "audience"
    SUBJECT = "subject"
    EXPIRED = "expired"
    NOT_YET_VALID = "not-yet-valid"
    REVOKED = "revoked"
    CLAIMS = "claims"
    SCOPE = "scope"
    TOO_MANY = "too-many"  # forged tokens of that client


@record
class Token:
    """The parts of a well-formed token. Nothing of it is verified yet."""

    alg: str  # `EdDSA`, the legacy spelling, reads `Ed25519` (RFC 9864)
    kid: str | None
    typ: str | None
    payload: bytes
    signed: bytes  # what the signature covers
    signature: bytes


def parse_token(token: bytes) -> Token | Reason:
    """The parts of a compact JWS, or why it is none. The payload may be anything (RFC 7515)."""
    if len(token) > MAX_TOKEN:
        return Reason.TOO_LONG
    segments = token.split(b".", 3)
    if len(segments) != 3:
        return Reason.MALFORMED
    try:
        header = parse_object(decode_base64url(segments[0]))
        payload = decode_base64url(segments[1])
        signature = decode_base64url(segments[2])
    except ValueError:
        return Reason.MALFORMED
    alg, kid, typ = header.get("alg"), header.get("kid"), header.get("typ")
    if not isinstance(alg, str):
        return Reason.ALGORITHM
    if not (kid is None or isinstance(kid, str)) or not (typ is None or isinstance(typ, str)):
        return Reason.MALFORMED
    if None in header.values() or not _REFUSED_MEMBERS.isdisjoint(header):
        return Reason.MALFORMED
    signed = token[: len(segments[0]) + 1 + len(segments[1])]
    return Token(canonical_algorithm(alg), kid, typ, payload, signed, signature)


def peek_issuer(token: bytes) -> object:
    """What a token that nobody verified yet says of who issued it; None when it cannot be read.

    Only good for choosing who shall verify it.
    """
    segments = token.split(b".", 3)
    if len(token) > MAX_TOKEN or len(segments) != 3:
        return None
    try:
        return parse_object(decode_base64url(segments[1])).get("iss")
    except ValueError:
        return None


SYMMETRIC = frozenset({"HS256", "HS384", "HS512"})
"""Algorithms with a shared secret."""


def canonical_algorithm(name: str) -> str:
    """One name per algorithm: `EdDSA` is the legacy spelling of `Ed25519` (RFC 9864 §4.1)."""
    return "Ed25519" if name == "EdDSA" else name


def decode_base64url(segment: bytes) -> bytes:
    """Bytes of unpadded base64url (RFC 7515 §2). ValueError on a foreign character or a second spelling."""
    left_over = len(segment) % 4
    if left_over == 1 or _ALPHABET.fullmatch(segment) is None:
        raise ValueError("not unpadded base64url")
    ends = _CANONICAL_ENDS[left_over]
    if ends is not None and segment[-1] not in ends:
        raise ValueError("bits after the end of the base64url value")
    return urlsafe_b64decode(segment + b"=" * (-left_over % 4))


def parse_object(data: bytes) -> dict[str, object]:
    """A JSON object in UTF-8 without duplicate members, deep nesting or numbers out of range.

    ValueError says it is none; its text never holds the data.
    """
    try:
        text = data.decode()
        _check_depth(text)
        value: object = _DECODER.decode(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair has no UTF-8 form
    except (UnicodeError, json.JSONDecodeError):
        raise ValueError("not JSON") from None
    if isinstance(value, dict):
        return cast("dict[str, object]", value)
    raise ValueError("not a JSON object")


def _check_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for bracket in _BRACKET.finditer(text):
        depth += (bracket[1] is not None) - (bracket[2] is not None)
        if depth > MAX_DEPTH:
            raise ValueError("nested too deep")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member named twice")
    return members


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError("a number too long")
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError("a number out of range")
    return value


def _constant(_name: str) -> object:
    raise ValueError("NaN and Infinity are no JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_integer, parse_float=_number, parse_constant=_constant
)
