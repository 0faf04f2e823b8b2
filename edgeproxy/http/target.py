"""What a request is for: one host, one path, one query, decided once and used by everyone.

Routes, policies, limits, the cache key and the origin all see what this file returns, so that no
two of them can disagree (RFC 9112 §3.2, RFC 3986 §6.2.2; reliability A13-A15, A56).

The documented normalisation of a path:
- percent-encoded unreserved characters are decoded, other escapes get upper-case hex digits;
- `.` and `..` segments are resolved (a path that climbs above the root is refused), `//` is one `/`;
- `%2F`, `%5C` and every other escape stay escaped: nothing is ever decoded twice;
- control characters, spaces, `#`, `\\`, raw bytes above 0x7F, `%00` and broken escapes are refused.
"""

from __future__ import annotations

import re

from edgeproxy.errors import RequestError

_ORIGIN_FORM = re.compile(rb"/[!-\"$-\[\]^-~]*")
_ODD_PATH = re.compile(rb"%|/\.|//")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})?")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_HOST = re.compile(rb"([A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{0,5}))?")
_ABSOLUTE = re.compile(rb"(?i)(https?)://([^/?#]*)([^#]*)")
_PARAMETERS = re.compile(rb"(?:;|%3B)[^/]*")

_LONGEST_HOST = 261  # bytes: a name of 255 (RFC 1035 §2.3.4), a colon and a port
_HOST_MEMO_CAP = 4096
_host_memo: dict[tuple[bytes, bool], bytes] = {}


def split_target(
    target: bytes, host: bytes | None, *, secure: bool, method: bytes = b"GET"
) -> tuple[bytes, bytes, bytes]:
    """(host, path, query) of a request target and the Host field's value, both normalised.

    The authority of an absolute-form target replaces Host (RFC 9112 §3.2.2). OPTIONS of a whole server,
    `*` or an absolute form without a path, has the path `*` (§3.2.4). Raises RequestError 400 for anything
    that two servers could read in two ways.
    """
    if _ORIGIN_FORM.fullmatch(target) is None:
        if target == b"*" and method == b"OPTIONS":
            return normalise_host(host, secure=secure), target, b""
        match = _ABSOLUTE.fullmatch(target)
        if match is None:
            raise RequestError(400, "bad-target", "The request target is not a valid path or absolute URI.")
        normalise_host(host, secure=secure)  # still required to be well-formed
        host, target = match[2], match[3]
        if not target and method == b"OPTIONS":
            return normalise_host(host, secure=secure), b"*", b""
        if target[:1] != b"/":
            target = b"/" + target
        if _ORIGIN_FORM.fullmatch(target) is None:
            raise RequestError(400, "bad-target", "The request target holds characters a URI cannot have.")
    path, _, query = target.partition(b"?")
    if _ODD_PATH.search(path) is not None:
        path = normalise_path(path)
    return normalise_host(host, secure=secure), path, query


def normalise_path(path: bytes) -> bytes:
    """The one spelling of a path; see the file's head. Raises RequestError 400."""
    path = _ESCAPE.sub(_one_spelling, path)
    kept: list[bytes] = []
    segments = path[1:].split(b"/")
    for position, segment in enumerate(segments):
        last = position == len(segments) - 1
        if segment == b"..":
            if not kept:
                raise RequestError(400, "bad-target", "The path climbs above the root.")
            kept.pop()
        elif segment not in (b".", b""):
            kept.append(segment)
            continue
        if last and kept:
            kept.append(b"")  # a trailing slash, `.` or `..` names a directory
    return b"/" + b"/".join(kept)


def _one_spelling(match: re.Match[bytes]) -> bytes:
    digits = match[1]
    if digits is None or digits == b"00":
        raise RequestError(400, "bad-target", "The path holds a broken or forbidden percent-escape.")
    code = int(digits, 16)
    return bytes((code,)) if code in _UNRESERVED else b"%" + digits.upper()


def normalise_host(host: bytes | None, *, secure: bool) -> bytes:
    """Lower case, without trailing dot and default port. Raises RequestError 400 when malformed."""
    if host is None:
        raise RequestError(400, "bad-host", "HTTP/1.1 requests need exactly one Host field.")
    known = _host_memo.get((host, secure))
    if known is not None:
        return known
    match = _HOST.fullmatch(host) if len(host) <= _LONGEST_HOST else None
    if match is None or (match[2] and int(match[2]) > 65535):
        raise RequestError(400, "bad-host", "The Host field is not a valid host and port.")
    name = match[1].lower().removesuffix(b".")
    port = match[2]
    if port and int(port) != (443 if secure else 80):
        name += b":%d" % int(port)
    if not name:
        raise RequestError(400, "bad-host", "The Host field is not a valid host and port.")
    if len(_host_memo) >= _HOST_MEMO_CAP:  # a stranger's random hosts must not grow it
        _host_memo.clear()
    _host_memo[(host, secure)] = name
    return name


def without_parameters(path: bytes) -> bytes:
    """The path as routes match it: `;parameters` of each segment left out.

    Some origins ignore them, so `/admin;x=1` must meet the rules of `/admin` (A57).
    """
    return _PARAMETERS.sub(b"", path) if b";" in path or b"%3B" in path else path
