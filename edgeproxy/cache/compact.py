"""What many stored responses have in common is kept once: names of fields, usual fields, sets of names.

Without this a small response takes twice the memory. The tables are bounded, and begin anew when they are
full; entries keep what they hold. A field is shared when it comes a second time, so that values of one
response only (ETag, Date) do not push the others out.
"""

from __future__ import annotations

from edgeproxy.http.message import Field, Response
from edgeproxy.http.pieces import Body

MOST = 4096  # names, fields, sets; each
LONGEST = 256  # bytes of a value that is worth sharing
_PLACE = 8  # bytes of a reference
_PAIR = 64  # bytes of a tuple of two
_SMALL = 512  # bytes; what is larger is not of CPython's own pools
_BYTES = 33  # bytes of a bytes object beside its content

_names: dict[bytes, bytes] = {}
_fields: dict[Field, Field] = {}
_seen: set[int] = set()
_sets: dict[frozenset[bytes], frozenset[bytes]] = {}
_texts: dict[bytes, frozenset[bytes]] = {}


def weigh(content: Body) -> int:
    """Bytes of memory that a bytes object takes; the allocator deals in units of 16, and leaves holes between
    large ones of many sizes."""
    size = (len(content) + _BYTES + 15) & ~15
    return size if size <= _SMALL else size + size // 24


def compact(response: Response) -> tuple[Response, int]:
    """(the same response, as little of it its own as can be; bytes that its fields cost beside the body)."""
    fields: list[Field] = []
    size = weigh(response.head)
    for field in response.fields:
        shared = _fields.get(field)
        size += _PLACE
        if shared is None:
            shared = _share(field)
            size += _PAIR + weigh(field[1])
        fields.append(shared)
    names = _sets.get(response.names)
    if names is None:
        if len(_sets) >= MOST:
            _sets.clear()
        names = _sets[response.names] = frozenset([_name(name) for name in response.names])
    return Response(response.status, tuple(fields), response.body, response.head, names), size


def set_of_names(text: bytes) -> frozenset[bytes]:
    """The names in this text, which is what `text_of_names` makes of them: the same set for the same text."""
    names = _texts.get(text)
    if names is None:
        if len(_texts) >= MOST:
            _texts.clear()
        names = frozenset([_name(name) for name in text.split(b"\n") if name])
        names = _texts[text] = _sets.get(names, names)
    return names


def text_of_names(names: frozenset[bytes]) -> bytes:
    """A set of names as one text."""
    return b"\n".join(sorted(names))


def _share(field: Field) -> Field:
    """The field with a name that is shared; it is itself the next time."""
    field = _name(field[0]), field[1]
    if len(field[1]) <= LONGEST:
        mark = hash(field)
        if mark in _seen:
            if len(_fields) >= MOST:
                _fields.clear()
            _fields[field] = field
        else:
            if len(_seen) >= 4 * MOST:
                _seen.clear()
            _seen.add(mark)
    return field


def _name(name: bytes) -> bytes:
    shared = _names.get(name)
    if shared is None:
        if len(name) > LONGEST:
            return name
        if len(_names) >= MOST:
            _names.clear()
        shared = _names[name] = name
    return shared
