"""A redirect to another site does not take along what was a credential for this one."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeproxy.http.elsewhere import without_credentials
from edgeproxy.http.wire import response
from tests.helpers.edge import running
from tests.helpers.requests import request


def left(query: bytes) -> bytes:
    return b"&".join(part for part in query.split(b"&") if not part.startswith(b"token="))


@pytest.mark.parametrize(
    ("location", "told"),
    [
        pytest.param("/new?token=t&a=1", "/new?token=t&a=1", id="a path of ours"),
        pytest.param("?token=t", "?token=t", id="only a query"),
        pytest.param("https://example.com/?token=t", "https://example.com/?token=t", id="our own site"),
        pytest.param("https://EXAMPLE.com/?token=t", "https://EXAMPLE.com/?token=t", id="spelled otherwise"),
        pytest.param("https://other.example/?token=t&a=1#x", "https://other.example/?a=1#x", id="another"),
        pytest.param("https://other.example?token=t", "https://other.example", id="nothing is left"),
        pytest.param("https://other.example/#?token=t", "https://other.example/#?token=t", id="a fragment"),
        pytest.param("//other.example/?token=t", "//other.example/", id="without a scheme"),
        pytest.param("/\\other.example/?token=t", "/\\other.example/", id="as browsers read it"),
        pytest.param(
            "https://example.com@other.example/?token=t", "https://example.com@other.example/", id="@"
        ),
        pytest.param("https://example.com:8443/?token=t", "https://example.com:8443/", id="another port"),
    ],
)
def test_where_a_credential_goes(location: str, told: str) -> None:
    answer = response(302, [(b"Location", location.encode()), (b"X-A", b"token=t")], b"moved")
    cut = without_credentials(answer, request("/old", host="example.com"), left)
    assert cut.fields == ((b"Location", told.encode()), (b"X-A", b"token=t"), (b"Content-Length", b"5"))
    assert (cut.status, cut.body) == (302, b"moved")


CONFIG = """
edge: {id: e, pop: p}
server: {listen: ["127.0.0.1:0"], access_log: {path: "off"}}
origins: {o: {servers: ["http://127.0.0.1:1"]}}
jwt_providers: {p: {issuer: i, algorithms: [HS256], secret: ssssssssssssssssssssssssssssssss, query: token}}
routes:
  - name: moved
    origin: o
    policies:
      - redirect: {map: {/here: /there, /away: "https://other.example/"}, status: 302}
      - jwt: {provider: p}
"""


@pytest.mark.parametrize("door", ["native", "asgi"])
async def test_a_token_in_the_query_stays_here(tmp_path: Path, door: str) -> None:
    async with running(CONFIG, tmp_path, door) as edge:
        assert (await edge.ask("/here?token=t&a=1"))["location"] == "/there?token=t&a=1"
        for _ in range(4):  # what is remembered of it too
            assert (await edge.ask("/away?token=t&a=1"))["location"] == "https://other.example/?a=1"
