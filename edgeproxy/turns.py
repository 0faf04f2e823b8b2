"""Many who wait for one answer get it a few at a time: what else the loop has to do goes in between."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable

from edgeproxy.errors import origin_error
from edgeproxy.job import Job, refuse

logger = logging.getLogger("edgeproxy.fetch")
FEW = 64  # in one turn of the loop: a millisecond or two, most of it the kernel's


class Turns:
    """Does `act` for each of `jobs`: at once for other workers, which have clients of their own who wait, and
    for the first of our clients, who leads; for the others in the turns of the loop that follow."""

    __slots__ = ("_act", "_left")

    def __init__(self, jobs: Iterable[Job], act: Callable[[Job], None]) -> None:
        """Raises what `act` raises for those who are first: then nothing is done for the others."""
        self._act = act
        self._left = deque[Job]()
        for job in jobs:
            if job.sibling is None:
                self._left.append(job)
            else:
                act(job)
        if self._left:
            act(self._left.popleft())
        self._go_on_soon()

    def rush(self) -> None:
        """Do it for all who are left: later would be too late."""
        self._do(len(self._left))

    def _go_on_soon(self) -> None:
        if self._left:
            soon(self._go_on)

    def _go_on(self) -> None:
        self._do(FEW)
        self._go_on_soon()

    def _do(self, count: int) -> None:
        for _ in range(min(count, len(self._left))):
            job = self._left.popleft()
            try:
                self._act(job)
            except Exception:  # a fault with one is none of the others'
                logger.exception("an answer could not be handed on; request_id=%s", job.ctx.request_id)
                refuse(job, origin_error("proxy_internal_error"))


def soon(call: Callable[[], None]) -> None:
    """Have it called in the next turn of the loop."""
    asyncio.get_running_loop().call_soon(call)
