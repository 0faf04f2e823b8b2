"""Cache-Control, read once and conservatively (RFC 9111 §5.2).

Rule: where two readings are possible the more restrictive one counts: the smaller of two ages, 0 for
one that is not a number, `no-store` when quotes do not balance.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from edgeproxy.record import record

FOREVER = 2**31  # RFC 9111 §1.2.2: larger values count as this
_PART = re.compile(
    rb"\s*([!#$%&'*+\-.^_`|~0-9A-Za-z]+)(?:(\s*=\s+|\s+=\s*)[^,]*|=(\"(?:[^\"\\]|\\.)*\"|[^\s,\"]*))?\s*(?:,|$)"
)
_QUOTED_PAIR = re.compile(rb"\\(.)")
_WORD = re.compile(rb"[a-z-]+")
_RESTRICTS = frozenset({b"no-store", b"no-cache", b"private", b"must-revalidate", b"max-age", b"s-maxage"})
_MEMO_CAP = 2048
_USUAL = 256  # bytes of a field worth remembering: strangers write long ones too
_LONGEST = 8192  # bytes of a field worth reading; what is longer forbids storing


@record
class Directives:
    """The directives of one message; ages in seconds. For absent ones None, False or empty."""

    max_age: int | None = None
    s_maxage: int | None = None
    no_store: bool = False
    no_cache: bool = False
    no_cache_fields: frozenset[bytes] = frozenset()
    private: bool = False
    private_fields: frozenset[bytes] = frozenset()
    public: bool = False
    must_revalidate: bool = False
    proxy_revalidate: bool = False
    must_understand: bool = False
    stale_while_revalidate: int | None = None
    stale_if_error: int | None = None
    min_fresh: int | None = None
    max_stale: int | None = None
    only_if_cached: bool = False
    immutable: bool = False


NONE = Directives()
FORBIDDEN = Directives(no_store=True)
_memo: dict[bytes, Directives] = {}
FLAGS = {
    b"no-store": "no_store",
    b"public": "public",
    b"must-revalidate": "must_revalidate",
    b"proxy-revalidate": "proxy_revalidate",
    b"must-understand": "must_understand",
    b"only-if-cached": "only_if_cached",
    b"immutable": "immutable",
}
AGES = {
    b"max-age": "max_age",
    b"s-maxage": "s_maxage",
    b"stale-while-revalidate": "stale_while_revalidate",
    b"stale-if-error": "stale_if_error",
    b"max-stale": "max_stale",
}
_FIELD_LISTS = {b"no-cache": ("no_cache", "no_cache_fields"), b"private": ("private", "private_fields")}


def parse_cache_control(value: bytes | None) -> Directives:
    """The directives of a combined Cache-Control value; remembered, because values repeat."""
    if not value:
        return NONE
    known = _memo.get(value)
    if known is None:
        known = _parse(value) if len(value) <= _LONGEST else FORBIDDEN
        if len(value) > _USUAL:
            return known
        if len(_memo) >= _MEMO_CAP:
            _memo.clear()
        _memo[value] = known
    return known


def _parse(value: bytes) -> Directives:
    found: dict[str, int | bool | frozenset[bytes]] = {}
    for name, argument in _split(value):
        if name == b"":
            return FORBIDDEN
        if name in FLAGS:
            found[FLAGS[name]] = True
        elif name in AGES:
            _keep_smaller(found, AGES[name], _age(name, argument))
        elif name == b"min-fresh":
            age = _age(name, argument)
            found["min_fresh"] = max(age, int(found.get("min_fresh", 0)))  # type: ignore[arg-type]
        elif name in _FIELD_LISTS:
            flag, fields = _FIELD_LISTS[name]
            if argument is None or argument[:1] != b'"' or not argument.strip(b' "'):
                found[flag] = True  # an argument without quotes is none that a sender may make
            else:
                plain = _QUOTED_PAIR.sub(rb"\1", argument[1:-1])
                names = {part.strip().lower() for part in plain.split(b",")}
                found[fields] = frozenset(names - {b""}) | found.get(fields, frozenset())  # type: ignore[operator]
    return Directives(**found)  # type: ignore[arg-type]


def _split(value: bytes) -> Iterator[tuple[bytes, bytes | None]]:
    """(name, argument) pairs; an empty name says the rest cannot be read."""
    position = 0
    while position < len(value):
        if value[position : position + 1] in (b",", b" ", b"\t"):
            position += 1
            continue
        match = _PART.match(value, position)
        if match is None:
            if value.find(b'"', position) >= 0:  # quotes that do not balance hide anything
                yield b"", None
                return
            comma = value.find(b",", position)
            end = len(value) if comma < 0 else comma
            for word in _WORD.findall(value[position:end].lower()):
                if word in _RESTRICTS:  # `private; max-age=60`: nobody means less than that
                    yield word, None
            position = end + 1
            continue
        position = match.end()
        # space around the `=` is not in the grammar: as if there were no argument that can be read
        yield match[1].lower(), b"" if match[2] is not None else match[3]


def _keep_smaller(found: dict[str, int | bool | frozenset[bytes]], key: str, age: int) -> None:
    found[key] = min(age, int(found.get(key, age)))  # type: ignore[arg-type]


def _age(name: bytes, argument: bytes | None) -> int:
    digits = (argument or b"").strip(b'"')
    if digits.isdigit():
        return min(int(digits[:12]), FOREVER)
    return FOREVER if name == b"max-stale" and argument is None else 0
