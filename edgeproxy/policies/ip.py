"""`ip`: lists of networks that may come, and that may not."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from edgeproxy.context import Context, Verdict
from edgeproxy.http.message import Request, Response
from edgeproxy.http.replies import problem
from edgeproxy.policies.networks import NetworkSet
from edgeproxy.units import Model, Network, parse_network

_MOST = 100_000


def _networks(value: object) -> tuple[Network, ...]:
    """A list, of which each text may hold many: so that `${file:deny.txt}` is a list of its lines."""
    items = cast("list[object]", value) if isinstance(value, list | tuple) else [value]
    found: list[Network] = []
    for item in items:
        lines = item.splitlines() if isinstance(item, str) else [str(item)]
        for line in lines:
            found += [parse_network(word) for word in line.partition("#")[0].split()]
    if len(found) > _MOST:
        raise ValueError(f"{len(found)} networks; at most {_MOST} are taken")
    return tuple(found)


NetworksField = Annotated[
    Any,
    BeforeValidator(_networks),
    WithJsonSchema(
        {
            "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
            "examples": ["10.0.0.0/8"],
        }
    ),
]


class IpRule(Model):
    """Who may come, by address. A text may hold many networks, one a line; `#` begins a remark."""

    allow: NetworksField = ()
    """Only these may come; empty: all."""
    deny: NetworksField = ()
    """These may not, even if allowed."""
    status: Literal[403, 404, 451] = Field(default=403)
    """Status of a refusal."""

    @model_validator(mode="after")
    def _names_somebody(self) -> IpRule:
        if not (self.allow or self.deny):
            raise ValueError("found neither allow nor deny, expected networks in one of them")
        return self


class IpList:
    """The policy."""

    name = "ip"
    reasons = ("ip-denied", "ip-not-allowed")
    fails_open = False
    repeatable = True

    def __init__(self, rule: IpRule) -> None:
        self._allow = NetworkSet(rule.allow) if rule.allow else None
        self._deny = NetworkSet(rule.deny)
        self._status = rule.status

    def __call__(self, request: Request, ctx: Context, /) -> Response | None:
        """A refusal for who is denied, or not allowed. Text that is no address is in no network."""
        client = ctx.client
        reason = ""
        if client in self._deny:
            reason = "ip-denied"
        elif self._allow is not None and client not in self._allow:
            reason = "ip-not-allowed"
        if ctx.notes is not None:
            verdict = Verdict.REFUSE if reason else Verdict.ALLOW
            why = {"": "may come", "ip-denied": "is denied", "ip-not-allowed": "is not among the allowed"}[
                reason
            ]
            ctx.note(self.name, verdict, f"the address {why}", "ip", (("client", client),))
        if not reason:
            return None
        return problem(request, ctx, self._status, reason, "This address may not come here.")
