"""Two users of different variants never share an object, whatever experiments are configured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from edgeproxy.build import Parts
from edgeproxy.config import read_config
from edgeproxy.config.file import parse
from edgeproxy.context import Context
from edgeproxy.decision import Fetch
from edgeproxy.pipeline import Visit, decide
from edgeproxy.shared import Shared
from tests.helpers.requests import NOW, request

SHARED = Shared(Path(), 1)
ORIGINS = {name: {"servers": [f"http://{name}.example"]} for name in ("eu", "us")}
WEIGHTS = st.integers(0, 3)
ACTS = st.fixed_dictionaries(
    {"weight": WEIGHTS},
    optional={
        "path": st.sampled_from(["/b{path}", "/a", "/fixed.html"]),
        "headers": st.just({"X-Theme": "dark"}),
    },
)
PLACES = st.fixed_dictionaries(
    {"weight": WEIGHTS},
    optional={"origin": st.sampled_from(["eu", "us"]), "host": st.sampled_from(["a.example", "example.com"])},
)


def experiments(acts: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "variants": st.tuples(acts, acts | WEIGHTS).map(
                lambda two: {"a": {**two[0], "weight": two[0]["weight"] + 1}, "b": two[1]}
            ),
            "by": st.sampled_from(["header:X-User", "cookie:id", "cookie"]),
        },
        optional={
            "coverage": st.sampled_from([0, 0.3, 0.7]),
            "hash": st.sampled_from(["growthbook-1", "unleash"]),
            "seed": st.just("same"),
            "status": st.sampled_from(["running", "testing", "paused", "off"]),
            "when": st.sampled_from(["header:X-User in [u1, u2, u3]", "method == GET", "not cookie:id"]),
            "holdout": st.just({"name": "h", "share": 0.4}),
            "namespace": st.just({"name": "n", "range": [0.2, 0.9]}),
            "sticky": st.just({}),
            "forced": st.just({"b": ["u4"]}),
            "force": st.sampled_from(["a", "b"]),
        },
    )


def edge(first: dict[str, Any], second: dict[str, Any], guard: dict[str, Any]) -> Parts:
    config = {
        "origins": ORIGINS,
        "experiments": {"first": first, "second": second},
        "routes": [
            {"name": "plain", "match": {"path": "/plain"}, "origin": "eu"},
            {"name": "tried", "origin": "eu", "policies": [{"ab": "first", **guard}, {"ab": "second"}]},
        ],
    }
    text = json.dumps(config).encode()
    return Parts(read_config(parse(text, "edge.yaml", Path(), {})), SHARED, 0, None, logs=False)


def asked(ctx: Context, visit: Visit) -> object:
    """Whatever can make an origin answer otherwise."""
    seen = ctx.rewritten or visit.request
    edits = [(edit.op, edit.name, edit.value) for edit in ctx.to_origin]
    return seen.host, seen.path, seen.query, ctx.origin, tuple(edits), tuple(sorted(ctx.variants.items()))


@settings(max_examples=60, deadline=None)
@given(
    first=experiments(ACTS),
    second=experiments(PLACES),
    guard=st.sampled_from([{}, {"when": "header:X-User != u5"}, {"mode": "shadow"}]),
)
def test_one_key_is_one_variant(first: dict[str, Any], second: dict[str, Any], guard: dict[str, Any]) -> None:
    made = edge(first, second, guard)
    by_key: dict[bytes, object] = {}
    for user in range(25):
        for query in ("", "ab_first=b", "ab_second=0"):
            for path in ("/a", "/b/a"):
                values = [("X-User", f"u{user}"), ("Cookie", f"id=c{user % 7}; edge_ab={user:022d}")]
                visit = Visit(made.edge, request(path, values, query=query))
                for _ in range(4):  # the last ones are remembered, not asked again
                    ctx = Context(NOW, NOW, visit.client, visit.route.name, "id")
                    decision = decide(visit, ctx)
                    assert isinstance(decision, Fetch)
                    assert decision.key is not None
                    assert by_key.setdefault(decision.key, asked(ctx, visit)) == asked(ctx, visit)


@settings(max_examples=10, deadline=None)
@given(first=experiments(ACTS), second=experiments(PLACES))
def test_a_route_without_experiments_has_one_object_for_all(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    made = edge(first, second, {})
    keys: set[bytes | None] = set()
    for user in range(20):
        visit = Visit(made.edge, request("/plain", [("X-User", f"u{user}")]))
        decision = decide(visit, Context(NOW, NOW, visit.client, visit.route.name, "id"))
        assert isinstance(decision, Fetch)
        keys.add(decision.key)
    assert len(keys) == 1
