"""`geo`: who may come, who is sent where, and what the origin and the cache key learn of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from edgeproxy.context import NOWHERE, Context, Edit, Note, Op, Place, Verdict
from edgeproxy.countries import COUNTRIES, PlaceSet, check_place_name
from edgeproxy.errors import RequestError
from edgeproxy.http.message import Headers, Request, Response
from edgeproxy.http.target import normalise_host, normalise_path
from edgeproxy.policies.geo import Geo
from edgeproxy.policies.geo_data import GeoDatabase
from edgeproxy.policies.geo_locate import Locate
from edgeproxy.policies.geo_rule import GeoRule, GeoSection
from edgeproxy.policies.redirect_target import Target
from edgeproxy.snapshot import Snapshot
from tests.helpers.requests import whole_body

PLACES = {
    "192.0.2.1": Place("DE", "EU", city="Berlin"),
    "192.0.2.2": Place("US", "NA"),
    "192.0.2.3": Place("KP", "AS"),
    "192.0.2.4": Place("NO", "EU"),
    "192.0.2.5": Place("", "EU"),
    "192.0.2.6": Place("NA", "AF"),
}
DE, US, KP, NO, EUROPE, NAMIBIA, NOBODY = (*PLACES, "203.0.113.9")
GROUPS: Mapping[str, list[str]] = {"dach": ["DE", "AT", "CH"], "west": ["north-america", "EEA"]}


class Known(GeoDatabase):
    """A database that knows PLACES."""

    def __init__(self) -> None:
        super().__init__([])

    def place(self, address: str) -> Place:
        return PLACES.get(address, NOWHERE)


def geo(database: GeoDatabase | None = None, **rule: Any) -> Geo:
    return Geo(GeoRule.model_validate(rule), GROUPS, Snapshot(Known() if database is None else database))


def request(
    path: bytes = b"/", query: bytes = b"", host: bytes = b"shop.example", method: bytes = b"GET"
) -> Request:
    return Request(method, host, path, query, Headers([]), "127.0.0.1")


def context(client: str, notes: list[Note] | None = None) -> Context:
    ctx = Context(1000.0, 1000.0, client, "route", "id")
    ctx.notes = notes
    return ctx


def status(policy: Geo, client: str, asked: Request | None = None) -> int | None:
    answer = policy(asked or request(), context(client))
    return None if answer is None else answer.status


def location(answer: Response | None) -> bytes | None:
    return None if answer is None else dict(answer.fields)[b"Location"]


RULES: dict[str, tuple[dict[str, Any], list[str], list[str]]] = {
    "nothing": ({}, [DE, US, KP, EUROPE, NOBODY], []),
    "deny": ({"deny": ["KP"]}, [DE, US, EUROPE, NOBODY], [KP]),
    "deny-group": ({"deny": ["dach"]}, [US, NO], [DE]),
    "deny-continent": ({"deny": ["europe"]}, [US, KP, NOBODY], [DE, NO, EUROPE]),
    "eu-is-the-union": ({"deny": ["EU"]}, [NO, EUROPE], [DE]),
    "eea": ({"deny": ["EEA"]}, [US], [DE, NO]),
    "allow": ({"allow": ["DE"]}, [DE, NOBODY], [US, KP, NO]),
    "allow-nested-words": ({"allow": ["west"]}, [US, DE, NO], [KP]),
    "allow-continent": ({"allow": ["europe"], "unknown": "deny"}, [DE, NO, EUROPE], [US, NOBODY]),
    "deny-wins": ({"allow": ["europe"], "deny": ["DE"]}, [NO], [DE, US]),
    "unknown": ({"unknown": "deny"}, [DE, KP], [NOBODY, EUROPE]),
    "na-is-namibia": ({"allow": ["NA"]}, [NAMIBIA], [US]),
}


@pytest.mark.parametrize(("rule", "come", "refused"), RULES.values(), ids=RULES.keys())
def test_a_rule_decides_by_country_group_or_continent(
    rule: dict[str, Any], come: list[str], refused: list[str]
) -> None:
    policy = geo(**rule)
    for _ in range(2):  # the second time from memory
        assert {client: status(policy, client) for client in come} == dict.fromkeys(come)
        assert {client: status(policy, client) for client in refused} == dict.fromkeys(refused, 403)


def test_a_refusal_can_be_for_legal_reasons_and_is_never_stored() -> None:
    answer = geo(deny=["KP"], status=451)(request(), context(KP))
    assert answer is not None
    assert answer.status == 451
    assert dict(answer.fields)[b"Cache-Control"] == b"no-store"
    assert b"KP" not in whole_body(answer)


@pytest.mark.parametrize(
    ("rule", "fails_open"),
    [
        ({}, True),
        ({"redirect": {"DE": "/de{path}"}}, True),
        ({"deny": ["KP"]}, False),
        ({"allow": ["DE"]}, False),
        ({"unknown": "deny"}, False),
    ],
)  # fmt: skip
def test_rules_that_refuse_fail_closed(rule: dict[str, Any], fails_open: bool) -> None:
    assert geo(**rule).fails_open is fails_open


@pytest.mark.parametrize(("unknown", "expected"), [("allow", None), ("deny", 403)])
def test_without_a_database_everybody_is_unknown(unknown: str, expected: int | None) -> None:
    policy = Geo(GeoRule.model_validate({"deny": ["KP"], "unknown": unknown}), {}, Snapshot(None))
    assert status(policy, KP) == expected


def test_a_new_database_counts_from_the_next_request() -> None:
    snapshot: Snapshot[GeoDatabase | None] = Snapshot(None)
    policy = Geo(GeoRule(deny=("KP",)), {}, snapshot)
    assert status(policy, KP) is None
    snapshot.value = Known()
    assert status(policy, KP) == 403


@pytest.mark.parametrize(
    ("client", "told", "parts"),
    [
        (DE, [(b"X-Geo-Country", b"DE"), (b"X-Geo-Continent", b"EU")], (b"country:DE", b"continent:EU")),
        (EUROPE, [(b"X-Geo-Continent", b"EU")], (b"country:", b"continent:EU")),
        (NOBODY, [], (b"country:", b"continent:")),
    ],
)
def test_what_the_origin_is_told_is_part_of_the_key(
    client: str, told: list[tuple[bytes, bytes]], parts: tuple[bytes, ...]
) -> None:
    policy, ctx = geo(), context(client)
    assert policy(request(), ctx) is None
    assert ctx.to_origin == [Edit(Op.SET, name, value) for name, value in told]
    assert ctx.key_parts == parts
    assert {name.lower() for name, _ in told} <= set(policy.asserted)


def test_without_headers_the_key_knows_no_country() -> None:
    ctx = context(DE)
    assert geo(headers=False)(request(), ctx) is None
    assert (ctx.to_origin, ctx.key_parts, ctx.place) == ([], (), PLACES[DE])


class One(Known):
    """A database that knows one place for everybody."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.only = place

    def place(self, address: str) -> Place:
        return self.only


