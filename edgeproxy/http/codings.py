"""Accept-Encoding in one spelling (RFC 9110 §12.5.3): clients write the same wish in many ways (A65)."""

from __future__ import annotations

from edgeproxy.http.message import Headers

KNOWN = (b"br", b"gzip", b"zstd")
"""The codings that origins offer."""


def canonical_codings(value: bytes, *, known_only: bool = False) -> bytes:
    """What a client takes, in one order; how much it likes each does not count.

    Codings that we do not know, and a refusal of the plain form, tell clients apart too, unless
    `known_only`: that is for where the origin is told the same. It is `identity` when there is nothing.
    """
    taken: set[bytes] = set()
    refused: set[bytes] = set()
    for part in value.lower().split(b","):
        coding, _, parameter = part.partition(b";")
        quality = parameter.strip().removeprefix(b"q=")
        (refused if parameter and not quality.strip(b"0. \t") else taken).add(coding.strip())
    if b"*" in taken:
        taken.update(KNOWN)
    words = [coding for coding in KNOWN if coding in taken - refused]
    if not known_only:
        words += sorted(taken - refused - {b"", b"*", b"identity", *KNOWN})
        if (b"identity" in refused or b"*" in refused) and b"identity" not in taken:
            words.append(b"identity;q=0")
    return b", ".join(words) or b"identity"


def with_known_codings(headers: Headers) -> Headers:
    """The fields of a request with the codings we know in one Accept-Encoding, as it goes on from here."""
    accepted = headers.get(b"accept-encoding")
    if accepted is None:
        return headers
    value = canonical_codings(accepted, known_only=True)
    if value == accepted:
        return headers
    raw = [field for field in headers.raw if field[0].lower() != b"accept-encoding"]
    return Headers([*raw, (b"Accept-Encoding", value)])
