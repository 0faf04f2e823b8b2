"""Active health checks: one process of the machine asks every server, all workers read the answer.

Rule: a prober publishes one byte per server and decides nothing else. Nothing is followed (redirects
are not health), nothing is remembered (cookies are refused), nothing is read but the
status, and of the body no more than the search for an expected text needs.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx

from edgeproxy.origin.dial import connect_error
from edgeproxy.origin.resolve import Resolver
from edgeproxy.origin.servers import ServerUrl
from edgeproxy.origin.settings import Health, Origin
from edgeproxy.origin.standing import HEALTHY, UNHEALTHY, UNKNOWN
from edgeproxy.origin.tls import client_context

MOST_READ = 64 * 1024  # bytes of an answer in which the expected text must stand

_log = logging.getLogger(__name__)


class Tally:
    """Counts probes of one server until they mean something. Pure."""

    __slots__ = ("_fall", "_rise", "_streak", "state")

    def __init__(self, rise: int, fall: int, state: int = UNKNOWN) -> None:
        self._rise = rise
        self._fall = fall
        self._streak = 0  # probes in a row that speak against `state`
        self.state = state

    def observe(self, *, good: bool) -> int:
        """The state after one more probe. The first good one is enough when nothing was known."""
        if good == (self.state != UNHEALTHY):
            self._streak = 0
            if good:
                self.state = HEALTHY
            return self.state
        self._streak += 1
        if self._streak >= (self._rise if good else self._fall):
            self._streak = 0
            self.state = HEALTHY if good else UNHEALTHY
        return self.state


class HealthProber:
    """Probes the servers of one origin and writes `cells`, one byte per server.

    Raises ConfigError when a certificate file cannot be used.
    """

    def __init__(
        self,
        name: str,
        origin: Origin,
        health: Health,
        cells: memoryview,
        resolver: Resolver,
        *,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._name = name
        self._origin = origin
        self._health = health
        self._cells = cells
        self._resolver = resolver
        self._chance = chance
        # what an earlier control process found out is still there
        self._tallies = [
            Tally(health.rise, health.fall, cells[index]) for index in range(len(origin.servers))
        ]
        self._context = client_context(origin.tls)

    async def run(self) -> None:
        """Probe until cancelled."""
        async with asyncio.TaskGroup() as group:
            for index, url in enumerate(self._origin.urls):
                group.create_task(self._probe_always(index, url))

    def client(self, url: ServerUrl) -> httpx.AsyncClient:
        """The client for `probe`: a fresh connection each time, no proxy, no cookies, no redirects."""
        http2 = self._origin.protocol == "h2"
        client = httpx.AsyncClient(
            verify=self._context,
            http1=not http2,
            http2=http2,
            transport=httpx.AsyncHTTPTransport(uds=url.socket, http1=not http2, http2=http2)
            if url.socket
            else None,
            trust_env=False,
            follow_redirects=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            timeout=self._health.timeout,
            limits=httpx.Limits(max_keepalive_connections=0),
        )
        client.headers = httpx.Headers({"User-Agent": "edgeproxy-health", "Accept": "*/*"})
        return client

    async def _probe_always(self, index: int, url: ServerUrl) -> None:
        async with self.client(url) as client:
            await self._watch(client, index, url)

    async def _watch(self, client: httpx.AsyncClient, index: int, url: ServerUrl) -> None:
        interval = self._health.interval
        await asyncio.sleep(min(interval, 1.0) * self._chance())  # not all servers at once
        while True:
            self.record(index, await self.fault(client, url))
            await asyncio.sleep(interval * (0.9 + 0.2 * self._chance()))

    def record(self, index: int, fault: str) -> None:
        """Count one probe of a server and publish what it means."""
        before = self._cells[index]
        after = self._tallies[index].observe(good=not fault)
        self._cells[index] = after
        if after != before and UNHEALTHY in (before, after):
            state = f"unhealthy: {fault}" if after == UNHEALTHY else "healthy again"
            _log.warning("origin %s: %s is %s", self._name, self._origin.urls[index], state)

    async def _target(self, url: ServerUrl) -> ServerUrl:
        """The server at an address, or behind its socket."""
        if url.socket:
            return ServerUrl(url.tls, url.host, url.port)
        addresses = await self._resolver.resolve(
            url.host, self._health.timeout, allow_private=self._origin.allow_private
        )
        return ServerUrl(url.tls, addresses[0], url.port)

    async def fault(self, client: httpx.AsyncClient, url: ServerUrl) -> str:
        """Probe a server once: what is wrong with it, or nothing."""
        health = self._health
        low, high = health.statuses
        try:
            async with asyncio.timeout(health.timeout):
                target = await self._target(url)
                async with client.stream(
                    "GET",
                    f"{target}{health.path}",
                    headers={"Host": (self._origin.host_for(url) or url.authority.encode()).decode()},
                    extensions={"sni_hostname": self._origin.tls.server_name or url.host},
                ) as response:
                    if not low <= response.status_code <= high:
                        return f"{health.path} answered {response.status_code}, not {health.status}"
                    if health.body is not None and not await _says(response, health.body.encode()):
                        return f"{health.path} answered without the text of health.body"
                    return ""
        except (TimeoutError, httpx.TimeoutException):
            return f"{health.path} has no answer within {health.timeout:g}s"
        except httpx.ConnectError as error:
            return connect_error(_root(error)).detail
        except Exception as error:  # whatever it was, the server has not shown that it works
            return str(error) or type(error).__name__


def _root(error: BaseException) -> BaseException:
    """What the libraries between wrapped."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error


async def _says(response: httpx.Response, expected: bytes) -> bool:
    """Does the text stand in the first part of the body?"""
    read = b""
    async for data in response.aiter_bytes():
        read += data
        if expected in read[:MOST_READ]:
            return True
        if len(read) >= MOST_READ:
            break
    return False
