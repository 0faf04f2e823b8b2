"""The JWKS feed: what is fetched and from where, when, and what stays while the issuer fails (A101-A104)."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Iterator

import httpcore
import httpx
import pytest
import respx
import trustme

from edgeproxy.feeds.jwks import JwksFeed
from edgeproxy.origin.names import Found
from edgeproxy.policies.jwt import Issuer, JwtAuth, JwtRule
from edgeproxy.policies.jwt_keys import KeySet
from edgeproxy.snapshot import Snapshot
from tests.helpers.edge import PATIENCE
from tests.policies.jwt_tokens import GOOD, context, jwk, private_key, provider, request, sign

URL = "https://id.example.com/jwks.json"


def key_set(*numbers: int) -> dict[str, list[dict[str, object]]]:
    return {"keys": [jwk(private_key("ES256", number), kid=str(number)) for number in numbers]}


class Rig:
    """A feed with a clock of its own and an issuer that answers as told."""

    def __init__(self, router: respx.MockRouter, url: str = URL, **fetch: object) -> None:
        self.now = 1000.0
        self.route = router.get(url)
        self.keys: Snapshot[KeySet | None] = Snapshot(None)
        self.provider = provider(jwks=url, algorithms=["ES256"], fetch=fetch, max_failures=None)
        self.feed = JwksFeed("main", self.provider, self.keys, lambda: self.now, lambda: 0.0)

    async def fetch(self, answer: httpx.Response | Exception | None = None) -> str:
        """Let the issuer answer, go to when the fetch is due, and fetch."""
        if isinstance(answer, Exception):
            self.route.side_effect = answer
        elif answer is not None:
            self.route.side_effect = None
            self.route.return_value = answer
        self.now = max(self.now, self.feed.due)
        await self.feed.refresh_if_due()
        return self.feed.last_error

    @property
    def issuer(self) -> Issuer:
        return Issuer("main", self.provider, self.keys, self.feed.poke)

    def knows(self, number: int) -> bool:
        return self.keys.value is not None and self.keys.value.find(str(number), "ES256") is not None


@pytest.fixture
def router() -> Iterator[respx.MockRouter]:
    with respx.mock(assert_all_called=False) as router:
        yield router


@pytest.fixture
def rig(router: respx.MockRouter) -> Rig:
    return Rig(router)


def body(*numbers: int) -> httpx.Response:
    return httpx.Response(200, json=key_set(*numbers))


async def test_the_first_fetch_is_due_at_once_and_publishes(rig: Rig) -> None:
    assert rig.feed.due == rig.now
    assert await rig.fetch(body(1)) == ""
    assert rig.knows(1)
    assert (rig.feed.keys_loaded_at, rig.feed.fetches, rig.feed.failures) == (1000.0, 1, 0)
    assert rig.feed.due == 1600.0


async def test_a_request_for_keys_carries_nothing_of_ours(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:1")
    cookie = httpx.Response(200, json=key_set(1), headers={"Set-Cookie": "a=b"})
    await rig.fetch(cookie)
    await rig.fetch(cookie)
    assert len(rig.route.calls) == 2
    for call in rig.route.calls:
        assert call.request.headers["accept-encoding"] == "identity"
        assert {"cookie", "authorization"}.isdisjoint(call.request.headers)


@pytest.mark.parametrize(
    ("cache_control", "wait"),
    [
        ("max-age=300", 300),
        ("public, MAX-AGE=120, must-revalidate", 120),
        ('max-age="90"', 90),
        ("max-age=0", 60),
        ("max-age=99999999", 86400),
        ("s-max-age=5", 600),
        ("max-age=-1", 600),
        ("max-age=1e9", 600),
        ("no-cache", 600),
    ],
)
async def test_the_issuer_says_how_long_its_keys_keep_within_bounds(
    rig: Rig, cache_control: str, wait: int
) -> None:
    await rig.fetch(httpx.Response(200, json=key_set(1), headers={"Cache-Control": cache_control}))
    assert rig.feed.due - rig.now == wait


async def test_the_time_keys_spent_in_a_cache_counts(rig: Rig) -> None:
    fields = {"Cache-Control": "max-age=300", "Age": "100"}
    await rig.fetch(httpx.Response(200, json=key_set(1), headers=fields))
    assert rig.feed.due - rig.now == 200


async def test_an_issuer_that_moved_inside_is_a_failed_fetch() -> None:
    async def inside(_host: str) -> Found:
        return Found(["10.0.0.1"])

    feed = JwksFeed(
        "main", provider(jwks=URL, algorithms=["ES256"]), Snapshot(None), lambda: 0.0, lookup=inside
    )
    await feed.refresh_if_due()
    assert (feed.last_error, feed.failures) == ("address", 1)


async def test_fetches_are_spread_in_time(router: respx.MockRouter) -> None:
    rig = Rig(router)
    rig.feed = JwksFeed("main", rig.provider, rig.keys, lambda: rig.now, lambda: 0.5)
    await rig.fetch(body(1))
    assert rig.feed.due == pytest.approx(rig.now + 570)
    await rig.fetch(httpx.Response(500))
    assert rig.feed.due == pytest.approx(rig.now + 1.5)


BAD_ANSWERS: dict[str, tuple[httpx.Response | Exception, str]] = {
    "redirect": (httpx.Response(302, headers={"Location": "https://evil.example/"}), "redirect"),
    "to plain http": (httpx.Response(307, headers={"Location": "http://169.254.169.254/"}), "redirect"),
    "404": (httpx.Response(404), "status"),
    "500": (httpx.Response(500), "status"),
    "204": (httpx.Response(204), "status"),
    "no JSON": (httpx.Response(200, text="<html>"), "garbage"),
    "no set": (httpx.Response(200, json={"issuer": "x"}), "garbage"),
    "duplicate members": (httpx.Response(200, text='{"keys":[],"keys":[]}'), "garbage"),
    "deep": (httpx.Response(200, text='{"keys":' + "[" * 5000), "garbage"),
    "empty set": (httpx.Response(200, json={"keys": []}), "no-usable-key"),
    "only a broken key": (httpx.Response(200, json={"keys": [{"kty": "EC"}]}), "no-usable-key"),
    "a secret in it": (
        httpx.Response(
            200, json={"keys": [*key_set(1)["keys"], {"kty": "oct", "alg": "HS256", "k": "A" * 43}]}
        ),
        "mixed",
    ),
    "too large": (httpx.Response(200, text=json.dumps({**key_set(2), "pad": "x" * 65_536})), "too-large"),
    "compressed": (
        httpx.Response(200, stream=httpx.ByteStream(b"\x1f\x8b"), headers={"Content-Encoding": "gzip"}),
        "encoding",
    ),
    "refused": (httpcore.ConnectError("no"), "connect"),
    "slow": (httpcore.ReadTimeout("slow"), "timeout"),
    "broken off": (httpcore.RemoteProtocolError("gone"), "protocol"),
    "a bug": (RuntimeError("unexpected"), "internal"),
}


@pytest.mark.parametrize(("answer", "word"), BAD_ANSWERS.values(), ids=BAD_ANSWERS.keys())
async def test_whatever_the_issuer_answers_the_last_good_keys_stay(
    rig: Rig, answer: httpx.Response | Exception, word: str
) -> None:
    """A101, A103."""
    await rig.fetch(body(1))
    good = rig.keys.value
    assert await rig.fetch(answer) == word
    assert rig.keys.value is good
    assert (rig.feed.failures, rig.feed.keys_loaded_at) == (1, 1000.0)
    assert len(rig.route.calls) == 2, "one request: no redirect is followed, nothing is tried twice"
    assert await rig.fetch(body(2)) == ""
    assert rig.knows(2)


async def test_the_log_says_once_what_a_failure_means(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """An issuer that is dead from the start, and one that dies later."""
    down = httpx.Response(500)
    for answer in (down, down, body(1), down, down):
        await rig.fetch(answer)
    assert [record.message.rpartition("; ")[2] for record in caplog.records] == [
        "there are none yet, and tokens are refused",
        "the last good keys stay",
    ]


async def test_a_set_of_64_kib_is_still_read(rig: Rig) -> None:
    text = json.dumps(key_set(1))
    assert await rig.fetch(httpx.Response(200, text=text + " " * (65_536 - len(text)))) == ""


async def test_one_broken_key_does_not_discard_the_set(rig: Rig) -> None:
    """A103."""
    broken = {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "broken"}
    await rig.fetch(httpx.Response(200, json={"keys": [broken, *key_set(1)["keys"]]}))
    assert rig.knows(1)
    assert rig.keys.value is not None
    assert rig.keys.value.skipped == (("broken", "point"),)


async def test_an_issuer_that_hangs_is_given_up_after_the_timeout(router: respx.MockRouter) -> None:
    rig = Rig(router, timeout="10ms")

    async def hang(_request: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    rig.route.side_effect = hang
    assert await rig.fetch() == "timeout"


async def test_failures_back_off_up_to_five_minutes(rig: Rig) -> None:
    waits: list[float] = []
    for _ in range(12):
        await rig.fetch(httpcore.ConnectError("down"))
        waits.append(rig.feed.due - rig.now)
    assert waits[:9] == [2, 4, 8, 16, 32, 64, 128, 256, 300]
    assert set(waits[9:]) == {300}
    assert rig.keys.value is None
    await rig.fetch(body(1))
    assert rig.feed.due - rig.now == 600


async def test_stale_keys_are_given_up_when_they_are_too_old(router: respx.MockRouter) -> None:
    rig = Rig(router, stale_for="20m")
    await rig.fetch(body(1))
    while rig.keys.value is not None:
        assert rig.now < 1000 + 1200
        await rig.fetch(httpcore.ConnectError("down"))
    assert rig.now == 1000 + 1200, "given up on time, not at the next attempt after it"
    assert await rig.fetch(body(1)) == ""
    assert rig.knows(1), "the same body counts as new after the keys were given up"


async def test_the_same_answer_keeps_the_same_set(rig: Rig) -> None:
    await rig.fetch(body(1))
    before = rig.keys.value
    await rig.fetch(body(1))
    assert rig.keys.value is before
    assert rig.feed.keys_loaded_at == 1600.0
    await rig.fetch(body(1, 2))
    assert rig.keys.value is not before


async def test_ten_thousand_unknown_kids_cost_one_fetch_per_cool_down(rig: Rig) -> None:
    """A102."""
    await rig.fetch(body(1))
    auth = JwtAuth(JwtRule(provider="main"), {"main": rig.issuer})
    for second in range(1000, 1100):
        rig.now = float(second)
        for number in range(100):
            forged = sign(GOOD, "HS256", "x" * 32, b'{"alg":"ES256","kid":"r%d-%d"}' % (second, number))
            answer = auth(request(forged), context())
            assert answer is not None
            assert answer.status == 401
        await rig.feed.refresh_if_due()
    assert rig.feed.fetches == 1 + 3


async def test_a_rotated_key_is_accepted_after_the_cool_down_and_the_old_one_refused(rig: Rig) -> None:
    """A104."""
    await rig.fetch(body(1))
    auth = JwtAuth(JwtRule(provider="main"), {"main": rig.issuer})
    old, new = (request(sign(GOOD, "ES256", private_key("ES256", n), {"kid": str(n)})) for n in (1, 2))
    assert auth(old, context()) is None
    rig.route.return_value = body(2)
    rig.now += 31
    assert auth(new, context()) is not None
    await rig.feed.refresh_if_due()
    assert auth(new, context()) is None
    assert auth(old, context()) is not None


async def test_callers_at_the_same_time_share_one_fetch(rig: Rig) -> None:
    gate = asyncio.Event()

    async def slow(_request: httpx.Request) -> httpx.Response:
        await gate.wait()
        return body(1)

    rig.route.side_effect = slow
    callers = [asyncio.create_task(rig.feed.refresh_if_due()) for _ in range(5)]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*callers)
    assert len(rig.route.calls) == 1
    assert rig.knows(1)


async def test_the_task_fetches_wakes_when_poked_and_ends_when_cancelled(router: respx.MockRouter) -> None:
    rig = Rig(router)
    fetched: asyncio.Queue[int] = asyncio.Queue()

    def answer(_request: httpx.Request) -> httpx.Response:
        fetched.put_nowait(1)
        return body(1)

    rig.route.side_effect = answer
    task = asyncio.create_task(rig.feed.run())
    async with asyncio.timeout(PATIENCE):
        await fetched.get()
        async with rig.feed._single:  # the fetch is over
            rig.now += 31
            rig.feed.poke()
        await fetched.get()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert rig.feed.fetches == 2


async def test_a_poke_inside_the_cool_down_waits_for_its_end(rig: Rig) -> None:
    await rig.fetch(body(1))
    rig.now += 5
    rig.feed.poke()
    assert rig.feed.due == 1030.0
    rig.feed.poke()
    await rig.feed.refresh_if_due()
    assert rig.feed.fetches == 1


async def test_a_pause_ends_by_itself_when_nobody_pokes(rig: Rig) -> None:
    await rig.feed._pause(0)
    assert not rig.feed._woken.is_set()


async def test_plain_http_on_this_machine_is_asked(router: respx.MockRouter) -> None:
    rig = Rig(router, url="http://127.0.0.1:8081/jwks.json")
    assert await rig.fetch(body(1)) == ""


async def test_an_issuer_whose_certificate_nobody_signed_is_not_believed() -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(tls)
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.read(1000))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
    async with server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        held = provider(jwks=url, algorithms=["ES256"])
        feed = JwksFeed("main", held, Snapshot(None), lambda: 0.0)
        await feed.refresh_if_due()
    assert feed.last_error == "connect"
    assert asked == []


def test_a_provider_without_a_url_has_no_feed() -> None:
    with pytest.raises(ValueError, match="no `jwks`"):
        JwksFeed("main", provider(), Snapshot(None), lambda: 0.0)
