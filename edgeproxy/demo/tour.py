"""The guided tour of the demo: curl lines that work exactly as printed, and what to see in their output."""

from __future__ import annotations

import shlex
import sys

from edgeproxy.record import record

TOKEN = "demo-admin-token"  # noqa: S105 - of a demo that listens on loopback only
GERMANY, AMERICA, NORTH_KOREA = "192.0.2.7", "198.51.100.7", "203.0.113.7"


@record
class Line:
    """One line to type, and texts that its output holds, in this order."""

    command: str
    expect: tuple[str, ...]


@record
class Step:
    """One stop: what it shows and the lines that show it."""

    title: str
    text: str
    lines: tuple[Line, ...]


def steps(edge: str, admin: str, origin: str, issuer: str, database: str) -> list[Step]:
    """The tour for these base URLs and this geo database."""
    shown = "HTTP|age|cache-status|x-served-by|set-cookie|ratelimit|retry-after|www-auth|location"
    status = f"| grep -iE '^({shown})|region|Hello|variant'"

    def curl(path: str, *options: str, client: str = GERMANY, again: int = 1) -> str:
        urls = [f"'{edge}{path}'"] * again
        return " ".join(["curl -si", *options, f"-H 'X-Forwarded-For: {client}'", *urls, status])

    def private(token: str = "") -> str:
        bearer = f"-H \"Authorization: Bearer $(curl -s '{issuer}/{token}')\""
        return curl("/private", *([bearer] if token else []))

    manage = f"-H 'Authorization: Bearer {TOKEN}'"
    client = f"-H 'X-Forwarded-For: {GERMANY}'"
    jar = "-b /tmp/edgeproxy-demo-jar -c /tmp/edgeproxy-demo-jar"
    edgeproxy = f"{shlex.quote(sys.executable)} -m edgeproxy"
    refused = ("401 Unauthorized", 'error="invalid_token"')
    return [
        Step(
            "A miss, then a hit",
            "Two requests on one connection. The second answer comes from the edge: same number, an Age.",
            (
                Line(
                    curl("/api/products", again=2),
                    ("fwd=uri-miss", '"answer":1', "Age: ", "; hit; ttl=", '"answer":1'),
                ),
            ),
        ),
        Step(
            "Stale, while it is refreshed",
            "Fresh for 2 s, asked every 3 s: the old answer comes at once, the one after it is new.",
            (
                Line(
                    curl("/api/news", "--rate 20/m", again=3),
                    ("fwd=uri-miss", '"answer":1', "; hit; ttl=-", '"answer":1', '"answer":2'),
                ),
            ),
        ),
        Step(
            "Stale, while the origin is broken",
            "The origin is told to fail, and the client wants no cached answer. It gets one all the same.",
            (
                Line(
                    f"curl -s {client} '{edge}/api/news' --next -s -X POST '{origin}/_control/fail?mode=on' "
                    f"--next -si {client} -H 'Cache-Control: no-cache' '{edge}/api/news' "
                    f"--next -s -X POST '{origin}/_control/fail?mode=off'",
                    ('"answer":', '"failing":true', "200 OK", "fwd=stale; fwd-status=503", '"failing":false'),
                ),
            ),
        ),
        Step(
            "A country that is denied",
            f"{NORTH_KOREA} lies in North Korea, says the demo's database.",
            (
                Line(curl("/", client=NORTH_KOREA), ("403 Forbidden", "detail=geo")),
                Line(
                    f"{edgeproxy} geo lookup {NORTH_KOREA} --database {shlex.quote(database)}",
                    ("country", "KP", "continent", "AS"),
                ),
            ),
        ),
        Step(
            "A country that goes to the other origin",
            "The same page for a client in Germany and one in the United States.",
            (
                Line(curl("/", client=GERMANY), ("200 OK", "Hello from <b>eu</b>", "country <b>DE</b>")),
                Line(curl("/", client=AMERICA), ("200 OK", "Hello from <b>us</b>", "country <b>US</b>")),
            ),
        ),
        Step(
            "A token that is missing, expired, forged, good",
            "Keys come from the issuer's JWKS; the good token's subject reaches the origin as X-User.",
            (
                Line(private(), ("401 Unauthorized", 'WWW-Authenticate: Bearer realm="demo"')),
                Line(private("token?ttl=-600"), (*refused, "expired")),
                Line(private("forged"), (*refused, "not valid")),
                Line(private("token?sub=alice"), ("200 OK", '"user":"alice"')),
            ),
        ),
        Step(
            "A token that is taken back",
            "Good until somebody says otherwise: within a second all workers refuse whatever mallory has.",
            (
                Line(private("token?sub=mallory"), ("200 OK", '"user":"mallory"')),
                Line(
                    f"curl -s -X POST {manage} '{admin}/revoke?provider=demo&sub=mallory'; echo; sleep 1",
                    ('"sub": "mallory"',),
                ),
                Line(private("token?sub=mallory"), (*refused, "revoked")),
            ),
        ),
        Step(
            "A sticky variant",
            "The first visit gets a cookie; the same cookie gets the same variant. A tester can choose.",
            (
                Line(
                    "rm -f /tmp/edgeproxy-demo-jar; " + curl("/", jar),
                    ("Set-Cookie: edge_ab=", "checkout variant <b>"),
                ),
                Line(curl("/", jar), ("200 OK", "checkout variant <b>")),
                Line(curl("/?ab_checkout=control"), ("checkout variant <b>control",)),
                Line(curl("/?ab_checkout=fast"), ("checkout variant <b>fast",)),
            ),
        ),
        Step(
            "What became of the experiment",
            "Who saw which variant, once each and without testers; requests, errors and latency of each.",
            (
                Line(
                    f"curl -s {manage} '{admin}/experiments'; echo",
                    ('"mismatch": {"found": false', '"control": {"share": 0.5', '"fast": {"share": 0.5'),
                ),
            ),
        ),
        Step(
            "A limit",
            "Five at once, then one each ten seconds: 429 with Retry-After and the RateLimit fields.",
            (
                Line(
                    f"for i in 1 2 3 4 5 6 7; do {curl('/limited')}; done",
                    ("200 OK", 'RateLimit: "tour";r=4', "429 Too Many Requests", "Retry-After: "),
                ),
            ),
        ),
        Step(
            "A limit on trial",
            "One a minute, in shadow mode: nobody is refused, and the numbers tell who would be.",
            (
                Line(
                    f"for i in 1 2 3; do {curl('/trial')}; done; curl -s '{admin}/metrics' "
                    "| grep '^edgeproxy_policy_shadow_total'",
                    (
                        "200 OK",
                        "200 OK",
                        "200 OK",
                        'decision="allow",policy="rate_limit",reason="-",route="trial"} 1.0',
                        'decision="refuse",policy="rate_limit",reason="quota-exceeded",route="trial"} 2.0',
                    ),
                ),
                Line(
                    f"curl -s {manage} -H 'Accept: text/plain' "
                    f"'{admin}/explain?method=GET&url={edge}/trial&from={GERMANY}'",
                    ("trial", "rate_limit (shadow)", "strict is used up", "but is only a shadow"),
                ),
            ),
        ),
        Step(
            "A purge",
            "The stored answer is forgotten by all workers; the next request asks the origin.",
            (
                Line(
                    f"curl -s -X POST {manage} -H 'Content-Type: application/json' "
                    f"-d '{{\"url\": \"{edge}/api/products\"}}' '{admin}/purge'; echo",
                    ('"purged": "url"',),
                ),
                Line(curl("/api/products"), ("fwd=uri-miss", '"answer":2')),
            ),
        ),
        Step(
            "Why?",
            "What would happen to a request, rule by rule. Nothing is spent by asking.",
            (
                Line(
                    f"curl -s {manage} -H 'Accept: text/plain' "
                    f"'{admin}/explain?method=GET&url={edge}/&from={AMERICA}'",
                    ("site", "geo", "US", "checkout", "us"),
                ),
                Line(
                    f"curl -s {manage} '{admin}/explain?method=GET&url={edge}/&from={NORTH_KOREA}'; echo",
                    ('"policy": "geo"', '"mode": "enforce"', '"verdict": "refuse"', '"answered": 403'),
                ),
            ),
        ),
        Step(
            "The numbers",
            "For Prometheus; one machine, however many workers.",
            (
                Line(
                    f"curl -s '{admin}/metrics' | "
                    "grep -E '^edgeproxy_(requests|cache_requests|policy_refusals)_total'",
                    (
                        'edgeproxy_requests_total{code="429",route="limited"}',
                        'edgeproxy_requests_total{code="2xx",route="api"}',
                        'result="stale-error",route="api"',
                        'policy="geo"',
                    ),
                ),
            ),
        ),
    ]


def render(tour: list[Step]) -> str:
    """The tour as text for a terminal."""
    lines: list[str] = []
    for number, step in enumerate(tour, 1):
        lines += ["", f"{number}. {step.title}", f"   {step.text}", ""]
        lines += [f"     {line.command}" for line in step.lines]
    return "\n".join(lines)
