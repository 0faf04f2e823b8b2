"""Which URLs an unsafe request makes doubtful (RFC 9111 §4.4): its own, and what it names of its origin."""

from __future__ import annotations

import pytest

from edgeproxy.cache.invalidation import invalidation_targets
from tests.helpers.requests import headers, request


@pytest.mark.parametrize(
    ("reference", "named"),
    [
        ("/b", (b"/b", b"")),
        ("/b?q=1#part", (b"/b", b"q=1")),
        ("http://example.com/b", (b"/b", b"")),
        ("HTTP://EXAMPLE.com/b", (b"/b", b"")),
        ("http://example.com", (b"/", b"")),
        ("https://example.com/b", None),
        ("http://example.com.other.example/b", None),
        ("http://other.example/b", None),
        ("//other.example/b", None),
        ("b", None),
        ("", None),
    ],
)
@pytest.mark.parametrize("name", ["Location", "Content-Location"])
def test_only_what_is_of_the_same_origin_is_named(
    name: str, reference: str, named: tuple[bytes, bytes] | None
) -> None:
    posted = request("/a", method="POST")
    targets = [(posted.host, posted.path, posted.query)]
    if named is not None:
        targets.append((posted.host, *named))
    assert invalidation_targets(posted, 201, headers({name: reference})) == targets


@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("POST", 199), ("POST", 400), ("PUT", 500)])
def test_nothing_is_doubtful_after_what_is_safe_or_failed(method: str, status: int) -> None:
    assert invalidation_targets(request("/a", method=method), status, headers({"Location": "/b"})) == []
