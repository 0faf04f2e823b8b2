"""What tests with processes of their own need."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress

NOT_GIVEN_AWAY = range(20_000, 32_000)  # systems begin above it to number connections and listeners


_given: set[int] = set()


def free_port() -> int:
    """A port that is nobody's at this moment, that the system gives to nobody by itself meanwhile, nor we."""
    while True:
        port = NOT_GIVEN_AWAY[secrets.randbelow(len(NOT_GIVEN_AWAY))]
        if port in _given:
            continue
        _given.add(port)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def fork(work: Callable[[], object]) -> int:
    """Run `work` in a child; its process id. Wait for it."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid
