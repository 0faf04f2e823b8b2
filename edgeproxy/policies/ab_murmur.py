"""Unleash's assignment arithmetic: MurmurHash3 (x86, 32 bits) of `group:unit`, as their SDKs do it.

Follows the client specification 5 and later. A rollout and a variant are drawn with different seeds, so that
who takes part says nothing about the variant.
"""

from __future__ import annotations

from collections.abc import Sequence

_MASK = 0xFFFFFFFF
_VARIANT_SEED = 86_028_157  # the specification's: the five-millionth prime


def murmur3(data: bytes, seed: int = 0) -> int:
    """MurmurHash3_x86_32 of `data`."""
    state = seed
    whole = len(data) & ~3
    for at in range(0, whole, 4):
        state ^= _mixed(int.from_bytes(data[at : at + 4], "little"))
        state = (state << 13 | state >> 19) & _MASK
        state = state * 5 + 0xE6546B64 & _MASK
    if whole < len(data):
        state ^= _mixed(int.from_bytes(data[whole:], "little"))
    state ^= len(data)
    state = (state ^ state >> 16) * 0x85EBCA6B & _MASK
    state = (state ^ state >> 13) * 0xC2B2AE35 & _MASK
    return state ^ state >> 16


def _mixed(block: int) -> int:
    block = block * 0xCC9E2D51 & _MASK
    block = (block << 15 | block >> 17) & _MASK
    return block * 0x1B873593 & _MASK


def in_rollout(group: str, unit: str, percent: float) -> bool:
    """Does the unit take part in a gradual rollout to `percent` of all?"""
    return _share(group, unit, 100, 0) <= percent


def choose_weighted(group: str, unit: str, weights: Sequence[int]) -> int:
    """Index of the unit's variant; -1 when nothing has weight."""
    total = sum(weights)
    if total <= 0:
        return -1
    target = _share(group, unit, total, _VARIANT_SEED)
    reached = 0
    for index, weight in enumerate(weights):
        reached += weight
        if weight and reached >= target:
            return index
    return -1


def _share(group: str, unit: str, parts: int, seed: int) -> int:
    """1 to `parts`."""
    return murmur3(f"{group}:{unit}".encode("utf-8", "surrogatepass"), seed) % parts + 1
