"""What only building a configuration shows is said before anything relies on it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgeproxy.config import Config, read_config
from edgeproxy.config.file import parse
from edgeproxy.errors import ConfigError
from edgeproxy.rehearsal import rehearse, rehearse_apart

BASE = """origins:
  app: {servers: ["https://127.0.0.1:8000"]%s}
geo: {database: "%s"}
jwt_providers:
  main: {issuer: x, audience: y, algorithms: [RS256], %s}
routes:
  - {name: all, origin: app, policies: [%s]}
"""


def config(
    tls: str = "", geo: str = "", keys: str = "jwks: 'https://x.example/'", policy: str = ""
) -> Config:
    return read_config(parse((BASE % (tls, geo, keys, policy)).encode(), "edge.yaml", Path()))


MISTAKES = [
    ({"geo": "/nope.mmdb"}, "edge.yaml:3: geo.database: found '/nope.mmdb', expected a file to read"),
    (
        {"tls": ", tls: {ca: /nope.pem}"},
        "edge.yaml:2: origins.app.tls.ca: found '/nope.pem', expected a file to read",
    ),
    ({"geo": "/dev/null"}, "edge.yaml:3: geo.database: /dev/null is not a file"),
    ({"tls": ", tls: {ca: /dev/null}"}, "edge.yaml:2: origins.app.tls.ca: found '/dev/null'"),
    ({"keys": "jwks_file: /dev/null"}, "edge.yaml:5: jwt_providers.main: not a JWK set"),
    (
        {"policy": "{use: 'nope.module:Policy'}"},
        "edge.yaml:7: routes[0].policies[0]: use: nope.module:Policy cannot be used: ModuleNotFoundError",
    ),
]


@pytest.mark.parametrize(("parts", "said"), MISTAKES, ids=["no geo", "no tls", "geo", "tls", "keys", "use"])
def test_what_cannot_be_built_is_said_with_its_place(parts: dict[str, str], said: str) -> None:
    made = config(**parts)
    with pytest.raises(ConfigError) as here:
        rehearse(made)
    assert said in str(here.value)
    assert str(here.value).startswith("edge.yaml")
    with pytest.raises(ConfigError) as apart:
        rehearse_apart(made)
    assert str(apart.value) == str(here.value)


def test_what_can_be_built_leaves_nothing_behind() -> None:
    before = set(os.listdir("/proc/self/fd"))
    rehearse_apart(config())
    assert set(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_rehearsal_that_dies_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeproxy.rehearsal.rehearse", lambda _: os._exit(3))
    with pytest.raises(ConfigError, match="could not be tried out"):
        rehearse_apart(config())
