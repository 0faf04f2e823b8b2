"""The other workers of this machine, for one worker: what one of them fetches, the others read from it.

A miss whose key another worker fetches, or fetched a moment ago, goes to that worker over a Unix socket, as
if it were an origin, and streams along. When there is nothing to share there, the worker says so, and the
miss goes to the origin itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b

from edgeproxy.flight_table import CELLS, LONGEST, FlightTable
from edgeproxy.http.message import Field, Headers, index_fields
from edgeproxy.observe.outcome import OriginMeters
from edgeproxy.origin.resolve import Resolver
from edgeproxy.origin.settings import Origin
from edgeproxy.origin.sweeper import Sweeper
from edgeproxy.origin.upstream import Upstream
from edgeproxy.record import record

FLIGHT = b"Edge-Flight"  # the digest of a key, in a request between workers
POSITION = b"Edge-Position"  # in its answer: see `said_to_siblings`
NAME = "@workers"  # what metrics and logs call the others; no origin's name begins so
LONGEST_KEY = 1024  # bytes; what has a longer one each worker fetches for itself
PATIENCE = 5.0  # seconds that another worker has to begin its answer
_FLIGHT = FLIGHT.lower()
_POSITION = POSITION.lower()


@record
class Leader:
    """The worker that fetches a key already, and the name of its flight."""

    slot: int
    upstream: Upstream
    meters: OriginMeters
    flight: bytes


class Siblings:
    """What a fetcher needs of them. `upstreams` by slot, without our own."""

    def __init__(
        self,
        table: FlightTable,
        slot: int,
        secret: bytes,
        upstreams: Mapping[int, Upstream],
        meters: OriginMeters,
    ) -> None:
        """`secret` keys the digests, the same in all workers: nobody outside can aim at a cell."""
        self._table = table
        self._slot = slot
        self._hash = blake2b(key=secret, digest_size=16)
        self._upstreams = upstreams
        self._meters = meters
        self._ours: dict[bytes, tuple[bytes, float]] = {}  # digest -> key, and until when we can be asked

    def leader(self, key: bytes, now: float, *, instead_of: int = -1, anew: bool = False) -> Leader | None:
        """Who fetches `key` already, or unless `anew` did a moment ago; None when it is for this worker to
        do, which the others now know."""
        if len(key) > LONGEST_KEY:
            return None
        digest = self._digest(key)
        slot = self._table.claim(digest, self._slot, now, instead_of=instead_of, anew=anew)
        upstream = None if slot is None else self._upstreams.get(slot)
        if slot is not None and upstream is not None:
            return Leader(slot, upstream, self._meters, digest.hex().encode())
        self._ours.pop(digest, None)
        if len(self._ours) >= CELLS:
            del self._ours[next(iter(self._ours))]
        self._ours[digest] = key, now + LONGEST
        return None

    def landed(self, key: bytes, now: float, fresh_until: float) -> None:
        """The fetch of `key` is over; what it brought is fresh so long, 0 when there is nothing to share."""
        digest = self._digest(key)
        if digest not in self._ours:
            return
        until = min(fresh_until, now + LONGEST)
        if until > now:
            self._ours[digest] = key, until
        else:
            del self._ours[digest]
            until = 0.0
        self._table.landed(digest, self._slot, until)

    def renew(self, key: bytes, now: float) -> None:
        """The fetch of `key` takes its time: it is believed for longer."""
        digest = self._digest(key)
        if digest in self._ours and self._table.claim(digest, self._slot, now) is None:
            self._ours[digest] = key, now + LONGEST

    def key_of(self, request: Headers) -> bytes | None:
        """The key that another worker asks for by the name of its flight; None: we do not know it."""
        try:
            digest = bytes.fromhex((request.get(_FLIGHT) or b"").decode("ascii", "replace"))
        except ValueError:
            return None
        found = self._ours.get(digest)
        return None if found is None else found[0]

    def sweep(self, now: float) -> None:
        """Forget what nobody will ask for any more."""
        for digest in [digest for digest, (_, until) in self._ours.items() if until < now]:
            del self._ours[digest]

    async def close(self) -> None:
        for upstream in self._upstreams.values():
            await upstream.close(patience=0.0)

    def _digest(self, key: bytes) -> bytes:
        keyed = self._hash.copy()
        keyed.update(key)
        return keyed.digest()


def link(
    table: FlightTable,
    paths: Sequence[str],
    secret: bytes,
    slot: int,
    meters: OriginMeters,
    sweeper: Sweeper,
    resolver: Resolver,
) -> Siblings:
    """The siblings of the worker in `slot`; `paths` are the sockets of all, by slot."""
    upstreams = {
        other: Upstream(NAME, _origin(path), sweeper=sweeper, resolver=resolver)
        for other, path in enumerate(paths)
        if other != slot
    }
    return Siblings(table, slot, secret, upstreams, meters)


def _origin(path: str) -> Origin:
    return Origin.model_validate(
        {
            "servers": [f"unix:{path}"],
            "max_connections": 65_536,
            "retries": 0,
            "timeouts": {"connect": f"{PATIENCE:g}s", "first_byte": f"{PATIENCE:g}s"},
            "ejection": {"errors": 0, "failures": 0},
            "breaker": {"failures": 0},
        }
    )


def said_to_siblings(position: int, file: str = "", *, stored: bool) -> Field:
    """What a worker says of its answer to another one: the purge log's position when its fetch began, whether
    it was `stored` already and nobody is asked for it, and the name of the file that its body lies in, when
    that may be read along."""
    return POSITION, f"{position} {'stored' if stored else 'fetched'} {file}".encode()


@record
class Said:
    """The same as the other worker gets it; the position is None when there was nothing to share."""

    position: int | None
    stored: bool
    file: str
    headers: Headers  # the origin's


def said_by(headers: Headers) -> Said:
    """What another worker says of its answer."""
    positions = headers.get_all(_POSITION)
    fields: list[Field] = [field for field in headers.raw if field[0].lower() != _POSITION]
    said = (positions[-1] if positions else b"").decode("ascii", "replace")
    position, stored, file = (*said.split(" ", 2), "", "", "")[:3]
    return Said(
        int(position) if position.isdecimal() else None,
        stored == "stored",
        file,
        Headers(fields, index_fields(fields)),
    )
