"""What is known about one request. Every field has one writer, named beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol, cast

from edgeproxy.http.message import Request, Response
from edgeproxy.record import record

if TYPE_CHECKING:
    from edgeproxy.recall import Recorder


class Op(Enum):
    """What a header edit does to the fields of a message."""

    SET = "set"  # replace every line of that name
    ADD = "add"  # append a line
    REMOVE = "remove"  # drop every line of that name
    CHANGE = "change"  # each line of that name becomes what `change` makes of it; answers only


@record
class Edit:
    """One header edit; applied to a forwarded request or, after the cache, to a response.

    `line` is the field line it adds, `lower` its name, and `touches` the name of the lines that it changes
    (ADD: none, empty): made once, because most edits are made when the configuration is loaded and used in
    every answer.
    """

    op: Op
    name: bytes
    value: bytes = b""
    change: Callable[[bytes], bytes | None] | None = None  # value -> value, None to drop the line
    lower: bytes = field(init=False, repr=False, compare=False)
    touches: bytes = field(init=False, repr=False, compare=False)
    line: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        made = cast(Any, self)  # frozen to everybody else
        made.lower = self.name.lower()
        made.touches = b"" if self.op is Op.ADD else made.lower
        made.line = b"" if self.op in (Op.REMOVE, Op.CHANGE) else b"%b: %b\r\n" % (self.name, self.value)


@record
class Place:
    """What the geo database says about an address. Empty strings and None mean unknown."""

    country: str = ""  # ISO 3166-1 alpha-2, upper case
    continent: str = ""  # AF AN AS EU NA OC SA
    subdivision: str = ""  # ISO 3166-2 without the country: `BY`
    city: str = ""
    latitude: float | None = None
    longitude: float | None = None
    asn: int | None = None
    organisation: str = ""
    postal: str = ""
    time_zone: str = ""  # of the IANA database: `Europe/Berlin`
    flags: tuple[str, ...] = ()  # words of `countries.FLAGS`
    private: bool = field(default=False, compare=False)  # nowhere, because it is of no public network


NOWHERE = Place()
Ending = Callable[[float, int, float], None]
"""Called once when a request is over: (steady now, bytes of body sent, seconds until the origin's head)."""


class Verdict(Enum):
    """What a policy did with a request, in `explain` and in metrics."""

    ALLOW = "allow"
    REFUSE = "refuse"
    ANSWER = "answer"
    SKIP = "skip"  # its condition does not hold


@record
class Note:
    """One line of an explanation: which policy, what it did, and the rule and values that decided it."""

    policy: str
    verdict: Verdict
    why: str
    rule: str = ""  # of the configuration, as it stands there
    values: tuple[tuple[str, str], ...] = ()  # (fact, value), without credentials
    shadow: bool = False  # it decided, and changed nothing


@record
class Exposure:
    """A unit that is about to see a variant; counted once its answer goes out."""

    experiment: str
    variant: str
    identity: str  # of the draw: another seed or kind of unit counts anew
    unit: str
    counted: Callable[[str], None]  # told the unit, so that it is not reported again


Wake = Callable[[Callable[[], None]], None]
"""Is given what to call when something happens; calls it once, from the event loop."""


@record
class Pause:
    """A refusal that waits: it is given after `seconds`; with `until`, the policy is asked again instead,
    once, as soon as that happens."""

    seconds: float
    until: Wake | None = None


@record
class Late:
    """So many seconds until it is a request's turn, by the word of that policy."""

    seconds: float
    policy: str


class Context:
    """Per-request state. Built by the pipeline once per request, thrown away with it."""

    __slots__ = (
        "_request_id",
        "claims",
        "client",
        "endings",
        "exposures",
        "keeper",
        "key_parts",
        "late",
        "notes",
        "now",
        "origin",
        "origin_named",
        "pause",
        "place",
        "reason",
        "recorder",
        "rewritten",
        "route",
        "shadow",
        "to_client",
        "to_origin",
        "variants",
        "wall",
    )

    def __init__(
        self, now: float, wall: float, client: str, route: str, request_id: str | Callable[[], str]
    ) -> None:
        self.now = now  # steady epoch seconds: freshness, limits. Set by the door
        self.wall = wall  # wall clock, may step: `exp` of a token. Set by the door
        self.client = client  # the client's address, trusted hops removed. Set by the door
        self.route = route  # the route's name. Set by the pipeline
        self._request_id = request_id  # or what makes one: see `request_id`. Set by the door
        self.place: Place | None = None  # set by geo (None: nobody looked)
        self.variants: dict[str, str] = {}  # experiment -> variant. Set by ab
        self.exposures: tuple[Exposure, ...] = ()  # of units that were not counted yet. Set by ab
        self.claims: Mapping[str, Any] | None = None  # verified claims. Set by jwt
        self.origin: str | None = None  # pool chosen by name. Set by the origin choice
        # origin the client was at, and the cookie of each it may be told to stay with. Set by affinity
        self.keeper: tuple[str, Mapping[str, Edit]] | None = None
        self.origin_named = ""  # pool that a policy asks for, before the choice. Set by ab
        self.late: Late | None = None  # it has to wait. Set by rate_limit and fault
        self.pause: Pause | None = None  # how a refusal waits. Set with it by jwt, basic
        self.endings: tuple[Ending, ...] = ()  # what to do when it is over. Set by rate_limit
        self.reason = ""  # a closed set of words: why a policy answered. Set with the answer
        self.rewritten: Request | None = None  # what key and origin see in the request's place
        self.shadow: tuple[str, ...] = ()  # `policy=reason` of refusals that were only shadows
        self.key_parts: tuple[bytes, ...] = ()  # what changes the origin's answer; policies append
        self.to_origin: list[Edit] = []  # any policy; asserted after inbound copies are stripped
        self.to_client: list[Edit] = []  # any policy; applied after the cache, never stored
        self.recorder: Recorder | None = None  # while a run of the policies is being recorded
        self.notes: list[Note] | None = None  # a list while explaining: then nothing is spent

    @property
    def request_id(self) -> str:
        """The request's name in logs, answers and towards the origin; made when first asked for."""
        made = self._request_id
        if not isinstance(made, str):
            made = self._request_id = made()
        return made

    @property
    def ahead(self) -> float:
        """By how many seconds the wall clock is ahead of the steady one: it was set since the edge began."""
        return self.wall - self.now

    def delay(self, seconds: float, policy: str) -> None:
        """It has to wait so long, unless it has to wait longer already."""
        if self.late is None or seconds > self.late.seconds:
            self.late = Late(seconds, policy)

    def note(
        self,
        policy: str,
        verdict: Verdict,
        why: str,
        rule: str = "",
        values: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """Record why a policy decided as it did. Call only when `notes` is not None."""
        if self.notes is not None:
            self.notes.append(Note(policy, verdict, why, rule, values))


class Policy(Protocol):
    """One step of a route's chain: None carries on, a Response ends it.

    A policy never awaits, never imports another policy, and when it changes what the origin
    would answer it adds to `ctx.key_parts`. While `ctx.notes` is a list nothing may be spent.
    `name` is the word of the YAML; `fails_open` says what an exception inside it means.

    `reasons` are the words that it sets `ctx.reason` to when it answers (`problem` does that); metrics count
    any other word as `other`.

    A policy that sets `ctx.rewritten` also has `becomes(request)`: every request that it may make of one, for
    any client. Purges by URL reach what is stored under them.

    A policy may also have `repeatable = True`: the same request from the same client is then not
    brought before it again. It tells `ctx.recorder`, when there is one, what else its doing rests on.
    """

    name: str
    fails_open: bool

    def __call__(self, request: Request, ctx: Context, /) -> Response | None: ...


Clock = Callable[[], float]
