"""The cache key: injective, so that no field can spell another request's key (reliability A44, A45).

Every part is preceded by its length. What changes the origin's answer must be in here, or in the
response's Vary.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from edgeproxy.cache.entry import Location
from edgeproxy.cache.rule import CacheRule
from edgeproxy.context import Context
from edgeproxy.http.codings import canonical_codings
from edgeproxy.http.message import Headers, Request


def primary_key(rule: CacheRule, request: Request, query: bytes, ctx: Context) -> bytes:
    """The key of a request: scheme, host, path, query, the route's dimensions, what policies added."""
    if not rule.plain_query:
        query = normalised_query(rule, query)
    host, path = request.host, request.path
    key = b"%b%d:%b%d:%b%d:%b" % (
        b"s" if request.secure else b"h", len(host), host, len(path), path, len(query), query,
    )  # fmt: skip
    if ctx.key_parts or rule.headers or rule.cookies or rule.country:
        for part in _dimensions(rule, request, ctx):
            key += b"%d:%b" % (len(part), part)
    return key


CREDENTIALS = b"authorization"  # the sort of requests that show some


def sort_key(key: bytes, sort: bytes) -> bytes:
    """The key of a fetch for requests of one sort, as for one variant; no request has such a primary key."""
    return b"%b|%b" % (key, sort)


def location_of(key: bytes) -> Location:
    """Host, path and query that a primary key begins with."""
    parts = _parts(key)
    return next(parts), next(parts), next(parts)


def shown_key(key: bytes) -> str:
    """A primary key for people: scheme, host, path with query, and what else the route tells apart."""
    host, path, query, *dimensions = _parts(key)
    scheme = b"https" if key.startswith(b"s") else b"http"
    shown = [scheme, host, path + (b"?" + query if query else b""), *dimensions]
    return b" ".join(shown).decode("utf-8", "backslashreplace")


def _parts(key: bytes) -> Iterator[bytes]:
    at = 1
    while at < len(key):
        colon = key.index(b":", at)
        at = colon + 1 + int(key[at:colon])
        yield key[colon + 1 : at]


def _dimensions(rule: CacheRule, request: Request, ctx: Context) -> list[bytes]:
    # neither a token nor a country can hold what ends its kind and name, so no value spells another part
    parts = list(ctx.key_parts)
    for name in rule.headers:
        value = request.headers.get(name)
        parts.append(b"header:" + name + (b"" if value is None else b"=" + value))
    if rule.cookies:
        cookies = _cookies(request.headers)
        parts += [
            b"cookie:" + name + (b"=" + cookies[name] if name in cookies else b"") for name in rule.cookies
        ]
    if rule.country:
        parts.append(b"country:" + (ctx.place.country.encode() if ctx.place is not None else b""))
    return parts


def _cookies(headers: Headers) -> dict[bytes, bytes]:
    """Values by name. What is sent twice counts twice: nobody knows which one the origin reads."""
    found: dict[bytes, bytes] = {}
    for part in (headers.get(b"cookie") or b"").split(b";"):
        name, _, value = part.strip().partition(b"=")
        name = name.strip()
        found[name] = found[name] + b";" + value if name in found else value
    return found


def normalised_query(rule: CacheRule, query: bytes) -> bytes:
    """The query as key and origin see it: parameters left out, sorted, as the rule says (A48)."""
    if rule.plain_query or not query:
        return query
    kept = [part for part in query.split(b"&") if part and _counts(rule, part)]
    if rule.sort:
        kept.sort(key=lambda part: part.partition(b"=")[0])  # stable: repeated names keep their order
    return b"&".join(kept)


def _counts(rule: CacheRule, part: bytes) -> bool:
    name = unquote_to_bytes(part.partition(b"=")[0])
    if rule.allow is not None and name not in rule.allow:
        return False
    return name not in rule.deny and not (rule.deny_prefixes and name.startswith(rule.deny_prefixes))


def without_parameters(query: bytes, names: tuple[bytes, ...]) -> bytes:
    """The query without some parameters, the others as they were."""
    return b"&".join(
        [part for part in query.split(b"&") if unquote_to_bytes(part.partition(b"=")[0]) not in names]
    )


def only_keyed(rule: CacheRule, request: Request) -> Request:
    """The request with no more than the key and Vary can tell apart, where the rule wants that (A46)."""
    told = rule.told
    if told is None:
        return request
    kept = [field for field in request.headers if field[0].lower() in told]
    cookies = _cookies(request.headers) if rule.cookies else {}
    pairs = [name + b"=" + cookies[name] for name in rule.cookies if name in cookies]
    if pairs:
        kept.append((b"Cookie", b"; ".join(pairs)))
    return request.with_headers(Headers(kept))


def variant_key(names: tuple[bytes, ...], headers: Headers) -> bytes:
    """The selecting fields of a request for a stored Vary (RFC 9111 §4.1): absent is not empty."""
    parts: list[bytes] = []
    for name in names:
        value = headers.get(name)
        if value is None:
            parts.append(b"-")
            continue
        if name == b"accept-encoding":
            value = canonical_codings(value)
        elif name == b"accept-language":  # tags are case-insensitive; their order may be a preference
            value = b",".join([b"".join(part.split()) for part in value.lower().split(b",")])
        else:
            value = b",".join([part.strip() for part in value.split(b",")])
        parts.append(b"%d:%b" % (len(value), value))
    return b"".join(parts)
