"""Policies of a route together: their order, conditions and shadows, as a configuration puts them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import jwt
import pytest

from edgeproxy.admin.explain import Question
from edgeproxy.build import Parts
from edgeproxy.config import read_config
from edgeproxy.config.file import parse
from edgeproxy.context import Context, Edit
from edgeproxy.decision import Decision, Fetch, Serve
from edgeproxy.errors import ConfigError
from edgeproxy.explain import explain
from edgeproxy.observe.cells import decode_series
from edgeproxy.pipeline import Visit, decide
from edgeproxy.shared import Shared
from tests.helpers.requests import NOW, request

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = ROOT / "tests" / "examples" / "edgeproxy-office-hours"
DATABASE = ROOT / "config" / "demo-geo.mmdb"
BASE = """
origins: {o: {servers: ["http://10.0.0.1"]}}
geo: {database: "%s", groups: {dach: [DE, AT, CH]}}
jwt_providers:
  main: {issuer: me, algorithms: [HS256], secret: 0123456789abcdef0123456789abcdef, audience: shop}
experiments: {checkout: {variants: {a: 1, b: 1}, by: client_ip}}
rate_limits:
  per_client: {rate: 2/h, burst: 2}
  per_user: {rate: 1/h, by: "claim:sub"}
"""


def parts(policies: str) -> Parts:
    text = f"{BASE % DATABASE}\nroutes:\n  - name: r\n    origin: o\n    policies:\n{policies}"
    return Parts(
        read_config(parse(text.encode(), "edge.yaml", ROOT, {})), Shared(Path(), 1), 0, None, logs=False
    )


def ask(
    made: Parts, *values: tuple[str, str], method: str = "GET", path: str = "/a"
) -> tuple[Context, Decision]:
    visit = Visit(made.edge, request(path, list(values), method=method))
    ctx = Context(NOW, NOW, visit.client, visit.route.name, "id")
    return ctx, decide(visit, ctx)


def counts(made: Parts, family: str) -> dict[tuple[str, ...], float]:
    cells = made.shared.cells
    found: dict[tuple[str, ...], float] = {}
    for column, text in enumerate(cells.names()):
        series = decode_series(text)
        if series.name == family and (total := cells.total(column)):
            found[tuple(value for _, value in series.labels)] = total
    return found


def refusal(decision: Decision) -> tuple[str, str, int] | None:
    if isinstance(decision, Serve) and decision.policy:
        return decision.policy, decision.reason, decision.response.status
    return None


CHAIN = """
      - rate_limit: per_client
      - jwt: {provider: main}
      - rate_limit: per_user
      - ab: checkout
"""


def bearer(user: str) -> tuple[str, str]:
    claims = {"iss": "me", "aud": "shop", "sub": user, "exp": NOW + 60}
    return "Authorization", "Bearer " + jwt.encode(claims, "0123456789abcdef0123456789abcdef", "HS256")


def test_the_order_of_work_is_the_order_of_the_file() -> None:
    """Limits before cost: who is over a limit is refused before the token is looked at, and who has no
    good token spends nothing of a user's limit."""
    made = parts(CHAIN)
    assert [step.name for step in made.edge.routes.find(request()).policies] == [
        "rate_limit",
        "jwt",
        "rate_limit",
        "ab",
    ]
    forged = ("Authorization", bearer("u")[1][:-2] + "xx")
    assert refusal(ask(made, forged)[1]) == ("jwt", "malformed", 401)
    ctx, decision = ask(made, bearer("u"))
    assert refusal(decision) is None, "the forged token spent nothing of u"
    assert "checkout" in ctx.variants
    assert refusal(ask(made, forged)[1]) == ("rate_limit", "quota-exceeded", 429), "jwt is not asked"
    other = parts(CHAIN)
    assert refusal(ask(other, bearer("u"))[1]) is None
    ctx, decision = ask(other, bearer("u"))
    assert refusal(decision) == ("rate_limit", "quota-exceeded", 429), "after jwt, the user's own limit"
    assert ctx.claims is not None
    assert ctx.variants == {}, "nothing behind it is asked"


def test_a_limit_by_claim_is_refused_before_its_token() -> None:
    with pytest.raises(ConfigError, match="expected a jwt policy before it"):
        parts("      - rate_limit: per_user\n      - jwt: {provider: main}\n")


@pytest.mark.parametrize(
    ("policies", "said"),
    [
        ("      - {headers: {}, when: 'claim:sub'}\n", "expected a jwt policy before it"),
        (
            "      - {headers: {}, when: 'variant:checkout == a'}\n",
            "expected an ab policy with the experiment",
        ),
        ("      - {headers: {}, when: 'country in [dch]'}\n", "expected a country, continent or group"),
        ("      - {headers: {}, when: 'county in [DE]'}\n", "expected a fact"),
        ("      - {ab: checkout, on_error: allow}\n", "it fails closed"),
        ("      - {jwt: {provider: main}, on_error: allow}\n", "it fails closed"),
        ("      - {headers: {}, mode: shadwo}\n", "did you mean 'shadow'"),
        ("      - {when: 'header:X'}\n", "found nothing, expected one of"),
    ],
)
def test_a_wrong_guard_is_refused_with_file_and_line(policies: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parts(policies)
    assert said in str(raised.value)
    assert "edge.yaml:15: routes[0].policies[0]" in str(raised.value)


def test_a_condition_on_the_country_looks_the_client_up_first() -> None:
    made = parts("      - {headers: {to_origin: {set: {X-A: b}}}, when: 'country in [dach]'}\n")
    ctx, _ = ask(made)  # from 192.0.2.1, which the demo's database has in Germany
    assert [edit.value for edit in ctx.to_origin] == [b"b"]


def test_refusals_are_counted_by_route_policy_and_reason() -> None:
    made = parts("      - {geo: {deny: [DE]}, when: 'path matches /a/**'}\n")
    assert refusal(ask(made)[1]) == ("geo", "geo-denied", 403)
    assert refusal(ask(made, path="/b")[1]) is None


def test_a_shadow_limit_counts_and_lets_pass() -> None:
    made = parts("      - {rate_limit: per_client, mode: shadow}\n")
    outcomes = [ask(made) for _ in range(3)]
    assert [refusal(decision) for _, decision in outcomes] == [None] * 3
    assert outcomes[2][0].shadow == ("rate_limit=quota-exceeded",)
    assert outcomes[2][0].to_client == []
    assert counts(made, "edgeproxy_policy_shadow_total") == {
        ("allow", "rate_limit", "-", "r"): 2.0,
        ("refuse", "rate_limit", "quota-exceeded", "r"): 1.0,
    }


def told_policies(made: Parts) -> list[dict[str, object]]:
    told = explain(made, Question("GET", "http://a.example/", "192.0.2.1", [])).as_dict()
    return cast(list[dict[str, object]], told["policies"])


def test_asking_for_an_explanation_spends_nothing() -> None:
    made = parts(
        "      - {rate_limit: per_client, mode: shadow}\n"
        "      - rate_limit: per_client\n      - ab: checkout\n"
    )
    told: list[dict[str, object]] = []
    for _ in range(10):
        told = told_policies(made)
    assert counts(made, "edgeproxy_policy_shadow_total") == {}
    assert [each["mode"] for each in told] == ["shadow", "enforce", "enforce"]
    assert [refusal(ask(made)[1]) for _ in range(2)] == [None, ("rate_limit", "quota-exceeded", 429)]


GUARDED = """
      - {headers: {to_client: {set: {X-A: "1"}}}, when: "country == FR"}
      - {headers: {to_client: {set: {X-B: "1"}}}, when: "not header:X-Off"}
      - {ab: checkout, mode: shadow}
      - {ab: checkout, when: "path matches /a/**"}
      - {rewrite: {path: /a, to: /b}, on_error: deny}
      - {headers: {to_client: {set: {X-C: "1"}}}, when: "variant:checkout in [a, b]"}
"""


@pytest.mark.parametrize("values", [(), (("X-Off", "1"),)])
def test_guarded_policies_do_the_same_to_a_request_that_is_repeated(
    values: tuple[tuple[str, str], ...],
) -> None:
    made = parts(GUARDED)
    visit = Visit(made.edge, request("/a", list(values)))

    def once(edge: Visit) -> tuple[object, ...]:
        ctx = Context(NOW, NOW, edge.client, edge.route.name, "id")
        decision = decide(edge, ctx)
        key = decision.key if isinstance(decision, Fetch) else None
        path = ctx.rewritten.path if ctx.rewritten is not None else b""
        return key, ctx.to_client, ctx.to_origin, ctx.variants, path, ctx.key_parts

    first = once(Visit(made.edge, request("/a", list(values))))
    assert [edit.name for edit in cast("list[Edit]", first[1])] == ([b"X-C"] if values else [b"X-B", b"X-C"])
    assert [once(visit) for _ in range(6)] == [first] * 6
    assert visit.recollection is not None
    assert counts(made, "edgeproxy_policy_shadow_total") == {("allow", "ab", "-", "r"): 7.0}, (
        "each is counted"
    )


@pytest.mark.parametrize(("on_error", "decision"), [("allow", "allow"), ("deny", "deny")])
def test_a_policy_that_fails_is_counted_by_route_and_what_it_meant(on_error: str, decision: str) -> None:
    made = parts(f"      - {{rate_limit: per_client, on_error: {on_error}}}\n")
    made.shared.buckets.close()  # as if the memory were gone
    refused = ("rate_limit", "policy-failed", 500) if on_error == "deny" else None
    assert refusal(ask(made)[1]) == refused
    assert counts(made, "edgeproxy_policy_errors_total") == {(decision, "rate_limit", "r"): 1.0}


def test_evicted_buckets_are_counted_by_what_was_lost() -> None:
    made = parts("      - rate_limit: per_client\n")
    table = made.shared.buckets
    for number in range(100_000):
        table.spend(table.key(b"%d" % number), 10**9, 10**9, 10**9, 10**18 + number // 50_000 * 2 * 10**9)
    made.publish()
    evicted = counts(made, "edgeproxy_rate_limit_table_evictions_total")
    assert evicted[("idle",)] > 10_000
    assert ("idle",) in evicted
    assert table.evictions().idle == evicted[("idle",)]


def test_requests_that_no_limit_could_count_are_counted() -> None:
    made = parts("      - rate_limit: per_client\n")
    for number in range(18):  # of one set, which has room for 16
        made.shared.in_flight.enter((number.to_bytes(8, "big") + bytes(8), 0), 0, 1)
    made.publish()
    assert counts(made, "edgeproxy_in_flight_overflows_total") == {(): 2.0}


def test_a_policy_without_a_guard_is_asked_directly() -> None:
    made = parts("      - ab: checkout\n      - {ab: checkout, mode: enforce}\n")
    assert [type(step).__name__ for step in made.edge.routes.find(request()).policies] == ["AbTest"] * 2


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The example package, built and installed as anybody would, into a folder of its own."""
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--disable-pip-version-check", "--target", str(folder)]
    subprocess.run([*command, str(EXAMPLE)], check=True, timeout=60)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    sys.modules.pop("office_hours", None)


def test_a_policy_of_ones_own_has_all_that_ours_have(installed: Path) -> None:
    use = "      - use: 'office_hours:OfficeHours'\n        with: {opens: 9, closes: 18, tell_origin: true}\n"
    made = parts(use)
    assert (installed / "office_hours").is_dir()
    assert refusal(ask(made)[1]) == ("office_hours", "closed", 403)  # it is 8 h
    shadow = parts(use + "        mode: shadow\n")
    ctx, decision = ask(shadow)
    assert (refusal(decision), ctx.shadow) == (None, ("office_hours=closed",))
    assert told_policies(made)[0]["rule"] == "9-18"
    skipped = parts(use + "        when: method == POST\n")
    assert refusal(ask(skipped)[1]) is None
    opened = parts(use.replace("opens: 9", "opens: 8"))
    ctx, _ = ask(opened, ("X-Open-Until", "99"))
    assert (ctx.key_parts, ctx.to_origin[0].value) == ((b"open-until:18",), b"18")
    assert b"x-open-until" in opened.edge.routes.find(request()).forwarding.dropped


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("{opens: 9}", "with.closes"),
        ("{opens: 9, closes: 8}", "closes must come after opens"),
        ("{opens: 9, closes: 18, x: 1}", "with.x"),
        ("{opens: nine, closes: 18}", "with.opens"),
    ],
)
def test_typed_options_are_checked_when_loaded(installed: Path, options: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parts(f"      - use: 'office_hours:OfficeHours'\n        with: {options}\n")
    assert said in str(raised.value)
