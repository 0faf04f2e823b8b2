"""The control process: serves the admin API and probes the origins. It takes no traffic."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Mapping

from edgeproxy.admin.app import AdminState, admin_app
from edgeproxy.admin.explain import Explanation, Question
from edgeproxy.build import Parts
from edgeproxy.config import Config, dump
from edgeproxy.errors import ConfigError
from edgeproxy.experiments import experiments_report
from edgeproxy.explain import explain_running
from edgeproxy.feeds.revocations import revoke
from edgeproxy.origin.health import HealthProber
from edgeproxy.origins import origins_report
from edgeproxy.server.worker import EdgeServer, run_loop, server_settings, stop_when_told
from edgeproxy.shared import Shared

logger = logging.getLogger("edgeproxy.control")


class Control:
    """The admin app with what it shows, and the probers of one configuration."""

    def __init__(self, shared: Shared, slot: int) -> None:
        self.shared = shared
        self._slot = slot
        self.parts = Parts(shared.config(), shared, slot, None, logs=False)
        self._tasks: list[asyncio.Task[None]] = []
        self._state = AdminState(
            slot=self.parts.slot,
            purge_log=shared.purge_log,
            token=_token(self.parts.config),
            explain=self._explain,
            ready=self._ready,
            revoke=self._revoke,
            origins=self._origins,
            experiments=self._experiments,
            config=self._config,
            workers=shared.ready_workers,
            purged_as=self._purged_as,
            started_at=shared.started_at,
        )
        self.app = admin_app(self._state)

    async def _explain(self, question: Question) -> Explanation:
        return await explain_running(self.parts, question)

    def _revoke(self, provider: str, line: Mapping[str, object]) -> None:
        path = self.parts.config.jwt_providers[provider].revoked
        if path is None:
            raise KeyError(provider)
        revoke(path, line)

    def _origins(self) -> Mapping[str, object]:
        config = self.parts.config
        return origins_report(self.shared.cells, config.origins, dict(self.shared.health_of(config)))

    def _experiments(self) -> Mapping[str, object]:
        return experiments_report(self.shared.cells, self.parts.config.experiments)

    def _purged_as(self, url: bytes) -> list[bytes]:
        return self.parts.edge.routes.purged_as(url)

    def _config(self) -> Mapping[str, object]:
        return {"file": str(self.shared.path), "yaml": dump(self.parts.config)}

    def _ready(self) -> tuple[bool, Mapping[str, object]]:
        """Ready while any worker takes connections. One origin that is down does not change it (A170)."""
        workers = self.shared.ready_workers()
        origins = {name: upstream.healthy() for name, upstream in self.parts.upstreams.items()}
        return workers > 0, {"workers": workers, "origins_healthy": origins}

    def start(self) -> None:
        """Start feeds and probers."""
        jobs = [feed() for feed in self.parts.feeds]
        if self.parts.machine is not None:
            jobs.append(self.parts.machine.run())
        health = dict(self.shared.health_of(self.parts.config))
        for name, origin in self.parts.config.origins.items():
            if origin.health is not None:
                prober = HealthProber(name, origin, origin.health, health[name], self.parts.resolver)
                jobs.append(prober.run())
        self._tasks = [asyncio.get_running_loop().create_task(job) for job in jobs]

    async def stop(self) -> None:
        """End feeds and probers."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def reload(self) -> None:
        """Take over the accepted configuration: another token, probers that start anew with nothing known."""
        try:
            parts = Parts(self.shared.config(), self.shared, self._slot, self.parts, logs=False)
        except (ConfigError, OSError):
            logger.exception("reload failed in the control process: the running configuration stays")
            return
        for task in self._tasks:
            task.cancel()
        self.shared.forget_health()
        self.parts = parts
        self._state.token = _token(parts.config)
        parts.install()
        self.start()


def _token(config: Config) -> str | None:
    token = config.admin.token
    return None if token is None else token.get_secret_value()


def run_control(shared: Shared, slot: int, sockets: list[socket.socket], lifeline: int) -> int:
    """Run until SIGTERM or until `lifeline` is cut. Returns the exit code."""
    return run_loop(_serve(shared, slot, sockets, lifeline))


async def _serve(shared: Shared, slot: int, sockets: list[socket.socket], lifeline: int) -> int:
    control = Control(shared, slot)
    control.start()
    server = EdgeServer(server_settings(control.app, timeout_graceful_shutdown=3), None)
    stop_when_told(server, lifeline)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, control.reload)
    loop.add_signal_handler(signal.SIGUSR1, lambda: None)
    await server.serve(sockets)
    await control.stop()
    return 0
