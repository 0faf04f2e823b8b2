"""The admin API from outside: what is open, what needs the token, what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from edgeproxy import __version__
from edgeproxy.admin import ADMIN_SERVICE
from edgeproxy.admin.app import AdminState, admin_app
from edgeproxy.admin.explain import Explanation, Question
from edgeproxy.admin.parameters import MAX_BODY
from edgeproxy.cache.memory import MemoryStore
from edgeproxy.cache.purge import apply_purges
from edgeproxy.errors import RequestError
from edgeproxy.observe.cells import Cells
from edgeproxy.purge_log import PurgeKind, PurgeLog

TOKEN = "t0ken-with-ü"
LONG = json.dumps({"url": "http://a.example/" + "x" * 20_000}).encode()
REVOKED: list[tuple[str, dict[str, object]]] = []
KNOWN = {"Authorization": f"Bearer {TOKEN}".encode()}


def revoke(provider: str, line: Mapping[str, object]) -> None:
    if provider == "none":
        raise KeyError(provider)
    if provider == "disk":
        raise OSError(28, "No space left on device")
    REVOKED.append((provider, dict(line)))


def explain(question: Question) -> Explanation:
    url = question.url
    if "refused" in url:
        raise RequestError(400, "bad-target", "The path climbs above the root.")
    if "wrong" in url:
        raise ValueError("That is no address.")
    if "crash" in url:
        raise ZeroDivisionError("s3cret")
    why = "; ".join(f"{name}={value}" for name, value in question.fields)
    return Explanation(
        question.method, url, question.client, why, "api", cache="uri-miss", filled=f"{question.told}"
    )


async def explain_later(question: Question) -> Explanation:
    return explain(question)


@pytest.fixture
def state() -> AdminState:
    return AdminState(
        slot=Cells(2).slot(1),
        purge_log=PurgeLog(),
        token=TOKEN,
        explain=explain_later,
        ready=lambda: (True, {"workers": 2}),
        revoke=revoke,
        origins=lambda: {"main": {"servers": []}},
        config=lambda: {"admin": {"token": "***"}},
        workers=lambda: 0,
        purged_as=lambda url: [url.removesuffix(b"&utm_x=1"), b"a.example/rewritten"],
        started_at=1000.0,
        clock=lambda: 1012.5,
    )


@pytest.fixture
async def client(state):
    transport = httpx.ASGITransport(admin_app(state), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://admin") as client:
        yield client


def assert_problem(answer: httpx.Response, status: int, kind: str) -> None:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    document = answer.json()
    assert (document["type"], document["status"]) == (f"urn:edgeproxy:problem:{kind}", status)
    assert document["detail"]
    assert TOKEN not in answer.text


async def test_metrics_are_open_and_count_the_machine(client, state):
    state.slot.cells.slot(0).counter("edgeproxy_bad_requests_total", reason="bad-framing").inc(3)
    answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    assert families["edgeproxy_bad_requests"].samples[0].value == 3


async def test_metrics_come_as_openmetrics_when_asked(client):
    answer = await client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


async def test_liveness_depends_on_nothing(client, state):
    def fail() -> tuple[bool, dict[str, object]]:
        raise RuntimeError

    state.ready = fail
    answer = await client.get("/livez")
    assert answer.status_code == 200
    about = {"service": ADMIN_SERVICE, "version": __version__}
    assert answer.json() == {"status": "alive", **about, "uptime_seconds": 12.5}


@pytest.mark.parametrize(("ready", "status", "word"), [(True, 200, "ready"), (False, 503, "not ready")])
async def test_readiness_is_what_the_edge_says(client, state, ready, status, word):
    state.ready = lambda: (ready, {"workers": 1})
    answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()) == (status, {"status": word, "workers": 1})


async def test_the_index_lists_what_there_is(client):
    answer = await client.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    for path in ("/metrics", "/livez", "/readyz", "/purge", "/revoke", "/explain", "/origins", "/config"):
        assert path in answer.text


GUARDED = [
    ("POST", "/purge?all=1"),
    ("POST", "/revoke?provider=main&jti=a"),
    ("GET", "/explain?url=http://a.example/"),
    ("POST", "/explain"),
    ("GET", "/origins"),
    ("GET", "/config"),
]


@pytest.mark.parametrize(("method", "path"), GUARDED)
@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Authorization", b"Bearer wrong")],
        [("Authorization", b"Bearer ")],
        [("Authorization", b"Bearer")],
        [("Authorization", b"Basic " + TOKEN.encode())],
        [("Authorization", TOKEN.encode())],
        [("Authorization", b"Bearer \xff\xfe")],
        [("Authorization", KNOWN["Authorization"]), ("Authorization", b"Bearer wrong")],
        [("Cookie", b"token=" + TOKEN.encode())],
    ],
    ids=["none", "wrong", "empty", "no token", "Basic", "bare", "not UTF-8", "two", "cookie"],
)
async def test_without_the_token_nothing_is_told_or_changed(client, state, method, path, headers):
    answer = await client.request(method, path, headers=headers)
    assert_problem(answer, 401, "bad-admin-token")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert state.purge_log.position == 0


@pytest.mark.parametrize(("method", "path"), GUARDED)
@pytest.mark.parametrize("token", [None, ""], ids=["none", "empty"])
async def test_without_a_configured_token_it_is_closed_and_says_how_to_open_it(
    client, state, method, path, token
):
    state.token = token
    for headers in ({}, {"Authorization": "Bearer "}, KNOWN):
        answer = await client.request(method, path, headers=headers)
        assert_problem(answer, 403, "no-admin-token")
        assert "admin.token" in answer.json()["detail"]


@pytest.mark.parametrize("scheme", [b"Bearer", b"bearer", b"BEARER "])
async def test_a_purge_is_appended_and_counted(client, state, scheme):
    headers = {"Authorization": scheme + b" " + TOKEN.encode()}
    answer = await client.post(
        "/purge", json={"url": "http://A.example/x?a=1&utm_x=1", "soft": True}, headers=headers
    )
    assert answer.status_code == 200
    position = state.purge_log.position
    assert answer.json() == {
        "purged": "url", "value": "a.example/x?a=1", "soft": True, "position": position,
        "workers": {"reached": 0, "running": 0}, "responses": 0, "rewritten": ["a.example/rewritten"],
    }  # fmt: skip
    purges = [(purge.kind, purge.value, purge.soft) for purge in state.purge_log.since(0)[0]]
    assert purges == [(PurgeKind.URL, value, True) for value in (b"a.example/x?a=1", b"a.example/rewritten")]
    assert 'edgeproxy_purges_total{kind="url"} 1.0' in (await client.get("/metrics")).text


async def test_a_purge_says_how_many_it_reached_and_does_not_wait_for_ever(client, state, monkeypatch):
    monkeypatch.setattr("edgeproxy.admin.app.PURGE_WAIT", 0.0)
    stores = [MemoryStore(10**6), MemoryStore(10**6)]

    class Applied(PurgeLog):
        def append(self, kind: PurgeKind, value: bytes, soft: bool = False) -> int:
            position = super().append(kind, value, soft)
            for store in stores:
                apply_purges(store, self, 0.0)
            return position

    state.purge_log = Applied()
    for workers in (2, 3):
        state.workers = lambda workers=workers: workers
        answer = await client.post("/purge?all=1", headers=KNOWN)
        assert answer.json()["workers"] == {"reached": 2, "running": workers}


async def test_a_purge_may_stand_in_the_query(client, state):
    answer = await client.post("/purge?tag=news&soft", headers=KNOWN)
    assert answer.json()["purged"] == "tag"
    assert [(purge.value, purge.soft) for purge in state.purge_log.since(0)[0]] == [(b"news", True)]


@pytest.mark.parametrize(
    ("path", "body", "content_type", "status", "kind"),
    [
        ("/purge", b"", "", 400, "bad-purge"),
        ("/purge?tag=a&tag=b", b"", "", 400, "bad-request"),
        ("/purge?url=x", b"", "", 400, "bad-purge"),
        ("/purge", b"{", "application/json", 400, "not-json"),
        ("/purge", b"[" * 20_000, "application/json", 400, "not-json"),
        ("/purge", b"\xff\xfe", "application/json", 400, "not-json"),
        ("/purge", b'["all"]', "application/json; charset=utf-8", 400, "not-json"),
        ("/purge", b"all=1", "application/x-www-form-urlencoded", 415, "not-json"),
        ("/purge", b'{"all": true}', "text/plain", 415, "not-json"),
        ("/purge", b" " * (MAX_BODY + 1), "application/json", 413, "body-too-large"),
        ("/revoke", b"", "", 400, "bad-revocation"),
        ("/revoke?provider=main", b"", "", 400, "bad-revocation"),
        ("/revoke?provider=main&jti=", b"", "", 400, "bad-revocation"),
        ("/revoke?provider=main&jti=a&sub=b", b"", "", 400, "bad-revocation"),
        ("/revoke?provider=main&jti=a&issued_before=1", b"", "", 400, "bad-revocation"),
        ("/revoke?provider=main&sub=a&until=soon", b"", "", 400, "bad-revocation"),
        ("/revoke?provider=main&jti=" + "x" * 1100, b"", "", 400, "bad-revocation"),
        ("/revoke?provider=main&jti=a&why=x", b"", "", 400, "bad-revocation"),
        ("/revoke", b'{"provider": "main", "jti": 7}', "application/json", 400, "bad-revocation"),
        ("/revoke?provider=none&jti=a", b"", "", 404, "no-such-list"),
        ("/revoke?provider=disk&jti=a", b"", "", 500, "not-written"),
        ("/purge", LONG, "application/json", 400, "bad-purge"),
        ("/explain", b"{}", "application/json", 400, "bad-explain"),
        ("/explain", b'{"url": 7}', "application/json", 400, "bad-explain"),
        ("/explain", b'{"url": "http://a/", "nonsense": 1}', "application/json", 400, "bad-explain"),
        ("/explain", b'{"url": "http://a/", "headers": "x"}', "application/json", 400, "bad-explain"),
        ("/explain", b'{"url": "http://a/refused"}', "application/json", 400, "bad-explain"),
        ("/explain", b'{"url": "http://a/wrong"}', "application/json", 400, "bad-explain"),
        ("/explain", b'{"url": "http://a/crash"}', "application/json", 500, "internal"),
    ],
    ids=[
        "nothing named", "named twice", "no URL", "broken JSON", "deep JSON", "not UTF-8", "not an object",
        "a form", "plain text", "too large", "revoke nothing", "revoke whom", "revoke empty", "revoke two",
        "a time without sub", "a time that is none", "revocation too long", "unknown member", "jti no text",
        "no such list", "disk full", "URL too long", "explain nothing", "url no text", "unknown word",
        "headers no object", "refused by the door", "refused by a part", "a crash",
    ],
)  # fmt: skip
async def test_what_cannot_be_done_is_a_problem(client, state, path, body, content_type, status, kind):
    answer = await client.post(path, content=body, headers={**KNOWN, "Content-Type": content_type})
    assert_problem(answer, status, kind)
    assert state.purge_log.position == 0
    assert "s3cret" not in answer.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/purge?all=1", 405),
        ("DELETE", "/purge", 405),
        ("POST", "/metrics", 405),
        ("GET", "/nothing", 404),
    ],
)
async def test_what_is_not_there_is_a_problem_too(client, method, path, status):
    assert_problem(await client.request(method, path, headers=KNOWN), status, "not-served")


@pytest.mark.parametrize("how", ["GET", "POST"])
async def test_explain_hands_on_what_was_asked(client, how):
    if how == "GET":
        query = [
            ("method", "HEAD"),
            ("url", "http://a.example/"),
            ("from", "192.0.2.1"),
            ("header", "A: b:c"),
            ("header", "D:e"),
        ]
        answer = await client.get("/explain", params=query, headers=KNOWN)
    else:
        document = {
            "method": "HEAD",
            "url": "http://a.example/",
            "from": "192.0.2.1",
            "headers": {"A": "b:c", "D": "e"},
        }
        answer = await client.post("/explain", json=document, headers=KNOWN)
    assert (
        answer.json()
        == explain(Question("HEAD", "http://a.example/", "192.0.2.1", [("A", "b:c"), ("D", "e")])).as_dict()
    )


async def test_explain_draws_a_tree_for_people(client):
    headers = {**KNOWN, "Accept": "text/plain"}
    answer = await client.get("/explain?url=http://a.example/", headers=headers)
    assert answer.text == explain(Question("GET", "http://a.example/", "127.0.0.1", [])).as_tree()


async def test_the_origins_are_shown_to_those_who_know_the_token(client):
    assert (await client.get("/origins", headers=KNOWN)).json() == {"main": {"servers": []}}


async def test_the_configuration_is_shown_to_those_who_know_the_token(client):
    assert (await client.get("/config", headers=KNOWN)).json() == {"admin": {"token": "***"}}


async def test_a_revocation_becomes_a_line_of_the_providers_list(client):
    REVOKED.clear()
    headers = {**KNOWN, "Content-Type": "application/json"}
    body = {"provider": "main", "sub": "u-1", "issued_before": 1800000000}
    answer = await client.post("/revoke", json=body, headers=headers)
    assert (answer.status_code, answer.json()["provider"]) == (200, "main")
    assert (await client.post("/revoke?provider=main&jti=a&until=7.5", headers=KNOWN)).status_code == 200
    assert REVOKED == [
        ("main", {"sub": "u-1", "issued_before": 1800000000}),
        ("main", {"jti": "a", "until": 7.5}),
    ]


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("", None),
        ("&answer=Cache-Control: no-store&answer=A: b", (200, [("Cache-Control", "no-store"), ("A", "b")])),
        ("&status=404", (404, [])),
    ],
)
async def test_explain_judges_an_answer(client, query, told):
    answer = await client.get(f"/explain?url=http://a.example/{query}", headers=KNOWN)
    assert answer.json()["cache"]["answer"] == str(told)


@pytest.mark.parametrize("query", ["status=99", "status=x", "status=600"])
async def test_explain_refuses_a_status_that_is_none(client, query):
    answer = await client.get(f"/explain?url=http://a.example/&{query}", headers=KNOWN)
    assert_problem(answer, 400, "bad-explain")


async def test_who_leaves_in_the_middle_of_a_body_is_no_failure(state: AdminState) -> None:
    messages: list[dict[str, object]] = [
        {"type": "http.request", "body": b"{", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> dict[str, object]:
        return messages.pop(0)

    async def send(message: object) -> None:
        """Nobody hears it."""

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/purge",
        "query_string": b"",
        "headers": [(b"authorization", KNOWN["Authorization"]), (b"content-type", b"application/json")],
    }
    await admin_app(state)(scope, receive, send)  # type: ignore[arg-type]
    assert state.purge_log.position == 0
