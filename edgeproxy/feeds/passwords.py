"""The thread in which passwords are checked: some 40 ms each, which nobody else should wait for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

T = TypeVar("T")
_log = logging.getLogger(__name__)


@cache
def _thread() -> ThreadPoolExecutor:
    """One of each process, made when the first password comes."""
    return ThreadPoolExecutor(1, "passwords")


def check_later(check: Callable[[], T | None], done: Callable[[T | None], None]) -> None:
    """Call `check` in the thread, then `done` with what it said in the event loop; with None if it failed."""
    loop = asyncio.get_running_loop()

    def finish(future: Future[T | None]) -> None:
        error = future.exception()
        if error is not None:
            _log.error("a password could not be checked", exc_info=error)
        loop.call_soon_threadsafe(done, None if error is not None else future.result())

    _thread().submit(check).add_done_callback(finish)
