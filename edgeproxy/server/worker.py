"""One worker process: a hallway, its feeds, and uvicorn on the sockets of its slot."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.server import ServerState

try:
    from uvloop import new_event_loop
except ImportError:  # not on this platform: the standard loop is slower, not different
    from asyncio import new_event_loop

from edgeproxy.app import EdgeApp
from edgeproxy.build import Parts
from edgeproxy.clock import steady
from edgeproxy.config import load_config
from edgeproxy.errors import ConfigError
from edgeproxy.hallway import Hallway
from edgeproxy.server.protocol import EdgeProtocol
from edgeproxy.server.sibling_door import serve_siblings
from edgeproxy.shared import Shared

logger = logging.getLogger("edgeproxy.worker")

SWEEP = 0.5  # seconds between two looks at the client connections' deadlines
PURGE_CHECK = 0.05  # seconds between two looks at the purge log while there are no requests
LOG_INTERVAL = 0.02
LAG_WARNING = 0.1  # seconds the loop may be late before it is worth a line in the log
LAST_WORDS = 2  # seconds for what is under way when the supervisor is gone


class Worker:
    """The parts of one process and the tasks that keep them fresh."""

    def __init__(self, shared: Shared, slot: int) -> None:
        self.shared = shared
        self.slot = slot
        self.parts: Parts = Parts(shared.config(), shared, slot, None)
        self._owns_machine = False  # the supervisor does
        self._tasks: set[asyncio.Task[None]] = set()
        self._feeds: set[asyncio.Task[None]] = set()
        self._reloading = self._reload_due = False

    @classmethod
    def alone(cls, path: Path) -> Worker:
        """The only process: under another ASGI server, or mounted in another app."""
        config = load_config(path)
        shared = Shared.create(path, 1, config.rate_limit_table)
        shared.open_machine(config.cache.machine)
        worker = cls(shared, 0)
        worker._owns_machine = True
        shared.accepted()
        return worker

    @property
    def hall(self) -> Hallway:
        return self.parts.hall

    async def start(self) -> None:
        """Start the feeds and the sweepers. The first JWKS and geo database are there before traffic is."""
        await self.parts.warm_up()
        self._start_feeds()
        for job in (
            self._sweep(),
            self.parts.sweeper.run(),
            self._publish(),
            self._keep_up(),
            self._write_log(),
        ):
            self._spawn(self._tasks, job)
        if self.parts.machine is not None:
            self._spawn(self._tasks, self.parts.machine.run())

    async def stop(self) -> None:
        """Cancel everything that runs in the background and close the origin connections."""
        for task in (*self._tasks, *self._feeds):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._feeds, return_exceptions=True)
        await self.parts.close()
        if self._owns_machine:
            if self.shared.machine is not None:
                self.shared.machine.close()
            self.shared.buckets.close()  # so that the next edge may have its file

    async def serve_siblings(self, config: uvicorn.Config) -> asyncio.Server | None:
        """Answer the other workers of this machine, when there are any."""
        links = self.shared.links
        if links is None:
            return None
        if not config.loaded:
            config.load()
        return await serve_siblings(config, ServerState(), links.listeners[self.slot])

    def reload(self) -> None:
        """Build the accepted configuration and swap it in. What fails leaves the running one as it is.

        One after another: each keeps parts of the one before it, and the last one accepted stays.
        """
        self._reload_due = True
        if not self._reloading:
            self._reloading = True
            self._spawn(self._tasks, self._reload())

    def reopen_log(self) -> None:
        """After the access log was rotated."""
        try:
            self.parts.reopen_log()
        except OSError as error:
            logger.warning("the access log cannot be opened again, the file before stays in use: %s", error)

    async def _reload(self) -> None:
        try:
            while self._reload_due:
                self._reload_due = False
                await self._take_over()
        finally:
            self._reloading = False

    async def _take_over(self) -> None:
        try:
            parts = Parts(self.shared.config(), self.shared, self.slot, self.parts)
        except (ConfigError, OSError):
            logger.exception("reload failed in slot %d: the running configuration stays", self.slot)
            return
        await parts.warm_up()
        old, self.parts = self.parts, parts
        parts.install()
        for task in self._feeds:
            task.cancel()
        self._start_feeds()
        self._spawn(self._tasks, old.retire(parts))

    def _start_feeds(self) -> None:
        self._feeds = set()
        for feed in self.parts.feeds:
            self._spawn(self._feeds, feed())

    def _spawn(self, group: set[asyncio.Task[None]], job: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(job)
        group.add(task)
        task.add_done_callback(group.discard)
        task.add_done_callback(_say_why)

    async def _sweep(self) -> None:
        """Client deadlines, and how late the loop is: what blocked it, everybody waited for."""
        while True:
            due = steady() + SWEEP
            await asyncio.sleep(SWEEP)
            lag = max(0.0, steady() - due)
            self.parts.meters.lag(lag)
            if lag > LAG_WARNING:
                logger.warning("the event loop of worker %d was blocked for %.0f ms", self.slot, lag * 1000)
            self.hall.sweep()
            try:
                self.hall.fetcher.sweep(steady())
            except Exception:  # who waits for a fetch must not end the deadlines of all clients
                logger.exception("those who wait for too long could not be released")

    async def _keep_up(self) -> None:
        """Purges reach a worker that nobody asks anything, too; and what the others have newer than it."""
        while True:
            await asyncio.sleep(PURGE_CHECK)
            self.parts.store.keep_up()
            self.parts.store.hear()

    async def _publish(self) -> None:
        """Cache and origin figures into the shared cells, once a second."""
        while True:
            await asyncio.sleep(1.0)
            if self._owns_machine:
                self.shared.tend_machine()
            self.parts.publish()

    async def _write_log(self) -> None:
        """Lines are rendered here in small portions, and written by a thread: a slow sink blocks nobody."""
        while True:
            await asyncio.sleep(LOG_INTERVAL)
            log = self.parts.log
            if log is not None and len(log):
                writing = asyncio.ensure_future(asyncio.to_thread(log.write, log.render()))
                try:
                    await asyncio.shield(writing)
                finally:  # these lines are in no list any more: who stops the worker waits for them
                    await writing


def _say_why(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("a background task failed", exc_info=error)


def server_settings(app: Any, **more: Any) -> uvicorn.Config:
    """uvicorn's settings for an app of ours: it adds no field, writes no log, and believes nobody."""
    return uvicorn.Config(
        app, ws="none", lifespan="off", proxy_headers=False, log_config=None, access_log=False,
        server_header=False, **more,
    )  # fmt: skip


class EdgeServer(uvicorn.Server):
    """uvicorn's server, with signals left to the worker and a drain that tells the hallway first."""

    def __init__(self, config: uvicorn.Config, hall: Callable[[], Hallway] | None) -> None:
        super().__init__(config)
        self._hall = hall

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._hall is not None:
            hall = self._hall()
            hall.drain()
            self.config.timeout_graceful_shutdown = max(1, int(hall.limits.drain))
        await super().shutdown(sockets)


def run_worker(shared: Shared, slot: int, sockets: list[socket.socket], lifeline: int) -> int:
    """Serve until SIGTERM or until `lifeline` is cut, then drain. Returns the exit code."""
    return run_loop(_serve(shared, slot, sockets, lifeline))


async def _serve(shared: Shared, slot: int, sockets: list[socket.socket], lifeline: int) -> int:
    worker = Worker(shared, slot)
    await worker.start()
    server = EdgeServer(
        server_settings(EdgeApp(worker=worker), http=EdgeProtocol, date_header=False, backlog=2048),
        lambda: worker.hall,
    )
    loop = asyncio.get_running_loop()
    stop_when_told(server, lifeline)
    loop.add_signal_handler(signal.SIGHUP, worker.reload)
    loop.add_signal_handler(signal.SIGUSR1, worker.reopen_log)
    # What start-up made stays for good: the collector need not walk it again and again. A request
    # leaves next to nothing in cycles, so it may come by less often too.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    siblings = await worker.serve_siblings(server.config)
    shared.ready(slot)
    await server.serve(sockets)
    if siblings is not None:
        siblings.close()
    await worker.stop()
    return 0


def stop_when_told(server: EdgeServer, lifeline: int) -> None:
    """SIGTERM and SIGINT begin the drain. So does the end of the supervisor, who holds the other end of
    the pipe `lifeline`, but in a hurry: purges reach us no more, and the next edge waits for our files."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        server.should_exit = True

    def orphaned() -> None:
        loop.remove_reader(lifeline)
        logger.error("the supervisor is gone: process %d ends within %d seconds", os.getpid(), LAST_WORDS)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(LAST_WORDS)
        stop()

    loop.add_reader(lifeline, orphaned)
    loop.add_signal_handler(signal.SIGTERM, stop)
    loop.add_signal_handler(signal.SIGINT, stop)


def run_loop(main: Coroutine[Any, Any, int]) -> int:
    """Run a process's coroutine on the fastest loop there is."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)
