"""The demo's origin and issuer, asked directly."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import jwt
import pytest

from edgeproxy.demo import origins
from edgeproxy.demo.issuer import AUDIENCE, ISSUER, Issuer
from edgeproxy.demo.origins import Origin


@pytest.fixture
async def origin() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(Origin("eu").app())
    async with httpx.AsyncClient(transport=transport, base_url="http://origin.test") as client:
        yield client


@pytest.fixture
async def issuer() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(Issuer().app())
    async with httpx.AsyncClient(transport=transport, base_url="http://issuer.test") as client:
        yield client


@pytest.mark.parametrize(
    ("path", "cache"),
    [
        ("/", "public, max-age=60"),
        ("/api/products", "public, max-age=60"),
        ("/api/news", "public, max-age=2, stale-while-revalidate=10, stale-if-error=300"),
        ("/image.svg", "public, max-age=3600"),
        ("/events", "no-store"),
        ("/slow?seconds=0", "no-store"),
        ("/private", "private, no-store"),
        ("/account", "private, max-age=60"),
        ("/limited", "no-store"),
        ("/echo", "no-store"),
    ],
)
async def test_each_answer_says_who_may_keep_it_and_fails_when_told(
    origin: httpx.AsyncClient, path: str, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(origins, "EVENT_PAUSE", 0.0)
    answer = await origin.get(path)
    assert (answer.status_code, answer.headers["cache-control"]) == (200, cache)
    await origin.post("/_control/fail?mode=on")
    assert (await origin.get(path)).status_code == 503
    assert (await origin.get("/healthz")).status_code == 200
    await origin.post("/_control/fail?mode=off")
    assert (await origin.get(path)).status_code == 200


async def test_answers_are_counted_by_path(origin: httpx.AsyncClient) -> None:
    numbers = [(await origin.get(path)).json()["answer"] for path in ("/limited", "/limited", "/private")]
    assert numbers == [1, 2, 1]


async def test_echo_shows_the_fields_received(origin: httpx.AsyncClient) -> None:
    answer = await origin.get("/echo", headers={"X-Geo-Country": "DE"})
    assert ["x-geo-country", "DE"] in answer.json()["headers"]


@pytest.mark.parametrize("seconds", ["abc", "-1", "nan", "inf", "11", ""])
async def test_slow_refuses_what_is_no_short_time(origin: httpx.AsyncClient, seconds: str) -> None:
    assert (await origin.get(f"/slow?seconds={seconds}")).status_code == 400


async def test_a_token_is_signed_by_the_key_that_discovery_leads_to(issuer: httpx.AsyncClient) -> None:
    discovery = (await issuer.get("/.well-known/openid-configuration")).json()
    (key,) = (await issuer.get(discovery["jwks_uri"])).json()["keys"]
    public = jwt.PyJWK(key).key
    good = (await issuer.get("/token?sub=bob&scope=write")).text
    claims = jwt.decode(good, public, ["EdDSA"], audience=AUDIENCE, issuer=ISSUER)
    assert (claims["sub"], claims["scope"]) == ("bob", "write")
    forged = (await issuer.get("/forged")).text
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(forged, public, ["EdDSA"], audience=AUDIENCE)
    expired = (await issuer.get("/token?ttl=-5")).text
    with pytest.raises(jwt.ExpiredSignatureError):
        jwt.decode(expired, public, ["EdDSA"], audience=AUDIENCE)


@pytest.mark.parametrize("ttl", ["soon", "1e3", "", "123456789", "\uff11"])
async def test_a_ttl_that_is_no_number_is_refused(issuer: httpx.AsyncClient, ttl: str) -> None:
    assert (await issuer.get("/token", params={"ttl": ttl})).status_code == 400
