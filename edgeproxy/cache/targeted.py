"""Which field tells us how to cache: CDN-Cache-Control (RFC 9213), Surrogate-Control, Cache-Control.

The most specific one that can be read wins, and then the others, Expires included, are as if absent.
A targeted field that is not what it should be is ignored whole (RFC 9213 §2.1, reliability A85).
"""

from __future__ import annotations

import http_sf

from edgeproxy.cache.directives import AGES, FLAGS, FOREVER, Directives, parse_cache_control
from edgeproxy.http.message import Headers

_LONGEST = 8192  # bytes of a field worth reading
_MEMO_CAP = 1024
_USUAL = 256  # bytes; longer values are read each time, so that memory stays bounded
_memo: dict[bytes, Directives | None] = {}
_LISTS = {"no-cache": ("no_cache", "no_cache_fields"), "private": ("private", "private_fields")}


def response_control(headers: Headers, ident: bytes) -> tuple[Directives, bool]:
    """(the directives that count for us, whether they came in a field that is for caches like us).

    `ident` is the name by which Surrogate-Control may single us out.
    """
    index = headers.index
    cdn = index.get(b"cdn-cache-control")
    if cdn is not None:
        control = _remembered(cdn)
        if control is not None:
            return control, True
    surrogate = index.get(b"surrogate-control")
    if surrogate is not None:
        control = parse_surrogate_control(surrogate, ident)
        if control is not None:
            return control, True
    return parse_cache_control(index.get(b"cache-control")), False


def _remembered(value: bytes) -> Directives | None:
    if len(value) > _USUAL:
        return parse_cdn_cache_control(value)
    if value not in _memo:
        if len(_memo) >= _MEMO_CAP:
            _memo.clear()
        _memo[value] = parse_cdn_cache_control(value)
    return _memo[value]


def parse_cdn_cache_control(value: bytes) -> Directives | None:
    """The directives of a targeted field, a Dictionary of RFC 9651; None when it is to be ignored."""
    if not value or len(value) > _LONGEST:
        return None
    try:
        members = http_sf.parse(value, tltype="dictionary")
    except ValueError:
        return None
    assert isinstance(members, dict)  # noqa: S101 - what was asked for
    found: dict[str, object] = {}
    for key, member in members.items():
        name = key.lower()
        item = member[0] if isinstance(member, tuple) else member
        if name in _AGES:
            if type(item) is not int or item < 0:
                return None
            found[_AGES[name]] = min(item, FOREVER)
        elif name in _FLAGS:
            if item is not True:
                return None
            found[_FLAGS[name]] = True
        elif name in _LISTS:
            flag, fields = _LISTS[name]
            if item is True:
                found[flag] = True
            elif isinstance(item, str):
                names = {part.strip().lower().encode("latin-1") for part in item.split(",")}
                found[fields] = frozenset(names - {b""})
            else:
                return None
    return Directives(**found) if members else None  # type: ignore[arg-type]


_AGES = {name.decode(): attribute for name, attribute in AGES.items()}
_FLAGS = {name.decode(): attribute for name, attribute in FLAGS.items()}


def parse_surrogate_control(value: bytes, ident: bytes) -> Directives | None:
    """The directives for us of an Edge Architecture field: `max-age=60, no-store;other-cache`.

    A directive with a target counts for that cache only; one with ours wins over one without.
    `content` and what else is not about caching is skipped; None when nothing is left.
    """
    if len(value) > _LONGEST:
        return None
    general: list[bytes] = []
    ours: list[bytes] = []
    for member in value.split(b","):
        directive, _, target = member.partition(b";")
        name = directive.strip().partition(b"=")[0].lower()
        if name not in (b"max-age", b"no-store"):
            continue
        target = target.strip()
        if not target:
            general.append(directive.strip().partition(b"+")[0])
        elif target == ident:
            ours.append(directive.strip().partition(b"+")[0])
    chosen = ours or general
    return parse_cache_control(b", ".join(chosen)) if chosen else None
