"""What the edge says it would do is what it would do: the same decision, told in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeproxy.admin.explain import Explanation, Question
from edgeproxy.config import read_config
from edgeproxy.config.file import parse
from edgeproxy.explain import explain_config

ROOT = Path(__file__).parent.parent
CONFIG = f"""
edge: {{id: edge-1, location: [50.1, 8.7]}}
geo: {{database: "{ROOT / "config" / "demo-geo.mmdb"}"}}
origins:
  eu:
    servers: ["http://10.0.0.1:80", "http://10.0.0.2:80"]
    location: [50.11, 8.68]
    hedge: {{after: 200ms}}
  us: {{servers: ["http://10.1.0.1:80"], location: [39.04, -77.49]}}
experiments:
  home:
    variants: {{here: {{weight: 0}}, there: {{weight: 1, origin: us, path: /later}}}}
    by: client_ip
routes:
  - {{name: one, match: {{path: /one}}, origin: eu}}
  - {{name: near, match: {{path: /near}}, origin: nearest}}
  - {{name: mapped, match: {{path: /mapped}}, origin: {{by_country: {{DE: us}}, otherwise: eu}}}}
  - {{name: tested, match: {{path: /tested}}, policies: [{{ab: home}}], origin: eu}}
  - {{name: copied, match: {{path: /copied}}, origin: eu, mirror: {{origin: us, percent: 10}}}}
  - {{name: bare, match: {{path: /bare, methods: [POST]}}, cache: false, origin: eu}}
"""
FRANKFURT, NOBODY = "192.0.2.1", "233.252.0.1"
CONFINED = CONFIG.replace("geo: {", "geo: {residency: [{places: [EU], origins: [eu]}], ")


def told(path: str, client: str = FRANKFURT, method: str = "GET", text: str = CONFIG) -> Explanation:
    config = read_config(parse(text.encode(), "edge.yaml", ROOT, {}))
    return explain_config(config, Question(method, f"http://example.com{path}", client, []))


@pytest.mark.parametrize(
    ("path", "client", "origin", "why"),
    [
        ("/one", FRANKFURT, "eu", "the only origin of this route"),
        ("/near", FRANKFURT, "eu", "nearest to the client"),
        ("/near", NOBODY, "eu", "nearest to the edge (the client's place is unknown)"),
        ("/mapped", FRANKFURT, "us", "by_country has DE"),
        ("/mapped", NOBODY, "eu", "otherwise, for an unknown place"),
        ("/tested", FRANKFURT, "us", "a policy asks for it"),
    ],
)
def test_the_origin_is_named_with_what_decided_it(path: str, client: str, origin: str, why: str) -> None:
    explanation = told(path, client)
    assert (explanation.origin, explanation.origin_why) == (origin, why)
    assert f" origin   {origin} ({why})\n" in explanation.as_tree()


@pytest.mark.parametrize(
    ("path", "method", "says"),
    [
        ("/one", "GET", "another server after 200ms without an answer, at most 5 %"),
        ("/one", "POST", "no: only for safe methods without a body"),
        ("/tested", "GET", ""),
    ],
)
def test_it_says_when_a_second_server_would_be_asked(path: str, method: str, says: str) -> None:
    explanation = told(path, method=method)
    assert explanation.hedge == says
    assert (f"hedge {says}" in explanation.as_tree()) == bool(says)


@pytest.mark.parametrize(
    ("path", "client", "text", "says"),
    [
        ("/copied", FRANKFURT, CONFIG, "us gets a copy of 10 % of such requests, those with a body left out"),
        ("/copied", NOBODY, CONFINED, "us gets a copy of 10 % of such requests, those with a body left out"),
        ("/copied", FRANKFURT, CONFINED, "no: residency keeps this client from us"),
        ("/one", FRANKFURT, CONFIG, ""),
    ],
)
def test_it_says_who_else_gets_a_copy(path: str, client: str, text: str, says: str) -> None:
    explanation = told(path, client, text=text)
    assert explanation.mirror == says
    assert (f"mirror {says}" in explanation.as_tree()) == bool(says)


def test_the_key_is_that_of_the_request_that_goes_on() -> None:
    assert "/later" in told("/tested").key
    assert "/tested" not in told("/tested").key
    assert "/one" in told("/one").key


def test_what_never_gets_so_far_has_neither_key_nor_origin() -> None:
    refused = told("/bare")
    assert (refused.status, refused.key, refused.origin, refused.origin_why) == (405, "", "", "")
    passed = told("/bare", method="POST")
    assert (passed.cache, passed.key, passed.origin) == ("bypass: the route has no cache", "", "eu")
