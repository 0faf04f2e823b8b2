"""Experiments of this edge against the published cases of GrowthBook's and Unleash's SDKs.

Each case becomes an experiment of a configuration and a request: an attribute is a header of its name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import ValidationError

from edgeproxy.context import Context
from edgeproxy.http.message import Field, Headers, Request
from edgeproxy.policies.ab import AbTest
from edgeproxy.policies.ab_rule import Experiment
from edgeproxy.policies.ab_sticky import entries_of, tag

Json = dict[str, Any]


def growthbook(data_dir: Path, kind: str) -> list[list[Any]]:
    return json.loads((data_dir / "ab" / "growthbook" / "cases.json").read_text())[kind]


def unleash(data_dir: Path, name: str) -> Json:
    return json.loads((data_dir / "ab" / "unleash" / f"{name}.json").read_text())


def ask(attributes: Json, query: str = "", cookies: str = "") -> Request:
    fields: list[Field] = [
        (name.encode(), str(value).encode()) for name, value in attributes.items() if value is not None
    ]
    if cookies:
        fields.append((b"cookie", cookies.encode()))
    return Request(b"GET", b"example.com", b"/", query.encode(), Headers(fields), "127.0.0.1")


def context() -> Context:
    return Context(0.0, 0.0, "203.0.113.7", "shop", "req-1")


# --- GrowthBook: run


def condition_text(wanted: Json, saved: Json) -> str:
    """GrowthBook's condition, in the edge's words."""
    tests: list[str] = []
    for name, value in wanted.items():
        if isinstance(value, dict):
            tests.append(f"header:{name} in [{', '.join(saved[value['$inGroup']])}]")
        else:
            tests.append(f"header:{name} == {value}")
    return " and ".join(tests)


def of_growthbook(case: Json, given: Json) -> tuple[Json, dict[str, Json]]:
    """(the experiment, those before it) of the `run` and `stickyBucket` cases."""
    names = [f"v{index}" for index in range(len(case["variations"]))]
    weights = case.get("weights") or [1] * len(names)
    made: Json = {
        "variants": dict(zip(names, weights, strict=True)),
        "coverage": case.get("coverage", 1),
        "by": f"header:{case.get('hashAttribute', 'id')}",
        "hash": "growthbook" if case.get("hashVersion") == 2 else "growthbook-1",
        "override_parameter": case["key"],
    }
    if "seed" in case:
        made["seed"] = case["seed"]
    if "ranges" in case:
        made["ranges"] = dict(zip(names, case["ranges"], strict=True))
    if "namespace" in case:
        made["namespace"] = {"name": case["namespace"][0], "range": case["namespace"][1:]}
    if "filters" in case:
        made["filters"] = [
            {"seed": one["seed"], "ranges": one["ranges"], "by": f"header:{one.get('attribute', 'id')}"}
            for one in case["filters"]
        ]
    if "force" in case:
        index = case["force"]
        made["force"] = names[index] if 0 <= index < len(names) else "none"
    made["status"] = status_of(case, given)
    before: dict[str, Json] = {}
    tests = [condition_text(case["condition"], given.get("savedGroups", {}))] if "condition" in case else []
    for parent in case.get("parentConditions", []):  # a feature that is on is an experiment all take part in
        on = given["features"][parent["id"]]["defaultValue"]
        before[parent["id"]] = {
            "variants": {"on": 1, "off": 1},
            "by": "header:id",
            "force": "on" if on else "off",
        }
        tests.append(f"variant:{parent['id']} == {'on' if parent['condition']['value'] else 'off'}")
    if tests:
        made["when"] = " and ".join(tests)
    forced = given.get("forcedVariations", {}).get(case["key"])
    if forced is not None:
        made["forced"] = {names[forced]: [given["attributes"]["id"]]}
    return made, before


def status_of(case: Json, given: Json) -> str:
    if not given.get("enabled", True):
        return "off"
    if not case.get("active", True):
        return "paused"
    return "testing" if given.get("qaMode") else "running"


def run(case: Json, given: Json) -> tuple[object, bool, bool]:
    """(value, in the experiment, drawn by its hash) as GrowthBook's cases say it."""
    first = case["variations"][0]
    made, before = of_growthbook(case, given)
    try:
        experiment = Experiment.model_validate(made)
    except ValidationError:  # what cannot be configured has nobody in it
        return first, False, False
    earlier = {name: Experiment.model_validate(each) for name, each in before.items()}
    ctx = context()
    request = ask(given.get("attributes", {}), urlsplit(given.get("url", "")).query)
    assert AbTest({**earlier, case["key"]: experiment})(request, ctx) is None
    variant = ctx.variants.get(case["key"])
    drawn = any(each.experiment == case["key"] for each in ctx.exposures)
    if variant is None:
        return first, False, False
    return case["variations"][int(variant[1:])], True, drawn


