"""How much a client likes what: the quality values of Accept and Accept-Encoding (RFC 9110 §12.4.2)."""

from __future__ import annotations


def qualities(value: bytes) -> dict[bytes, float]:
    """Each element of a field, in lower case, with its `q`, 0 to 1: 1 without one, 0 for no number."""
    found: dict[bytes, float] = {}
    for element in value.lower().split(b","):
        name, *parameters = element.split(b";")
        found[name.strip()] = _quality(parameters)
    return found


def _quality(parameters: list[bytes]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition(b"=")
        if name.strip() == b"q":
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                return 0.0
    return 1.0
