"""`@record`: values that are frozen to the type checker and plain slots at run time.

A frozen dataclass pays about 1 µs to be built (it goes through `object.__setattr__`), which is a
twentieth of what a whole cache hit may cost. So the promise is kept by pyright instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, dataclass_transform

T = TypeVar("T")

if TYPE_CHECKING:

    @dataclass_transform(frozen_default=True)
    def record(cls: type[T]) -> type[T]: ...

else:

    def record(cls: type[T]) -> type[T]:
        return dataclass(slots=True, unsafe_hash=True)(cls)  # hashed by value, as frozen ones are
