"""API keys: who passes, what the origin learns, which files are refused."""

from __future__ import annotations

import contextlib
import hmac
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edgeproxy.context import Context, Edit, Op, Verdict
from edgeproxy.http.message import Headers, Request
from edgeproxy.policies.api_key import ApiKeyAuth, ApiKeyRule, ApiKeys, key_line, parse_keys
from edgeproxy.recall import Recorder
from edgeproxy.snapshot import Snapshot
from tests.helpers.requests import whole_body
from tests.policies.jwt_tokens import context, request

FILE = f"""# partners
{key_line("alpha", "alpha-key")} read write

{key_line("beta", "beta-key")}
{key_line("alpha", "alpha-second-key")} read
""".encode()


def auth(keys: Snapshot[ApiKeys] | None = None, **rule: object) -> ApiKeyAuth:
    return ApiKeyAuth(
        ApiKeyRule.model_validate({"file": "/keys", **rule}), keys or Snapshot(parse_keys(FILE))
    )


def status(made: ApiKeyAuth, req: Request, ctx: Context | None = None) -> int | None:
    answer = made(req, ctx or context())
    return answer.status if answer else None


@pytest.mark.parametrize(
    ("key", "name", "scope"),
    [
        (b"alpha-key", "alpha", "read write"),
        (b"alpha-second-key", "alpha", "read"),
        (b"beta-key", "beta", None),
    ],
)
def test_who_has_a_key_passes_by_the_name_of_its_line(key: bytes, name: str, scope: str | None) -> None:
    ctx = context()
    assert status(auth(), request(x_api_key=key), ctx) is None
    assert ctx.claims is not None
    assert (ctx.claims["sub"], ctx.claims.get("scope")) == (name, scope)
    assert (ctx.to_origin, ctx.key_parts) == ([Edit(Op.REMOVE, b"x-api-key")], ())


@pytest.mark.parametrize(
    "key",
    [
        b"alpha", b"Alpha-key", b"alpha-key ", b"alpha-key, alpha-key", b"x" * 600, b"\xff",
        sha256(b"alpha-key").hexdigest().encode(), b"sha256:" + sha256(b"alpha-key").hexdigest().encode(),
    ],
)  # fmt: skip
def test_anything_else_is_nobodys_key_and_is_not_told(key: bytes) -> None:
    ctx = context()
    answer = auth()(request(x_api_key=key), ctx)
    assert answer is not None
    assert (answer.status, ctx.reason, ctx.claims) == (401, "invalid-key", None)
    assert (b"WWW-Authenticate", b"ApiKey") in answer.fields
    assert (b"Cache-Control", b"no-store") in answer.fields
    assert key not in whole_body(answer)


def test_without_a_key_the_reason_is_another() -> None:
    for req in (request(), request(x_api_key=b""), request(query=b"key=alpha-key"), request(b"alpha-key")):
        ctx = context()
        assert status(auth(), req, ctx) == 401
        assert ctx.reason == "key-missing"


@pytest.mark.parametrize(
    ("rule", "req", "expected"),
    [
        ({"header": "Authorization"}, request(b"alpha-key"), None),
        ({"header": "Authorization"}, request(authorization=b"ApiKey alpha-key"), None),
        ({"header": "Authorization"}, request(authorization=b"alpha-key"), 401),
        ({"header": "Authorization"}, request(authorization=b"Basic alpha-key"), 401),
        ({"header": "X-Key"}, request(x_key=b"Bearer alpha-key"), None),
        ({"query": "key"}, request(query=b"a=b&key=alpha-key"), None),
        ({"query": "key"}, request(query=b"key=alpha-key&key=beta-key"), 401),
        ({"query": "key"}, request(query=b"key=alpha-key", x_api_key=b"beta-key"), 401),
        ({"query": "key"}, request(query=b"key=alpha-key", x_api_key=b"alpha-key"), None),
        ({"query": "key", "header": None}, request(x_api_key=b"alpha-key"), 401),
        ({"scope": "read"}, request(x_api_key=b"alpha-key"), None),
        ({"scope": "write read"}, request(x_api_key=b"alpha-key"), None),
        ({"scope": "read admin"}, request(x_api_key=b"alpha-key"), 403),
        ({"scope": "read"}, request(x_api_key=b"beta-key"), 403),
    ],
)
def test_where_a_key_may_stand_and_what_it_must_grant(
    rule: dict[str, Any], req: Request, expected: int | None
) -> None:
    assert status(auth(**rule), req) == expected


