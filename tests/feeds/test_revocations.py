"""Lists of revoked tokens: what a line says, what becomes of a file that changes, breaks or vanishes."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from edgeproxy.errors import ConfigError
from edgeproxy.feeds.revocations import MAX_FILE, RevocationFeed, revoke
from edgeproxy.policies import jwt_revoked
from edgeproxy.policies.jwt_revoked import NOTHING_REVOKED, Revocations
from tests.policies.jwt_tokens import GOOD, context, hs256, policy, provider, request


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "revoked").write_bytes(b"")
    return tmp_path / "revoked"


def write(path: Path, text: str) -> None:
    path.write_text(text)


def remove(path: Path) -> None:
    path.unlink()


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


LINES = b"""
{"jti": "a"}
{"sub": "u-1"}
{"sub": "u-2", "issued_before": 100}
{"sub": "u-2", "issued_before": 50}
{"jti": "b", "until": 200}

"""


@pytest.mark.parametrize(
    ("claims", "revoked"),
    [
        ({"jti": "a"}, True),
        ({"jti": "b", "sub": "x"}, True),
        ({"jti": "A"}, False),
        ({"jti": ["a"]}, False),
        ({"jti": 1, "sub": "u-1"}, True),
        ({"sub": "u-1", "iat": 10**9}, True),
        ({"sub": "a"}, False),
        ({"sub": "u-2", "iat": 99.9}, True),
        ({"sub": "u-2", "iat": 100}, False),
        ({"sub": "u-2"}, True),
        ({"sub": ["u-1"]}, False),
        ({}, False),
    ],
)
def test_a_token_is_revoked_by_its_jti_or_by_its_subject(claims: dict[str, object], revoked: bool) -> None:
    listed = NOTHING_REVOKED.with_lines(LINES)
    assert listed.broken == ()
    assert listed.name(claims) is revoked
    assert NOTHING_REVOKED.name(claims) is False


@pytest.mark.parametrize(
    "line",
    [
        "a",
        "[]",
        "{}",
        '{"jti": ""}',
        '{"jti": 1}',
        '{"jti": "a", "sub": "b"}',
        '{"jti": "a", "jti": "b"}',
        '{"jti": "a", "issued_before": 1}',
        '{"sub": "a", "issued_before": "1"}',
        '{"sub": "a", "until": true}',
        '{"iss": "a"}',
        '{"jti": "a", "why": "stolen"}',
        '{"jti": "' + "a" * 1024 + '"}',
    ],
)
def test_a_line_that_says_nothing_is_refused_at_the_start_and_told_later(path: Path, line: str) -> None:
    path.write_text('{"jti": "a"}\n' + line + "\n")
    with pytest.raises(ConfigError, match=r"revoked .*revoked: line 2: "):
        RevocationFeed("main", path)
    path.write_text('{"jti": "a"}\n' + line)
    with pytest.raises(ConfigError):
        RevocationFeed("main", path)
    assert NOTHING_REVOKED.with_lines(f'\n{line}\n{{"jti": "x"}}\n'.encode()).broken == (2,)


async def test_a_broken_line_costs_only_itself(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    feed = RevocationFeed("main", path)
    with caplog.at_level(logging.ERROR):
        append(path, '{"jti": "a"}\nnonsense\n{"jti": "b"}\n')
        await feed.look()
        append(path, '{"jti": "c"}\n')
        await feed.look()
    assert all(feed.revoked.value.name({"jti": jti}) for jti in "abc")
    assert [record.getMessage().rpartition(": line ")[2] for record in caplog.records] == [
        "2 cannot be read; the others stay revoked"
    ]
    assert feed.failures == 2


async def test_what_is_appended_counts_and_nothing_happens_without_a_change(path: Path) -> None:
    write(path, '{"jti": "a"}\n')
    feed = RevocationFeed("main", path)
    before = feed.revoked.value
    await feed.look()
    assert feed.revoked.value is before
    append(path, '{"jti": "b"}\n{"sub": "half')
    await feed.look()
    assert feed.revoked.value.name({"jti": "b"})
    assert len(feed.revoked.value) == 2
    append(path, '"}')
    await feed.look()
    assert feed.revoked.value.name({"sub": "half"}), "a last line may lack its end"
    append(path, "\n")
    await feed.look()
    assert (len(feed.revoked.value), feed.failures) == (3, 0)


async def test_a_file_that_is_written_anew_counts_whole(path: Path) -> None:
    write(path, '{"jti": "a"}\n{"jti": "b"}\n')
    feed = RevocationFeed("main", path)
    for text in (
        '{"jti": "b"}\n{"jti": "c"}\n{"jti": "d"}\n',  # larger, in place
        '{"jti": "d"}\n',
        "",
        '{"jti": "e"}\n',
    ):
        write(path, text)
        os.utime(path, ns=(len(text), len(text)))
        await feed.look()
        await feed.look()
        known = {jti for jti in "abcde" if feed.revoked.value.name({"jti": jti})}
        assert known == {jti for jti in "abcde" if f'"{jti}"' in text}
    other = path.with_name("other")
    other.write_text('{"jti": "a"}\n')
    other.replace(path)
    await feed.look()
    assert feed.revoked.value.name({"jti": "a"})


async def test_while_a_file_is_written_anew_nothing_is_good_again_that_was_revoked(path: Path) -> None:
    write(path, '{"jti": "a"}\n{"sub": "u", "issued_before": 20}\n')
    feed = RevocationFeed("main", path)
    token = {"sub": "u", "iat": 15}
    for text in (
        "",
        '{"sub": "u", "issued_before": 10}\n',
        '{"sub": "u", "issued_before": 10}\n{"jti": "b"}\n',
    ):
        write(path, text)
        await feed.look()
        assert feed.revoked.value.name({"jti": "a"})
        assert feed.revoked.value.name(token)
    assert feed.revoked.value.name({"jti": "b"}), "what is new counts at once"
    await feed.look()
    assert not feed.revoked.value.name({"jti": "a"})
    assert not feed.revoked.value.name(token)
    assert feed.revoked.value.name({"jti": "b"})
    before = feed.revoked.value
    await feed.look()
    assert feed.revoked.value is before


async def test_a_file_that_vanishes_or_grows_too_large_revokes_what_it_did(path: Path) -> None:
    write(path, '{"jti": "a"}\n')
    feed = RevocationFeed("main", path)
    remove(path)
    await feed.look()
    write(path, "\n" * (MAX_FILE + 1))
    await feed.look()
    assert feed.revoked.value.name({"jti": "a"})
    assert feed.failures == 2
    write(path, '{"jti": "b"}\n')
    await feed.look()
    assert feed.revoked.value.name({"jti": "b"})


def test_a_file_that_is_not_there_is_refused_at_the_start(path: Path) -> None:
    path.unlink()
    with pytest.raises(ConfigError, match="No such file or directory; an empty file revokes nothing"):
        RevocationFeed("main", path)


def test_revoking_appends_a_line_of_its_own(path: Path) -> None:
    path.write_text('{"jti": "a"}')
    revoke(path, {"sub": "ü", "issued_before": 7})
    revoke(path, {"jti": "b"})
    assert path.read_text() == '{"jti": "a"}\n{"sub": "ü", "issued_before": 7}\n{"jti": "b"}\n'
    with pytest.raises(ValueError, match="expected one of"):
        revoke(path, {"jti": ""})
    with pytest.raises(FileNotFoundError):
        revoke(path.with_name("nowhere"), {"jti": "a"})


def test_a_full_list_forgets_what_has_expired(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeproxy.feeds.revocations.MAX_FILE", 110)
    path.write_text('{"jti": "a", "until": 5}\n{"jti": "b", "until": 9999999999}\nnot a line\n{"sub": "c"}\n')
    path.chmod(0o640)
    revoke(path, {"jti": "d" * 20})
    assert path.read_text().splitlines() == [
        '{"jti": "b", "until": 9999999999}',
        "not a line",
        '{"sub": "c"}',
        '{"jti": "' + "d" * 20 + '"}',
    ]
    assert path.stat().st_mode & 0o777 == 0o640
    with pytest.raises(ValueError, match="until"):
        revoke(path, {"jti": "e" * 50})


async def test_the_policy_goes_by_the_list_of_the_moment(path: Path) -> None:
    feed = RevocationFeed("main", path)
    auth = policy(provider(), revoked=feed.revoked)
    good = request(hs256({**GOOD, "jti": "t"}))
    assert auth(good, context()) is None
    revoke(path, {"jti": "other"})
    await feed.look()
    verify = auth._first._verify
    auth._first._verify = None  # type: ignore[method-assign,assignment]
    assert auth(good, context()) is None, "the signature is not verified again for that"
    revoke(path, {"jti": "t"})
    await feed.look()
    answer = auth(good, context())
    assert answer is not None
    assert answer.status == 401
    auth._first._verify = verify  # type: ignore[method-assign]
    assert auth(good, context()) is not None, "nor does it pass when it is verified anew"


def test_lists_are_values() -> None:
    first = Revocations().with_lines(b'{"jti": "a"}\n')
    second = first.with_lines(b'{"jti": "b"}\n')
    assert (len(first), len(second), second.lines) == (1, 2, 2)
    assert jwt_revoked.parse_revocation(b'{"sub": "a"}').issued_before == float("inf")
