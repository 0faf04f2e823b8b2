"""Where a client's data may go, who stays where, and how far is far: the choice of origin in depth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edgeproxy.build import Parts
from edgeproxy.config import read_config
from edgeproxy.config.file import parse
from edgeproxy.context import Context, Place
from edgeproxy.decision import Fetch
from edgeproxy.origin.choose import Location, OriginChoice, OriginRule
from edgeproxy.origin.keep import AffinityRule, KeepOrigin
from edgeproxy.pipeline import Visit, decide
from edgeproxy.shared import Shared
from tests.helpers.requests import NOW, request

LOCATIONS: dict[str, Location | None] = {
    "eu": (50.11, 8.68),
    "eu2": (59.3, 18.0),
    "us": (39.04, -77.49),
    "asia": (1.35, 103.82),
    "files": None,
}
BERLIN = Place("DE", "EU", latitude=52.5, longitude=13.4)
OTTAWA = Place("CA", "NA", latitude=45.4, longitude=-75.7)
ICELAND = Place("IS", "EU", latitude=64.1, longitude=-21.9)
EU_ONLY = [(["EU"], ["eu", "eu2"])]
SECRET = "0123456789abcdef0123"
AFFINITY = AffinityRule.model_validate({"secret": SECRET})


def choice(rule: str | dict[str, Any], ill: set[str] | None = None, residency: Any = ()) -> OriginChoice:
    down = ill or set[str]()
    made = rule if isinstance(rule, str) else OriginRule.model_validate(rule)
    return OriginChoice(made, LOCATIONS, (52.3, 4.8), {}, lambda name: name not in down, residency)


def context(place: Place | None, named: str = "", kept: str | None = None) -> Context:
    ctx = Context(0.0, 0.0, "192.0.2.1", "route", "id")
    ctx.place, ctx.origin_named = place, named
    if kept is not None:
        asked = request(values={"Cookie": f"a=b; edge_origin={kept}"} if kept else {})
        KeepOrigin(AFFINITY, LOCATIONS)(asked, ctx)
    return ctx


def cookie(ctx: Context) -> str:
    """The value that the client is told to keep."""
    (edit,) = ctx.to_client
    return edit.value.decode().partition("=")[2].partition(";")[0]


# --- residency


@pytest.mark.parametrize(
    ("rule", "ill", "named", "expected"),
    [
        ("nearest", set(), "", "eu"),
        ("nearest", {"eu"}, "", "eu2"),
        ("nearest", {"eu", "eu2"}, "", "eu"),
        ("us", set(), "", "eu"),
        ("eu2", set(), "", "eu2"),
        ("eu2", {"eu2"}, "", "eu2"),
        ({"by_country": {"DE": "us"}}, set(), "", "eu"),
        ({"by_country": {"DE": "us"}}, {"eu"}, "", "eu2"),
        ("nearest", set(), "us", "eu"),
        ("nearest", set(), "eu2", "eu2"),
        ("files", set(), "", "eu"),
        ("files", set(), "asia", "eu"),
    ],
)
def test_residency_beats_rules_fail_over_and_variants(
    rule: str | dict[str, Any], ill: set[str], named: str, expected: str
) -> None:
    made = choice(rule, ill, EU_ONLY)
    for _ in range(2):
        assert made(context(BERLIN, named)) == expected
    assert made.needs_place


@pytest.mark.parametrize(
    ("place", "expected"), [(OTTAWA, "us"), (ICELAND, "us"), (Place(), "us"), (None, "us")]
)
def test_others_go_where_the_rule_says(place: Place | None, expected: str) -> None:
    assert choice("us", residency=EU_ONLY)(context(place)) == expected


def test_the_intended_origin_is_one_that_is_allowed_whatever_its_health() -> None:
    made = choice("us", {"eu", "eu2"}, EU_ONLY)
    assert made.intended(context(BERLIN)) == "eu"
    assert made.intended(context(OTTAWA)) == "us"
    assert made.varies


def test_a_rule_within_residency_is_left_as_it_is() -> None:
    made = choice("eu", residency=EU_ONLY)
    assert (made.only, made.varies) == ("eu", False)
    assert made(context(BERLIN, named="us")) == "eu"


@given(
    st.sampled_from(["nearest", "us", "files", "asia"]),
    st.sets(st.sampled_from(sorted(LOCATIONS))),
    st.sampled_from(["", "us", "eu", "asia"]),
    st.sampled_from(["", "us", "eu"]),
    st.floats(-90, 90),
    st.floats(-180, 180),
)
def test_no_client_of_the_union_ever_leaves_it(
    rule: str, ill: set[str], named: str, kept: str, latitude: float, longitude: float
) -> None:
    made = choice(rule, ill, EU_ONLY)
    place = Place("FR", "EU", latitude=latitude, longitude=longitude)
    ctx = context(place, named)
    ctx.keeper = (kept, {})
    assert made(ctx) in ("eu", "eu2")
    assert made.intended(ctx) in ("eu", "eu2")


@pytest.mark.parametrize(
    ("rule", "named", "said"),
    [
        ("us", "", "eu: residency of DE allows eu, eu2, not us"),
        ("nearest", "", "eu: nearest to the client among eu, eu2, by residency"),
        ("nearest", "eu2", "eu2: named by a policy"),
    ],
)
def test_explaining_says_that_residency_decided(rule: str, named: str, said: str) -> None:
    assert choice(rule, residency=EU_ONLY).explain(context(BERLIN, named)) == said


CONFIG = """
origins:
  eu: {{servers: ["http://10.0.0.1"], location: [50, 8]}}
  us: {{servers: ["http://10.0.0.2"], location: [39, -77]}}
