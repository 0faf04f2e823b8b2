"""The loaded configuration as code sees it, the files that come with the project, and hostile input."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgeproxy.cache.rule import CacheSection
from edgeproxy.config import POLICIES, Config, UseRule, dump, load_config, read_config
from edgeproxy.config.file import parse
from edgeproxy.errors import ConfigError
from edgeproxy.policies.jwt_rule import JwtRule
from edgeproxy.units import Address

FOLDER = Path(__file__).parents[2] / "config"
SHIPPED = sorted(path for path in FOLDER.glob("*.yaml"))
OUTSIDE = ("EDGE_WORKERS", "EDGE_GEO_DB")
REQUIRED = {  # what compose.yaml cannot do without
    "EDGE_ID": "edge-eu",
    "EDGE_POP": "eu",
    "EDGE_LATITUDE": "50.11",
    "EDGE_LONGITUDE": "8.68",
    "EDGE_ADMIN_TOKEN": "a-token-for-this-test",
}


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OUTSIDE:
        monkeypatch.delenv(name, raising=False)
    for name, value in REQUIRED.items():
        monkeypatch.setenv(name, value)


def read(text: str) -> Config:
    return read_config(parse(text.encode(), "edge.yaml", FOLDER, {}))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_configuration_that_comes_with_the_project_is_right(path: Path) -> None:
    load_config(path)


def test_edge_yaml_fills_in_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_ADMIN_TOKEN", "Sesame-Open-4711")
    monkeypatch.setenv("EDGE_WORKERS", "3")
    config = load_config(FOLDER / "edge.yaml")
    assert config.admin.token is not None
    assert config.admin.token.get_secret_value() == "Sesame-Open-4711"
    assert config.server.workers == 3
    for text in (dump(config), dump(config, defaults=True), repr(config)):
        assert "Sesame" not in text


def test_minimal_yaml_gets_every_default() -> None:
    config = load_config(FOLDER / "minimal.yaml")
    assert config.server.workers == "auto"
    assert [str(one.address) for one in config.server.listen] == ["0.0.0.0:8080"]
    assert config.admin.listen == Address("127.0.0.1", 9900)
    assert config.admin.token is None
    assert config.server.limits.head_timeout == 10.0
    assert config.routes[0].match.host == ("*",)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", config.edge.id)


def test_policies_are_words_with_their_rules() -> None:
    config = load_config(FOLDER / "edge.yaml")
    steps = config.routes[0].policies
    assert [word for word, *_ in steps] == [
        "rate_limit",
        "geo",
        "jwt",
        "rate_limit",
        "ab",
        "headers",
        "cookies",
        "rewrite",
    ]
    assert steps[0].rule == ("per_client",)
    assert isinstance(steps[2].rule, JwtRule)
    assert set(POLICIES) == {
        "geo", "jwt", "api_key", "basic", "ab", "fault", "rate_limit", "headers", "use",
        "cookies", "cors", "ip", "maintenance", "redirect", "respond", "rewrite",
    }  # fmt: skip


def test_a_policy_of_ones_own_brings_its_options() -> None:
    config = read(
        "origins: {o: {servers: ['http://10.0.0.1']}}\n"
        "routes: [{name: r, origin: o, policies: [{use: 'a.b:C', with: {x: [1]}}, {use: 'd:E'}]}]"
    )
    assert [step.rule for step in config.routes[0].policies] == [
        UseRule("a.b:C", {"x": [1]}),
        UseRule("d:E", {}),
    ]


def test_a_route_caches_unless_told_otherwise() -> None:
    config = read(
        "origins: {o: {servers: ['http://10.0.0.1']}}\n"
        "routes: [{name: a, match: {path: /a}, origin: o}, {name: b, cache: false, origin: o}]"
    )
    assert [route.cache for route in config.routes] == [CacheSection(), None]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_dump_with_defaults_reads_back_as_the_same_configuration(path: Path) -> None:
    config = load_config(path)
    text = dump(config, defaults=True)
    if "***" not in text:
        assert dump(read(text), defaults=True) == text


def test_configurations_compare_equal_when_they_say_the_same() -> None:
    once, twice = load_config(FOLDER / "edge.yaml"), load_config(FOLDER / "edge.yaml")
    assert once.server == twice.server
    assert once.origins == twice.origins


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200) | st.text(alphabet="{}[]:-&*!#|>'\"%@`,?\n\t ab1~$", max_size=60))
def test_any_text_is_read_or_refused_with_a_reason(text: str) -> None:
    with contextlib.suppress(ConfigError):
        read_config(parse(text.encode("utf-8", "surrogatepass"), "edge.yaml", FOLDER, {}))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused_with_a_reason(raw: bytes) -> None:
    with contextlib.suppress(ConfigError):
        parse(raw, "edge.yaml", FOLDER, {})


_EDGE = yaml.safe_load((FOLDER / "edge.yaml").read_text(encoding="utf-8"))
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-10, 10**12),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=12),
    st.sampled_from(
        ["30s", "1/s", "64MiB", "eu", "nearest", "NO", "claim:sub", "${X:-y}", "/a/**", "http://a:1"]
    ),
)
_KEYS = st.text(min_size=1, max_size=8) | st.sampled_from(
    ["host", "path", "name", "origin", "by", "keys", "use"]
)
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3)
)


def _places(tree: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path, *[place for step, value in inner for place in _places(value, (*path, step))]]


def _replaced(tree: object, path: tuple[str | int, ...], value: object) -> object:
    if not path:
        return value
    if isinstance(tree, dict):
        return {
            key: _replaced(each, path[1:], value) if key == path[0] else each for key, each in tree.items()
        }
    assert isinstance(tree, list)
    return [_replaced(each, path[1:], value) if at == path[0] else each for at, each in enumerate(tree)]


def said_of(text: str) -> str:
    """What is wrong with a configuration; nothing when it can be read and dumped."""
    try:
        dump(read(text), defaults=True)
    except ConfigError as error:
        return str(error)
    return ""


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(_places(_EDGE)[1:]), _VALUES)
@example(("server", "listen"), {"0": None})
@example(("rate_limits",), {"a\nb": {"rate": "1/s"}})
def test_any_value_anywhere_is_taken_or_refused_at_a_line(path: tuple[str | int, ...], value: object) -> None:
    text = yaml.dump(_replaced(_EDGE, path, value), Dumper=yaml.CSafeDumper, allow_unicode=True)
    said = said_of(text)
    assert all(re.match(r"edge\.yaml:\d+: ", line) for line in said.splitlines())
