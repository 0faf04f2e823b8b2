"""Files that are hostile, broken or strange as files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgeproxy.config.file import MAX_FILE, load, parse
from edgeproxy.config.tree import Mark
from edgeproxy.errors import ConfigError

HERE = Path()


def refusal(raw: bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(raw, "edge.yaml", HERE, {})
    return str(caught.value)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        pytest.param(b"#" * (MAX_FILE + 1), "edge.yaml: found more than 1 MiB", id="above 1 MiB"),
        pytest.param(b"a: 1\nb: \xff\n", "edge.yaml:2: found bytes that are not UTF-8", id="latin-1"),
        pytest.param("a: 1".encode("utf-16"), "edge.yaml:1: found bytes that are not UTF-8", id="utf-16"),
        pytest.param(b"a: 1\nb: \x00", "edge.yaml:2: found a control character", id="nul"),
        pytest.param(b"[" * 500_000, "edge.yaml:1: found more than 32 levels", id="half a million brackets"),
        pytest.param(b"- " * 200_000, "edge.yaml:1: found more than 32 levels", id="dashes"),
        pytest.param(b"? " * 200_000, "edge.yaml:1: found more than 32 levels", id="question marks"),
        pytest.param(b"a: {b: " * 100, "edge.yaml:1: ", id="open braces"),
        pytest.param(b"1", "edge.yaml:1: found no sections", id="a number"),
        pytest.param(b"%YAML 3.0\n--- {}", "edge.yaml:1: ", id="another version"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(raw: bytes, said: str) -> None:
    assert refusal(raw).startswith(said)


def test_a_file_of_exactly_1_mib_is_read() -> None:
    assert parse(b"a: 1\n".ljust(MAX_FILE, b"#"), "edge.yaml", HERE).data == {"a": 1}


def test_a_byte_order_mark_and_windows_line_ends_are_fine() -> None:
    document = parse(b"\xef\xbb\xbfa: 1\r\nb: x\r\n", "edge.yaml", HERE)
    assert (document.data, document.line(("b",))) == ({"a": 1, "b": "x"}, 2)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml: cannot be read: No such file"):
        load(tmp_path / "gone.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load("a\0b")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("NO", "NO"),
        ("no", "no"),
        ("on", "on"),
        ("y", "y"),
        ("True", True),
        ("FALSE", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("12", 12),
        ("-0x1f", "-0x1f"),
        ("0x1f", 31),
        ("0o17", 15),
        ("017", 17),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2026-11-21", "2026-11-21"),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("'1'", "1"),
        ("=", "="),
    ],
)
def test_plain_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    assert repr(parse(f"a: {text}\n".encode(), "edge.yaml", HERE).data["a"]) == repr(value)


def test_each_value_knows_its_line_and_column() -> None:
    document = parse(b"a:\n  - x\n  - {b: 1,\n     c: 2}\n", "edge.yaml", HERE)
    assert document.places["a", 0] == Mark(2, 5)
    assert document.places["a", 1, "c"] == Mark(4, 6)
    assert document.line(("a", 1, "missing", "deeper")) == 3


def test_keys_are_text_whatever_they_look_like() -> None:
    data = parse(b"{404: a, NO: b, true: c, null: d, 1.5: e}", "edge.yaml", HERE).data
    assert list(data) == ["404", "NO", "true", "null", "1.5"]


def test_aliases_are_copies_that_do_not_share_what_is_filled_in() -> None:
    document = parse(b"a: &a [x, '${V}']\nb: *a\n", "edge.yaml", HERE, {"V": "v"})
    assert document.data == {"a": ["x", "v"], "b": ["x", "v"]}
    assert document.data["a"] is not document.data["b"]
    assert document.secret == {("a", 1), ("b", 1)}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${V}", "v"),
        ("a${V}b${V}", "avbv"),
        ("${V:-x}", "v"),
        ("${W:-x}", "x"),
        ("${W:-}", ""),
        ("${EMPTY:-x}", "x"),
        ("${EMPTY}", ""),
        ("${W:-a:-b}", "a:-b"),
        ("$V", "$V"),
        ("$$", "$"),
        ("$${V}", "${V}"),
        ("$$${V}", "$v"),
        ("100$", "100$"),
        ("${NESTED}", "${V}"),
    ],
)
def test_variables_are_filled_in_once(text: str, value: str) -> None:
    environ = {"V": "v", "EMPTY": "", "NESTED": "${V}"}
    document = parse(f"a: '{text}'".encode(), "edge.yaml", HERE, environ)
    assert (document.data["a"], document.problems) == (value, ())


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"s", "s"),
        (b"s\n", "s"),
        (b"s\r\n", "s"),
        (b"s\n\n", "s\n"),
        (b"", ""),
        (b"x" * 65536, "x" * 65536),
    ],
    ids=["bare", "newline", "windows", "only one newline goes", "empty", "64 KiB"],
)
def test_files_are_filled_in_without_their_last_newline(raw: bytes, value: str, tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(raw)
    for name in ("s", tmp_path / "s"):  # beside the configuration, or absolute
        document = parse(f"a: '${{file:{name}}}'".encode(), "edge.yaml", tmp_path, {})
        assert (document.data["a"], document.problems, document.secret) == (value, (), {("a",)})


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    document = parse(b"a: ${file:pipe}", "edge.yaml", tmp_path, {})
    assert [problem.text for problem in document.problems] == ["found 'pipe', expected a regular file"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("${file:latin}", "with bytes that are not UTF-8", id="file that is not UTF-8"),
        pytest.param("${file:a\\0b}", "which cannot be read", id="nul in a file's name"),
        pytest.param(
            "${RAW}", "bytes in the variable RAW that are not UTF-8", id="variable that is not UTF-8"
        ),
        pytest.param("${file:half}${file:half}${file:half}", "more than 1024 KiB filled in", id="too much"),
        pytest.param("${A B}", "names nothing", id="no name"),
    ],
)
def test_what_cannot_be_filled_in_is_a_problem_of_its_line(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"\xe9")
    (tmp_path / "half").write_bytes(b"x" * 524_288)
    document = parse(f'\na: "{text}"'.encode(), "edge.yaml", tmp_path, {"RAW": "\udce9"})
    assert document.report(document.problems).startswith("edge.yaml:2: a: ")
    assert said in document.problems[0].text


def test_a_file_full_of_mistakes_is_reported_in_part() -> None:
    document = parse(b"a: [" + b"!x y, " * 500 + b"]", "edge.yaml", HERE)
    lines = document.report(document.problems).splitlines()
    assert (len(lines), lines[-1]) == (101, "edge.yaml: and 400 more")
