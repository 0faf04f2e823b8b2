"""What a variant does beside having a name: other fields, another path, host or origin, or a redirect."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from edgeproxy.http.message import Request
from edgeproxy.policies.field_names import FieldName
from edgeproxy.policies.redirect_target import Target
from edgeproxy.units import Model

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_HOST = re.compile(r"(?:[a-z0-9_-]+\.)*[a-z0-9_-]+(?::\d{1,5})?")
_PATH = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,=:@-]+)*(?:\{path\}|/)?")


Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _value(text: str) -> str:
    if _CONTROL.search(text) or text != text.strip():
        raise ValueError(f"the value {text!r} has control characters, or spaces around it")
    return text


def _path(template: str) -> str:
    if not template or not _PATH.fullmatch(template) or re.search(r"/\.\.?(?:[/{]|$)", template):
        raise ValueError(f"{template!r} is no path; write /fast{{path}} or /fast.html")
    return template


def _host(name: str) -> str:
    if not _HOST.fullmatch(name):
        raise ValueError(f"{name!r} is no host; write it like beta.example.com, in lower case")
    return name


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
    path: Annotated[str, AfterValidator(_path)] | None = None
    """The path that the origin is asked for: `/fast{path}`, or `/fast.html` whatever was asked for."""
    host: Annotated[str, AfterValidator(_host)] | None = None
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


class Rewriter:
    """Path and host of a variant, applied to requests."""

    def __init__(self, path: str | None, host: str | None) -> None:
        self._host = None if host is None else host.encode()
        self._before, self._keeps = None, False
        if path is not None:
            self._before, self._keeps = path.removesuffix("{path}").encode(), path.endswith("{path}")

    def __call__(self, request: Request) -> Request:
        """The request as key and origin see it."""
        path, host = request.path, request.host
        if self._before is not None and path.startswith(b"/"):  # not `OPTIONS *`
            path = self._before + path if self._keeps else self._before
        if self._host is not None:
            host = self._host
        return (
            request
            if (path, host) == (request.path, request.host)
            else replace(request, path=path, host=host)
        )
