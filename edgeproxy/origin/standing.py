"""What one worker has learnt about the servers of an origin, and who may be asked. Pure.

Rule 1: a server that cannot be connected to is avoided for a moment, and tried again by one request at
a time: that is knowledge, and others can be asked in its place.
Rule 2: a server that answers badly several times in a row is ejected, each time for longer, but never
more than the configured share of all: that is belief, and it may be the site that is broken.
Rule 3: when too few are left everybody is asked again (panic): a wrong judgement must not take a
site down that would still answer.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from edgeproxy.origin.balance import Balance
from edgeproxy.origin.servers import ServerEntry
from edgeproxy.origin.settings import Ejection, Origin

HOLD_DOWN = 1.0  # seconds a server that refused a connection is avoided by this worker
HOLD_SILENT = 4.0  # the same for one that did not answer at all: trying it costs a client much time
UNKNOWN, HEALTHY, UNHEALTHY = 0, 1, 2  # what a health cell holds; unknown counts as healthy
STATES = ("unknown", "healthy", "unhealthy")  # the words for it
SLOW_START_STEP = 0.1  # seconds between two weights of a server that starts slowly
LEAST_WEIGHT = 0.1  # share of its weight that a server starts with


class Standing:
    """One server. Times are seconds of the worker's clock."""

    __slots__ = (
        "ejected_until",
        "ejections",
        "errors",
        "failures",
        "marked",
        "probation",
        "slow",
        "suspect_until",
        "truncated",
        "well_since",
    )

    def __init__(self) -> None:
        self.marked = False  # something below is not as it was made: one look is enough for a good answer
        self.errors = 0  # 5xx in a row
        self.failures = 0  # requests without an answer, in a row
        self.slow = 0  # slow answers in a row
        self.truncated = 0  # answers that broke off, in a row
        self.suspect_until = 0.0  # it could not be connected to; 0 when it is not suspected
        self.ejected_until = 0.0
        self.ejections = 0  # in close succession: each lasts twice as long as the one before
        self.probation = False  # back from an ejection: the next bad answer ejects it again
        self.well_since = -math.inf  # when it came back, for its slow start

    def usable(self, now: float) -> bool:
        """Is it neither suspected nor ejected?"""
        return now >= self.suspect_until and now >= self.ejected_until


