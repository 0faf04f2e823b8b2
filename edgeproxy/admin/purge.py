"""What a purge request asks for, normalised as the doors normalise requests, so that both mean the same."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from edgeproxy.errors import EdgeError, RequestError
from edgeproxy.http.target import normalise_host, split_target
from edgeproxy.purge_log import MAX_VALUE, PurgeKind, joined_location
from edgeproxy.record import record

MAX_TAG = 1024  # bytes
_KINDS = {kind.word: kind for kind in PurgeKind}
_YES = frozenset({"", "1", "true", "yes", "on"})
_NO = frozenset({"0", "false", "no", "off"})
_PRINTABLE = "".join(chr(code) for code in range(0x21, 0x7F))


class PurgeError(EdgeError):
    """The purge cannot be understood; the message is for the person who asked."""


@record
class PurgeRequest:
    """What to append to the purge log."""

    kind: PurgeKind
    value: bytes
    soft: bool


def parse_purge(parameters: Mapping[str, object]) -> PurgeRequest:
    """The purge of `{"url": …}`, `prefix`, `host`, `tag` or `{"all": true}`. Raises PurgeError."""
    if unknown := sorted(set(parameters) - set(_KINDS) - {"soft"}):
        raise PurgeError(
            f"Unknown: {', '.join(unknown)}. A purge names one of {', '.join(_KINDS)}, and soft."
        )
    soft = "soft" in parameters and _flag("soft", parameters["soft"])
    named = [word for word in _KINDS if word in parameters]
    if len(named) != 1:
        raise PurgeError(f"A purge names exactly one of {', '.join(_KINDS)}.")
    word = named[0]
    value = parameters[word]
    if word == "all":
        if not _flag("all", value):
            raise PurgeError("all must be true.")
        return PurgeRequest(PurgeKind.ALL, b"", soft)
    if not isinstance(value, str) or not value.strip():
        raise PurgeError(f"{word} must be a text that is not empty.")
    return PurgeRequest(_KINDS[word], _VALUES[word](value.strip()), soft)


def _url(value: str) -> bytes:
    """`host/path?query` of a whole URL, as requests for it are keyed."""
    if not value.lower().startswith(("http://", "https://")):
        raise PurgeError("Write the whole URL, with http:// or https://.")
    target = quote(value, safe=_PRINTABLE).encode()  # as browsers send what is not ASCII
    try:
        host, path, query = split_target(target, b"purge", secure=value[:5].lower() == "https")
    except RequestError as error:
        raise PurgeError(error.detail) from None
    location = joined_location((host, path, query))
    if len(location) > MAX_VALUE:
        raise PurgeError(f"A URL has at most {MAX_VALUE} bytes.")
    return location


def _prefix(value: str) -> bytes:
    prefix = _url(value)
    if b"?" in prefix:
        raise PurgeError("A prefix ends in the path: it has no query.")
    return prefix


def _host(value: str) -> bytes:
    try:
        return normalise_host(value.encode("idna" if not value.isascii() else "ascii"), secure=False)
    except RequestError as error:
        raise PurgeError(error.detail) from None
    except UnicodeError:
        raise PurgeError("The host is not a valid name.") from None


def _tag(value: str) -> bytes:
    tag = value.encode("utf-8", "backslashreplace")
    if len(tag) > MAX_TAG or any(character.isspace() for character in value):
        raise PurgeError(f"A tag is one word of at most {MAX_TAG} bytes.")
    return tag


_VALUES = {"url": _url, "prefix": _prefix, "host": _host, "tag": _tag}


def _flag(name: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else None
    if word in _YES:
        return True
    if word in _NO:
        return False
    raise PurgeError(f"{name} must be true or false.")
