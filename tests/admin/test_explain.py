"""The two faces of an explanation."""

from __future__ import annotations

import json

from edgeproxy.admin.explain import Explanation, Stored
from edgeproxy.context import Edit, Note, Op, Verdict

FULL = Explanation(
    method="GET",
    url="https://shop.example.com/cart",
    client="203.0.113.7",
    client_why="right-most untrusted hop of X-Forwarded-For",
    route="shop",
    notes=(
        Note("rate_limit", Verdict.ALLOW, "per_client: 199 of 200 left"),
        Note("geo", Verdict.ALLOW, "country NL"),
        Note("jwt", Verdict.ALLOW, "sub=42, expires in 300 s"),
    ),
    variants=(("checkout", "fast"),),
    to_origin=(
        Edit(Op.SET, b"X-Geo-Country", b"NL"),
        Edit(Op.SET, b"Authorization", b"Bearer s3cret"),
        Edit(Op.REMOVE, b"X-Debug"),
    ),
    to_client=(Edit(Op.ADD, b"Set-Cookie", b"exp=s3cret"), Edit(Op.ADD, b"RateLimit", b'"per_client";r=199')),
    cache="uri-miss",
    key="https shop.example.com /cart variant:checkout=fast",
    stored=(
        Stored("worker 0", "age 2 s, fresh for 58 s more", True, (("age", 2), ("fresh_for", 58.0))),
        Stored("worker 1", "no answer within 0.5 s", False),
    ),
    filled="not stored: it is private",
    origin="eu",
    origin_why="nearest to the client",
    servers=("http://10.0.1.5:8000", "http://10.0.1.6:8000"),
)
REFUSED = Explanation(
    method="GET", url="http://a.example/", client="192.0.2.1", client_why="", route="all",
    notes=(Note("geo", Verdict.REFUSE, "country KP is denied"),), status=403,
)  # fmt: skip

TREE = """\
GET https://shop.example.com/cart
├─ client   203.0.113.7 (right-most untrusted hop of X-Forwarded-For)
├─ route    shop
├─ policies
│  ├─ rate_limit  allow  per_client: 199 of 200 left
│  ├─ geo         allow  country NL
│  └─ jwt         allow  sub=42, expires in 300 s
├─ variants
│  └─ checkout  fast
├─ to the origin
│  ├─ X-Geo-Country: NL
│  ├─ Authorization: ***
│  └─ - X-Debug
├─ to the client
│  ├─ + Set-Cookie: ***
│  └─ + RateLimit: "per_client";r=199
├─ cache    uri-miss
│  ├─ key: https shop.example.com /cart variant:checkout=fast
│  ├─ worker 0: age 2 s, fresh for 58 s more
│  ├─ worker 1: no answer within 0.5 s
│  └─ answer: not stored: it is private
└─ origin   eu (nearest to the client)
   ├─ http://10.0.1.5:8000
   └─ http://10.0.1.6:8000
"""


def test_the_tree_tells_the_story_in_order():
    assert FULL.as_tree() == TREE


def test_a_refusal_ends_the_tree():
    assert REFUSED.as_tree().splitlines()[-3:] == [
        "├─ policies",
        "│  └─ geo  refuse  country KP is denied",
        "└─ answer   403, from a policy: neither cache nor origin is asked",
    ]


def test_a_route_without_policies_says_so():
    plain = Explanation("GET", "http://a.example/", "192.0.2.1", "", "all", cache="bypass")
    assert "│  └─ none\n" in plain.as_tree()
    assert plain.as_tree().endswith("└─ cache    bypass\n")


def test_the_dict_is_json_with_the_same_keys_whatever_happened():
    full, refused = (json.loads(json.dumps(one.as_dict())) for one in (FULL, REFUSED))
    assert list(full) == list(refused)
    assert full["policies"][1] == {
        "policy": "geo",
        "mode": "enforce",
        "verdict": "allow",
        "why": "country NL",
        "rule": None,
        "values": {},
    }
    assert full["to_origin"][2] == {"op": "remove", "name": "X-Debug", "value": ""}
    assert full["cache"] == {
        "result": "uri-miss",
        "key": FULL.key,
        "stored": [
            {
                "where": "worker 0",
                "said": "age 2 s, fresh for 58 s more",
                "known": True,
                "response": {"age": 2, "fresh_for": 58.0},
            },
            {"where": "worker 1", "said": "no answer within 0.5 s", "known": False, "response": None},
        ],
        "answer": FULL.filled,
    }  # fmt: skip
    assert (refused["answered"], refused["cache"], refused["origin"]) == (403, None, None)
    assert (full["answered"], full["origin"]["servers"]) == (None, list(FULL.servers))


def test_neither_face_shows_credentials():
    assert "s3cret" not in FULL.as_tree() + json.dumps(FULL.as_dict())


def test_control_characters_never_reach_the_terminal():
    hostile = Explanation(
        "GET", "http://a.example/\x1b[2J\n", "192.0.2.1", "\x9b\u202e\u2028", "all",
        to_origin=(Edit(Op.SET, b"X-A", b"\x07\xff\x1b"),), key="\x00", cache="miss",
    )  # fmt: skip
    tree = hostile.as_tree()
    assert "\\x1b[2J\\n" in tree
    assert all(character.isprintable() or character == "\n" for character in tree)
    assert len(tree.splitlines()) == tree.count("\n") == 9


def test_rule_and_values_stand_below_what_they_decided():
    notes = (
        Note("geo", Verdict.REFUSE, "KP may not come", "deny: [KP]", (("country", "KP"),), shadow=True),
        Note("ab", Verdict.SKIP, "not asked", "method == POST"),
        Note("headers", Verdict.ALLOW, "nothing to edit"),
    )
    told = Explanation("GET", "http://a.example/", "192.0.2.1", "", "all", notes=notes)
    assert told.as_tree().splitlines()[4:9] == [
        "   ├─ geo (shadow)  refuse  KP may not come",
        "   │     rule deny: [KP]; country = KP",
        "   ├─ ab            skip    not asked",
        "   │     rule method == POST",
        "   └─ headers       allow   nothing to edit",
    ]