def test_every_run_of_growthbook_comes_out_the_same(data_dir: Path) -> None:
    cases = growthbook(data_dir, "run")
    wrong: list[tuple[object, ...]] = []
    for name, given, case, value, inside, hashed in cases:
        found = run(case, given)
        if found != (value, inside, hashed):
            wrong.append((name, found, (value, inside, hashed)))
    assert wrong == []
    assert len(cases) == 73


# --- GrowthBook: sticky buckets


def sticky_experiment(rule: Json, feature: str) -> tuple[str, Experiment, list[Any]]:
    key = rule.get("key", feature)
    meta = [one["key"] for one in rule.get("meta", [])] or [str(i) for i in range(len(rule["variations"]))]
    made: Json = {
        "variants": dict(zip(meta, rule.get("weights") or [1] * len(meta), strict=True)),
        "coverage": rule.get("coverage", 1),
        "by": f"header:{rule['hashAttribute']}",
        "hash": "growthbook" if rule.get("hashVersion") == 2 else "growthbook-1",
        "seed": rule.get("seed", key),
    }
    if not rule.get("disableStickyBucketing"):
        made["fallback"] = f"header:{rule['fallbackAttribute']}"
        made["sticky"] = {
            "version": rule.get("bucketVersion", 0),
            "min_version": rule.get("minBucketVersion", 0),
        }
    if "condition" in rule:
        made["when"] = condition_text(rule["condition"], {})
    return key, Experiment.model_validate(made), meta


def of_doc(doc: Json) -> str:
    return tag(f"header:{doc['attributeName']}", doc["attributeValue"])


def cookie_of(docs: list[Json], key: str) -> str:
    """What the edge would have written where GrowthBook has these documents."""
    entries = [
        ":".join([name.removeprefix(f"{key}__"), variant, of_doc(doc)])
        for doc in docs
        for name, variant in doc["assignments"].items()
    ]
    return f"edge_ab_{key}={'!'.join(entries)}" if entries else ""


def test_every_sticky_bucket_of_growthbook_is_kept(data_dir: Path) -> None:
    cases = growthbook(data_dir, "stickyBucket")
    assert len(cases) == 13
    for name, given, docs, feature, result, expected in cases:
        rule = given["features"][feature]["rules"][0]
        key, experiment, meta = sticky_experiment(rule, feature)
        relevant = [
            doc for doc in docs if given["attributes"].get(doc["attributeName"]) == doc["attributeValue"]
        ]
        cookie = cookie_of(docs, key)
        ctx = context()
        AbTest({key: experiment})(ask(given["attributes"], cookies=cookie), ctx)
        variant = ctx.variants.get(key)
        assert (variant is not None) == (result is not None), name
        if result is not None:
            assert variant == result["key"], name
            assert rule["variations"][meta.index(variant)] == result["value"], name
        written = [edit.value.decode() for edit in ctx.to_client]
        text = (written or [cookie])[0].partition("=")[2].partition(";")[0]
        kept = {(of, f"{key}__{version}"): one for version, one, of in entries_of(text)} if text else {}
        for doc in expected.values():
            of = of_doc(doc)
            if doc in relevant or doc not in docs:
                assert {version: one for (each, version), one in kept.items() if each == of} == doc[
                    "assignments"
                ], name


# --- Unleash

SUITES = {
    "08-variants": 17,
    "12-custom-stickiness": 4,
    "15-global-constraints": 1,
    "16-strategy-variants": 11,
    "17-dependent-features": 19,
}


