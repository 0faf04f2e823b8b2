"""Names and passwords: who passes, what is remembered, how often a password is checked."""

from __future__ import annotations

import contextlib
from base64 import b64encode
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeproxy.context import Context, Edit, Op, Verdict
from edgeproxy.http.message import Request
from edgeproxy.policies import basic, basic_hash
from edgeproxy.policies.basic import BasicAuth, BasicRule, Users, parse_users
from edgeproxy.policies.basic_hash import Hashed, hash_password, parse_hash
from edgeproxy.policies.credential import Holder
from edgeproxy.recall import Recorder
from edgeproxy.snapshot import Snapshot
from tests.policies.jwt_tokens import context, request

# Cheap on purpose: the least that is allowed.
ALICE = "$pbkdf2-sha256$i=10000$MDEyMzQ1Njc4OWFiY2RlZg$U7v0ITaqoCHV6kJDkZ9HQSbuAIGGyW6MmpPSWZHOFWQ"
SALT = b"0123456789abcdef"


def cheap(password: bytes) -> str:
    from hashlib import pbkdf2_hmac

    digest = b64encode(pbkdf2_hmac("sha256", password, SALT, 10_000)).rstrip(b"=").decode()
    return f"$pbkdf2-sha256$i=10000${b64encode(SALT).rstrip(b'=').decode()}${digest}"


FILE = f"# users\nalice {cheap(b'wonder:land')} admin\nbob {cheap('pässword'.encode())}\n".encode()


def auth(users: Snapshot[Users] | None = None, **rule: object) -> BasicAuth:
    made = BasicRule.model_validate({"file": "/users", **rule})
    return BasicAuth(made, users or Snapshot(parse_users(FILE)), b"k" * 32)


def login(name: str, password: str, scheme: bytes = b"Basic ") -> Request:
    return request(authorization=scheme + b64encode(f"{name}:{password}".encode()))


def judged(made: BasicAuth, req: Request, ctx: Context | None = None) -> tuple[int | None, str]:
    ctx = ctx or context()
    answer = made(req, ctx)
    return (answer.status if answer else None), ctx.reason


GOOD = login("alice", "wonder:land")


@pytest.mark.parametrize(
    ("req", "name"),
    [
        (GOOD, "alice"),
        (login("alice", "wonder:land", b"basic   "), "alice"),
        (login("bob", "pässword"), "bob"),
    ],
)
def test_who_knows_the_password_passes(req: Request, name: str) -> None:
    ctx = context()
    assert judged(auth(), req, ctx) == (None, "")
    assert ctx.claims is not None
    assert ctx.claims["sub"] == name
    assert (ctx.to_origin, ctx.key_parts) == ([Edit(Op.REMOVE, b"Authorization")], ())


@pytest.mark.parametrize(
    ("req", "reason"),
    [
        (request(), "password-missing"),
        (request(b"token"), "password-missing"),
        (request(authorization=b"Basic"), "password-missing"),
        (request(authorization=b"Basic !!!!"), "password-missing"),
        (request(authorization=b"Basic " + b"A" * 2000), "password-missing"),
        (request(authorization=b"Basic QQ==, Basic QQ=="), "password-missing"),
        (request(authorization=b"Basic QQ"), "invalid-password"),
        (request(authorization=b"Basic " + b64encode(b"alice")), "invalid-password"),
        (login("alice", "wonderland"), "invalid-password"),
        (login("alice", ""), "invalid-password"),
        (login("alice", "wonder:land "), "invalid-password"),
        (login("Alice", "wonder:land"), "invalid-password"),
        (login("bob", "wonder:land"), "invalid-password"),
        (login("carol", "wonder:land"), "invalid-password"),
        (login("", ""), "invalid-password"),
        (request(authorization=b"Basic " + b64encode(b"\xff\xfe:\xff")), "invalid-password"),
    ],
)
def test_anything_else_is_refused_and_asked_for_a_password(req: Request, reason: str) -> None:
    ctx = context()
    answer = auth(realm="back office")(req, ctx)
    assert answer is not None
    assert (answer.status, ctx.reason, ctx.claims) == (401, reason, None)
    assert (b"WWW-Authenticate", b'Basic realm="back office", charset="UTF-8"') in answer.fields


