"""Assertions A86 to A107 of the reliability reference, end to end: bytes in, bytes out, both doors."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edgeproxy.context import Pause
from edgeproxy.feeds.revocations import revoke
from edgeproxy.policies import jwt_answers
from tests.helpers.edge import PATIENCE, Answer, Client, Running, running
from tests.helpers.scripted_origin import Peer, ScriptedOrigin
from tests.policies.jwt_tokens import b64, jwk, private_key, sign
from tests.policies.test_jwt_keys import public_key_spellings

DAY = 86_400.0  # the tokens below are made when this file is read, which may be long before they are sent
RSA, EC, STRANGER = private_key("RS256"), private_key("ES256"), private_key("RS256", 7)
CLAIMS: dict[str, object] = {
    "iss": "https://id.example.com/",
    "aud": "shop",
    "sub": "secret-subject",
    "exp": time.time() + 2 * DAY,
    "scope": "read",
}
KEYS = {
    "keys": [jwk(RSA, kid="r", alg="RS256"), jwk(EC, kid="e"), {"kty": "RSA", "n": "AQAB", "kid": "weak"}]
}
CONFIG = """
edge: {{id: edge-1, pop: ams}}
server: {{listen: ["127.0.0.1:8080"], workers: 1, access_log: {{path: "{folder}/access.log"}}}}
admin: {{listen: null}}
origins: {{main: {{servers: ["{origin}"]}}}}
jwt_providers:
  p:
    issuer: "https://id.example.com/"
    audience: shop
    algorithms: [RS256, ES256]
    jwks: "{issuer}/jwks.json"
    max_failures: null
    revoked: "{folder}/revoked"
  q: {{issuer: q, algorithms: [HS256], secret: ssssssssssssssssssssssssssssssss, max_failures: 1}}
routes:
  - {{name: strict, match: {{path: /q}}, policies: [{{jwt: {{provider: q}}}}], origin: main}}
  - name: protected
    match: {{path: /p}}
    policies: [{{jwt: {{provider: p, require: {{scope: read}}, claims_to_headers: {{sub: X-User}}}}}}]
    cache: {{ttl: 1h}}
    origin: main
  - {{name: open, match: {{path: /open}}, cache: {{ttl: 1h}}, origin: main}}
