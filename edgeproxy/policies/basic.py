"""`basic:` lets a request pass with a user's name and password (RFC 7617), hashed in a file.

It is for admin-like routes.

Rule 1: a password costs some 40 ms to check, by design. That is done in a thread while the request waits; no
more than a few are checked within a second, fewer of one client, and what was found out is remembered.
Rule 2: what is remembered is a digest under a random key, never a password. A user nobody knows costs as
much as one whose password is wrong.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints

from edgeproxy.context import Context, Edit, Op, Pause
from edgeproxy.http.message import Request, Response
from edgeproxy.http.replies import problem
from edgeproxy.policies.basic_hash import Hashed, parse_hash
from edgeproxy.policies.credential import Holder, Pass, entries, holder, let_pass, note, pass_of
from edgeproxy.policies.failure_budget import FailureBudget
from edgeproxy.policies.field_names import FieldName
from edgeproxy.snapshot import Snapshot
from edgeproxy.units import Model

Realm = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9 ._-]+$", max_length=64)]
MAX_CREDENTIAL = 1024
CHECKS = 5  # a second, in one worker
_WAITS = 10.0  # seconds that a request waits for its check
_REFUSED_SIZE = 1024
_REFUSED_FOR = 10.0  # seconds
_TOKEN68 = re.compile(rb"basic +([A-Za-z0-9+/]+={0,2})", re.IGNORECASE)


Done = Callable[["Holder | None"], None]
Later = Callable[[Callable[[], "Holder | None"], Done], None]
"""Does a check elsewhere, and says from the event loop what came of it."""


class BasicRule(Model):
    """A known user's name and password are needed to pass."""

    file: Path
    """File of users, read again when it changes: `NAME HASH [words of a scope]` on a line, where HASH is as
    `edgeproxy password` prints it; # begins a comment."""

    realm: Realm = "restricted"
    """What a browser shows when it asks for the password."""

    scope: str = ""
    """Words that the user's line must have; otherwise 403."""

    name_header: FieldName | None = None
    """Request header that tells the origin the user's name. What a client sends in it is dropped."""

    forward: bool = False
    """Whether the origin sees name and password."""

    max_failures: Annotated[int, Field(ge=1, le=CHECKS)] = 2
    """Wrong passwords of one client (IPv6: of its /64) that each worker checks within a second; then 429."""

    cache_size: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """Right passwords each worker remembers, so that they cost nothing until the file changes."""


class Users:
    """The users of a file. Immutable."""

    __slots__ = ("_anybody", "_users")

    def __init__(self, users: Mapping[bytes, tuple[Holder, Hashed]]) -> None:
        self._users = users
        self._anybody = next(iter(users.values()), None)

    def __len__(self) -> int:
        return len(self._users)

    def check(self, name: bytes, password: bytes) -> Holder | None:
        """Who it is; None when nobody has that name and password. Some 40 ms in any case."""
        found = self._users.get(name) or self._anybody
        if found is None:
            return None
        matches = found[1].matches(password)
        return found[0] if matches and found[0].name.encode() == name else None


def parse_users(data: bytes) -> Users:
    """The users of a file. ValueError names the line, and never holds what stands in it."""
    users: dict[bytes, tuple[Holder, Hashed]] = {}
    for number, words in entries(data):
        if len(words) < 2:
            raise ValueError(f"line {number}: expected NAME HASH")
        try:
            hashed = parse_hash(words[1])
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        who = holder(number, words[0], words[2:])
        if who.name.encode() in users:
            raise ValueError(f"line {number}: found a name that a line before has too")
        users[who.name.encode()] = (who, hashed)
    return Users(users)


