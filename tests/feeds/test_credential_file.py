"""A file of credentials that changes, breaks and vanishes while the edge runs."""

from __future__ import annotations

import errno
import logging
from pathlib import Path

import pytest

from edgeproxy.errors import ConfigError
from edgeproxy.feeds.credential_file import MAX_FILE, CredentialFeed
from edgeproxy.policies.api_key import ApiKeys, key_line, parse_keys


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def remove(path: Path) -> None:
    path.unlink()


def write(path: Path, text: str) -> None:
    path.write_text(text)


async def test_what_the_file_says_is_in_force_when_it_is_right(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(path, key_line("a", "first"))
    feed = CredentialFeed(path, parse_keys)
    before = feed.snapshot.value
    await feed.look()
    assert feed.snapshot.value is before
    with caplog.at_level(logging.ERROR):
        for broken in ("a s3cret", key_line("a", "x") + "\nb\n", "#" * (MAX_FILE + 1)):
            write(path, broken)
            await feed.look()
            await feed.look()
            assert feed.snapshot.value is before
        remove(path)
        await feed.look()
        await feed.look()
    assert feed.snapshot.value.find(b"first") is not None
    assert feed.failures == 5
    assert len(caplog.records) == 4
    assert "s3cret" not in caplog.text
    write(path, key_line("a", "second"))
    await feed.look()
    assert feed.snapshot.value.find(b"first") is None
    assert feed.snapshot.value.find(b"second") is not None


def test_a_file_that_is_missing_or_wrong_is_refused_at_the_start(path: Path) -> None:
    with pytest.raises(ConfigError, match="keys: No such file"):
        CredentialFeed(path, parse_keys)
    path.write_text("a")
    with pytest.raises(ConfigError, match="keys: line 1: expected NAME sha256:HEX"):
        CredentialFeed(path, parse_keys)


async def test_a_change_that_could_not_be_read_is_read_at_the_next_look(path: Path) -> None:
    write(path, key_line("a", "first"))
    fails: list[OSError] = []

    def parse(data: bytes) -> ApiKeys:
        if fails:
            raise fails.pop()
        return parse_keys(data)

    feed = CredentialFeed(path, parse)
    write(path, key_line("a", "second"))
    fails.append(OSError(errno.EMFILE, "Too many open files"))
    await feed.look()
    assert feed.snapshot.value.find(b"first") is not None
    await feed.look()
    assert feed.snapshot.value.find(b"first") is None