"""
ORIGIN_REPLY = b"HTTP/1.1 200 OK\r\nCache-Control: public, max-age=60\r\nContent-Length: 2\r\n\r\nok"


def token(kid: str = "r", header: dict[str, object] | None = None, **claims: object) -> bytes:
    return sign({**CLAIMS, **claims}, "RS256", RSA, {"kid": kid, **(header or {})})


def without(name: str) -> bytes:
    return sign({each: CLAIMS[each] for each in CLAIMS if each != name}, "RS256", RSA, {"kid": "r"})


def unsigned(header: object, payload: bytes | None = None) -> bytes:
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return b64(head) + b"." + b64(payload or json.dumps(CLAIMS).encode()) + b"."


def confused(secret: bytes) -> bytes:
    signed = unsigned({"alg": "HS256", "kid": "r"})[:-1]
    return signed + b"." + b64(hmac.new(secret, signed, hashlib.sha256).digest())


def payload(text: bytes) -> bytes:
    return sign(text, "RS256", RSA, {"kid": "r"})


def bearer(*tokens: bytes) -> list[str]:
    return ["Authorization: Bearer " + each.decode("latin-1") for each in tokens]


GOOD = token()
HEAD, BODY, SIGNATURE = GOOD.split(b".")
FLATTENED = json.dumps(
    {"payload": BODY.decode(), "protected": HEAD.decode(), "signature": SIGNATURE.decode()}
)
TABLE: dict[str, list[bytes]] = {
    "A86 alg": [
        unsigned({"alg": alg, "kid": "r"}) for alg in ("none", "None", "noNE", "", None, ["RS256"], "RS256 ")
    ]
    + [unsigned({"kid": "r"}), unsigned({"alg": "none"}) + SIGNATURE],
    "A87 confusion": [confused(spelling) for spelling in public_key_spellings().values()],
    "A88 another algorithm": [
        sign(CLAIMS, "PS256", RSA, {"kid": "r"}),
        sign(CLAIMS, "RS512", RSA, {"kid": "r"}),
        sign(CLAIMS, "RS256", RSA, {"kid": "e"}),
        sign(CLAIMS, "ES256", EC, {"kid": "r"}),
    ],
    "A89 a weak key of the set": [token("weak")],
    "A90 kid": [token(kid) for kid in ("x", "../../dev/null", "' OR 1=1 --", "k" * 3000, "")]
    + [sign(CLAIMS, "RS256", RSA, {"kid": 1}), sign(CLAIMS, "RS256", RSA, {"kid": ["r"]})],
    "A91 keys that the token brings": [
        sign(CLAIMS, "RS256", STRANGER, {"kid": "r", **header})
        for header in (
            {"jku": "http://127.0.0.1:1/"},
            {"x5u": "http://127.0.0.1:1/"},
            {"jwk": jwk(STRANGER)},
            {"x5c": ["MII"]},
            {},
        )
    ]
    + [token(header={"jku": "http://127.0.0.1:1/"})],
    "A92 crit": [token(header={"crit": crit, "x": 1}) for crit in (["x"], [], ["x", "x"], "x", None)]
    + [token(header={"b64": False, "crit": ["b64"]}), token(header={"b64": True})],
    "A93 dates": [without("exp")]
    + [token(exp=exp) for exp in (time.time() - 61, "9999999999", True, None, float("nan"), [1], -1)]
    + [payload(json.dumps(CLAIMS).replace(str(CLAIMS["exp"]), "1e400").encode())]
    + [token(nbf=time.time() + DAY), token(iat=time.time() + DAY)],
    "A94 iss": [without("iss")]
    + [
        token(iss=iss)
        for iss in (
            "https://id.example.com",
            "https://id.example.com/x",
            "id.example.com",
            ["https://id.example.com/"],
            None,
        )
    ],
    "A95 aud and typ": [without("aud")]
    + [token(aud=aud) for aud in ("other", "sho", "shop2", [], ["other"], ["shop", 1], None)]
    + [token(header={"typ": typ}) for typ in ("logout+jwt", "dpop+jwt", 1)],
    "A96 JSON": [
        payload(b'{"iss":"https://id.example.com/",' + json.dumps(CLAIMS)[1:].encode()),
        payload(b'{"a":' * 1000 + b"1" + b"}" * 1000),
        payload(b'{"iss":"\xff"}'),
        payload(b'{"exp":' + b"9" * 5000 + b"}"),
        payload(b"null"),
        unsigned(b"[" * 5000),
        unsigned(b'{"alg":"RS256","alg":"RS256"}'),
    ],
    "A97 segments": [
        b".".join([HEAD, BODY]),
        GOOD + b".",
        GOOD + b".e30.e30",
        GOOD + b"=",
        HEAD + b"=." + BODY + b"." + SIGNATURE,
        HEAD + b". " + BODY + b"." + SIGNATURE,
        HEAD + b"\t." + BODY + b"." + SIGNATURE,
        GOOD.replace(b"e", b"+", 1),
        FLATTENED.encode(),
        b'{"payload":"%b","signatures":[]}' % BODY,
    ],
    "A98 JWE": [
        b".".join([b64(b'{"alg":"dir","enc":"A128GCM"}'), b"", b"e30", b"e30", b"e30"]),
        token(header={"zip": "DEF"}),
        unsigned({"alg": "PBES2-HS256+A128KW", "enc": "A128GCM", "p2c": 10**9}),
    ],
    "A99 too long": [token(pad="y" * 7000), b"e30." * 2047 + b"e30"],
    "A100 signatures": [
        HEAD + b"." + BODY + b"." + b64(junk)
        for junk in (b"", b"\0" * 256, b"\1" * 256, b"\xff" * 256, b"\0" * 64)
    ]
    + [unsigned({"alg": "ES256", "kid": "e"}) + b64(bytes(size)) for size in (0, 63, 64, 65, 72)],
}


async def issuer_script(peer: Peer) -> None:
    await peer.head()
    body = json.dumps(KEYS).encode()
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


async def origin_script(peer: Peer) -> None:
    while True:
        await peer.request()
        await peer.send(ORIGIN_REPLY)


class Scene:
    def __init__(self, edge: Running, origin: ScriptedOrigin, issuer: ScriptedOrigin, folder: Path) -> None:
        self.edge, self.origin, self.issuer, self.folder = edge, origin, issuer, folder

    def log(self) -> str:
        self.edge.worker.parts.log.flush()  # type: ignore[union-attr]
        return (self.folder / "access.log").read_text()


@pytest.fixture(params=["native", "asgi"])
async def scene(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Scene]:
    async with ScriptedOrigin(origin_script) as origin, ScriptedOrigin(issuer_script) as issuer:
        (tmp_path / "revoked").write_bytes(b'{"jti": "old"}')
        text = CONFIG.format(folder=tmp_path, origin=origin.url, issuer=issuer.url)
        async with running(text, tmp_path, request.param) as edge:
            yield Scene(edge, origin, issuer, tmp_path)


def look(answer: Answer) -> tuple[int, str, str]:
    return answer.status, answer["www-authenticate"], answer["cache-control"]


async def test_no_forged_token_of_the_table_passes_and_none_is_told(scene: Scene) -> None:
    """A86 to A100, A99 and A107: nothing reaches the origin, no part of a token the log or the answer."""
    client, wrong = await scene.edge.client(), list[str]()
    for name, tokens in TABLE.items():
        for number, each in enumerate(tokens):
            answer = await client.ask("/p", *bearer(each))
            told = answer.body.decode()
            if answer.status != 401 or 'error="invalid_token"' not in answer["www-authenticate"]:
                wrong.append(f"{name} {number}: {look(answer)}")
            if any(len(part) > 30 and part in told for part in each.decode("latin-1").split(".")):
                wrong.append(f"{name} {number}: the answer repeats it")
    assert wrong == []
    assert (await client.ask("/p", *bearer(GOOD))).status == 200, "the edge is as well as before"
    assert len(scene.origin.heads) == 1
    assert len(scene.issuer.heads) == 1, "A90, A91, A102: unknown kids wait for the cool-down"
    log = scene.log()
    assert "protected" in log
    for secret in (BODY.decode(), SIGNATURE.decode(), "secret-subject"):
        assert secret not in log


async def test_one_request_has_one_token(scene: Scene) -> None:
    """A105."""
    client = await scene.edge.client()
    good = GOOD.decode()
    for fields in (
        bearer(GOOD, GOOD),
        [f"Authorization: Bearer {good}, Bearer {good}"],
        [f"Authorization: Bearer {good}", "Authorization: Basic dTpw"],
    ):
        assert (await client.ask("/p", *fields)).status in (400, 401)
    assert (await client.ask(f"/p?access_token={good}")).status == 401
    assert scene.origin.heads == []
    assert good not in scene.log()


async def test_a_stored_answer_is_no_way_round_and_a_refusal_fills_no_key(scene: Scene) -> None:
    """A106."""
    client = await scene.edge.client()
    refused = await client.ask("/p")
    assert look(refused) == (401, 'Bearer realm="p"', "no-store")
    assert (await client.ask("/p", *bearer(GOOD))).status == 200
    hit = await client.ask("/p", *bearer(GOOD))
    assert "; hit" in hit["cache-status"]
    for fields in ([], bearer(GOOD + b"x"), bearer(TABLE["A86 alg"][0])):
        assert (await client.ask("/p", *fields)).status == 401
    other = await client.ask("/p", *bearer(token(sub="somebody else")))
    assert "fwd=uri-miss" in other["cache-status"], "what the origin learns is part of the key"
    scarce = await client.ask("/p", *bearer(token(scope="write")))
    assert scarce.status == 403
    assert len(scene.origin.heads) == 2


async def test_the_origin_sees_no_copy_of_what_only_the_edge_may_say(scene: Scene) -> None:
    client = await scene.edge.client()
    await client.ask("/p", *bearer(GOOD), "X-User: root", "x-user: admin", "X_User: root")
    head = scene.origin.heads[0].lower()
    assert head.count(b"x-user:") == 1
    assert b"x-user: secret-subject" in head
    assert b"root" not in head


async def test_a_hundred_clients_with_one_fresh_token_each_pass_at_once(scene: Scene) -> None:
    answers = await asyncio.gather(
        *[scene.edge.ask("/p", *bearer(token(sub=f"u{number}"))) for number in range(100)]
    )
    assert {answer.status for answer in answers} == {200}
    assert len(scene.issuer.heads) == 1


async def test_a_reload_while_the_issuer_is_down_keeps_its_keys(scene: Scene) -> None:
    """A103."""
    assert (await scene.edge.ask("/p", *bearer(token(sub="before")))).status == 200
    worker = scene.edge.worker
    file = scene.folder / "edge.yaml"
    file.write_text(file.read_text().replace("audience: shop", "audience: [shop, other]"))
    worker.shared.publish(file.read_bytes())
    async with asyncio.timeout(PATIENCE):
        before = worker.parts
        await scene.issuer.__aexit__(None, None, None)
        worker.reload()
        while worker.parts is before:
            await asyncio.sleep(0)
    for good in (token(sub="after"), token(aud="other")):
        assert (await scene.edge.ask("/p", *bearer(good))).status == 200


async def test_a_revoked_token_is_refused_though_it_was_remembered(scene: Scene) -> None:
    """The connection repeats its request, so that memo and recollection are in play."""
    client, other = await scene.edge.client(), await scene.edge.client()
    now = time.time()
    one, all_of = token(jti="t-1", sub="a"), token(sub="b", iat=now - 10)
    newer = token(sub="b", iat=now)
    for _ in range(70):
        assert (await client.ask("/p", *bearer(one))).status == 200
        assert (await other.ask("/p", *bearer(all_of))).status == 200
    assert (await client.ask("/p", *bearer(token(jti="old")))).status == 401
    revoke(scene.folder / "revoked", {"jti": "t-1"})
    revoke(scene.folder / "revoked", {"sub": "b", "issued_before": now - 5})
    async with asyncio.timeout(PATIENCE):
        feed = scene.edge.worker.parts.issuers["p"].revoked
        while not (feed.value.name({"jti": "t-1"}) and feed.value.name({"sub": "b"})):
            await asyncio.sleep(0.01)  # the feed looks four times a second
    for _ in range(3):
        refused = await client.ask("/p", *bearer(one))
        assert look(refused)[:2] == (
            401,
            'Bearer realm="p", error="invalid_token", error_description="the token was revoked"',
        )
        assert (await other.ask("/p", *bearer(all_of))).status == 401
    assert (await other.ask("/p", *bearer(newer))).status == 200


async def test_who_comes_with_a_key_that_is_just_being_published_is_not_refused(scene: Scene) -> None:
    """A104: rotation under load. The old key goes on being used, the new one is used at once."""
    new = private_key("RS256", 9)

    async def old_clients(client: Client, number: int) -> set[int]:
        return {
            (await client.ask("/p", *bearer(token(sub=f"old-{number}-{turn}")))).status for turn in range(20)
        }

    async def new_client(number: int) -> int:
        signed = sign({**CLAIMS, "sub": f"new-{number}"}, "RS256", new, {"kid": "new"})
        return (await scene.edge.ask("/p", *bearer(signed))).status

    feed = scene.edge.worker.parts._issuers._jwks["p"]
    feed._attempted -= 60  # the cool-down is over
    KEYS["keys"].append(jwk(new, kid="new", alg="RS256"))
    try:
        clients = [await scene.edge.client() for _ in range(8)]
        old = asyncio.gather(*[old_clients(client, number) for number, client in enumerate(clients)])
        assert set(await asyncio.gather(*map(new_client, range(60)))) == {200}
        assert set.union(*await old) == {200}
    finally:
        KEYS["keys"].pop()
    assert len(scene.issuer.heads) == 2, "sixty tokens of an unknown key cost one fetch"


async def test_an_unknown_key_waits_for_one_fetch_and_no_longer(scene: Scene) -> None:
    feed = scene.edge.worker.parts._issuers._jwks["p"]
    feed._attempted -= 60
    unknown = bearer(token("nobody's"))
    for _ in range(2):
        assert (await scene.edge.ask("/p", *unknown)).status == 401
    assert len(scene.issuer.heads) == 2


async def test_whoever_forges_at_full_speed_waits_and_nobody_else(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwt_answers, "FORGER", Pause(0.05))
    good = sign({"iss": "q", "exp": time.time() + 60}, "HS256", "s" * 32)
    client = await scene.edge.client()
    assert (await client.ask("/q", *bearer(good))).status == 200
    forged = [good.rpartition(b".")[0] + b"." + b64(b"%032d" % number) for number in range(8)]
    loop = asyncio.get_running_loop()
    before = loop.time()
    answers = await asyncio.gather(*[scene.edge.ask("/q", *bearer(each)) for each in forged])
    statuses = [answer.status for answer in answers]
    assert set(statuses) == {401, 429}
    assert statuses.count(401) <= 2, "one a second"
    assert {answer["retry-after"] for answer in answers if answer.status == 429} == {"1"}
    assert loop.time() - before >= 0.05
    assert (await client.ask("/q", *bearer(good))).status == 200
