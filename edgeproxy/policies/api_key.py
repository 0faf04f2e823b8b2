"""`api_key:` lets a request pass that carries a key whose SHA-256 stands in a file.

Rule 1: the edge never has the keys, only their digests; nobody can get in with what leaks from the file.
Rule 2: time tells nothing: what is compared is the digest of what was sent, which nobody can steer, and
the last comparison is of constant time.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from pydantic import model_validator

from edgeproxy.context import Context, Edit, Op
from edgeproxy.http.message import Field, Request, Response
from edgeproxy.http.replies import problem
from edgeproxy.policies.credential import Holder, Pass, entries, holder, let_pass, note, pass_of
from edgeproxy.policies.field_names import FieldName
from edgeproxy.snapshot import Snapshot
from edgeproxy.units import Model

MAX_KEY = 512
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_CHALLENGE: Field = (b"WWW-Authenticate", b"ApiKey")
_NEVER = bytes(32)


class ApiKeyRule(Model):
    """A known key is needed to pass."""

    file: Path
    """File of keys, read again when it changes: `NAME sha256:HEX [words of a scope]` on a line.
    `edgeproxy api-key` makes both; # begins a comment."""

    header: FieldName | None = "X-Api-Key"
    """Request header with the key, in Authorization after `ApiKey ` or `Bearer `; `null` for none."""

    query: FieldName | None = None
    """Query parameter with the key. It never goes on to the origin, nor into the cache key."""

    scope: str = ""
    """Words that the key's line must have; otherwise 403."""

    name_header: FieldName | None = None
    """Request header that tells the origin the key's name. What a client sends in it is dropped."""

    forward: bool = False
    """Whether the origin sees the header with the key."""

    @model_validator(mode="after")
    def _somewhere(self) -> ApiKeyRule:
        if self.header is None and self.query is None:
            raise ValueError("one of header and query must say where the key is")
        return self


class ApiKeys:
    """The digests of a file, each with its holder. Immutable."""

    __slots__ = ("_holders",)

    def __init__(self, holders: Mapping[bytes, Holder]) -> None:
        self._holders = holders

    def __len__(self) -> int:
        return len(self._holders)

    def find(self, key: bytes) -> Holder | None:
        """Whose key it is."""
        digest = sha256(key).digest()
        found = self._holders.get(digest)
        same = hmac.compare_digest(digest, digest if found is not None else _NEVER)
        return found if same else None


def parse_keys(data: bytes) -> ApiKeys:
    """The keys of a file. ValueError names the line, and never holds what stands in it."""
    holders: dict[bytes, Holder] = {}
    for number, words in entries(data):
        digest = _DIGEST.fullmatch(words[1]) if len(words) > 1 else None
        if digest is None:
            raise ValueError(f"line {number}: expected NAME sha256:HEX, with 64 lower-case hex digits")
        raw = bytes.fromhex(digest[1])
        if raw in holders:
            raise ValueError(f"line {number}: found a key that a line before has too")
        holders[raw] = holder(number, words[0], words[2:])
    return ApiKeys(holders)


def key_line(name: str, key: str) -> str:
    """The line of a key, for its file."""
    return f"{name} sha256:{sha256(key.encode()).hexdigest()}"


class ApiKeyAuth:
    """The policy of one route."""

    name = "api_key"
    reasons = ("key-missing", "invalid-key", "insufficient-scope")
    fails_open = False
    repeatable = True

    def __init__(self, rule: ApiKeyRule, keys: Snapshot[ApiKeys]) -> None:
        self._keys = keys
        self._header = (rule.header or "").lower().encode()
        self._query = (rule.query or "").encode()
        self._name_header = rule.name_header
        self._scope = frozenset(rule.scope.split())
        self._edits = (Edit(Op.REMOVE, self._header),) if self._header and not rule.forward else ()
        # RFC 9111 §3.5 guards Authorization alone: an answer to another field the origin sees is keyed by it.
        self._keyed = rule.forward and self._header not in (b"", b"authorization")
        self._passes: dict[Holder, Pass] = {}
        self.asserted = (rule.name_header.lower().encode(),) if rule.name_header else ()
        self.hidden_query = (self._query,) if self._query else ()

    def __call__(self, request: Request, ctx: Context, /) -> Response | None:
        key = self._find(request)
        if key is None:
            return self._refuse(request, ctx, 401, "key-missing", "An API key is needed.")
        found = self._keys.value.find(key) if len(key) <= MAX_KEY else None
        if found is None:
            return self._refuse(request, ctx, 401, "invalid-key", "The API key is not valid here.")
        if not self._scope.issubset(found.scope):
            return self._refuse(request, ctx, 403, "insufficient-scope", "The API key does not grant this.")
        note(ctx, self.name, "", found.name)
        let_pass(self._pass(found), ctx, self._keys)
        if self._keyed:
            ctx.key_parts += (b"key:" + sha256(key).hexdigest().encode(),)
        return None

    def _pass(self, found: Holder) -> Pass:
        made = self._passes.get(found)
        if made is None:
            if len(self._passes) > len(self._keys.value):
                self._passes.clear()  # the file changed often
            made = self._passes[found] = pass_of(found, self._name_header, self._edits)
        return made

    def _find(self, request: Request) -> bytes | None:
        """The key; what is sent in two places must be one key."""
        sent: list[bytes] = []
        value = request.headers.get(self._header) if self._header else None
        if value:
            scheme, _, rest = value.partition(b" ")
            plain = self._header != b"authorization"
            if scheme.lower() in (b"apikey", b"bearer") and rest:
                sent.append(rest.strip(b" "))
            elif plain:
                sent.append(value)
        if self._query:
            pairs = [pair.partition(b"=") for pair in request.query.split(b"&")]
            sent += [value for name, _, value in pairs if name == self._query and value]
        if not sent:
            return None
        return sent[0] if all(each == sent[0] for each in sent) else b" "  # nobody's key

    def _refuse(self, request: Request, ctx: Context, status: int, kind: str, detail: str) -> Response:
        note(ctx, self.name, detail)
        return problem(request, ctx, status, kind, detail, [_CHALLENGE] if status == 401 else [])
