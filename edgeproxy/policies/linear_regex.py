"""Regular expressions that take time in proportion to the text, whatever they are: google-re2.

No look-ahead, look-behind or back-references: those are what makes other engines explode.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, cast

LONGEST = 1000  # characters of an expression
_MEMORY = 1 << 20  # bytes a compiled one may take

Captures = tuple[bytes | None, ...]


def linear_regex(pattern: str) -> tuple[Callable[[bytes], Captures | None], int]:
    """(what gives the groups of a whole match, how many there are). Raises ValueError."""
    if len(pattern) > LONGEST:
        raise ValueError(f"an expression of {len(pattern)} characters; at most {LONGEST} are taken")
    re2 = cast("Any", importlib.import_module("re2"))  # it brings no types
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1  # bytes as they are
    options.log_errors = False
    options.max_mem = _MEMORY
    try:
        compiled = re2.compile(pattern.encode("latin-1"), options=options)
    except UnicodeEncodeError:
        raise ValueError(f"{pattern!r} is not ASCII; paths come percent-encoded") from None
    except re2.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {_said(error)}") from None
    match = compiled.fullmatch

    def captures(text: bytes) -> Captures | None:
        found = match(text)
        return None if found is None else cast("Captures", found.groups())

    return captures, int(compiled.groups)


def _said(error: Exception) -> str:
    told: object = error.args[0] if error.args else error
    return told.decode("utf-8", "replace") if isinstance(told, bytes) else str(told)
