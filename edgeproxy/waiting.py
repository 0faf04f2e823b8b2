"""Where requests wait that a policy delays, and refusals that are not given at once. No task, only timers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edgeproxy.context import Context
from edgeproxy.decision import Delay
from edgeproxy.door import Door
from edgeproxy.pipeline import Visit

MOST_HELD = 1024  # refusals of one worker that wait


class WaitingRoom:
    """One worker's. `go_on` is what happens to a request when its turn has come."""

    def __init__(self, go_on: Callable[[Visit, Context, Delay, Door], None]) -> None:
        self._go_on = go_on
        self._held = 0

    def wait(self, visit: Visit, ctx: Context, delay: Delay, door: Door) -> None:
        """Go on when the delay is over. Only so many refusals wait; the others are given at once."""
        if delay.refusal is None:
            visit.route.meters.delayed(delay.policy)
            asyncio.get_running_loop().call_later(delay.seconds, self._go_on, visit, ctx, delay, door)
        elif self._held >= MOST_HELD:
            door.serve(delay.refusal)
        else:
            self._held += 1
            held = _Held(lambda: self._release(visit, ctx, delay, door))
            held.timer = asyncio.get_running_loop().call_later(delay.seconds, held.end)
            if delay.until is not None:
                delay.until(held.end)

    def _release(self, visit: Visit, ctx: Context, delay: Delay, door: Door) -> None:
        self._held -= 1
        if delay.refusal is not None and delay.until is None:
            door.serve(delay.refusal)  # a door whose client left takes nothing
        else:
            self._go_on(visit, ctx, delay, door)


class _Held:
    """A refusal that waits for the first of two things, and ends once."""

    __slots__ = ("_release", "timer")

    def __init__(self, release: Callable[[], None]) -> None:
        self._release: Callable[[], None] | None = release
        self.timer: asyncio.TimerHandle | None = None

    def end(self) -> None:
        release, self._release = self._release, None
        if self.timer is not None:
            self.timer.cancel()
        if release is not None:
            release()