edge: {{location: [50, 8]}}
geo: {{database: {database}, residency: [{{places: [EU], origins: [eu]}}]}}
experiments: {{exp: {{variants: {{a: {{weight: 1, origin: us}}, b: 0}}, by: client_ip}}}}
routes:
  - {{name: tried, match: {{path: /tried}}, policies: [{{ab: exp}}], origin: eu}}
  - {{name: fixed, origin: us}}
"""


@pytest.mark.parametrize(("path", "client", "origin"), [
    ("/fixed", "192.0.2.1", "eu"), ("/tried", "192.0.2.1", "eu"),
    ("/fixed", "203.0.113.200", "us"), ("/tried", "203.0.113.200", "us"),
])  # fmt: skip
def test_a_whole_configuration_keeps_clients_of_the_union_there(path: str, client: str, origin: str) -> None:
    root = Path(__file__).parent.parent.parent
    text = CONFIG.format(database=root / "config" / "demo-geo.mmdb").encode()
    made = Parts(read_config(parse(text, "edge.yaml", root, {})), Shared(Path(), 1), 0, None, logs=False)
    visit = Visit(made.edge, request(path))
    visit.client = client
    keys: set[bytes | None] = set()
    for _ in range(4):
        ctx = Context(NOW, NOW, client, visit.route.name, "id")
        decision = decide(visit, ctx)
        assert isinstance(decision, Fetch)
        keys.add(decision.key)
        assert ctx.origin == origin
    assert len(keys) == 1


# --- bias


@pytest.mark.parametrize(
    ("bias", "expected"), [({}, "eu"), ({"eu": 4}, "eu2"), ({"us": 0.01}, "us"), ({"files": 0.01}, "eu")]
)
def test_bias_makes_an_origin_nearer_or_farther(bias: dict[str, float], expected: str) -> None:
    assert choice({"bias": bias})(context(BERLIN)) == expected


@pytest.mark.parametrize("factor", [0, -1, 101, "x"])
def test_a_bias_that_is_no_factor_is_refused(factor: object) -> None:
    with pytest.raises(ValidationError):
        OriginRule.model_validate({"bias": {"eu": factor}})


# --- affinity

KEPT: dict[str, Any] = {"affinity": {"secret": SECRET}}


def test_a_client_stays_with_its_origin_while_that_is_healthy() -> None:
    first = context(BERLIN, kept="")
    assert choice(KEPT)(first) == "eu"
    value = cookie(first)
    moved = context(OTTAWA, kept=value)
    assert choice(KEPT)(moved) == "eu"
    assert moved.to_client == []
    ill = context(OTTAWA, kept=value)
    assert choice(KEPT, {"eu"})(ill) == "us"
    assert cookie(ill).startswith("us.")
    assert choice(KEPT, {"eu"}).intended(context(OTTAWA, kept=value)) == "eu", "its answers may be stored"


@pytest.mark.parametrize("value", ["us", "us.", "us.00", "us.{}", "nowhere.{}", ".{}", "us.{}x", "\xff.{}"])
def test_a_cookie_that_was_not_signed_here_is_as_absent(value: str) -> None:
    first = context(BERLIN, kept="")
    choice(KEPT)(first)
    mac = cookie(first).partition(".")[2]
    forged = context(BERLIN, kept=value.format(mac))
    assert choice(KEPT)(forged) == "eu"
    assert forged.keeper is not None
    assert forged.keeper[0] == ""


def test_residency_beats_affinity() -> None:
    away = context(OTTAWA, kept="")
    assert choice(KEPT)(away) == "us"
    back = context(BERLIN, kept=cookie(away))
    assert choice(KEPT, residency=EU_ONLY)(back) == "eu"


def test_an_origin_that_the_route_does_not_know_is_not_kept() -> None:
    ctx = context(OTTAWA, kept="")
    choice(KEPT)(ctx)
    there = context(BERLIN, kept=cookie(ctx))
    assert choice({"otherwise": "eu", "by_country": {"FR": "eu2"}, **KEPT})(there) == "eu"


def test_the_cookie_is_for_this_session_and_secure_over_tls() -> None:
    rule = AffinityRule.model_validate({"secret": SECRET, "cookie": "where", "max_age": "1h"})
    ctx = context(BERLIN)
    KeepOrigin(rule, ["eu"])(request(), ctx)
    assert ctx.keeper is not None
    value = ctx.keeper[1]["eu"].value
    assert value.startswith(b"where=eu.")
    assert value.endswith(b"; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax")


@pytest.mark.parametrize("rule", [{"secret": "short"}, {"secret": SECRET, "cookie": "a b"}, {}])
def test_an_affinity_that_is_not_safe_is_refused(rule: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AffinityRule.model_validate(rule)
