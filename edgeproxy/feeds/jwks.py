"""Keeps the keys of one issuer fresh: fetches its JWK set (RFC 7517) and publishes what is usable.

Rule 1: policies never wait. They read the last good keys; a token with an unknown `kid` only asks
for an earlier fetch, and never sooner than `cooldown` after the last one.
Rule 2: whatever goes wrong, the last good keys serve on, for `stale_for`; then there are none and
the policy refuses. An issuer that answers garbage or an empty set counts as one that is down.
Rule 3: only the configured URL is asked: no redirect, no proxy or .netrc of the environment, no
cookie, no compressed or oversized body. Private addresses are fine, since no token chooses the URL.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Callable

import httpx

from edgeproxy.context import Clock
from edgeproxy.errors import EdgeError
from edgeproxy.policies.jwt_keys import KeySet
from edgeproxy.policies.jwt_load import KeyRefusedError, load_set
from edgeproxy.policies.jwt_provider import MAX_SET, JwtProvider
from edgeproxy.record import record
from edgeproxy.snapshot import Snapshot

_MAX_AGE = re.compile(r'(?:^|[\s,])max-age="?(\d{1,9})\b', re.IGNORECASE)
_SHORTEST, _LONGEST = 60.0, 86400.0  # what an issuer's max-age may ask for, in seconds
_LONGEST_BACK_OFF = 300.0
_REQUEST_FIELDS = {"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"}
_log = logging.getLogger(__name__)


class FetchError(EdgeError):
    """A fetch that brought no usable keys. `word` is bounded, for metrics and log."""

    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.word = word


@record
class Fetched:
    """The body of a JWK set, and how long it may be kept where the issuer says so (seconds)."""

    body: bytes
    max_age: float | None


class JwksFeed:
    """The keys of one provider. `run` is its task; everything here belongs to one event loop.

    For metrics: `keys_loaded_at` (clock of the constructor, None until keys were loaded),
    `fetches` and `failures` (counters), `last_error` (a word, empty after a success), and the
    `skipped` keys of the published set.
    """

    def __init__(
        self,
        name: str,
        provider: JwtProvider,
        keys: Snapshot[KeySet | None],
        clock: Clock,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`clock` is steady epoch seconds; `chance` draws from [0, 1) to spread fetches in time."""
        if provider.jwks is None:
            raise ValueError(f"provider {name} has no `jwks` to fetch")
        self._name = name
        self._url = provider.jwks
        self._algorithms = provider.algorithms
        self._options = provider.fetch
        self._keys = keys
        self._clock = clock
        self._chance = chance
        self._tls = httpx.create_ssl_context() if self._url.startswith("https:") else False
        self._body: bytes = b""
        self._due = clock()
        self._attempted = float("-inf")
        self._in_a_row = 0
        self._single = asyncio.Lock()
        self._woken = asyncio.Event()
        self.keys_loaded_at: float | None = None
        self.fetches = 0
        self.failures = 0
        self.last_error = ""

    @property
    def due(self) -> float:
        """When the next fetch is due, on the feed's clock."""
        return self._due

    def poke(self) -> None:
        """A token named an unknown key: fetch as soon as the cool-down allows. Costs nothing."""
        soon = self._attempted + self._options.cooldown
        if soon < self._due:
            self._due = soon
            self._woken.set()

    async def run(self) -> None:
        """Fetch whenever it is due, until cancelled."""
        while True:
            await self.refresh_if_due()
            await self._pause(self._due - self._clock())

    async def refresh_if_due(self) -> None:
        """One fetch if it is time; callers that come meanwhile wait for it and find it done."""
        async with self._single:
            if self._clock() < self._due:
                return
            self._attempted = self._clock()
            self.fetches += 1
            try:
                async with asyncio.timeout(self._options.timeout):
                    fetched = await self._fetch()
                self._publish(fetched)
            except Exception as error:  # a feed that dies would let its keys rot unseen
                self._fail(_word(error))

    async def _pause(self, seconds: float) -> None:
        self._woken.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            pass

    async def _fetch(self) -> Fetched:
        # A client per fetch forgets cookies and connections; its TLS context is made once.
        async with (
            httpx.AsyncClient(
                trust_env=False, follow_redirects=False, verify=self._tls, timeout=self._options.timeout
            ) as client,
            client.stream("GET", self._url, headers=_REQUEST_FIELDS) as answer,
        ):
            if answer.is_redirect:
                raise FetchError("redirect")
            if answer.status_code != 200:
                raise FetchError("status")
            if answer.headers.get("content-encoding", "identity") != "identity":
                raise FetchError("encoding")
            body = bytearray()
            async for chunk in answer.aiter_raw():
                body += chunk
                if len(body) > MAX_SET:
                    raise FetchError("too-large")
            asked = _MAX_AGE.search(answer.headers.get("cache-control", ""))
            return Fetched(bytes(body), float(asked[1]) if asked else None)

    def _publish(self, fetched: Fetched) -> None:
        # The same body keeps the same set, and with it every token that was verified by it.
        if fetched.body != self._body or self._keys.value is None:
            self._keys.value = load_set(fetched.body, self._algorithms)
            self._body = fetched.body
        if self._in_a_row:
            _log.info("jwks %s: fetched again after %d failures", self._name, self._in_a_row)
        self.keys_loaded_at = self._attempted
        self.last_error = ""
        self._in_a_row = 0
        wait = self._options.refresh
        if fetched.max_age is not None:
            wait = min(max(fetched.max_age, _SHORTEST), _LONGEST)
        self._due = self._clock() + wait * (1 - 0.1 * self._chance())

    def _fail(self, word: str) -> None:
        now = self._clock()
        self.failures += 1
        self.last_error = word
        if not self._in_a_row:
            _log.warning("jwks %s: fetch failed (%s); the last good keys stay", self._name, word)
        self._in_a_row += 1
        back_off = min(2.0 ** min(self._in_a_row, 10), _LONGEST_BACK_OFF)
        self._due = now + back_off * (1 - 0.5 * self._chance())
        if self.keys_loaded_at is not None and self._keys.value is not None:
            gives_up = self.keys_loaded_at + self._options.stale_for
            if now >= gives_up:
                _log.error("jwks %s: no fetch for too long; tokens are refused from now on", self._name)
                self._keys.value = None
            else:
                self._due = min(self._due, gives_up)


def _word(error: Exception) -> str:
    """The bounded word of what went wrong."""
    match error:
        case FetchError():
            return error.word
        case KeyRefusedError():
            return error.reason
        case TimeoutError() | httpx.TimeoutException():
            return "timeout"
        case httpx.ConnectError():
            return "connect"
        case httpx.HTTPError():
            return "protocol"
        case _:
            _log.error("jwks: unexpected failure", exc_info=error)
            return "internal"
