"""What a response can be purged by beside its URL: tags, and the groups of RFC 9875.

A group belongs to an origin. It is kept as a tag that holds spaces, which no field with tags can spell and no
purge by tag can name.
"""

from __future__ import annotations

import re
from typing import cast

import http_sf

from edgeproxy.cache.invalidation import invalidates
from edgeproxy.http.message import Headers, Request

TAGS = 1024  # per response, groups included; more could not all be purged by
INVALIDATED = 64  # groups that one response may make doubtful
_LONGEST = 8192  # bytes of a field with groups worth reading
_TAG_ENDS = re.compile(rb"[,\s]+")
_BY_SPACE = frozenset({b"surrogate-key", b"xkey"})  # where a comma belongs to the tag
_GROUP = b"group "


def response_tags(request: Request, headers: Headers, names: tuple[bytes, ...]) -> frozenset[bytes] | None:
    """The tags in the fields of these lower-case names, and the groups of Cache-Groups. None: too many."""
    found: list[bytes] = []
    for name in names:
        value = headers.get(name)
        if value is not None:
            found += value.split() if name in _BY_SPACE else _TAG_ENDS.split(value)
    value = headers.get(b"cache-groups")
    if value is not None:
        found += [_group_tag(request, group) for group in parse_groups(value)]
    tags = frozenset(found) - {b""}
    return None if len(tags) > TAGS else tags


def is_group(tag: bytes) -> bool:
    """Is it a group of RFC 9875 rather than a tag?"""
    return tag.startswith(_GROUP)


def parse_groups(value: bytes) -> list[str]:
    """The members of a List of Strings (RFC 9875 §2); none when it is anything else."""
    if len(value) > _LONGEST:
        return []
    try:
        members = cast("list[tuple[object, object]]", http_sf.parse(value, tltype="list"))
    except ValueError:
        return []
    names = [name for name, _ in members if isinstance(name, str)]  # a token is no str there
    return names if len(names) == len(members) else []


def invalidated_groups(request: Request, status: int, headers: Headers) -> list[bytes]:
    """The groups, as tags, that a successful unsafe request makes doubtful (RFC 9875 §3)."""
    value = headers.get(b"cache-group-invalidation")
    if value is None or not invalidates(request, status):
        return []
    return [_group_tag(request, group) for group in parse_groups(value)[:INVALIDATED]]


def _group_tag(request: Request, group: str) -> bytes:
    scheme = b"https" if request.secure else b"http"
    return b"%b%b %b %b" % (_GROUP, scheme, request.host, group.encode())