def test_a_scope_is_what_the_line_says() -> None:
    made = auth(scope="admin", name_header="X-User", forward=True)
    ctx = context()
    assert judged(made, GOOD, ctx) == (None, "")
    assert (ctx.to_origin, ctx.key_parts) == ([Edit(Op.SET, b"X-User", b"alice")], (b"name:alice",))
    assert made.asserted == (b"x-user",)
    assert judged(made, login("bob", "pässword")) == (403, "insufficient-scope")


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Grows by a password whenever one is checked."""
    found: list[bytes] = []
    check = Users.check

    def counted(self: Users, name: bytes, password: bytes) -> object:
        found.append(password)
        return check(self, name, password)

    monkeypatch.setattr(Users, "check", counted)
    return found


def test_a_password_is_checked_once_until_the_file_changes(checks: list[bytes]) -> None:
    users = Snapshot(parse_users(FILE))
    made = auth(users)
    ctx = context()
    ctx.recorder = Recorder()
    for _ in range(5):
        assert judged(made, GOOD, ctx) == (None, "")
    assert len(checks) == 1
    assert ctx.recorder.guards[0] == (users, users.value)
    users.value = parse_users(f"alice {cheap(b'other')}".encode())
    assert judged(made, GOOD) == (401, "invalid-password")
    assert judged(made, login("alice", "other")) == (None, "")
    assert b"wonder:land" not in repr(made._passed).encode() + repr(made._refused).encode()


class Thread:
    """Checks when it is told to."""

    def __init__(self) -> None:
        self.jobs: list[Callable[[], None]] = []

    def __call__(self, check: Callable[[], Holder | None], done: Callable[[Holder | None], None]) -> None:
        self.jobs.append(lambda: done(check()))


@pytest.mark.parametrize(("password", "status"), [("wonder:land", None), ("x", 401)])
def test_a_request_waits_for_its_check_and_those_of_the_same_password_with_it(
    password: str, status: int | None, checks: list[bytes]
) -> None:
    thread = Thread()
    made = auth()
    made._later = thread
    waiting = [context() for _ in range(3)]
    woken: list[int] = []
    for number, ctx in enumerate(waiting):
        assert made(login("alice", password), ctx) is not None
        assert ctx.pause is not None
        assert ctx.pause.until is not None
        ctx.pause.until(lambda number=number: woken.append(number))
    assert (len(thread.jobs), checks) == (1, [])
    thread.jobs[0]()
    assert woken == [0, 1, 2]
    assert [judged(made, login("alice", password), ctx)[0] for ctx in waiting] == [status] * 3
    assert len(checks) == 1
    assert made._running == {}


def test_a_check_that_takes_too_long_is_a_503_and_starts_no_other() -> None:
    thread = Thread()
    made, ctx = auth(), context()
    made._later = thread
    assert made(GOOD, ctx) is not None
    assert judged(made, GOOD, ctx) == (503, "password-unchecked"), "the pause is over, the check is not"
    assert len(thread.jobs) == 1


def test_a_password_of_a_file_that_changed_meanwhile_lets_nobody_pass() -> None:
    thread, users = Thread(), Snapshot(parse_users(FILE))
    made, ctx = auth(users), context()
    made._later = thread
    assert made(GOOD, ctx) is not None
    users.value = parse_users(f"alice {cheap(b'other')}".encode())
    thread.jobs[0]()
    assert judged(made, GOOD, ctx)[0] == 503


def test_a_wrong_password_is_remembered_for_ten_seconds(checks: list[bytes]) -> None:
    made = auth()
    for now in (0.0, 1.0, 9.9, 10.0):
        assert judged(made, login("alice", "x"), context(now=now)) == (401, "invalid-password")
    assert len(checks) == 2


def test_a_client_checks_few_passwords_a_second_and_all_together_few_more(checks: list[bytes]) -> None:
    made = auth()
    outcomes = [judged(made, login("alice", str(number))) for number in range(5)]
    assert outcomes == [(401, "invalid-password")] * 2 + [(429, "too-many-passwords")] * 3
    for number in range(basic.CHECKS):
        other = context()
        other.client = f"192.0.2.{number + 10}"
        judged(made, login("alice", f"b{number}"), other)
    assert len(checks) == basic.CHECKS
    late = context()
    late.client = "192.0.2.99"
    assert judged(made, GOOD, late) == (429, "too-many-passwords")
    assert judged(made, GOOD, context(now=5001.0)) == (None, "")
    assert judged(made, GOOD) == (None, ""), "what is remembered is no check"


def test_a_user_nobody_knows_costs_as_much(monkeypatch: pytest.MonkeyPatch) -> None:
    derived: list[bytes] = []
    matches = Hashed.matches

    def counted(self: Hashed, password: bytes) -> bool:
        derived.append(password)
        return matches(self, password)

    monkeypatch.setattr(Hashed, "matches", counted)
    assert judged(auth(), login("nobody", "x"))[0] == 401
    assert derived == [b"x"]
    empty = auth(Snapshot(parse_users(b"")))
    assert judged(empty, GOOD)[0] == 401


def test_the_memories_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    made = auth(cache_size=1)
    for number, req in enumerate((GOOD, login("bob", "pässword"), GOOD)):
        assert judged(made, req, context(now=float(number))) == (None, "")
    assert len(made._passed) == 1
    monkeypatch.setattr(Users, "check", lambda *_: None)
    for number in range(1, 1100):
        judged(made, login("alice", str(number)), context(now=number * 1.0))
    assert len(made._refused) == 1024


def test_explaining_remembers_and_spends_nothing(checks: list[bytes]) -> None:
    made = auth()
    for _ in range(10):
        for req, verdict in ((GOOD, Verdict.ALLOW), (login("alice", "x"), Verdict.REFUSE)):
            ctx = context()
            ctx.notes = []
            made(req, ctx)
            assert [note.verdict for note in ctx.notes] == [verdict]
            assert "wonder" not in ctx.notes[0].why
    assert (len(checks), made._passed, made._refused) == (20, {}, {})


# --- hashes


def test_a_password_that_we_hashed_is_recognised() -> None:
    text = hash_password(b"secret", SALT)
    assert text.startswith("$scrypt$ln=14,r=8,p=1$")
    assert parse_hash(text).matches(b"secret")
    assert not parse_hash(text).matches(b"Secret")
    assert "secret" not in repr(parse_hash(text))


def test_strings_that_other_programs_wrote_are_understood() -> None:
    passlib = "$pbkdf2-sha256$29000$N2YMIWQsBWBMae09x1jrPQ$1t8iyB2A.WF/Z5JZv.lfCIhXXN33N23OSgQYThBYRfk"
    assert parse_hash(passlib).matches(b"toomanysecrets")
    assert not parse_hash(passlib).matches(b"Toomanysecrets")
    rust = (
        "$scrypt$ln=10,r=8,p=1$c2FsdHNhbHRzYWx0c2FsdHNhbHRzYWx0c2FsdHNhbHQ$"
        "KXXf8GmVmUQTGZ9L0BWzp7rywGFqGVKQ+kazyyuoqFM"
    )
    assert parse_hash(rust).matches(b"cross-language-test")


@pytest.mark.parametrize(
    "text",
    [
        "", "password", "$2b$12$abc", "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=",
        "$scrypt$ln=14,r=8,p=1$c2FsdA$aGFzaA",
        "$scrypt$ln=9,r=8,p=1$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZjAxMjM",
        "$scrypt$ln=20,r=8,p=1$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZjAxMjM",
        "$scrypt$ln=99,r=99,p=99$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZjAxMjM",
        "$scrypt$ln=14,r=0,p=1$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZjAxMjM",
        "$scrypt$ln=14,r=8,p=9$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZjAxMjM",
        "$pbkdf2-sha256$i=9999$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZjAxMjM",
        "$pbkdf2-sha256$i=9999999$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZjAxMjM",
        "$pbkdf2-sha256$i=10000$MDEyMzQ1Njc4OWFiY$MDEyMzQ1Njc4OWFiY2RlZjAxMjM=",
    ],
)  # fmt: skip
def test_a_hash_that_is_weak_dear_or_foreign_is_refused_untold(text: str) -> None:
    with pytest.raises(ValueError, match="expected") as refused:
        parse_hash(text)
    assert "MDEy" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("alice", "line 1: expected NAME HASH"),
        ("\n# x\nalice secret", "line 3: expected"),
        (f"a {ALICE}\na {ALICE}", "line 2: found a name"),
        (f"a:b {ALICE}", "line 1: expected a name"),
    ],
)
def test_a_file_with_a_mistake_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        parse_users(text.encode())
    assert "secret" not in str(refused.value)
    assert "U7v0" not in str(refused.value)


@given(st.text(max_size=120))
def test_any_hash_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        basic_hash.parse_hash(text)