def test_two_lines_of_the_header_are_nobodys_key() -> None:
    raw = [(b"X-Api-Key", b"alpha-key"), (b"X-Api-Key", b"beta-key")]
    assert status(auth(), Request(b"GET", b"h", b"/", b"", Headers(raw), "192.0.2.1")) == 401


def test_what_the_origin_learns_is_part_of_the_cache_key() -> None:
    made, ctx = auth(name_header="X-Partner", forward=True), context()
    assert status(made, request(x_api_key=b"alpha-key"), ctx) is None
    assert ctx.to_origin == [Edit(Op.SET, b"X-Partner", b"alpha")]
    digest = sha256(b"alpha-key").hexdigest().encode()
    assert ctx.key_parts == (b"name:alpha", b"key:" + digest)
    assert (made.asserted, made.hidden_query) == ((b"x-partner",), ())
    kept, ctx = auth(header="Authorization", forward=True, query="key"), context()
    assert status(kept, request(b"alpha-key"), ctx) is None
    assert (ctx.to_origin, ctx.key_parts, kept.hidden_query) == ([], (), (b"key",))


def test_a_key_that_is_taken_out_of_the_file_is_nobodys_at_once() -> None:
    keys = Snapshot(parse_keys(FILE))
    made, ctx = auth(keys), context()
    recorder = ctx.recorder = Recorder()
    assert status(made, request(x_api_key=b"alpha-key"), ctx) is None
    assert recorder.guards == [(keys, keys.value)]
    keys.value = parse_keys(b"")
    assert status(made, request(x_api_key=b"alpha-key")) == 401


def test_it_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A105: known or not, the same digests of the same size are compared."""
    compared: list[tuple[bytes, bytes]] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return a == b

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert status(auth(), request(x_api_key=b"alpha-key")) is None
    assert status(auth(), request(x_api_key=b"nobody")) == 401
    assert [(len(a), len(b)) for a, b in compared] == [(32, 32), (32, 32)]


def test_explaining_names_who_and_not_what() -> None:
    for key, verdict, why in (
        (b"alpha-key", Verdict.ALLOW, "alpha is known"),
        (b"nobody-key", Verdict.REFUSE, "The API key is not valid here."),
    ):
        ctx = context()
        ctx.notes = []
        auth()(request(x_api_key=key), ctx)
        assert [(note.policy, note.verdict, note.why) for note in ctx.notes] == [("api_key", verdict, why)]


DIGEST = "a" * 64


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("alpha", "line 1: expected NAME sha256:HEX"),
        (f"alpha {DIGEST}", "line 1: expected NAME sha256:HEX"),
        (f"\nalpha sha256:{DIGEST[1:]}", "line 2: expected NAME sha256:HEX"),
        (f"alpha sha256:{DIGEST.upper()}", "line 1: expected NAME sha256:HEX"),
        (f"a sha256:{DIGEST}\nb sha256:{DIGEST}", "line 2: found a key that a line before has too"),
        (f"a/b sha256:{DIGEST}", "line 1: expected a name"),
        (f"{'a' * 200} sha256:{DIGEST}", "line 1: expected a name"),
        (f'a sha256:{DIGEST} re"ad', "line 1: expected words of a scope"),
        ("\udcff", "expected UTF-8"),
    ],
)
def test_a_file_with_a_mistake_is_refused_with_its_line_and_without_its_text(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        parse_keys(text.encode("utf-8", "surrogateescape"))
    assert DIGEST[1:] not in str(refused.value)


@given(st.binary(max_size=200))
def test_any_file_is_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        parse_keys(data)


def test_a_rule_without_a_place_is_refused() -> None:
    with pytest.raises(ValidationError, match="header and query"):
        ApiKeyRule.model_validate({"file": "/keys", "header": None})
