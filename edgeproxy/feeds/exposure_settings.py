"""What `exposures:` in the configuration may say."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, StringConstraints

from edgeproxy.units import Above0, Model

_URL = re.compile(r"https?://[^\s/?#@]+(?:[/?][^\s#]*)?")


def _url(text: str) -> str:
    if not _URL.fullmatch(text):
        raise ValueError(f"{text!r} is no URL; write it like https://collector.example.com/exposures")
    return text


class ExposureSection(Model):
    """Where exposures are written down: which unit saw which variant, once per unit and experiment."""

    file: Annotated[str, StringConstraints(min_length=1)] | None = None
    """File to append JSON lines to."""
    url: Annotated[str, AfterValidator(_url)] | None = None
    """Collector that batches of JSON lines are posted to."""
    token: SecretStr = SecretStr("")
    """Bearer token for the collector."""
    unit: Literal["hashed", "plain"] = "hashed"
    """Write a hash of the unit, or the unit itself: an address, a user, a session."""
    salt: SecretStr = SecretStr("")
    """What the hash is keyed with; without one, addresses can be guessed from it."""
    batch: int = Field(default=500, ge=1, le=10_000)
    """The most lines of one write or post."""
    interval: Above0 = 5.0
    """Time between two writes; longer while they fail."""
    buffer: int = Field(default=10_000, ge=1, le=1_000_000)
    """Lines of one worker that may wait; more are dropped and counted."""
