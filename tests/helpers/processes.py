"""What tests with processes of their own need."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fork(work: Callable[[], object]) -> int:
    """Run `work` in a child; its process id. Wait for it."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid
