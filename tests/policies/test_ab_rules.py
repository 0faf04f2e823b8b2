"""Who takes part in an experiment, what a unit keeps, and what its variants do."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from edgeproxy.context import Context, Edit, Op, Place
from edgeproxy.http.message import Field, Headers, Request
from edgeproxy.policies.ab import AbTest
from edgeproxy.policies.ab_rule import Experiment
from edgeproxy.policies.ab_sticky import entries_of, tag
from edgeproxy.recall import Recorder

FRESH = "BBBBBBBBBBBBBBBBBBBBBB"
HALVES: dict[str, Any] = {"variants": {"control": 50, "fast": 50}, "by": "header:X-User"}
JUNE = 1_780_272_000.0  # 2026-06-01T00:00:00Z


def ask(
    user: str = "ann", cookie: str = "", query: bytes = b"", path: bytes = b"/a", method: bytes = b"GET"
) -> Request:
    fields: list[Field] = [(b"X-User", user.encode())] if user else []
    if cookie:
        fields.append((b"Cookie", cookie.encode()))
    return Request(method, b"example.com", path, query, Headers(fields), "127.0.0.1")


def known(wall: float = JUNE, client: str = "203.0.113.7") -> Context:
    return Context(0.0, wall, client, "shop", "req-1")


def policy(**experiments: dict[str, Any]) -> AbTest:
    models = {name: Experiment.model_validate({**HALVES, **each}) for name, each in experiments.items()}
    return AbTest(models, new_id=lambda: FRESH, groups={"dach": ["DE", "AT", "CH"]})


def run(test: AbTest, request: Request, ctx: Context | None = None) -> Context:
    ctx = ctx or known()
    assert test(request, ctx) is None
    return ctx


def variant(test: AbTest, request: Request, ctx: Context | None = None) -> str | None:
    return run(test, request, ctx).variants.get("exp")


def cookies(ctx: Context) -> list[str]:
    return [edit.value.decode() for edit in ctx.to_client if edit.name == b"Set-Cookie"]


USERS = [f"u{number}" for number in range(400)]

# --- who takes part


@pytest.mark.parametrize(
    ("config", "wall", "drawn", "forced", "tested"),
    [
        ({}, JUNE, True, True, True),
        ({"status": "testing"}, JUNE, False, True, True),
        ({"status": "paused"}, JUNE, False, True, True),
        ({"status": "off"}, JUNE, False, False, False),
        ({"start": "2026-06-01T00:00:00Z"}, JUNE, True, True, True),
        ({"start": "2026-06-01T02:00:01+02:00"}, JUNE, False, True, True),
        ({"stop": "2026-06-01T00:00:01Z"}, JUNE, True, True, True),
        ({"stop": "2026-06-01T00:00:00Z"}, JUNE, False, True, True),
    ],
)
def test_status_and_times_say_who_may_take_part(
    config: dict[str, Any], wall: float, drawn: bool, forced: bool, tested: bool
) -> None:
    test = policy(exp={**config, "forced": {"fast": ["tester"]}})
    assert (variant(test, ask(), known(wall)) is not None) is drawn
    assert (variant(test, ask("tester"), known(wall)) == "fast") is forced
    assert (variant(test, ask(query=b"ab_exp=fast"), known(wall)) == "fast") is tested


@pytest.mark.parametrize("config", [{"status": "off"}, {"status": "paused"}, {"when": "header:X-Beta"}])
def test_who_takes_no_part_gets_no_cookie(config: dict[str, Any]) -> None:
    ctx = run(policy(exp={"by": "cookie", **config}), ask())
    assert ctx.to_client == []
    assert ctx.key_parts == (b"variant:exp=",)


def test_force_gives_one_variant_to_all_who_take_part_and_counts_nobody() -> None:
    test = policy(exp={"force": "fast", "coverage": 0.5})
    found = [run(test, ask(user)) for user in USERS]
    assert {ctx.variants.get("exp") for ctx in found} == {"fast", None}
    assert all(ctx.exposures == () for ctx in found)


@pytest.mark.parametrize(
    ("when", "country", "takes_part"),
    [
        ("country in [dach]", "AT", True),
        ("country in [dach]", "FR", False),
        ("header:X-User == ann and method == GET", "", True),
        ("path matches '/b/**'", "", False),
    ],
)
def test_a_condition_says_who_takes_part(when: str, country: str, takes_part: bool) -> None:
    ctx = known()
    ctx.place = Place(country)
    assert (variant(policy(exp={"when": when}), ask(), ctx) is not None) is takes_part


def test_a_condition_can_read_the_variant_of_an_earlier_experiment() -> None:
    test = policy(first={}, exp={"when": "variant:first == fast"})
    for user in USERS:
        ctx = run(test, ask(user))
        assert ("exp" in ctx.variants) is (ctx.variants["first"] == "fast")


@pytest.mark.parametrize(
    ("when", "repeatable", "place"),
    [
        (None, True, False),
        ("country in [DE]", True, True),
        ("claim:plan", False, False),
        ("variant:x == a", False, False),
    ],
)
def test_what_a_condition_reads_says_what_the_policy_needs(
    when: str | None, repeatable: bool, place: bool
) -> None:
    test = policy(exp={"when": when})
    assert (test.repeatable, test.needs_place) == (repeatable, place)


def test_experiments_with_disjoint_filters_of_one_seed_exclude_each_other() -> None:
    parts = {"a": [[0, 0.3], [0.6, 0.8]], "b": [[0.3, 0.6]], "c": [[0.8, 1]]}
    test = policy(
        **{name: {"filters": [{"seed": "spring", "ranges": ranges}]} for name, ranges in parts.items()}
    )
    taken = Counter(tuple(run(test, ask(user)).variants) for user in USERS)
    assert set(taken) == {("a",), ("b",), ("c",)}
    assert 150 < taken["a",] < 250


def test_a_filter_can_draw_by_something_else() -> None:
    test = policy(exp={"filters": [{"seed": "s", "ranges": [[0, 0.5]], "by": "client_ip"}]})
    found = {client: variant(test, ask(), known(client=client)) is not None for client in USERS}
    assert 120 < sum(found.values()) < 280
    again = {client: variant(test, ask("bob"), known(client=client)) is not None for client in USERS}
    assert again == found


def test_a_holdout_is_the_same_for_all_experiments_that_name_it() -> None:
    held = {"holdout": {"name": "2026", "share": 0.2}}
    test = policy(a=held, b={**held, "variants": {"x": 1, "y": 3}}, c={})
    found = Counter(tuple(run(test, ask(user)).variants) for user in USERS)
    assert set(found) == {("a", "b", "c"), ("c",)}
    assert 40 < found["c",] < 120


@settings(max_examples=60, deadline=None)
@given(
    hashed=st.sampled_from(["growthbook", "growthbook-1", "unleash"]),
    weights=st.lists(st.integers(1, 100), min_size=2, max_size=6),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    seed=st.text(min_size=1, max_size=10),
)
def test_raising_the_coverage_moves_nobody_whoever_hashes(
    hashed: str, weights: list[int], shares: tuple[float, float], seed: str
) -> None:
    variants = {f"v{number}": weight for number, weight in enumerate(weights)}
    less, more = [
        policy(exp={"hash": hashed, "variants": variants, "coverage": share, "seed": seed})
        for share in sorted(shares)
    ]
    for user in USERS[:40]:
        before = variant(less, ask(user))
        assert before is None or before == variant(more, ask(user))


# --- what a unit keeps

STICKY: dict[str, Any] = {"by": "header:X-User", "fallback": "cookie", "sticky": {"version": 1}}


def sent_back(ctx: Context) -> str:
    return "; ".join([each.partition(";")[0] for each in cookies(ctx)])


def test_a_visitor_keeps_the_variant_when_logging_in_whatever_the_user_would_have_drawn() -> None:
    test = policy(exp=STICKY)
    anonymous = run(test, ask(""))
    assert [each.partition("=")[0] for each in cookies(anonymous)] == ["edge_ab", "edge_ab_exp"]
    drawn = Counter(variant(policy(exp={}), ask(user)) for user in USERS)
    assert len(drawn) == 2
    for user in USERS[:20]:
        ctx = run(test, ask(user, sent_back(anonymous)))
        assert ctx.variants == anonymous.variants
        (kept,) = cookies(ctx)
        of_user = f"1:{anonymous.variants['exp']}:{tag('header:X-User', user)}"
        assert kept.partition("=")[2].partition(";")[0].endswith(f"!{of_user}")
        alone = run(test, ask(user, sent_back(ctx)))  # the visitor's cookie is gone
        assert (alone.variants, alone.to_client) == (anonymous.variants, [])


def test_another_user_of_the_same_browser_draws_for_himself() -> None:
    test = policy(exp={**STICKY, "fallback": None})
    first = run(test, ask("u1"))
    for user in USERS[2:20]:
        assert variant(test, ask(user, sent_back(first))) == variant(policy(exp={}), ask(user))


def test_who_has_a_variant_keeps_it_when_weights_coverage_and_condition_change() -> None:
    first = run(policy(exp=STICKY), ask("u1"))
    other = next(name for name in ("control", "fast") if name != first.variants["exp"])
    for change in (
        {"variants": {other: 1, first.variants["exp"]: 0}},
        {"coverage": 0},
        {"when": "header:X-No"},
    ):
        test = policy(exp={**STICKY, **change})
        assert variant(test, ask("u1", sent_back(first))) == first.variants["exp"]


@pytest.mark.parametrize(
    ("version", "least", "kept"), [(1, 0, True), (2, 0, False), (2, 1, False), (2, 2, None), (1, 1, True)]
)
def test_another_version_draws_anew_or_ends_it(version: int, least: int, kept: bool | None) -> None:
    of = tag("header:X-User", "u1")
    drawn = variant(policy(exp={}), ask("u1"))
    stored = "fast" if drawn == "control" else "control"
    test = policy(exp={**STICKY, "sticky": {"version": version, "min_version": least}})
    found = variant(test, ask("u1", f"edge_ab_exp=1:{stored}:{of}"))
    assert found == {True: stored, False: drawn, None: None}[kept]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "1:fast",
        "1:fast:00",
        "1:none:{of}",
        "1:fast:{of}!",
        "1:fast:{of}!x",
        "!".join(["1:fast:{of}"] * 9),
    ],
)
def test_a_cookie_of_another_form_is_as_absent(text: str) -> None:
    of = tag("header:X-User", "u1")
    test = policy(exp=STICKY)
    assert variant(test, ask("u1", f"edge_ab_exp={text.format(of=of)}")) == variant(policy(exp={}), ask("u1"))


@given(st.text(max_size=200))
def test_no_cookie_breaks_the_reader(text: str) -> None:
    assert len(entries_of(text)) <= 8


def test_the_cookie_never_grows_beyond_its_cap() -> None:
    test = policy(exp={**STICKY, "fallback": None})
    kept = ""
    for user in USERS[:30]:
        kept = sent_back(run(test, ask(user, kept)))
    assert kept.count("!") == 7
    assert kept.endswith(tag("header:X-User", USERS[29]))


# --- what variants do


def acting(**what: Any) -> AbTest:
    return policy(exp={"variants": {"on": {"weight": 1, **what}, "off": 1}, "force": "on"})


def test_a_variant_tells_the_origin_more_fields_which_clients_cannot_send() -> None:
    test = acting(headers={"X-Theme": "dark"})
    ctx = run(test, ask())
    assert ctx.to_origin == [Edit(Op.SET, b"X-Theme", b"dark"), Edit(Op.SET, b"X-Variant-exp", b"on")]
    assert set(test.asserted) == {b"x-theme", b"x-variant-exp"}


@pytest.mark.parametrize(
    ("what", "path", "seen"),
    [
        ({"path": "/fast{path}"}, b"/a/b", (b"/fast/a/b", b"example.com")),
        ({"path": "/fast.html"}, b"/a/b", (b"/fast.html", b"example.com")),
        ({"path": "/x/"}, b"/", (b"/x/", b"example.com")),
        ({"host": "beta.example.com"}, b"/a", (b"/a", b"beta.example.com")),
        ({"path": "/fast{path}"}, b"*", None),
        ({"path": "/a"}, b"/a", None),
        ({"host": "example.com"}, b"/a", None),
    ],
)
def test_a_variant_has_another_path_or_host(
    what: dict[str, str], path: bytes, seen: tuple[bytes, bytes] | None
) -> None:
    ctx = run(acting(**what), ask(path=path, query=b"q=1"))
    rewritten = ctx.rewritten
    assert (None if rewritten is None else (rewritten.path, rewritten.host)) == seen
    assert rewritten is None or rewritten.query == b"q=1"


def test_a_variant_can_ask_another_origin() -> None:
    assert run(acting(origin="beta"), ask()).origin_named == "beta"


@pytest.mark.parametrize(("method", "status"), [(b"GET", 302), (b"HEAD", 302), (b"POST", 307)])
def test_a_variant_can_redirect_and_never_twice(method: bytes, status: int) -> None:
    test = acting(redirect="/beta{path}{query}")
    ctx = known()
    answer = test(ask(path=b"/a", query=b"q=1", method=method), ctx)
    assert answer is not None
    assert (answer.status, dict(answer.fields)[b"Location"]) == (status, b"/beta/a?q=1")
    assert test(ask(path=b"/beta/a", method=method), known()) is None


def test_every_experiment_is_drawn_even_when_an_earlier_one_redirects() -> None:
    test = policy(exp={"variants": {"on": {"weight": 1, "redirect": "/b"}, "off": 0}}, other={})
    ctx = known()
    assert test(ask(), ctx) is not None
    assert set(ctx.variants) == {"exp", "other"}


# --- exposures


def test_a_unit_is_exposed_once_and_not_when_forced() -> None:
    test = policy(exp={"forced": {"fast": ["tester"]}})
    (exposure,) = run(test, ask("u1")).exposures
    assert (exposure.experiment, exposure.unit) == ("exp", "u1")
    assert exposure.variant == variant(test, ask("u1"))
    assert len(run(test, ask("u1")).exposures) == 1, "until it is counted"
    exposure.counted(exposure.unit)
    assert run(test, ask("u1")).exposures == ()
    assert run(test, ask("tester")).exposures == ()
    assert run(test, ask("u2", query=b"ab_exp=fast")).exposures == ()
    assert run(policy(exp={"coverage": 0}), ask("u3")).exposures == ()


# --- time, for those who remember


@pytest.mark.parametrize(
    ("config", "wall", "ends"),
    [
        ({}, JUNE, float("inf")),
        ({"start": "2026-06-01T00:00:10Z"}, JUNE, JUNE + 10),
        ({"start": "2026-05-01T00:00:00Z", "stop": "2026-06-01T00:00:05Z"}, JUNE, JUNE + 5),
        ({"stop": "2026-05-01T00:00:00Z"}, JUNE, float("inf")),
    ],
)
def test_what_is_remembered_ends_when_the_experiment_begins_or_ends(
    config: dict[str, Any], wall: float, ends: float
) -> None:
    ctx = known(wall)
    ctx.recorder = Recorder()
    run(policy(exp=config), ask(), ctx)
    assert ctx.recorder.ends == ends
    assert not ctx.recorder.spoilt


# --- what makes no sense


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"force": "none"}, "none of its variants"),
        ({"forced": {"none": ["x"]}}, "none of its variants"),
        ({"forced": {"fast": ["x"], "control": ["x"]}}, "stand in it once"),
        ({"ranges": {"none": [0, 1]}}, "none of its variants"),
        ({"ranges": {"fast": [0, 0.5], "control": [0.4, 1]}}, "overlap"),
        ({"ranges": {"fast": [0.5, 0.5]}}, "empty"),
        ({"hash": "unleash", "variants": {"a": 0.5, "b": 1}}, "whole weights"),
        ({"hash": "unleash", "ranges": {"fast": [0, 1]}}, "no ranges"),
        ({"fallback": "cookie"}, "needs sticky"),
        ({"fallback": "header:X-User", "sticky": {}}, "fallback is what by is"),
        ({"sticky": {"version": 1, "min_version": 2}}, "nobody could take part"),
        ({"start": "2026-06-01T00:00:00Z", "stop": "2026-06-01T00:00:00Z"}, "not after start"),
        ({"start": "2026-06-01T00:00:00"}, "not a moment"),
        ({"start": "tomorrow"}, "not a moment"),
        ({"when": "country is DE"}, "expected"),
        ({"filters": [{"seed": "s", "ranges": []}]}, "at least 1"),
        ({"filters": [{"seed": "s", "ranges": [[0, 1]], "by": "cookie"}]}, "makes no visitors"),
        ({"variants": {"a": {"weight": 1, "path": "fast"}, "b": 1}}, "is no path"),
        ({"variants": {"a": {"weight": 1, "path": "/../x"}, "b": 1}}, "is no path"),
        ({"variants": {"a": {"weight": 1, "path": "/x?y"}, "b": 1}}, "is no path"),
        ({"variants": {"a": {"weight": 1, "host": "http://x"}, "b": 1}}, "is no host"),
        ({"variants": {"a": {"weight": 1, "redirect": "//x"}, "b": 1}}, "is no redirect"),
        ({"variants": {"a": {"weight": 1, "redirect": "/{country}"}, "b": 1}}, "path} and {query} only"),
        ({"variants": {"a": {"weight": 1, "redirect": "/b", "path": "/c"}, "b": 1}}, "asks no origin"),
        ({"variants": {"a": {"weight": 1, "headers": {"Host": "x"}}, "b": 1}}, "chooses the site"),
        ({"variants": {"a": {"weight": 1, "headers": {"X-A": "a\nb"}}, "b": 1}}, "control characters"),
    ],
)  # fmt: skip
def test_an_experiment_that_contradicts_itself_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Experiment.model_validate({**HALVES, **change})


def test_two_experiments_of_one_route_cannot_both_choose_the_origin() -> None:
    one = {"variants": {"a": {"weight": 1, "origin": "x"}, "b": 1}}
    with pytest.raises(ValueError, match="both choose"):
        policy(first=one, second=one)


@pytest.mark.parametrize(
    ("change", "moved"),
    [
        ({}, ""),
        ({"coverage": 0.1}, ""),
        ({"variants": {"control": 1, "fast": 1}}, ""),
        ({"variants": {"control": 2, "fast": 1}}, "weights"),
        ({"seed": "other"}, "seed"),
        ({"hash": "growthbook-1"}, "hash"),
        ({"by": "client_ip"}, "by"),
        ({"ranges": {"fast": [0, 1]}}, "ranges"),
    ],
)
def test_a_change_that_moves_units_is_known(change: dict[str, Any], moved: str) -> None:
    before = Experiment.model_validate(HALVES)
    assert Experiment.model_validate({**HALVES, **change}).moves_units_of(before) == moved
    kept = Experiment.model_validate({**HALVES, "sticky": {}})
    assert Experiment.model_validate({**HALVES, **change, "sticky": {}}).moves_units_of(kept) == ""
