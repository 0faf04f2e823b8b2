"""The files that a configuration names: each that cannot be used is said, all at once, with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeproxy.config.file import parse
from edgeproxy.config.named_files import file_problems, folder_problems

TEXT = """
server: {{access_log: {{path: {log}}}}}
exposures: {{file: {exposures}}}
rate_limit_table: {{file: {limits}}}
geo: {{database: {geo}}}
origins: {{app: {{servers: ["https://a"], tls: {{ca: {ca}, client_cert: {cert}, client_key: {key}}}}}}}
jwt_providers: {{main: {{jwks_file: {jwks}}}}}
routes:
  - policies:
      - api_key: {{file: {keys}}}
      - basic: {{file: {users}}}
"""
READ = {"geo", "ca", "cert", "key", "jwks", "keys", "users"}
WRITTEN = {"log", "exposures", "limits"}


def said(folder: Path, **names: object) -> list[str]:
    there = folder / "there"
    there.touch()
    text = TEXT.format(**{**dict.fromkeys(READ | WRITTEN, there), **names})
    document = parse(text.encode(), "edge.yaml", folder)
    return document.report(file_problems(document)).splitlines()


def test_files_that_are_there_are_not_worth_a_word(tmp_path: Path) -> None:
    assert said(tmp_path, log="off", exposures="null", limits=tmp_path / "not-yet") == []
    assert not (tmp_path / "not-yet").exists()


def test_all_that_is_missing_is_said_at_once(tmp_path: Path) -> None:
    lines = said(tmp_path, **dict.fromkeys(READ | WRITTEN, "/nope/file"))
    assert len(lines) == len(READ | WRITTEN)
    assert all("found '/nope/file'" in line and "(No such file or directory)" in line for line in lines)
    assert lines[-2].startswith("edge.yaml:10: routes[0].policies[0].api_key.file: ")


@pytest.mark.parametrize(
    ("names", "what"),
    [
        ({"geo": "[there, nope]"}, "/nope', expected a file to read (No such file or directory)"),
        ({"keys": "/"}, "(it is a folder); `edgeproxy api-key NAME` makes its lines"),
        ({"log": "/"}, "(it is a folder)"),
        ({"users": '"/a\\0b"'}, "(embedded null byte)"),
        ({"key": "/" + "x" * 5000}, "(File name too long)"),
        ({"key": '"-----BEGIN\\nMIIE"'}, "found ***, expected a file to read"),
    ],
    ids=["in a list", "folder", "log folder", "null byte", "long", "contents"],
)
def test_the_reason_is_said(tmp_path: Path, names: dict[str, str], what: str) -> None:
    (line,) = said(tmp_path, **names)
    assert what in line
    assert "MIIE" not in line


def test_relative_paths_begin_in_the_folder_of_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the edge is started, as with `${file:…}`."""
    folder, elsewhere = tmp_path / "etc", tmp_path / "elsewhere"
    for each in (folder, elsewhere):
        each.mkdir()
    monkeypatch.chdir(elsewhere)
    assert said(folder, **dict.fromkeys(READ, "there"), log="log", exposures="e", limits="./l") == []
    text = TEXT.format(**dict.fromkeys(READ | WRITTEN, "a/b")) + "cache: {machine: {path: ../cache}}"
    data = parse(text.encode(), "edge.yaml", folder).data
    found = [path for path in str(data).split("'") if path.endswith(("a/b", "cache")) and "/" in path]
    assert found == [str(folder / "a/b")] * len(READ | WRITTEN) + [str(folder / "../cache")]


@pytest.mark.parametrize("log", ["off", '"-"'])
def test_what_is_no_file_stays_as_it_is(tmp_path: Path, log: str) -> None:
    text = f"server: {{access_log: {{path: {log}}}}}\ngeo: {{database: ''}}"
    data = parse(text.encode(), "edge.yaml", tmp_path).data
    assert data == {"server": {"access_log": {"path": log.strip('"')}}, "geo": {"database": ""}}


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("not/yet/there", ""),
        ("there", "{folder}/there is no folder"),
        ("there/below", "{folder}/there is no folder"),
        ("locked/cache", "no right to write to {folder}/locked"),
    ],
)
def test_a_folder_for_the_machine_tier_is_looked_at_and_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, why: str
) -> None:
    (tmp_path / "there").touch()
    (tmp_path / "locked").mkdir()
    monkeypatch.setattr("os.access", lambda where, _: Path(where).name != "locked")  # root may write anywhere
    text = f"cache: {{machine: {{path: {path}}}}}"
    document = parse(text.encode(), "edge.yaml", tmp_path)
    said = document.report(folder_problems(document))
    if not why:
        assert said == ""
    else:
        assert said.startswith(
            f"edge.yaml:1: cache.machine.path: found '{tmp_path / path}', expected a folder"
        )
        assert why.format(folder=tmp_path) in said
    assert sorted(each.name for each in tmp_path.iterdir()) == ["locked", "there"]