class BasicAuth:
    """The policy of one route."""

    name = "basic"
    reasons = (
        "password-missing", "invalid-password", "insufficient-scope", "password-unchecked",
        "too-many-passwords",
    )  # fmt: skip
    fails_open = False
    repeatable = True

    def __init__(
        self, rule: BasicRule, users: Snapshot[Users], key: bytes, later: Later | None = None
    ) -> None:
        """`key` is 32 random bytes that nobody else has. Without `later`, passwords are checked at once."""
        self._later = later
        self._running: dict[bytes, list[Callable[[], None]]] = {}
        self._users = users
        self._key = key
        self._challenge = b'Basic realm="%b", charset="UTF-8"' % rule.realm.encode()
        self._scope = frozenset(rule.scope.split())
        self._name_header = rule.name_header
        self._edits = () if rule.forward else (Edit(Op.REMOVE, b"Authorization"),)
        self._cache_size = rule.cache_size
        self._budget = FailureBudget(rule.max_failures)
        self._second, self._checks = 0, 0
        self._passed: dict[bytes, tuple[Users, Holder, Pass]] = {}
        self._refused: dict[bytes, tuple[Users, float]] = {}
        self.asserted = (rule.name_header.lower().encode(),) if rule.name_header else ()

    def __call__(self, request: Request, ctx: Context, /) -> Response | None:
        value = request.headers.get(b"authorization") or b""
        found = _TOKEN68.fullmatch(value) if len(value) <= MAX_CREDENTIAL else None
        if found is None:
            return self._refuse(request, ctx, "password-missing", "A user's name and password are needed.")
        digest = blake2b(found[1], digest_size=16, key=self._key).digest()
        known = self._passed.get(digest)
        if known is None or known[0] is not self._users.value:
            checked = self._check(found[1], digest, ctx)
            if checked is None:
                return self._wait(request, ctx)
            if isinstance(checked, str):
                return self._refuse(request, ctx, "invalid-password", checked)
            known = checked
        if not self._scope.issubset(known[1].scope):
            detail = "This user may not do this."
            note(ctx, self.name, detail)
            return problem(request, ctx, 403, "insufficient-scope", detail)
        note(ctx, self.name, "", known[1].name)
        let_pass(known[2], ctx, self._users)
        return None

    def _wait(self, request: Request, ctx: Context) -> Response:
        """The answer if it stays at that: the check takes too long, or there are too many."""
        if ctx.pause is not None:
            detail = "The password could not be checked in time."
            return problem(request, ctx, 503, "password-unchecked", detail, [(b"Retry-After", b"1")])
        ctx.pause = Pause(1.0)
        detail = "Too many passwords within a second; wait."
        return problem(request, ctx, 429, "too-many-passwords", detail, [(b"Retry-After", b"1")])

    def _check(self, encoded: bytes, digest: bytes, ctx: Context) -> tuple[Users, Holder, Pass] | str | None:
        """Who it is, or why it is nobody; None when nobody can say yet, or will in this second."""
        users, wrong = self._users.value, "The name or the password is wrong."
        refused = self._refused.get(digest)
        if refused is not None and refused[0] is users and ctx.now < refused[1]:
            return wrong
        running = self._running.get(digest)
        if running is not None and ctx.pause is None:
            ctx.pause = Pause(_WAITS, running.append)
        if ctx.pause is not None or self._is_spent(ctx):
            return None
        try:
            name, colon, password = b64decode(encoded, validate=True).partition(b":")
        except ValueError:
            return wrong
        if not colon:
            return wrong
        if self._later is not None and ctx.notes is None:
            waiting = self._running[digest] = list[Callable[[], None]]()
            ctx.pause = Pause(_WAITS, waiting.append)
            client, now = ctx.client, ctx.now
            self._later(
                lambda: users.check(name, password), lambda who: self._found(who, users, digest, client, now)
            )
            return None
        who = users.check(name, password)
        if ctx.notes is None:
            self._found(who, users, digest, ctx.client, ctx.now)
        return wrong if who is None else (users, who, self._pass(who))

    def _found(self, who: Holder | None, users: Users, digest: bytes, client: str, now: float) -> None:
        """Remember what a check found, and wake who waits for it."""
        if who is None:
            self._budget.charge(client, now)
            _bound(self._refused, _REFUSED_SIZE)
            self._refused[digest] = (users, now + _REFUSED_FOR)
        else:
            _bound(self._passed, self._cache_size)
            self._passed[digest] = (users, who, self._pass(who))
        for each in self._running.pop(digest, ()):
            each()

    def _pass(self, who: Holder) -> Pass:
        return pass_of(who, self._name_header, self._edits)

    def _is_spent(self, ctx: Context) -> bool:
        if ctx.notes is not None:
            return False
        if int(ctx.now) != self._second:
            self._second, self._checks = int(ctx.now), 0
        if self._checks >= CHECKS or self._budget.is_spent(ctx.client, ctx.now):
            return True
        self._checks += 1
        return False

    def _refuse(self, request: Request, ctx: Context, kind: str, detail: str) -> Response:
        note(ctx, self.name, detail)
        return problem(request, ctx, 401, kind, detail, [(b"WWW-Authenticate", self._challenge)])


def _bound(
    memo: dict[bytes, tuple[Users, Holder, Pass]] | dict[bytes, tuple[Users, float]], size: int
) -> None:
    """Room for one more: the oldest goes."""
    while len(memo) >= size:
        del memo[next(iter(memo))]
