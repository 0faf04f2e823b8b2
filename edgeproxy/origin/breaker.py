"""When an origin is not asked at all, and how often a request may be tried again. Pure.

Both keep a failing origin from being buried under the work of its own failures.
"""

from __future__ import annotations


class Breaker:
    """Opens after so many requests in a row without any answer, whichever server they went to.

    While it is open requests are refused at once; once a period one of them may try. An answer closes
    it, a failure makes the period twice as long. Times are seconds of the caller's clock.
    """

    __slots__ = (
        "_failures",
        "_longest",
        "_period",
        "_time",
        "_trying",
        "is_open",
        "next_try",
        "opened",
        "streak",
    )

    def __init__(self, failures: int, time: float, longest: float) -> None:
        """`failures` 0: it never opens. `time` is the first period, `longest` the most it grows to."""
        self._failures = failures
        self._time = time
        self._longest = max(time, longest)
        self._period = time
        self._trying = False  # a trial is under way
        self.streak = 0  # requests without an answer since the last answer
        self.is_open = False
        self.next_try = 0.0
        self.opened = 0  # how often, ever

    def admit(self, now: float) -> bool:
        """May a request go to the origin? In an open breaker the one that may is the trial."""
        if not self.is_open:
            return True
        if now < self.next_try:
            return False
        self.next_try = now + self._period
        self._trying = True
        return True

    def failed(self, now: float) -> None:
        """A request got no answer."""
        self.streak += 1
        if self.is_open:
            if self._trying:
                self._trying = False
                self._period = min(2 * self._period, self._longest)
                self.next_try = now + self._period
        elif 0 < self._failures <= self.streak:
            self.is_open = True
            self.opened += 1
            self.next_try = now + self._period

    def answered(self) -> None:
        """A request got an answer, be it an error."""
        self.streak = 0
        self.is_open = self._trying = False
        self._period = self._time


class RetryBudget:
    """How many requests may be in their second try at once: a share of all that are under way."""

    __slots__ = ("_least", "_share", "denied", "running")

    def __init__(self, share: float, least: int) -> None:
        """`least` of them may be, however little there is to do."""
        self._share = share
        self._least = least
        self.running = 0
        self.denied = 0  # how many were refused, ever

    def take(self, active: int) -> bool:
        """May one more be tried again, beside `active` requests under way? If so, call `done` later."""
        if self.running < max(self._least, int(self._share * (active - self.running))):
            self.running += 1
            return True
        self.denied += 1
        return False

    def done(self) -> None:
        """A second try has its answer, or will never have one."""
        self.running -= 1
