"""Hashed passwords, in the notation of PHC strings: scrypt (RFC 7914) and PBKDF2-SHA-256 (RFC 8018).

Rule: what a file may ask for is capped: a password must not cost more memory or time than we allow.
"""

from __future__ import annotations

import hmac
import re
from base64 import b64decode, b64encode
from collections.abc import Callable
from hashlib import pbkdf2_hmac, scrypt

from edgeproxy.record import record

_B64 = "[A-Za-z0-9+/.]"
_SCRYPT = re.compile(
    rf"\$scrypt\$ln=([0-9]{{1,2}}),r=([0-9]{{1,2}}),p=([0-9]{{1,2}})\$({_B64}{{11,86}})\$({_B64}{{22,86}})"
)
_PBKDF2 = re.compile(rf"\$pbkdf2-sha256\$(?:i=)?([0-9]{{1,7}})\$({_B64}{{11,86}})\$({_B64}{{22,86}})")
_MOST_MEMORY = 33 * 1024 * 1024  # ln=15 with r=8
_FEWEST_ROUNDS, _MOST_ROUNDS = 10_000, 1_000_000
_LN, _R, _P = 14, 8, 1  # about 40 ms and 16 MiB
EXPECTED = "$scrypt$ln=14,r=8,p=1$SALT$HASH or $pbkdf2-sha256$i=600000$SALT$HASH"


@record
class Hashed:
    """A password that can be recognised, not told."""

    digest: bytes
    derive: Callable[[bytes], bytes]

    def matches(self, password: bytes) -> bool:
        """Takes as long for a wrong one as for the right one: some 40 ms."""
        return hmac.compare_digest(self.derive(password), self.digest)

    def __repr__(self) -> str:
        return "Hashed(...)"


def parse_hash(text: str) -> Hashed:
    """ValueError says what was expected, never what was found."""
    if (found := _SCRYPT.fullmatch(text)) is not None:
        cost, block, parallel = 1 << min(int(found[1]), 30), int(found[2]), int(found[3])
        memory = 128 * block * (cost + parallel + 2)
        if memory > _MOST_MEMORY or min(int(found[1]), block, parallel) < 1 or parallel > 8 or cost < 1024:
            raise ValueError("expected scrypt with ln=10 or more, at most 33 MiB and p=8")
        salt, digest = _octets(found[4]), _octets(found[5])

        def by_scrypt(password: bytes) -> bytes:
            size = len(digest)
            return scrypt(password, salt=salt, n=cost, r=block, p=parallel, maxmem=memory, dklen=size)

        return Hashed(digest, by_scrypt)
    if (found := _PBKDF2.fullmatch(text)) is not None:
        rounds = int(found[1])
        if not _FEWEST_ROUNDS <= rounds <= _MOST_ROUNDS:
            raise ValueError(f"expected {_FEWEST_ROUNDS} to {_MOST_ROUNDS} rounds of PBKDF2")
        salt, digest = _octets(found[2]), _octets(found[3])
        return Hashed(digest, lambda password: pbkdf2_hmac("sha256", password, salt, rounds, len(digest)))
    raise ValueError(f"expected {EXPECTED}")


def hash_password(password: bytes, salt: bytes) -> str:
    """The scrypt string of a password; `salt` is 16 random bytes."""
    digest = scrypt(password, salt=salt, n=1 << _LN, r=_R, p=_P, maxmem=_MOST_MEMORY, dklen=32)
    return f"$scrypt$ln={_LN},r={_R},p={_P}${_text(salt)}${_text(digest)}"


def _text(data: bytes) -> str:
    return b64encode(data).rstrip(b"=").decode()


def _octets(text: str) -> bytes:
    """Base64 without padding; passlib writes `.` for `+`."""
    plain = text.replace(".", "+")
    try:
        return b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except ValueError:
        raise ValueError("expected base64 without padding") from None
