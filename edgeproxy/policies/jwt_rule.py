"""`jwt:` in a route's policies: which issuer's token is needed, what it must say, what the origin learns."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, StringConstraints, field_validator

from edgeproxy.policies.field_names import FieldName
from edgeproxy.policies.jwt_claims import Requirement, Scalar
from edgeproxy.policies.jwt_provider import Text
from edgeproxy.units import Model

Required = dict[Text, Scalar | Annotated[tuple[Scalar, ...], Field(min_length=1)]]
_SCOPE = re.compile(r"[!#-\[\]-~]+( [!#-\[\]-~]+)*")  # RFC 6749 §3.3
_CREDENTIALS = frozenset({"authorization", "cookie", "proxy-authorization"})


class JwtRule(Model):
    """A good token is needed to pass."""

    provider: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]+$")]
    """Name of the issuer among `jwt_providers`."""

    optional: bool = False
    """Let requests without a token pass, without claims. A bad token is refused all the same."""

    require: Required = Field(default_factory=dict)
    """What the claims must say: every word of `scope`, one of the values of any other claim.
    A dot leads into a nested claim. Otherwise 403."""

    claims_to_headers: dict[Text, FieldName] = Field(default_factory=dict)
    """Claim -> request header for the origin. What a client sends in it is dropped."""

    forward: bool = True
    """Whether the origin sees the token."""

    @field_validator("claims_to_headers")
    @classmethod
    def _fit_for_claims(cls, headers: dict[str, str]) -> dict[str, str]:
        for name in headers.values():
            if name.lower().replace("_", "-") in _CREDENTIALS:
                raise ValueError(f"{name} carries credentials, not claims")
        return headers

    @field_validator("require")
    @classmethod
    def _scope_words(cls, require: Required) -> Required:
        if "scope" in require and not _SCOPE.fullmatch(Requirement("scope", require["scope"]).scope):
            raise ValueError("scope is words, like `read write` (RFC 6749 §3.3)")
        return require