EVERYTHING = ["country", "continent", "subdivision", "city", "location", "asn", "organisation"]
TOLD: dict[str, tuple[list[str], Place, list[tuple[bytes, bytes]]]] = {
    "in-the-order-of-the-rule": (
        ["city", "country"],
        Place("DE", "EU", city="Bonn"),
        [(b"X-Geo-City", b"Bonn"), (b"X-Geo-Country", b"DE")],
    ),
    "everything": (
        EVERYTHING,
        Place("BR", "SA", "SP", "São Paulo", -23.5505, -46.63331, 28571, "50% of A, B"),
        [
            (b"X-Geo-Country", b"BR"),
            (b"X-Geo-Continent", b"SA"),
            (b"X-Geo-Subdivision", b"SP"),
            (b"X-Geo-City", b"S%C3%A3o Paulo"),
            (b"X-Geo-Latitude", b"-23.5505"),
            (b"X-Geo-Longitude", b"-46.6333"),
            (b"X-Geo-ASN", b"28571"),
            (b"X-Geo-Organisation", b"50%25 of A, B"),
        ],
    ),
    "only-what-is-known": (EVERYTHING, Place("DE"), [(b"X-Geo-Country", b"DE")]),
    "equator": (
        ["location"],
        Place(latitude=0.0, longitude=0.0),
        [(b"X-Geo-Latitude", b"0.0000"), (b"X-Geo-Longitude", b"0.0000")],
    ),
    "named-twice": (["asn", "asn"], Place(asn=7), [(b"X-Geo-ASN", b"7")]),
    "line-end-in-a-name": (["city"], Place(city="Bonn\r\nX: 1\0"), [(b"X-Geo-City", b"Bonn%0D%0AX: 1%00")]),
    "half-a-character": (["city"], Place(city="a\ud800"), [(b"X-Geo-City", b"a?")]),
}


