"""PURGE on the public listener: who may forgets a URL, and to all others there is no such method (A75).

No policy of the YAML's chains: the composition root builds one route of it when `cache.purge_method` is set.
Both must be right: the address of the client and the token.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Iterable
from typing import Annotated

from pydantic import BeforeValidator, Field, SecretStr

from edgeproxy.context import Context, Verdict
from edgeproxy.http.message import Request, Response
from edgeproxy.http.replies import NO_STORE, problem
from edgeproxy.http.wire import response
from edgeproxy.policies.networks import NetworkSet
from edgeproxy.purge_log import joined_location
from edgeproxy.units import Model, Network, NetworkField, as_absent, as_list

SOFT = b"x-soft-purge"
Append = Callable[[bytes, bool], tuple[int, list[bytes]]]
"""Purge `host/path?query`, softly or not: the position of the purge log after it, and everything it named."""


class PurgeMethod(Model):
    """Who may send PURGE to the public listener: it forgets the URL in all variants, or with
    `X-Soft-Purge: 1` makes it stale."""

    clients: Annotated[
        tuple[NetworkField, ...],
        Field(min_length=1),
        BeforeValidator(as_list, json_schema_input_type=str | list[str]),
    ]
    """Networks it may come from; to others there is no such method."""
    token: Annotated[Annotated[SecretStr, Field(min_length=16)] | None, BeforeValidator(as_absent)] = None
    """What stands after `Bearer` in Authorization; without one there is no such method for anybody."""


class PurgeByMethod:
    """The only step of the route of PURGE. It always answers."""

    name = "purge"
    reasons = ("purged", "method-not-allowed", "bad-purge-token")
    fails_open = False

    def __init__(self, networks: Iterable[Network], token: str, append: Append) -> None:
        self._networks = NetworkSet(networks)
        self._token = token.encode()
        self._append = append

    def __call__(self, request: Request, ctx: Context, /) -> Response | None:
        if ctx.client not in self._networks:  # nor is one over a Unix socket
            ctx.note(self.name, Verdict.REFUSE, f"{ctx.client} is not among cache.purge_method.clients")
            detail = "This route does not take that method."
            return problem(request, ctx, 405, "method-not-allowed", detail)
        if not self._knows(request):
            ctx.note(self.name, Verdict.REFUSE, "the token is missing or wrong")
            detail = "Send Authorization: Bearer with the token of PURGE."
            return problem(request, ctx, 401, "bad-purge-token", detail, [(b"WWW-Authenticate", b"Bearer")])
        soft = request.headers.get(SOFT) == b"1"
        location = joined_location((request.host, request.path, request.query))
        document: dict[str, object] = {
            "purged": "url", "value": location.decode("utf-8", "backslashreplace"), "soft": soft,
        }  # fmt: skip
        if ctx.notes is None:
            document["position"], (_, *others) = self._append(location, soft)
            document["rewritten"] = [other.decode("utf-8", "backslashreplace") for other in others]
        ctx.note(self.name, Verdict.ANSWER, "the URL is purged")
        ctx.reason = "purged"
        body = json.dumps(document, ensure_ascii=False).encode() + b"\n"
        return response(200, [(b"Content-Type", b"application/json"), NO_STORE], body)

    def _knows(self, request: Request) -> bool:
        given = request.headers.get_all(b"authorization")
        scheme, _, credential = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        right = hmac.compare_digest(credential.strip(), self._token)
        return scheme.lower() == b"bearer" and right
