"""Which bucket a request is counted in.

Rule: a bucket's name is made of the limit's name and the values it counts by, each with its length before
it. Routes that use one limit share its buckets, and a reload keeps them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from functools import lru_cache

from edgeproxy.context import Context
from edgeproxy.http.message import Request
from edgeproxy.policies.bucket_table import BucketKey, BucketTable
from edgeproxy.policies.identify import Source, source
from edgeproxy.policies.rate_limit_rule import BY_CLIENT, RateLimit

_REMEMBERED = 16_384  # keys per limit whose digest is kept
_LONGEST_REMEMBERED = 256  # longer values are hashed each time, so that memory stays bounded
_FOUND, _STAND_IN = "v", "c"  # first character of a value that may have been replaced

FindKey = Callable[[Request, Context], BucketKey | None]


def key_finder(name: str, config: RateLimit, table: BucketTable) -> FindKey:
    """What finds the bucket of a request; None when something to count by is missing and nothing may
    stand in for it."""
    key_of = _namer(name.encode(), config, table)
    if config.sources == BY_CLIENT:
        return lambda _, ctx: key_of(ctx.client)
    sources = _sources(config)

    def of_parts(request: Request, ctx: Context) -> BucketKey | None:
        values: list[str] = []
        for read in sources:
            value = read(request, ctx)
            if value is None:
                return None
            values.append(value)
        return key_of(*values)

    return of_parts


def related(table: BucketTable, word: bytes) -> Callable[[BucketKey], BucketKey]:
    """Bucket -> another bucket of the same client, for what `word` says."""

    @lru_cache(_REMEMBERED)
    def other(key: BucketKey) -> BucketKey:
        return table.key(word + b"\0" + key[0])

    return other


def bucket_address(client: str, ipv6_prefix: int) -> bytes:
    """The address that is counted: IPv4 whole (also when mapped into IPv6), IPv6 by its network.

    Text that is no address (a Unix socket's peer) counts as itself.
    """
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return b"=" + client.encode("utf-8", "surrogatepass")
    if isinstance(address, ipaddress.IPv4Address):
        return b"4" + address.packed
    if address.ipv4_mapped is not None:
        return b"4" + address.ipv4_mapped.packed
    network = int(address) >> (128 - ipv6_prefix)
    return b"6" + network.to_bytes(16, "big")


def _sources(config: RateLimit) -> tuple[Source, ...]:
    """The readers of `by`. When the client's address may stand in for a value, each says which it is."""

    def or_client(read: Source) -> Source:
        def either(request: Request, ctx: Context) -> str | None:
            value = read(request, ctx)
            return _STAND_IN + ctx.client if value is None else _FOUND + value

        return either

    readers = [source(text) for text in config.sources]
    return tuple([or_client(read) for read in readers] if _marked(config) else readers)


def _marked(config: RateLimit) -> bool:
    return config.on_missing == "client_ip" and config.sources != BY_CLIENT


def _namer(name: bytes, config: RateLimit, table: BucketTable) -> Callable[..., BucketKey]:
    """values -> bucket, remembered for short values. What is hashed cannot collide: lengths are in it."""
    kinds = config.sources
    prefix = config.ipv6_prefix
    marked = _marked(config)

    def part(kind: str, value: str) -> bytes:
        mark = value[:1] if marked else ""
        text = value.removeprefix(mark)
        if kind == "client_ip" or mark == _STAND_IN:
            return mark.encode() + bucket_address(text, prefix)
        return mark.encode() + text.encode("utf-8", "surrogatepass")

    def compute(*values: str) -> BucketKey:
        parts = [name, *[part(kind, value) for kind, value in zip(kinds, values, strict=True)]]
        return table.key(b"".join([len(p).to_bytes(4, "big") + p for p in parts]))

    remembered = lru_cache(_REMEMBERED)(compute)

    def bounded(*values: str) -> BucketKey:
        return remembered(*values) if sum(map(len, values)) <= _LONGEST_REMEMBERED else compute(*values)

    return remembered if kinds == BY_CLIENT else bounded
