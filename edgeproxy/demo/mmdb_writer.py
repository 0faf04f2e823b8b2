"""Writes databases of the MaxMind DB format, version 2.0: for demonstrations and tests, not for millions.

The file is a binary search tree over address bits, the records it leads to, and the metadata.
IPv4 networks stand at ::/96 of the IPv6 tree. Equal values are written once and pointed at.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Mapping, Sequence
from typing import Final

from edgeproxy.units import Network

Value = str | bool | int | float | Mapping[str, "Value"] | Sequence["Value"]
"""What a record may hold: integers are unsigned and below 2**64, floats are written as doubles."""

_SEPARATOR: Final = bytes(16)  # between tree and data
_METADATA_MARKER: Final = b"\xab\xcd\xefMaxMind.com"
_STRING, _DOUBLE, _UINT16, _UINT32, _MAP, _UINT64, _ARRAY, _BOOLEAN = 2, 3, 5, 6, 7, 9, 11, 14
_POINTER_SIZES: Final = ((0x800, 0), (0x80800, 0x800), (0x8080800, 0x80800))  # (first value too large, bias)

_Leaf = int  # offset of a record in the data section
_Node = list["_Node | _Leaf | None"]


class Writer:
    """Collects networks, then renders the file."""

    def __init__(self, database_type: str, description: str, *, record_size: int = 28) -> None:
        """`record_size` is 24, 28 or 32 bits: how many nodes and how much data the tree can address."""
        if record_size not in (24, 28, 32):
            raise ValueError(f"record_size is 24, 28 or 32, not {record_size}")
        self._type = database_type
        self._description = description
        self._record_size = record_size
        self._data = _Data()
        self._root: _Node = [None, None]

    def insert(self, network: Network, record: Mapping[str, Value]) -> None:
        """Give every address of `network` this record; a narrower network overrides a wider one.

        Insert wide networks before narrow ones. Raises ValueError when the order is the other way.
        """
        bits, length = _bits(network)
        leaf = self._data.add(record)
        node = self._root
        for depth in range(length - 1):
            below = node[bits >> (127 - depth) & 1]
            if below is None or isinstance(below, int):  # a leaf is split: both halves keep its record
                below = node[bits >> (127 - depth) & 1] = [below, below]
            node = below
        last = bits >> (128 - length) & 1
        if not (node[last] is None or isinstance(node[last], int)):
            raise ValueError(f"{network} covers networks that were inserted before it")
        node[last] = leaf

    def render(self, build_epoch: int) -> bytes:
        """The whole file. `build_epoch` is in seconds. Raises ValueError when `record_size` is too small."""
        nodes = _numbered(self._root)
        tree = b"".join([self._pair(node, nodes) for node, _ in nodes.values()])
        metadata = _Data(pointers=False)
        metadata.add(
            {
                "binary_format_major_version": _Short(2),
                "binary_format_minor_version": _Short(0),
                "build_epoch": _Long(build_epoch),
                "database_type": self._type,
                "description": {"en": self._description},
                "ip_version": _Short(6),
                "languages": ["en"],
                "node_count": len(nodes),
                "record_size": _Short(self._record_size),
            }
        )
        return tree + _SEPARATOR + bytes(self._data.written) + _METADATA_MARKER + bytes(metadata.written)

    def _pair(self, node: _Node, nodes: dict[int, tuple[_Node, int]]) -> bytes:
        left, right = [self._value(side, nodes) for side in node]
        size = self._record_size
        if max(left, right) >> size:
            raise ValueError(f"the database is too large for records of {size} bits")
        if size == 28:  # both upper nibbles share the byte in the middle
            return (
                (left & 0xFFFFFF).to_bytes(3, "big")
                + bytes([left >> 24 << 4 | right >> 24])
                + (right & 0xFFFFFF).to_bytes(3, "big")
            )
        return left.to_bytes(size // 8, "big") + right.to_bytes(size // 8, "big")

    @staticmethod
    def _value(side: _Node | _Leaf | None, nodes: dict[int, tuple[_Node, int]]) -> int:
        if side is None:
            return len(nodes)
        if isinstance(side, int):
            return len(nodes) + len(_SEPARATOR) + side
        return nodes[id(side)][1]


class _Short(int):
    """Written as a 16-bit integer."""


class _Long(int):
    """Written as a 64-bit integer."""


class _Data:
    """A data section: values one behind the other, what was there already as a pointer."""

    def __init__(self, *, pointers: bool = True) -> None:
        self.written = bytearray()
        self._pointers = pointers
        self._seen: dict[bytes, int] = {}

    def add(self, record: Mapping[str, Value]) -> int:
        """Offset of the record."""
        whole = _plain(record)
        offset = self._seen.get(whole)
        if offset is None:
            encoded = self._encode(record)
            offset = self._seen[whole] = len(self.written)
            self.written += encoded
        return offset

    def _encode(self, value: Value) -> bytes:
        match value:
            case Mapping():
                inner = [self._shared(key) + self._shared(each) for key, each in value.items()]
                return _control(_MAP, len(value)) + b"".join(inner)
            case str() | bool() | int() | float():
                return _scalar(value)
            case _:
                return _control(_ARRAY, len(value)) + b"".join([self._shared(each) for each in value])

    def _shared(self, value: Value) -> bytes:
        """A pointer to the value, which is written first if it is new and worth it."""
        if not self._pointers or not isinstance(value, str) or len(value) < 4:
            return self._encode(value)
        encoded = _scalar(value)
        offset = self._seen.get(encoded)
        if offset is None:
            offset = self._seen[encoded] = len(self.written)
            self.written += encoded
        return _pointer(offset)


def _plain(value: Value) -> bytes:
    """The value without pointers: what tells two records apart."""
    return _Data(pointers=False)._encode(value)


def _scalar(value: str | bool | int | float) -> bytes:
    match value:
        case str():
            encoded = value.encode()
            return _control(_STRING, len(encoded)) + encoded
        case bool():
            return _control(_BOOLEAN, int(value))
        case float():
            return _control(_DOUBLE, 8) + struct.pack(">d", value)
        case int():
            raw = value.to_bytes((value.bit_length() + 7) // 8, "big")
            if isinstance(value, _Short):
                return _control(_UINT16, len(raw)) + raw
            kind = _UINT64 if isinstance(value, _Long) or value >> 32 else _UINT32
            return _control(kind, len(raw)) + raw


def _control(kind: int, size: int) -> bytes:
    """The bytes before a value: its type and size."""
    if size < 29:
        code, more = size, b""
    elif size < 285:
        code, more = 29, (size - 29).to_bytes(1, "big")
    elif size < 65821:
        code, more = 30, (size - 285).to_bytes(2, "big")
    else:
        raise ValueError(f"a value of {size} bytes or items is too large")
    extended = kind > 7
    return (bytes([code, kind - 7]) if extended else bytes([kind << 5 | code])) + more


def _pointer(offset: int) -> bytes:
    for size, (limit, bias) in enumerate(_POINTER_SIZES, 1):
        if offset < limit:
            raw = (offset - bias).to_bytes(size + 1, "big")  # three bits of it fit into the first byte
            return bytes([1 << 5 | (size - 1) << 3 | raw[0]]) + raw[1:]
    return bytes([1 << 5 | 3 << 3]) + offset.to_bytes(4, "big")


def _bits(network: Network) -> tuple[int, int]:
    """The network's place in the IPv6 tree: its bits from the top, and how many of them count."""
    if isinstance(network, ipaddress.IPv4Network):
        return int(network.network_address), network.prefixlen + 96
    if network.prefixlen == 0:
        raise ValueError("::/0 is the whole tree, not a network in it")
    return int(network.network_address), network.prefixlen


def _numbered(root: _Node) -> dict[int, tuple[_Node, int]]:
    """Every inner node by identity, with its number in the tree."""
    nodes: dict[int, tuple[_Node, int]] = {}
    waiting = [root]
    while waiting:
        node = waiting.pop()
        nodes[id(node)] = (node, len(nodes))
        waiting += [side for side in node if isinstance(side, list)]
    return nodes