class Roster:
    """The servers of one origin: who may be chosen, who is next, who is put aside.

    `health` has one byte per server, written by the process that probes. `choose` costs one comparison
    more than the balance's own, while nothing changes.
    """

    __slots__ = (
        "_balance",
        "_ejection",
        "_health",
        "_levels",
        "_panic_share",
        "_seen",
        "_slow_start",
        "_until",
        "_usable",
        "_weights",
        "_zone",
        "_zones",
        "ejected",
        "failing",
        "panic",
        "servers",
        "slow_bound",
    )

    def __init__(self, origin: Origin, balance: Balance, health: memoryview | None = None) -> None:
        entries: list[ServerEntry] = origin.entries
        self.servers = [Standing() for _ in entries]
        self._weights = [entry.weight for entry in entries]
        self._zones = [entry.zone for entry in entries]
        self._zone = origin.prefer_zone
        self._levels = [
            [index for index, entry in enumerate(entries) if entry.priority == level]
            for level in sorted({entry.priority for entry in entries})
        ]
        self._balance = balance
        self._health = health
        self._seen = b""
        self._ejection: Ejection | None = origin.ejection
        slower = origin.ejection.slower_than if origin.ejection is not None else 0.0
        self.slow_bound = slower or math.inf
        self._slow_start = origin.slow_start
        self._panic_share = origin.panic
        self._usable: frozenset[int] = frozenset(range(len(entries)))  # at the last look
        self._until = -math.inf  # when to look again
        self.panic = False
        self.failing: set[int] = set()  # servers that failed since the last answer of any
        self.ejected = 0  # how often a server was put aside, ever

    # --- who is next

    def choose(self, now: float, key: bytes = b"", avoid: Collection[int] = ()) -> int:
        """The next server, or NONE_LEFT when all that may be asked are to be avoided."""
        if now >= self._until or (self._health is not None and bytes(self._health) != self._seen):
            self._look(now)
        return self._balance.choose(key, avoid)

    def took(self, index: int) -> None:
        """The server that was chosen is being used."""
        self._balance.took(index)

    def usable(self, index: int, now: float) -> bool:
        """Is this server neither unhealthy nor suspected nor ejected?"""
        if self._health is not None and self._health[index] == UNHEALTHY:
            return False
        return self.servers[index].usable(now)

    def _look(self, now: float) -> None:
        if self._health is not None:
            self._seen = bytes(self._health)
        usable = frozenset(index for index in range(len(self.servers)) if self.usable(index, now))
        for index in usable - self._usable:
            self.servers[index].well_since = now
        self._usable = usable
        candidates = self._candidates(now)
        self._balance.adopt(candidates, [self._weight(index, now) for index in candidates])
        self._until = self._next_change(now)

    def _candidates(self, now: float) -> tuple[int, ...]:
        """The usable servers of the first level that has enough of them; else everybody."""
        for level in self._levels:
            left = [index for index in level if index in self._usable]
            if left and len(left) >= self._panic_share * len(level):
                self.panic = False
                return tuple(self._near(level, left))
        self.panic = True
        everybody = range(len(self.servers))
        return tuple([i for i in everybody if now >= self.servers[i].suspect_until]) or tuple(everybody)

    def _near(self, level: list[int], left: list[int]) -> list[int]:
        """Those of the preferred zone, when at least half of them are left to carry its traffic."""
        if self._zone is None:
            return left
        near = [index for index in left if self._zones[index] == self._zone]
        of_zone = sum(self._zones[index] == self._zone for index in level)
        return near if near and 2 * len(near) >= of_zone else left

    def _weight(self, index: int, now: float) -> float:
        age = now - self.servers[index].well_since
        if age >= self._slow_start:
            return self._weights[index]
        return self._weights[index] * max(LEAST_WEIGHT, age / self._slow_start)

    def _next_change(self, now: float) -> float:
        times = [time for each in self.servers for time in (each.suspect_until, each.ejected_until)]
        if any(now - each.well_since < self._slow_start for each in self.servers):
            times.append(now + SLOW_START_STEP)
        return min((time for time in times if time > now), default=math.inf)

    # --- what became of requests

    def answered(self, index: int, status: int, seconds: float, now: float) -> str:
        """An answer came after `seconds`. The reason, when the server is ejected for it."""
        server = self.servers[index]
        if status < 500 and seconds < self.slow_bound:
            if server.marked and not (server.probation and server.truncated):
                self._clear(server)
            return ""  # after answers that broke off the end decides, see `completed`
        server.marked = True
        server.failures = 0
        if server.suspect_until:
            server.suspect_until, self._until = 0.0, -math.inf
        server.errors = server.errors + 1 if status >= 500 else 0
        server.slow = server.slow + 1 if seconds >= self.slow_bound else 0
        rule = self._ejection
        if rule is None:
            return ""
        if server.errors and (server.probation or 0 < rule.errors <= server.errors):
            return self._eject(server, rule, "errors", now)
        if server.slow and (server.probation or rule.slow <= server.slow):
            return self._eject(server, rule, "slow", now)
        return ""

    def unreachable(self, index: int, until: float) -> None:
        """It could not be connected to: avoid it until then."""
        server = self.servers[index]
        server.marked = True
        server.suspect_until = until
        self._until = -math.inf

    def truncated(self, index: int, now: float) -> str:
        """An answer broke off. The reason, when the server is ejected for it."""
        server = self.servers[index]
        server.marked = True
        server.truncated += 1
        return self._count(server, server.truncated, now)

    def completed(self, index: int) -> None:
        """An answer came to its end."""
        server = self.servers[index]
        server.truncated = 0
        if server.probation:
            self._clear(server)

    def failed(self, index: int, now: float) -> str:
        """No answer came. The reason, when the server is ejected for it."""
        server = self.servers[index]
        server.marked = True
        server.failures += 1
        return self._count(server, server.failures, now)

    def fails_everywhere(self, index: int, now: float) -> bool:
        """This one failed too: has every server that may be asked, since the last answer of any?"""
        self.failing.add(index)
        return all(each in self.failing or not self.usable(each, now) for each in range(len(self.servers)))

    def _count(self, server: Standing, failures: int, now: float) -> str:
        rule = self._ejection
        if rule is not None and (server.probation or 0 < rule.failures <= failures):
            return self._eject(server, rule, "failures", now)
        return ""

    def trying(self, index: int, until: float) -> None:
        """Somebody asks a server that was suspected or ejected: nobody else should until it is known how it
        is, at the latest at `until`."""
        server = self.servers[index]
        if server.suspect_until or server.probation:
            server.suspect_until = until
            self._until = -math.inf

    def connected(self, index: int) -> None:
        """It could be connected to."""
        server = self.servers[index]
        if server.suspect_until and not server.probation:
            server.suspect_until = 0.0
            self._until = -math.inf

    def _clear(self, server: Standing) -> None:
        server.errors = server.failures = server.slow = 0
        server.probation = False
        server.marked = server.truncated > 0
        if server.suspect_until:
            server.suspect_until = 0.0
            self._until = -math.inf

    def _eject(self, server: Standing, rule: Ejection, reason: str, now: float) -> str:
        if now < server.ejected_until:  # requests that were under way when it was ejected
            return ""
        out = sum(now < each.ejected_until for each in self.servers)
        if out + 1 > rule.share * len(self.servers):
            return ""
        calm = now - server.ejected_until if server.ejections else 0.0
        server.ejections = max(0, server.ejections - int(calm / rule.time)) + 1
        server.ejected_until = now + min(rule.time * 2 ** (server.ejections - 1), rule.longest)
        server.errors = server.failures = server.slow = 0
        server.suspect_until = 0.0
        server.probation = True
        self.ejected += 1
        self._until = -math.inf
        return reason
