"""`Expect: 100-continue` towards an origin (RFC 9110 §10.1.1): its body waits until it is asked for.

Origins that do not know the expectation would wait for the body for ever, as we for their 100: after a
second the body is sent anyway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

PATIENCE = 1.0  # seconds


class Expecting:
    """A request whose head is out. `send` passes the body on, which tells the client to go on."""

    __slots__ = ("_send", "_timer")

    def __init__(self, send: Callable[[], None]) -> None:
        self._send: Callable[[], None] | None = send
        self._timer = asyncio.get_running_loop().call_later(PATIENCE, self.go_on)

    def go_on(self) -> None:
        """The origin wants the body, or said nothing for too long. Once."""
        send = self._send
        if self.give_up() and send is not None:
            send()

    def give_up(self) -> bool:
        """The body will not be sent by this; False when it is already."""
        self._timer.cancel()
        waited, self._send = self._send is not None, None
        return waited