@pytest.mark.parametrize(("headers", "place", "told"), TOLD.values(), ids=TOLD.keys())
def test_a_list_of_facts_tells_these_and_keys_each(
    headers: list[str], place: Place, told: list[tuple[bytes, bytes]]
) -> None:
    policy, ctx = geo(One(place), headers=headers), context(DE)
    assert policy(request(), ctx) is None
    assert [(edit.name, edit.value) for edit in ctx.to_origin] == told
    for name, value in told:
        assert any(part.endswith(b":" + value) for part in ctx.key_parts), name


def test_places_that_differ_in_what_is_told_have_different_keys() -> None:
    database = One(Place("DE", "EU", city="Bonn"))
    policy, bonn, berlin = geo(database, headers=["city"]), context(DE), context(DE)
    policy(request(), bonn)
    database.only = Place("DE", "EU", city="Berlin")
    policy(request(), berlin)
    assert (bonn.key_parts, berlin.key_parts) == ((b"city:Bonn",), (b"city:Berlin",))


@pytest.mark.parametrize("headers", [True, False, ["asn"]])
def test_no_rule_lets_a_clients_own_words_pass(headers: object) -> None:
    names = {
        b"country", b"continent", b"eu", b"group", b"subdivision", b"city", b"postal", b"latitude",
        b"longitude", b"time-zone", b"asn", b"organisation", b"flags", b"languages", b"currency",
    }  # fmt: skip
    assert set(geo(headers=headers).asserted) == {b"x-geo-" + name for name in names}


def test_a_fact_nobody_has_is_refused() -> None:
    with pytest.raises(ValidationError, match="country"):
        GeoRule.model_validate({"headers": ["altitude"]})


def test_memory_does_not_grow_with_what_a_database_comes_up_with() -> None:
    class Odd(Known):
        def place(self, address: str) -> Place:
            return Place(f"code {address}")

    policy = geo(Odd())
    for number in range(5000):
        assert policy(request(), context(str(number))) is None
    assert len(policy._outcomes) <= 4096


# --- redirects

LEADS: dict[str, tuple[str, bytes, bytes, bytes, bytes | None]] = {
    "host": ("https://de.example{path}{query}", b"shop.example", b"/a", b"b=1", b"https://de.example/a?b=1"),
    "question-mark-written": ("https://de.example{path}?{query}", b"x", b"/a", b"b=1", b"https://de.example/a?b=1"),
    "no-query": ("https://de.example{path}?{query}", b"x", b"/a", b"", b"https://de.example/a"),
    "fixed": ("https://de.example/", b"x", b"/a", b"b", b"https://de.example/"),
    "bare-host": ("https://de.example", b"x", b"/a", b"", b"https://de.example/"),
    "port": ("http://de.example:8080{path}", b"de.example", b"/a", b"", b"http://de.example:8080/a"),
    "folder": ("/de{path}", b"x", b"/a", b"b", b"/de/a"),
    "country": ("/{country}{path}{query}", b"x", b"/a", b"b", b"/DE/a?b"),
    "in-query": ("/where?from={path}&in={country}", b"x", b"/a", b"", b"/where?from=/a&in=DE"),
    "there-by-host": ("https://DE.example:443{path}", b"de.example", b"/a", b"", None),
    "there-by-folder": ("/de{path}", b"x", b"/de/a", b"", None),
    "there-at-its-root": ("/de{path}", b"x", b"/de", b"", None),
    "not-there-yet": ("/de{path}", b"x", b"/dex", b"", b"/de/dex"),
    "there-by-country": ("/{country}{path}", b"x", b"/DE/a", b"", None),
    "folder-of-the-host": ("https://shop.example/de{path}", b"shop.example", b"/a", b"", b"https://shop.example/de/a"),
    "there-by-both": ("https://shop.example/de{path}", b"shop.example", b"/de/a", b"", None),
    "slash-before-path": ("/de/{path}", b"x", b"/de/a", b"", None),
    "there-at-a-page": ("/sorry", b"x", b"/sorry", b"a=b", None),
    "there-at-a-page-with-query": ("/sorry?from={path}", b"x", b"/sorry", b"from=/a", None),
    "two-slashes": ("https://de.example{path}", b"x", b"//evil.example", b"", b"https://de.example//evil.example"),
    "two-slashes-in-folder": ("/de{path}", b"x", b"//evil.example", b"", b"/de//evil.example"),
    "backslash": ("/de{path}", b"x", b"/\\evil.example", b"", b"/de/%5Cevil.example"),
    "line-end": ("/de{path}{query}", b"x", b"/\r\nX: y", b"\r\n", b"/de/%0D%0AX:%20y?%0D%0A"),
    "encoded": ("/de{path}", b"x", b"/%2f%2fevil", b"", b"/de/%2f%2fevil"),
    "fragment": ("/de{path}", b"x", b"/a#b", b"", b"/de/a%23b"),
    "eight-bit": ("/de{path}", b"x", b"/\xff", b"", b"/de/%FF"),
    "asterisk": ("https://de.example{path}", b"x", b"*", b"", None),
}  # fmt: skip


