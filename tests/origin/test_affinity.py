"""The key of a request, and the cookie that remembers a server."""

from __future__ import annotations

import pytest

from edgeproxy.origin.affinity import key_of, sticky_field
from tests.helpers.requests import request


@pytest.mark.parametrize(
    ("balance", "fields", "key"),
    [
        ("hash:client_ip", [], b"192.0.2.9"),
        ("hash:path", [], b"/a"),
        ("hash:header:X-User", [("x-user", "eve")], b"eve"),
        ("hash:header:X-User", [], b""),
        ("hash:cookie:sid", [("Cookie", "a=b; sid=77; sidx=1")], b"77"),
        ("hash:cookie:sid", [("Cookie", "asid=77")], b""),
        ("hash:cookie:sid", [], b""),
        ("sticky:edge", [("Cookie", "edge=ab12")], b"ab12"),
    ],
)
def test_a_request_is_balanced_by_its_key(balance: str, fields: list[tuple[str, str]], key: bytes) -> None:
    find = key_of(balance)
    assert find is not None
    assert find(request("/a", fields), "192.0.2.9") == key


@pytest.mark.parametrize("balance", ["round_robin", "least_requests"])
def test_others_need_no_key(balance: str) -> None:
    assert key_of(balance) is None


def test_the_cookie_is_for_this_session_and_not_for_scripts() -> None:
    assert sticky_field("sticky:edge", b"ab12", secure=True) == (
        b"Set-Cookie",
        b"edge=ab12; Path=/; HttpOnly; SameSite=Lax; Secure",
    )
    assert b"Secure" not in sticky_field("sticky:edge", b"ab12", secure=False)[1]
