"""What pydantic expected, by the type of its error, in the words of a configuration file."""

from __future__ import annotations

SECTION = "a section"
LIST = "a list"
NUMBER = "a number"
WHOLE = "a whole number"
BOOL = "true or false"

# What an error type of pydantic expected, when the value is of the wrong kind altogether.
KINDS: dict[str, str] = {
    "string_type": "text",
    "path_type": "text",
    "bytes_type": "text",
    "int_type": WHOLE,
    "int_parsing": WHOLE,
    "int_parsing_size": WHOLE,
    "int_from_float": WHOLE,
    "float_type": NUMBER,
    "float_parsing": NUMBER,
    "finite_number": NUMBER,
    "bool_type": BOOL,
    "bool_parsing": BOOL,
    "list_type": LIST,
    "tuple_type": LIST,
    "set_type": LIST,
    "frozen_set_type": LIST,
    "dict_type": SECTION,
    "mapping_type": SECTION,
    "model_type": SECTION,
    "model_attributes_type": SECTION,
    "none_required": "null",
}
# What it expected of a value of the right kind; filled with the error's own figures.
BOUNDS: dict[str, str] = {
    "string_too_short": "{min_length} characters or more",
    "string_too_long": "{max_length} characters or fewer",
    "greater_than": "more than {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "less than {lt}",
    "less_than_equal": "{le} or less",
    "too_short": "{min_length} or more entries",
    "too_long": "{max_length} or fewer entries",
}
OF_TEXTS = frozenset({"too_short", "too_long"})  # said of secrets too, which are texts
NAME = "a name: a letter or digit, then letters, digits and ._-, 64 at most"
PATTERNS: dict[str, str] = {
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$": NAME,
    r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$": "module and class, like mypackage.module:MyPolicy",
}

BESIDE = frozenset({"with", "when", "mode", "on_error"})
"""Keys that stand beside the word of a policy."""
