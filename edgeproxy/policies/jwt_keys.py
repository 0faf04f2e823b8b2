"""Verification keys: a key is bound to one algorithm, and a set is only ever looked up in.

`jwt_load` decides which keys get in; a token never brings one, and its `kid` is only compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from jwt.algorithms import Algorithm, ECAlgorithm, HMACAlgorithm, OKPAlgorithm, RSAAlgorithm, RSAPSSAlgorithm

from edgeproxy.record import record

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | Ed25519PublicKey

_SCHEMES: dict[str, Algorithm] = {
    "HS256": HMACAlgorithm(HMACAlgorithm.SHA256),
    "HS384": HMACAlgorithm(HMACAlgorithm.SHA384),
    "HS512": HMACAlgorithm(HMACAlgorithm.SHA512),
    "RS256": RSAAlgorithm(RSAAlgorithm.SHA256),
    "RS384": RSAAlgorithm(RSAAlgorithm.SHA384),
    "RS512": RSAAlgorithm(RSAAlgorithm.SHA512),
    "PS256": RSAPSSAlgorithm(RSAPSSAlgorithm.SHA256),
    "PS384": RSAPSSAlgorithm(RSAPSSAlgorithm.SHA384),
    "PS512": RSAPSSAlgorithm(RSAPSSAlgorithm.SHA512),
    "ES256": ECAlgorithm(ECAlgorithm.SHA256, ec.SECP256R1),
    "ES384": ECAlgorithm(ECAlgorithm.SHA384, ec.SECP384R1),
    "ES512": ECAlgorithm(ECAlgorithm.SHA512, ec.SECP521R1),
    "Ed25519": OKPAlgorithm(),
}
ALGORITHMS = frozenset(_SCHEMES)


@record
class Key:
    """A verification key and the one algorithm it is for."""

    kid: str | None
    alg: str
    material: bytes | PublicKey

    def verify(self, signed: bytes, signature: bytes) -> bool:
        """Whether `signature` is this key's over `signed`. Constant time where it is an HMAC."""
        return _SCHEMES[self.alg].verify(signed, self.material, signature)

    def __repr__(self) -> str:
        return f"Key(kid={self.kid!r}, alg={self.alg!r})"


class KeySet:
    """An immutable set of keys. A `kid` is only ever looked up in a dict: no file, no network."""

    __slots__ = ("_by_kid", "_only_one", "skipped")

    def __init__(self, keys: Iterable[Key], skipped: Iterable[tuple[str, str]] = ()) -> None:
        """`skipped` names the keys that were not taken: (kid or `#position`, reason)."""
        keys = tuple(keys)
        times = Counter(key.alg for key in keys)
        self._by_kid = {key.kid: key for key in keys if key.kid is not None}
        self._only_one = {key.alg: key for key in keys if times[key.alg] == 1}
        self.skipped = tuple(skipped)

    def find(self, kid: str | None, alg: str) -> Key | None:
        """The key of that `kid` bound to `alg`.

        A token without `kid` gets the only key of its algorithm; so does one whose `kid` cannot
        be compared because that key has none.
        """
        key = self._by_kid.get(kid) if kid is not None else self._only_one.get(alg)
        if key is None:
            key = self._only_one.get(alg)
            if key is not None and key.kid is not None:
                return None
        return key if key is not None and key.alg == alg else None

    def knows(self, kid: str | None) -> bool:
        """Whether some key has this `kid`, whatever its algorithm."""
        return kid in self._by_kid

    def __len__(self) -> int:
        return len(self._by_kid.keys() | {alg for alg, key in self._only_one.items() if key.kid is None})

    def __repr__(self) -> str:
        return f"KeySet({len(self)} keys, skipped={self.skipped!r})"