@pytest.mark.parametrize(("template", "host", "path", "query", "expected"), LEADS.values(), ids=LEADS.keys())
def test_visitors_of_a_country_are_sent_to_its_site(
    template: str, host: bytes, path: bytes, query: bytes, expected: bytes | None
) -> None:
    answer = geo(redirect={"DE": template})(request(path, query, host), context(DE))
    assert location(answer) == expected


@pytest.mark.parametrize(
    ("method", "expected"), [(b"GET", 302), (b"HEAD", 302), (b"POST", 307), (b"DELETE", 307)]
)
def test_a_redirect_keeps_the_method_of_unsafe_requests(method: bytes, expected: int) -> None:
    answer = geo(redirect={"DE": "/de{path}"})(request(method=method), context(DE))
    assert answer is not None
    assert answer.status == expected
    assert dict(answer.fields)[b"Cache-Control"] == b"no-store"


def test_the_first_place_that_fits_counts_and_others_stay() -> None:
    policy = geo(redirect={"dach": "/dach{path}", "europe": "/eu{path}"})
    assert location(policy(request(), context(DE))) == b"/dach/"
    assert location(policy(request(), context(NO))) == b"/eu/"
    assert policy(request(), context(US)) is None
    assert policy(request(), context(NOBODY)) is None


def test_a_country_that_is_missing_never_makes_another_site_of_the_path() -> None:
    policy = geo(redirect={"europe": "/{country}{path}"})
    assert policy(request(b"/evil.example"), context(EUROPE)) is None


def test_who_is_refused_is_not_redirected() -> None:
    policy = geo(deny=["DE"], redirect={"DE": "https://de.example/"})
    assert status(policy, DE) == 403


@pytest.mark.parametrize(
    "template",
    ["", "{path}", "//evil{path}", "/{path}", "/{query}", "/\\evil", "de.example", "ftp://de.example/",
     "https://{country}.example/", "https://example{country}/", "https://example{query}", "https://user@example/",
     "https://example.com:port/", "https://", "/de{host}", "/de/../{path}", "/d%65{path}", "/de//x", "/de#x",
     "/de\r\nX: y", "/dé{path}", "javascript:alert(1)"],
)  # fmt: skip
def test_templates_that_could_lead_anywhere_are_refused(template: str) -> None:
    with pytest.raises(ValidationError):
        GeoRule(redirect={"DE": template})


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([row[0] for row in LEADS.values()]),
    st.binary(max_size=30).map(lambda rest: b"/" + rest.replace(b"?", b".").replace(b"\0", b"%2e")),
    st.binary(max_size=20),
    st.sampled_from([b"shop.example", b"de.example", b"evil.example"]),
)
def test_a_redirect_is_one_line_to_the_site_of_the_template_and_is_followed_once(
    template: str, path: bytes, query: bytes, host: bytes
) -> None:
    target = Target(template)
    try:
        at_the_door = normalise_path(path)
    except RequestError:
        return
    found = target.location(request(at_the_door, query, host), "DE")
    if found is None:
        return
    assert all(0x21 <= byte <= 0x7E and byte not in b"\\" for byte in found)
    assert (found.decode() + "/").startswith(template.split("{")[0])
    assert not found.startswith(b"//")
    url = found if found.startswith(b"http") else b"http://" + host + found
    scheme, _, rest = url.partition(b"://")
    site, slash, rest = rest.partition(b"/")
    there, _, asked = (slash + rest).partition(b"?")
    arrived = request(normalise_path(there), asked, normalise_host(site, secure=scheme == b"https"))
    assert target.location(arrived, "DE") is None


