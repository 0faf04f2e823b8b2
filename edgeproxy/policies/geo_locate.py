"""Where a client is: by the databases, or by its own word when it is a tester of a trusted network."""

from __future__ import annotations

from edgeproxy.context import NOWHERE, Context, Place, Verdict
from edgeproxy.countries import COUNTRIES
from edgeproxy.country_data import COUNTRY_DATA, NO_COUNTRY
from edgeproxy.http.message import Request, Response
from edgeproxy.policies.geo_data import GeoDatabase, unlocated
from edgeproxy.policies.geo_facts import Groups, Memberships, field_value
from edgeproxy.policies.geo_rule import Override
from edgeproxy.policies.networks import NetworkSet
from edgeproxy.snapshot import Snapshot

_MAX_PLACES = 4096  # whose groups are remembered

Database = Snapshot[GeoDatabase | None]


class Locator:
    """Looks clients up. `asserted` is the override's field, which never goes on."""

    def __init__(self, database: Database, override: Override | None = None) -> None:
        self._database = database
        self._header = b"" if override is None else override.header.lower().encode()
        self._trusted = NetworkSet(() if override is None else override.networks)
        self.asserted: tuple[bytes, ...] = (self._header,) if override is not None else ()

    def place(self, request: Request, ctx: Context) -> Place:
        """Where the client of a request is. Never raises."""
        database = self._database.value
        if ctx.recorder is not None:
            ctx.recorder.reads(self._database, database)
        if self._header and self._header in request.headers.index:
            said = self._said(request, ctx)
            if said is not None:
                return said
        return unlocated(ctx.client) if database is None else database.place(ctx.client)

    def _said(self, request: Request, ctx: Context) -> Place | None:
        """The place that a tester names, if it is one and the tester may."""
        country = (request.headers.get(self._header) or b"").decode("latin-1").strip().upper()
        if country not in COUNTRIES or ctx.client not in self._trusted:
            return None
        return Place(country, COUNTRY_DATA.get(country, NO_COUNTRY).continent)


class Locate:
    """Only says where the client is: for routes that choose their origin by place, without `geo`."""

    name = "geo"
    repeatable = True
    fails_open = True

    def __init__(self, database: Database, override: Override | None = None) -> None:
        self._locator = Locator(database, override)
        self.asserted = self._locator.asserted

    def __call__(self, request: Request, ctx: Context, /) -> Response | None:
        """Always None; sets `ctx.place`."""
        ctx.place = self._locator.place(request, ctx)
        if ctx.notes is not None:
            ctx.note(self.name, Verdict.ALLOW, f"located: {shown(ctx.place)}")
        return None


class KeyByGroup:
    """Makes the client's groups part of the cache key: for answers that differ by group, not by country."""

    name = "geo"
    repeatable = True
    fails_open = False  # without its key part an answer could reach another group

    def __init__(self, groups: Groups) -> None:
        self._members = Memberships(groups)
        self._parts: dict[Place, bytes] = {}

    def __call__(self, request: Request, ctx: Context, /) -> Response | None:
        """Always None; adds the key part."""
        place = ctx.place or NOWHERE
        part = self._parts.get(place)
        if part is None:
            if len(self._parts) >= _MAX_PLACES:
                self._parts.clear()
            part = self._parts[place] = b"group:" + field_value(self._members(place))
        ctx.key_parts += (part,)
        return None


def shown(place: Place) -> str:
    """A place, for people."""
    known = [place.city, place.subdivision, place.country, place.continent]
    words = ", ".join([word for word in known if word])
    return words or ("a private network" if place is not NOWHERE and place.private else "an unknown place")
