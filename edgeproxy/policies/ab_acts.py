"""What a variant does beside having a name: other fields, another path, host or origin, or a redirect."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from edgeproxy.policies.field_names import FieldName, is_plain
from edgeproxy.policies.redirect_target import Target
from edgeproxy.policies.rewriter import check_host, check_path
from edgeproxy.units import Model

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _value(text: str) -> str:
    if not is_plain(text):
        raise ValueError(f"the value {text!r} has control characters, or spaces around it")
    return text


def _redirect(template: str) -> str:
    if "{country}" in template:
        raise ValueError("a variant's redirect fills in {path} and {query} only")
    Target(template)
    return template


class Variant(Model):
    """One variant: how many get it, and what it does. The origin is told its name in any case."""

    weight: Weight
    """How many get it, in relation to the weights of the others."""
    headers: dict[FieldName, Annotated[str, AfterValidator(_value)]] = Field(default_factory=dict)
    """Field -> value that the origin gets in addition. Clients cannot send it."""
    path: Annotated[str, AfterValidator(check_path)] | None = None
    """The path that the origin is asked for: `/fast{path}`, or `/fast.html` whatever was asked for."""
    host: Annotated[str, AfterValidator(check_host)] | None = None
    """The host that the origin is asked for, where it gets the client's."""
    origin: str | None = None
    """The origin that is asked, instead of the route's."""
    redirect: Annotated[str, AfterValidator(_redirect)] | None = None
    """URL its visitors are sent to: `https://beta.example.com{path}{query}` or `/beta{path}`."""

    @model_validator(mode="after")
    def _goes_one_way(self) -> Variant:
        elsewhere = (self.path, self.host, self.origin)
        if self.redirect is not None and any(each is not None for each in elsewhere):
            raise ValueError("a variant that redirects asks no origin; leave path, host and origin out")
        return self
