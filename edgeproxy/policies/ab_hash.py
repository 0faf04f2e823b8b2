"""GrowthBook's assignment arithmetic: the same unit gets the same variant here and in their SDKs.

Follows the SDK specification 0.8 (hash versions 1 and 2). Pure functions over text and numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

from fnv_hash_fast import fnv1a_32

Range = tuple[float, float]
"""Half-open part of 0..1: a unit belongs to it when `low <= fraction < high`."""

_OFFSET = 0x811C9DC5
_PRIME = 0x01000193
_MASK = 0xFFFFFFFF


def fnv1a32(text: str) -> int:
    """FNV-1a over UTF-16 code units, as JavaScript SDKs do."""
    if text.isascii():
        return fnv1a_32(text.encode())
    state = _OFFSET
    for unit in memoryview(text.encode("utf-16-le", "surrogatepass")).cast("H"):
        state = (state ^ unit) * _PRIME & _MASK
    return state


def fraction(seed: str, value: str, version: int = 2) -> float | None:
    """Where `value` falls in 0..1 for `seed`; None for a hash version that does not exist."""
    if version == 2:
        return position(seed, value)
    if version == 1:  # biased when experiments share units; kept for namespaces
        return fnv1a32(value + seed) % 1000 / 1000
    return None


def position(seed: str, value: str) -> float:
    """`fraction` of version 2."""
    return fnv1a_32(b"%d" % fnv1a32(seed + value)) % 10000 / 10000


def equal_weights(count: int) -> list[float]:
    """`count` equal shares of 1."""
    return [1 / count] * count if count > 0 else []


def bucket_ranges(count: int, coverage: float, weights: Sequence[float] | None = None) -> list[Range]:
    """The range of each variant. Coverage shortens each at its end, so raising it moves nobody.

    Weights of the wrong number or sum are replaced by equal ones; coverage is clamped to 0..1.
    """
    coverage = min(max(coverage, 0.0), 1.0)
    if weights is None or len(weights) != count or not 0.99 <= sum(weights) <= 1.01:
        weights = equal_weights(count)
    ranges: list[Range] = []
    start = 0.0
    for weight in weights:
        ranges.append((start, start + coverage * weight))
        start += weight
    return ranges


def choose_variation(at: float, ranges: Sequence[Range]) -> int:
    """Index of the range that holds `at`, or -1."""
    for index, (low, high) in enumerate(ranges):
        if low <= at < high:
            return index
    return -1


def in_namespace(unit: str, name: str, low: float, high: float) -> bool:
    """Is `unit` in the part `low..high` of a namespace? Disjoint parts exclude each other."""
    return low <= fnv1a32(unit + "__" + name) % 1000 / 1000 < high


def query_value(name: str, query: str) -> str | None:
    """The first value of `name` in a query string, as it stands (nothing is decoded)."""
    for pair in query.split("&"):
        key, _, value = pair.partition("=")
        if key == name:
            return value
    return None


def as_index(text: str, count: int) -> int | None:
    """`text` as the index of one of `count` variants, or None."""
    if not (text.isascii() and text.isdigit() and len(text) <= 6):
        return None
    index = int(text)
    return index if index < count else None
