"""What a background task publishes and a policy reads: one reference, swapped, never waited for."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Snapshot(Generic[T]):
    """The latest immutable value. The feed that owns it writes `value`; everyone else reads it."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value