# --- words


@pytest.mark.parametrize(
    ("word", "hint"),
    [("UK", "'GB'"), ("de", "'DE'"), ("eu", "'EU'"), ("Europe", "'europe'"), ("europ", "'europe'"),
     ("dahc", "'dach'"), ("XX", "is no country"), ("", "is no country"), ("EL", "'GR'")],
)  # fmt: skip
def test_a_wrong_word_is_refused_with_the_nearest_right_one(word: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        check_place_name(word, GROUPS)
    rule = GeoRule(deny=(word,), redirect={word: "/x"})
    with pytest.raises(ValueError, match=hint):
        Geo(rule, GROUPS, Snapshot(None))


def test_every_country_is_a_word_and_none_contains_nowhere() -> None:
    assert len(COUNTRIES) == 250  # 249 of ISO 3166-1, and XK
    everybody = PlaceSet(COUNTRIES)
    assert all(Place(country) in everybody for country in COUNTRIES)
    assert NOWHERE not in PlaceSet([*COUNTRIES, "europe", "asia"])


@pytest.mark.parametrize(
    "groups",
    [
        {"DE": ["AT"]},
        {"EU": ["DE"]},
        {"europe": ["DE"]},
        {"a b": ["DE"]},
        {"x": ["Germany"]},
        {"x": ["DE"], "y": ["x"]},
    ],
    ids=["country", "built-in", "continent", "no-name", "no-country", "group-of-groups"],
)
def test_groups_that_mean_something_else_are_refused(groups: dict[str, list[str]]) -> None:
    with pytest.raises(ValidationError):
        GeoSection(groups=groups)


def test_the_section_takes_one_file_several_or_none() -> None:
    assert GeoSection().paths == []
    assert GeoSection(database="a.mmdb").paths == ["a.mmdb"]
    assert GeoSection(database=["a.mmdb", "b.mmdb"]).paths == ["a.mmdb", "b.mmdb"]
    assert GeoSection(groups=dict(GROUPS)).groups == GROUPS


# --- explain, and looking only

EXPLAINED: dict[str, tuple[dict[str, Any], str, Verdict, str]] = {
    "allow": ({}, DE, Verdict.ALLOW, "Berlin, DE, EU may come; the origin is told X-Geo-Country: DE"),
    "refuse": ({"deny": ["KP"]}, KP, Verdict.REFUSE, "KP, AS is in deny: KP"),
    "not-allowed": ({"allow": ["dach"]}, US, Verdict.REFUSE, "US, NA is not in allow: dach"),
    "unknown": ({"unknown": "deny"}, NOBODY, Verdict.REFUSE, "country unknown, and unknown: deny"),
    "redirect": ({"redirect": {"DE": "/de{path}"}}, DE, Verdict.ANSWER, "is redirected to /de/"),
}


@pytest.mark.parametrize(("rule", "client", "verdict", "why"), EXPLAINED.values(), ids=EXPLAINED.keys())
def test_explain_says_place_and_rule(rule: dict[str, Any], client: str, verdict: Verdict, why: str) -> None:
    notes: list[Note] = []
    geo(**rule)(request(), context(client, notes))
    assert [(note.policy, note.verdict) for note in notes] == [("geo", verdict)]
    assert why in notes[0].why


def test_locate_only_sets_the_place() -> None:
    notes: list[Note] = []
    ctx = context(DE, notes)
    assert Locate(Snapshot(Known()))(request(), ctx) is None
    assert (ctx.place, ctx.key_parts, ctx.to_origin) == (PLACES[DE], (), [])
    assert "Berlin, DE, EU" in notes[0].why
    nowhere = context(DE)
    Locate(Snapshot(None))(request(), nowhere)
    assert nowhere.place is NOWHERE
