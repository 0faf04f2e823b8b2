"""Keeps the keys of one issuer fresh: fetches its JWK set (RFC 7517) and publishes what is usable.

Rule 1: policies never wait. They read the last good keys; a token with an unknown `kid` only asks
for an earlier fetch, and never sooner than `cooldown` after the last one. The door keeps that request
until a fetch that is near is over.
Rule 2: whatever goes wrong, the last good keys serve on, for `stale_for`; then there are none and
the policy refuses. An issuer that answers garbage or an empty set counts as one that is down.
Rule 3: only the configured URL is asked, at a public address or one that is allowed (`issuer_http`).
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Callable

import httpcore

from edgeproxy.context import Clock, Wake
from edgeproxy.feeds.issuer_http import Fetched, FetchError, IssuerHttp
from edgeproxy.origin.names import Lookup, system_lookup
from edgeproxy.policies.jwt_keys import KeySet
from edgeproxy.policies.jwt_load import KeyRefusedError, load_set
from edgeproxy.policies.jwt_provider import MAX_SET, JwtProvider
from edgeproxy.snapshot import Snapshot

_MAX_AGE = re.compile(r'(?:^|[\s,])max-age="?(\d{1,9})\b', re.IGNORECASE)
_SHORTEST, _LONGEST = 60.0, 86400.0  # what an issuer's max-age may ask for, in seconds
_LONGEST_BACK_OFF = 300.0
NEAR = 2.0  # seconds until a fetch that requests wait for
MOST_WAITING = 4096
_log = logging.getLogger(__name__)


class JwksFeed:
    """The keys of one provider. `run` is its task; everything here belongs to one event loop.

    `keys` is what it publishes, and `keys_loaded_at` since when (clock of the constructor, None until keys
    were loaded). `fetches` and `failures` count; `last_error` is a word, empty after a success.
    """

    def __init__(
        self,
        name: str,
        provider: JwtProvider,
        keys: Snapshot[KeySet | None],
        clock: Clock,
        chance: Callable[[], float] = random.random,
        lookup: Lookup = system_lookup,
    ) -> None:
        """`clock` is steady epoch seconds; `chance` draws from [0, 1) to spread fetches in time."""
        if provider.jwks is None:
            raise ValueError(f"provider {name} has no `jwks` to fetch")
        self._name = name
        self._http = IssuerHttp(provider.jwks, provider.fetch.allow, lookup)
        self._algorithms = provider.algorithms
        self._options = provider.fetch
        self.keys = keys
        self._clock = clock
        self._chance = chance
        self._body: bytes = b""
        self._due = clock()
        self._attempted = float("-inf")
        self._in_a_row = 0
        self._waiting: list[Callable[[], None]] = []
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

    def poke(self) -> Wake | None:
        """A token named an unknown key: fetch as soon as the cool-down allows. Costs nothing.

        Who wants to wait for it gets the way to, when it is near.
        """
        soon = self._attempted + self._options.cooldown
        if soon < self._due:
            self._due = soon
            self._woken.set()
        near = self._single.locked() or self._due - self._clock() <= NEAR
        return self._tell if near and len(self._waiting) < MOST_WAITING else None

    def _tell(self, waiting: Callable[[], None]) -> None:
        self._waiting.append(waiting)

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
                    fetched = await self._http.get(MAX_SET, self._options.timeout)
                self._publish(fetched)
            except Exception as error:  # a feed that dies would let its keys rot unseen
                self._fail(_word(error))
            finally:
                waiting, self._waiting = self._waiting, []
                for each in waiting:
                    asyncio.get_running_loop().call_soon(each)

    async def _pause(self, seconds: float) -> None:
        self._woken.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            pass

    def _publish(self, fetched: Fetched) -> None:
        # The same body keeps the same set, and with it every token that was verified by it.
        if fetched.body != self._body or self.keys.value is None:
            self.keys.value = load_set(fetched.body, self._algorithms)
            self._body = fetched.body
        if self._in_a_row:
            _log.info("jwks %s: fetched again after %d failures", self._name, self._in_a_row)
        self.keys_loaded_at = self._attempted
        self.last_error = ""
        self._in_a_row = 0
        wait = self._options.refresh
        lifetime = _lifetime(fetched)
        if lifetime is not None:
            wait = min(max(lifetime, _SHORTEST), _LONGEST)
        self._due = self._clock() + wait * (1 - 0.1 * self._chance())

    def _fail(self, word: str) -> None:
        now = self._clock()
        self.failures += 1
        self.last_error = word
        if not self._in_a_row:
            so = (
                "the last good keys stay" if self.keys.value else "there are none yet, and tokens are refused"
            )
            _log.warning("jwks %s: fetch failed (%s); %s", self._name, word, so)
        self._in_a_row += 1
        back_off = min(2.0 ** min(self._in_a_row, 10), _LONGEST_BACK_OFF)
        self._due = now + back_off * (1 - 0.5 * self._chance())
        if self.keys_loaded_at is not None and self.keys.value is not None:
            gives_up = self.keys_loaded_at + self._options.stale_for
            if now >= gives_up:
                _log.error("jwks %s: no fetch for too long; tokens are refused from now on", self._name)
                self.keys.value = None
            else:
                self._due = min(self._due, gives_up)


def _lifetime(fetched: Fetched) -> float | None:
    """How long the issuer lets its keys be kept, in seconds (RFC 9111 §4.2); None: it does not say."""
    asked = _MAX_AGE.search(fetched.fields.get("cache-control", ""))
    if asked is None:
        return None
    age = fetched.fields.get("age", "")
    return float(asked[1]) - (float(age) if age.isdecimal() else 0.0)


def _word(error: Exception) -> str:
    """The bounded word of what went wrong."""
    match error:
        case FetchError():
            return error.word
        case KeyRefusedError():
            return error.reason
        case TimeoutError() | httpcore.TimeoutException():
            return "timeout"
        case httpcore.ConnectError():
            return "connect"
        case httpcore.NetworkError() | httpcore.ProtocolError():
            return "protocol"
        case _:
            _log.error("jwks: unexpected failure", exc_info=error)
            return "internal"
