"""The token issuers of one configuration: their keys, what they revoked, and who fetches both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from edgeproxy.clock import steady
from edgeproxy.errors import ConfigError
from edgeproxy.feeds.revocations import RevocationFeed
from edgeproxy.observe.cells import Slot
from edgeproxy.policies.jwt import Issuer, JwtProvider, configured_keys
from edgeproxy.snapshot import Snapshot

if TYPE_CHECKING:
    from edgeproxy.feeds.jwks import JwksFeed


class Issuers:
    """`by_name` is what the policies use; `feeds` have to run."""

    def __init__(self, providers: Mapping[str, JwtProvider], previous: Issuers | None) -> None:
        """Raises ConfigError when configured keys cannot be used."""
        self.by_name: dict[str, Issuer] = {}
        self.feeds: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self._providers = providers
        self._jwks: dict[str, JwksFeed] = {}
        self._revocations: dict[str, RevocationFeed] = {}
        for name, provider in providers.items():
            self.by_name[name] = self._issuer(name, provider, previous)

    def _issuer(self, name: str, provider: JwtProvider, previous: Issuers | None) -> Issuer:
        try:
            keys = Snapshot(configured_keys(provider))
        except (ConfigError, ValueError) as error:
            raise ConfigError(f"jwt_providers.{name}: {error}") from None
        poke = None
        if provider.jwks is not None:
            # With it comes httpx, which most workers need for nothing else.
            from edgeproxy.feeds.jwks import JwksFeed

            running = previous and previous.feed_of(name, provider)
            feed = self._jwks[name] = running or JwksFeed(name, provider, keys, steady)
            self.feeds.append(feed.run)
            keys, poke = feed.keys, feed.poke
        revoked = None
        if provider.revoked is not None:
            listed = self._revocations[name] = RevocationFeed(name, provider.revoked)
            self.feeds.append(listed.run)
            revoked = listed.revoked
        return Issuer(name, provider, keys, poke, revoked)

    def feed_of(self, name: str, provider: JwtProvider) -> JwksFeed | None:
        """The feed, if it would fetch the same: its keys outlive a reload while the issuer is down."""
        mine = self._providers.get(name)
        is_same = mine is not None and all(
            getattr(mine, key) == getattr(provider, key) for key in ("jwks", "algorithms", "fetch")
        )
        return self._jwks.get(name) if is_same else None

    async def warm_up(self) -> None:
        """Fetch the keys that the first request needs. Failures are logged and tried again."""
        await asyncio.gather(*[feed.refresh_if_due() for feed in self._jwks.values()])

    def publish(self, slot: Slot) -> None:
        """Their figures into the shared cells."""
        values, column = slot.values, slot.column
        for name, feed in self._jwks.items():
            if feed.keys_loaded_at:
                slot.gauge("edgeproxy_jwks_age_seconds", provider=name).set(feed.keys_loaded_at)
            values[column("edgeproxy_jwks_failures_total", provider=name)] = feed.failures
        for name, listed in self._revocations.items():
            slot.gauge("edgeproxy_jwt_revocations", provider=name).set(len(listed.revoked.value))
            values[column("edgeproxy_jwt_revocation_failures_total", provider=name)] = listed.failures
