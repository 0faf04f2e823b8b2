"""Values as people write them in YAML: `30s`, `64MiB`, `100/s`, `0.0.0.0:8080`, `10.0.0.0/8`.

Each parser raises ValueError with a sentence that names what was found and what is expected;
`config.file` adds file, line and path.
"""

from __future__ import annotations

import ast
import inspect
import ipaddress
import re
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from typing import Annotated, Any, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler, WithJsonSchema
from pydantic_core import CoreSchema

from edgeproxy.record import record

_NUMBER = r"(\d+(?:\.\d+)?)"
_DURATION = re.compile(_NUMBER + r"(ms|s|m|h|d)")
_SIZE = re.compile(_NUMBER + r"(B|KiB|MiB|GiB|KB|MB|GB)?")
_RATE = re.compile(_NUMBER + r"/(s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Model(BaseModel):
    """Base of every configuration section: unknown keys refused, frozen, fields documented."""

    # Most edges use few of the sections: each is built when it is first needed.
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, defer_build=True)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """With the texts under the fields as descriptions."""
        made = handler(core)
        properties = handler.resolve_ref_schema(made).get("properties", {})
        for name, text in field_texts(cls).items():
            properties[cls.model_fields[name].alias or name].setdefault("description", text)
        return made


def field_texts(section: type[BaseModel]) -> dict[str, str]:
    """Field -> the text that stands under it, here or in a section that this one extends.

    pydantic would read the sources of all sections for that at import, a quarter of a start; but only
    editors and people with a mistake in their file ever see these texts.
    """
    return {name: text for each in reversed(section.__mro__) for name, text in _texts_of(each)}


def _texts_of(section: type) -> Iterator[tuple[str, str]]:
    if not issubclass(section, Model) or section is Model:
        return
    try:
        written = cast("ast.ClassDef", ast.parse(inspect.getsource(section)).body[0])
    except (OSError, TypeError):  # made at run time: nothing is written
        return
    for field, below in pairwise(written.body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, inspect.cleandoc(text)
            case _:
                pass


def parse_duration(value: object) -> float:
    """Seconds of `250ms`, `30s`, `5m`, `1h`, `7d`, or `0`."""
    if not isinstance(value, bool) and value in (0, "0"):
        return 0.0
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is not a duration; write a number and a unit: 250ms 30s 5m 1h 7d")
    return float(match[1]) * _SECONDS[match[2]]


def parse_size(value: object) -> int:
    """Bytes of `8KiB`, `64MiB`, `1GiB`, `500KB` or a plain number of bytes."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is not a size; write a number and a unit: 512B 8KiB 64MiB 1GiB")
    return int(float(match[1]) * _BYTES[match[2] or "B"])


@record
class Rate:
    """`count` requests per `seconds`."""

    count: float
    seconds: float

    @property
    def per_second(self) -> float:
        return self.count / self.seconds


def parse_rate(value: object) -> Rate:
    """Rate of `100/s`, `600/m`, `5000/h`, `10000/d`."""
    if isinstance(value, Rate):
        return value
    match = _RATE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or float(match[1]) == 0:
        raise ValueError(f"{value!r} is not a rate; write a count and a unit: 100/s 600/m 5000/h 10000/d")
    return Rate(float(match[1]), _SECONDS[match[2]])


@record
class Address:
    """Where a listener binds: host and port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(value: object) -> Address:
    """Address of `0.0.0.0:8080`, `[::]:8080` or `:8080`."""
    if isinstance(value, Address):
        return value
    if isinstance(value, str):
        host, colon, port = value.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if colon and port.isascii() and port.isdigit() and int(port) < 65536:
            try:
                return Address(str(ipaddress.ip_address(host or "0.0.0.0")), int(port))  # noqa: S104 - what a bare :port means
            except ValueError:
                pass
    raise ValueError(f"{value!r} is not an address; write IP:port, like 127.0.0.1:8080 or [::]:8080")


def parse_moment(value: object) -> datetime:
    """Moment of `2026-03-01T09:00:00Z` or with another offset; without any it could mean many."""
    if isinstance(value, datetime):
        return value
    try:
        moment = datetime.fromisoformat(value if isinstance(value, str) else "")
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError(f"{value!r} is not a moment; write date, time and zone: 2026-03-01T09:00:00Z")
    return moment


def parse_network(value: object) -> Network:
    """Network of `10.0.0.0/8`, `2001:db8::/32`, or one address."""
    if isinstance(value, Network):
        return value
    text = value.strip() if isinstance(value, str) else ""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(
            f"{value!r} is not a network; write it like 10.0.0.0/8 or 2001:db8::/32, or one address"
        ) from None
    address, _, length = text.partition("/")
    if length and ipaddress.ip_address(address) != network.network_address:
        raise ValueError(
            f"{value!r} is not a network; write {network} for all of it, or {address} for one address"
        )
    return network


def as_list(value: object) -> object:
    """One text is a list of one."""
    return [value] if isinstance(value, str) else value


def as_absent(value: object) -> object:
    """An empty text is nothing: what a variable that is not set leaves behind."""
    return None if value == "" else value


def _text(pattern: str, example: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern, "examples": [example]})


_ZERO_OR_TEXT = {"anyOf": [{"const": 0}, {"type": "string", "pattern": f"^(0|{_DURATION.pattern})$"}]}

Duration = Annotated[
    float, BeforeValidator(parse_duration), WithJsonSchema({**_ZERO_OR_TEXT, "examples": ["30s"]})
]
"""Seconds. A default is a float; what stands in a file has a unit, or is 0."""
Above0 = Annotated[
    float, BeforeValidator(parse_duration), Field(gt=0), _text(rf"^(?=.*[1-9]){_DURATION.pattern}$", "30s")
]
"""A duration that cannot be 0."""
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": f"^{_SIZE.pattern}$"}],
            "examples": ["64MiB"],
        }
    ),
]
RateField = Annotated[Any, BeforeValidator(parse_rate), _text(f"^{_RATE.pattern}$", "100/s")]
AddressField = Annotated[Any, BeforeValidator(parse_address), _text(r"^.*:\d+$", "0.0.0.0:8080")]
NetworkField = Annotated[Any, BeforeValidator(parse_network), _text(r"^.+$", "10.0.0.0/8")]
