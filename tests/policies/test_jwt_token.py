"""The strict reading of a compact JWS: A86, A90-A92, A96-A99."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeproxy.policies.jwt_token import Reason, Token, decode_base64url, parse_object, parse_token
from tests.policies.jwt_tokens import b64, hs256

TOKEN = hs256(header={"kid": "k1", "typ": "JWT"})


def headed(header: str | bytes) -> bytes:
    raw = header.encode() if isinstance(header, str) else header
    return b64(raw) + b".e30.c2ln"


def test_a_good_token_is_taken_apart() -> None:
    token = parse_token(TOKEN)
    assert isinstance(token, Token)
    assert (token.alg, token.kid, token.typ) == ("HS256", "k1", "JWT")
    assert token.signed + b"." + b64(token.signature) == TOKEN
    assert json.loads(token.payload)["sub"] == "u-1"


def test_the_legacy_name_of_ed25519_is_read_as_ed25519() -> None:
    token = parse_token(headed('{"alg":"EdDSA"}'))
    assert isinstance(token, Token)
    assert token.alg == "Ed25519"


@pytest.mark.parametrize(
    "header",
    ['{"alg":null}', '{"alg":["HS256"]}', '{"alg":1}', "{}", '{"Alg":"HS256"}'],
    ids=["null", "list", "number", "absent", "other case"],
)
def test_an_algorithm_that_is_no_text_is_refused(header: str) -> None:
    assert parse_token(headed(header)) is Reason.ALGORITHM


@pytest.mark.parametrize(
    "member",
    [
        *('"crit":["exp"]', '"crit":[]', '"crit":["exp","exp"]', '"crit":"exp"', '"b64":false', '"b64":true'),
        *(
            '"zip":"DEF"',
            '"jku":"https://evil.example/"',
            '"x5u":"https://evil.example/"',
            '"x5c":[]',
            '"jwk":{}',
        ),
        *('"enc":"A128GCM"', '"kid":1', '"kid":null', '"typ":[]', '"typ":null', '"alg":"HS256"'),
        *('"x":NaN', '"x":Infinity', '"x":-Infinity', '"x":1e400', '"x":' + "9" * 40),
        *('"x":"\\ud800"', '"x":"\t"', '"x":01', '"x":{"a":1,"a":2}', '"x":' + "[" * 8 + "]" * 8),
    ],
)
def test_a_header_member_that_changes_the_reading_is_refused(member: str) -> None:
    assert parse_token(headed(f'{{"alg":"HS256",{member}}}')) is Reason.MALFORMED


@pytest.mark.parametrize(
    "token",
    [
        *(b"", b".", b"..", b"a.b", b"a.b.c.d.e", TOKEN + b".", b"." + TOKEN, TOKEN.rpartition(b".")[0]),
        *(
            TOKEN + b"=",
            TOKEN + b"\n",
            b" " + TOKEN,
            TOKEN.replace(b".", b" .", 1),
            TOKEN.replace(b".", b"\n.", 1),
        ),
        *(
            TOKEN.replace(b".", b".+", 1),
            TOKEN.replace(b".", b"./", 1),
            TOKEN.replace(b".", "é.".encode(), 1),
        ),
        *(b'{"payload":"e30","signatures":[]}', b'{"payload":"e30","protected":"e30","signature":"e30"}'),
        *(
            headed(b"\xff"),
            headed(b"\xef\xbb\xbf" + b'{"alg":"HS256"}'),
            headed("[]"),
            headed('"x"'),
            headed(""),
        ),
        headed('{"alg":"HS256"} {}'),
    ],
)
def test_what_has_no_single_reading_is_malformed(token: bytes) -> None:
    assert parse_token(token) is Reason.MALFORMED


def test_a_second_spelling_of_the_same_bits_is_refused() -> None:
    assert decode_base64url(b"YQ") == b"a"
    for ending in b"RSTUVWXYZabcdef":
        with pytest.raises(ValueError, match="bits after"):
            decode_base64url(b"Y" + bytes([ending]))


def test_a_token_over_8_kib_is_refused_unread() -> None:
    assert parse_token(b"." * 8193) is Reason.TOO_LONG
    assert parse_token(b"." * 8192) is Reason.MALFORMED


@pytest.mark.parametrize(
    "body",
    [b"[" * 6000, b'{"a":' * 1000, b'"' * 6000, b'"\\"' * 2000, b"[[[[[[[[[" + b'"\\"' * 1900, b"1" * 6000],
    ids=["arrays", "objects", "quotes", "escaped quotes", "brackets then quotes", "digits"],
)
def test_hostile_json_is_refused_and_not_recursed_into(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any of the reasons; never RecursionError
        parse_object(body)


def test_depth_counts_brackets_but_not_those_in_strings() -> None:
    assert parse_object(b'{"a":"[[[[[[[[[[{{{{{{"}') == {"a": "[[[[[[[[[[{{{{{{"}
    assert parse_object(b'{"a":' + b"[" * 7 + b"]" * 7 + b"}")
    assert parse_object(b'{"a":[],"b":[],"c":[],"d":[],"e":[],"f":[],"g":[],"h":[],"i":[]}')
    with pytest.raises(ValueError, match="deep"):
        parse_object(b'{"a":' + b"[" * 8 + b"]" * 8 + b"}")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_base64url_has_one_spelling(data: bytes) -> None:
    assert decode_base64url(b64(data)) == data
    try:
        decoded = decode_base64url(data)
    except ValueError:
        return
    assert b64(decoded) == data


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.binary(max_size=60), st.binary(max_size=60))
def test_random_bytes_never_raise(head: bytes, payload: bytes, signature: bytes) -> None:
    for token in (
        head,
        b64(head) + b"." + b64(payload) + b"." + b64(signature),
        head + b"." + payload + b".",
    ):
        assert isinstance(parse_token(token), Token | Reason)


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(), st.lists, max_leaves=5)
)
def test_what_json_can_say_is_read_as_json_reads_it(value: object) -> None:
    document = json.dumps({"v": value}, ensure_ascii=False)
    try:
        assert parse_object(document.encode()) == json.loads(document)
    except (ValueError, UnicodeEncodeError):
        assert (
            "\\" in document
            or "inf" in document.lower()
            or document.count("[") > 7
            or max(document) >= "\ud800"
        )