def of_unleash(feature: Json) -> Json | None:
    """A feature with variants as an experiment; None when it can have none."""
    strategies: list[Json] = feature["strategies"] or [{"name": "default", "parameters": {}}]
    strategy = strategies[0]
    parameters: Json = strategy.get("parameters", {})
    variants: list[Json] = strategy.get("variants") or feature.get("variants") or []
    if not variants:
        return None
    own = bool(strategy.get("variants"))
    stickiness = variants[0].get("stickiness", parameters.get("stickiness", "default"))
    by = "userId" if stickiness == "default" else stickiness
    made: Json = {
        "hash": "unleash",
        "variants": {one["name"]: one["weight"] for one in variants},
        "seed": parameters["groupId"] if own else feature["name"],
        "by": f"header:{by}",
        "fallback": "cookie",  # Unleash draws at random where there is nothing to stick to
        "sticky": {},
        "coverage": float(parameters.get("rollout", 100)) / 100,
        "status": "running" if feature["enabled"] else "off",
        "forced": {
            one["name"]: [value for each in one["overrides"] for value in each["values"]]
            for one in variants
            if one.get("overrides")
        },
    }
    tests = [
        f"header:{one['contextName']} in [{', '.join(one['values'])}]"
        for one in strategy.get("constraints", [])
    ]
    if tests:
        made["when"] = " and ".join(tests)
    return made


def unleash_variant(suite: Json, test: Json) -> str:
    """What the edge makes of it, in Unleash's words."""
    features = {feature["name"]: feature for feature in suite["state"]["features"]}
    feature = features.get(test["toggleName"])
    if feature is None:
        return "disabled"
    chain: list[str] = []
    tests: list[str] = []
    for parent in feature.get("dependencies", []):
        found = features.get(parent["feature"])
        if found is None or found.get("dependencies"):  # unknown, cyclic or transitive: refused when loaded
            return "disabled"
        is_on = parent.get("enabled", True)
        if of_unleash(found) is None:  # without variants, Unleash calls the variant of a parent `disabled`
            if found["enabled"] != is_on:
                return "disabled"
        else:
            chain.append(parent["feature"])
            tests.append(f"variant:{parent['feature']}" if is_on else f"not variant:{parent['feature']}")
            if parent.get("variants"):
                tests.append(f"variant:{parent['feature']} in [{', '.join(parent['variants'])}]")
    made = of_unleash(feature)
    if made is None:
        return "disabled"
    if tests:
        made["when"] = " and ".join([f"({made['when']})", *tests] if "when" in made else tests)
    configs = {name: of_unleash(features[name]) for name in chain} | {feature["name"]: made}
    experiments = {name: Experiment.model_validate(each) for name, each in configs.items()}
    given = test["context"]
    ctx = context()
    AbTest(experiments)(
        ask({**given.get("properties", {}), **{k: v for k, v in given.items() if k != "properties"}}), ctx
    )
    return ctx.variants.get(feature["name"], "disabled")


@pytest.mark.parametrize("name", SUITES)
def test_every_variant_of_unleash_comes_out_the_same(data_dir: Path, name: str) -> None:
    suite = unleash(data_dir, name)
    wrong = [
        (test["description"], found, test["expectedResult"]["name"])
        for test in suite["variantTests"]
        if (found := unleash_variant(suite, test)) != test["expectedResult"]["name"]
    ]
    assert wrong == []
    assert len(suite["variantTests"]) == SUITES[name]


def test_a_rollout_of_unleash_takes_the_same_units_in(data_dir: Path) -> None:
    """The `isEnabled` tests of gradual rollouts: coverage says who takes part."""
    tried = 0
    for name in ("10-flexible-rollout-strategy", "12-custom-stickiness"):
        suite = unleash(data_dir, name)
        features = {feature["name"]: feature for feature in suite["state"]["features"]}
        for test in suite["tests"]:
            strategies = features[test["toggleName"]]["strategies"]
            parameters = strategies[0]["parameters"]
            field = {"userId": "userId", "sessionId": "sessionId", "default": "userId"}.get(
                parameters["stickiness"], parameters["stickiness"]
            )
            if (
                len(strategies) > 1
                or strategies[0].get("constraints")
                or parameters["stickiness"] == "random"
            ):
                continue
            experiment = Experiment.model_validate(
                {
                    "hash": "unleash",
                    "variants": {"on": 1},
                    "seed": parameters["groupId"],
                    "by": f"header:{field}",
                    "coverage": float(parameters["rollout"]) / 100,
                }
            )
            given = test["context"]
            ctx = context()
            AbTest({"x": experiment})(ask({**given, **given.get("properties", {})}), ctx)
            if field in given or field in given.get("properties", {}):
                assert ("x" in ctx.variants) is test["expectedResult"], test["description"]
                tried += 1
    assert tried >= 6
