"""When an origin is not asked at all, and how often a request may be tried again. Pure.

Both keep a failing origin from being buried under the work of its own failures.
"""

from __future__ import annotations

BURST = 50  # retries that may be saved up: as many as die with a server


class Breaker:
    """Opens after so many requests in a row without any answer, when every server had its share of them.

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

    def failed(self, now: float, *, everywhere: bool) -> None:
        """A request got no answer. `everywhere`: no server is left that may be well: the requests that
        one server swallows fail together, and say nothing about the others."""
        self.streak += 1
        if self.is_open:
            if self._trying:
                self._trying = False
                self._period = min(2 * self._period, self._longest)
                self.next_try = now + self._period
        elif everywhere and 0 < self._failures <= self.streak:
            self.is_open = True
            self.opened += 1
            self.next_try = now + self._period

    def answered(self) -> None:
        """A request got an answer, be it an error."""
        self.streak = 0
        self.is_open = self._trying = False
        self._period = self._time


class RetryBudget:
    """How many requests may be tried again: a share of those that were answered.

    Failures earn nothing, so that an origin which answers nobody is asked no more than `1 + share` times
    as often, from the first second on: only what the last second earned is saved for it. Counted by rate,
    not by how many are under way at once: a failure is quick, and with few requests at a time a floor on
    concurrent retries would let every second one be repeated.
    """

    __slots__ = ("_answered", "_before", "_credit", "_least", "_share", "_since", "_taken", "denied")

    def __init__(self, share: float, least: float) -> None:
        """`least` of them may be in every second, however few answers there are."""
        self._share = share
        self._least = least
        self._credit = 0.0
        self._taken = 0  # in this second
        self._answered = 0  # at the last look
        self._since = 0  # answers when this second began
        self._before = 0  # answers in the second before
        self.denied = 0  # how many were refused, ever

    def take(self, answered: int) -> bool:
        """May one more be tried again, after `answered` answers in all?"""
        self._earn(answered)
        if self._credit >= 1:
            self._credit -= 1
        elif self._taken >= self._least:
            self.denied += 1
            return False
        self._taken += 1
        return True

    def tick(self, answered: int) -> None:
        """A second is over."""
        self._earn(answered)
        self._before, self._since, self._taken = answered - self._since, answered, 0

    def _earn(self, answered: int) -> None:
        earned = self._credit + self._share * (answered - self._answered)
        self._answered = answered
        a_second = max(answered - self._since, self._before)
        # one may always be saved, or few requests with a small share would never earn any
        self._credit = min(earned, BURST, max(1.0, self._share * a_second))
