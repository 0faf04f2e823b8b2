"""`routes[].compress` in the YAML."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from edgeproxy.http.coding import CodingRule
from edgeproxy.units import Model, Size, as_list

_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]+/(\*|[a-z0-9!#$&^_.+-]+)|\*\+[a-z0-9.-]+")
TEXT = (
    "text/*",
    "*+json",
    "*+xml",
    "application/json",
    "application/javascript",
    "application/xml",
    "application/wasm",
    "application/x-ndjson",
    "image/bmp",
    "font/ttf",
    "font/otf",
)
Coding = Literal["zstd", "br", "gzip"]


class CompressSection(Model):
    """What the edge compresses that the origin did not. Leave it off where answers repeat what a client sent
    beside a secret: their size then tells the secret (BREACH)."""

    codings: Annotated[
        tuple[Coding, ...],
        Field(min_length=1, max_length=3),
        BeforeValidator(as_list, json_schema_input_type=Coding | list[Coding]),
    ] = ("zstd", "br", "gzip")
    """Codings in the order of our liking; what the client likes better goes first."""
    types: tuple[str, ...] = Field(default=TEXT, min_length=1, max_length=64)
    """Media types: text/html, text/*, *+json. A stream of events only when it is named itself."""
    min_size: Size = 1024
    """Smaller answers are left as they are, when their size is known."""
    max_size: Size = 8 * 2**20
    """Larger ones too."""

    @field_validator("types")
    @classmethod
    def _are_types(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            if _TYPE.fullmatch(one) is None:
                raise ValueError(f"{one!r} is not a media type; write text/html, text/* or *+json")
        return value

    @field_validator("codings")
    @classmethod
    def _are_different(cls, value: tuple[Coding, ...]) -> tuple[Coding, ...]:
        for one in value:
            if value.count(one) > 1:
                raise ValueError(f"{one!r} is listed twice")
        return value

    @property
    def rule(self) -> CodingRule:
        """The section as requests meet it."""
        types = [one.encode() for one in self.types]
        return CodingRule(
            codings=tuple(one.encode() for one in self.codings),
            exact=frozenset(one for one in types if b"*" not in one),
            prefixes=tuple(one[:-1] for one in types if one.endswith(b"/*")),
            suffixes=tuple(one[1:] for one in types if one.startswith(b"*+")),
            min_size=self.min_size,
            max_size=self.max_size,
        )
