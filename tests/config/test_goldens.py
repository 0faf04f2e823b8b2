"""Each `*.golden` is a configuration, a ruler line, and what becomes of it: the canonical dump or the errors.

To accept a changed message, run this file as a script and read the difference.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeproxy.config import dump, read_config
from edgeproxy.config.file import parse
from edgeproxy.errors import ConfigError

RULER = "----"
GOLDENS = sorted(Path(__file__).parent.glob("*.golden"))
SECRETS = {
    "EDGE_TOKEN": "Sesame-Open-4711",
    "SHORT": "tiny-7",
    "EDGE_ID": "ams1-b",
    "INJECTION": "a}\nadmin: {token: b",
    "EMPTY": "",
}
FILED = "from-a-file-0123456789"


def furnish(folder: Path) -> Path:
    """The files that the goldens name."""
    (folder / "secret.txt").write_text(f"{FILED}\n", encoding="utf-8")
    (folder / "big.txt").write_text("x" * (1024 * 1024 + 1), encoding="utf-8")
    return folder


def split(golden: Path) -> tuple[str, str]:
    """(YAML, expected outcome) of a golden."""
    yaml, _, expected = golden.read_text(encoding="utf-8").partition(f"\n{RULER}\n")
    return f"{yaml}\n", expected


def outcome(yaml: str, folder: Path) -> str:
    """What becomes of a configuration, as the goldens write it."""
    try:
        return dump(read_config(parse(yaml.encode(), "edge.yaml", folder, SECRETS)))
    except ConfigError as error:
        return f"{error}\n"


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda path: path.stem)
def test_a_configuration_becomes_what_its_golden_says(golden: Path, tmp_path: Path) -> None:
    yaml, expected = split(golden)
    assert outcome(yaml, furnish(tmp_path)) == expected


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda path: path.stem)
def test_no_text_from_outside_is_ever_said(golden: Path, tmp_path: Path) -> None:
    said = outcome(split(golden)[0], furnish(tmp_path)).lower()
    for secret in (
        SECRETS["EDGE_TOKEN"],
        SECRETS["SHORT"],
        SECRETS["EDGE_ID"],
        FILED,
        "too-short",
        "c2vjcmv0",
    ):
        assert secret.lower() not in said


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda path: path.stem)
def test_every_error_names_file_and_line_and_no_library(golden: Path, tmp_path: Path) -> None:
    expected = split(golden)[1]
    if not expected.startswith("edge.yaml"):
        return
    for line in expected.splitlines():
        assert line.startswith(("edge.yaml:", "edge.yaml: found nothing"))
    for jargon in (
        "pydantic",
        "validat",
        "Input should",
        "Value error",
        "model",
        "dict",
        "NoneType",
        "function-",
    ):
        assert jargon not in expected


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda path: path.stem)
def test_a_dump_without_secrets_reads_back_as_itself(golden: Path, tmp_path: Path) -> None:
    expected = split(golden)[1]
    if expected.startswith("edge.yaml") or "***" in expected:
        return
    assert outcome(expected, tmp_path) == expected


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as made:
        for each in GOLDENS:
            source, _ = split(each)
            each.write_text(f"{source}{RULER}\n{outcome(source, furnish(Path(made)))}", encoding="utf-8")
