"""Text patterns with `*`, matched in linear time: no regular expression, so none that can explode.

`*` in a path stays within a segment and a last `/**` takes the rest; elsewhere `*` is any text.
"""

from __future__ import annotations

from collections.abc import Callable

Matcher = Callable[[str], bool]


def text_pattern(pattern: str) -> Matcher:
    """A test for `exact`, `prefix*`, `*suffix` or `a*b*c`."""
    if "*" not in pattern:
        return pattern.__eq__
    first, *middle, last = pattern.split("*")
    needles = [part for part in middle if part]
    least = len(first) + len(last)

    def matches(text: str) -> bool:
        if len(text) < least or not text.startswith(first) or not text.endswith(last):
            return False
        # The leftmost place of each part leaves most room for the next: greedy is enough.
        at, end = len(first), len(text) - len(last)
        for needle in needles:
            at = text.find(needle, at, end)
            if at < 0:
                return False
            at += len(needle)
        return True

    return matches


def path_pattern(pattern: str) -> Matcher:
    """A test for `/exact`, `/prefix/**` (which also matches `/prefix`) or `/a/*/b`, as in `match.path`.

    Raises ValueError when it is no path, or has `**` elsewhere than at the end.
    """
    if not pattern.startswith("/"):
        raise ValueError(f"{pattern!r} is not a path; write /exact, /prefix/** or /a/*/b")
    stem = pattern.removesuffix("/**")
    if "**" in stem:
        raise ValueError(f"{pattern!r} has ** in the middle; it can only be the last segment: /prefix/**")
    deep = pattern.endswith("/**")
    if "*" not in stem:
        below = stem + "/"
        return (lambda path: path == stem or path.startswith(below)) if deep else stem.__eq__
    segments = [text_pattern(segment) for segment in stem.split("/")]
    count = len(segments)

    def matches(path: str) -> bool:
        found = path.split("/", count) if deep else path.split("/")
        if len(found) != count and not (deep and len(found) == count + 1):
            return False
        for test, segment in zip(segments, found, strict=False):  # noqa: SIM110 - cheaper than a generator
            if not test(segment):
                return False
        return True

    return matches
