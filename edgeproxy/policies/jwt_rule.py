"""`jwt:` in a route's policies: whose token is needed, what it must say, what the origin learns."""

from __future__ import annotations

from typing import Annotated

from pydantic import Discriminator, Field, StringConstraints, Tag, field_validator, model_validator

from edgeproxy.policies.field_names import FieldName
from edgeproxy.policies.jwt_claims import Requirement, ScalarField, Values, Wanted
from edgeproxy.policies.jwt_provider import Text
from edgeproxy.units import Model

ProviderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]+$")]
ProviderNames = Annotated[tuple[ProviderName, ...], Field(min_length=1, max_length=16)]


def _kind(value: object) -> str:
    """Which of the ways to ask for a claim it is: a mistake is then told in terms of that one."""
    if isinstance(value, dict | Wanted):
        return "section"
    return "list" if isinstance(value, list | tuple) else "value"


_Asked = Annotated[
    Annotated[ScalarField, Tag("value")] | Annotated[Values, Tag("list")] | Annotated[Wanted, Tag("section")],
    Discriminator(_kind),
]
Required = dict[Text, _Asked]
Alternatives = Annotated[tuple[Required, ...], Field(min_length=1, max_length=16)]
_CREDENTIALS = frozenset({"authorization", "cookie", "proxy-authorization"})


class JwtRule(Model):
    """A good token is needed to pass."""

    provider: ProviderName | None = None
    """Name of the issuer among `jwt_providers`. Or one of the next two:"""

    any_of: ProviderNames | None = None
    """Names of issuers: a token of one of them is needed."""

    all_of: ProviderNames | None = None
    """Names of issuers: a token of each is needed, each in its own header, cookie or query parameter.
    `require`, `claims_to_headers` and later policies go by the token of the first."""

    optional: bool = False
    """Let requests without a token pass, without claims. A bad token is refused all the same."""

    require: Required | Alternatives = Field(default_factory=dict)
    """What the claims must say: every word of `scope`, one of the values of any other claim, or
    `{any: [...], all: [...], none: [...]}`. A dot leads into a nested claim. Of a list of such
    mappings one must hold. Otherwise 403."""

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
    def _can_be_met(cls, require: Required | Alternatives) -> Required | Alternatives:
        for group in require if isinstance(require, tuple) else (require,):
            if isinstance(require, tuple) and not group:
                raise ValueError("an alternative without a claim always holds; leave `require` out")
            for path, wanted in group.items():
                Requirement(path, wanted)
        return require

    @model_validator(mode="after")
    def _one_choice(self) -> JwtRule:
        given = [name for name in ("provider", "any_of", "all_of") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"found {found}, expected exactly one of provider, any_of and all_of")
        for names in (self.any_of, self.all_of):
            if names is not None and len(set(names)) != len(names):
                raise ValueError("a provider is named twice")
        return self

    @property
    def providers(self) -> tuple[str, ...]:
        """The names of all issuers, the first one first."""
        return self.any_of or self.all_of or ((self.provider,) if self.provider else ())

    def of(self, name: str) -> JwtRule:
        """What the rule asks of a token of the issuer `name` alone."""
        alone: dict[str, object] = {"provider": name, "any_of": None, "all_of": None}
        if self.all_of is not None:
            alone["optional"] = False
            if name != self.all_of[0]:
                alone |= {"require": {}, "claims_to_headers": {}}
        return self.model_copy(update=alone)
